# All development tasks, from a clean clone, with only Python 3.11 or newer, pip and make.
.POSIX:
.SUFFIXES:
.PHONY: help setup run test coverage check contracts reference docs fix bench lock release sbom audit image

ARGS =
BIN = .venv/bin
SET_UP = .venv/.set-up
PIP_INSTALL = python -m pip install --quiet --disable-pip-version-check
UV = .build/uv/bin/uv
# One resolution for every platform and Python from 3.11 on, pinned by hashes, without an index URL.
# The client is built from this repository, so no index and no lock has it.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-emit-package campaign-membership-client

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 16

setup: $(SET_UP) ## Create .venv with the membership command; repeated only when the lock or pyproject.toml changed

run: setup ## Start PostgreSQL, NATS, projector and API locally, with demo data (ARGS='--port 8080')
	@$(BIN)/membership dev $(ARGS)

test: setup ## Run the tests, a file at a time on each core (ARGS='-k word -x', ARGS='-n 0 -s' for one process); installs Chromium where it is missing and apt-get may
	@bash .ci/chromium
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

coverage: setup ## Run the tests and print line and branch coverage, child processes included (ARGS as for test)
	@bash .ci/chromium
	@rm -f .build/coverage/data*
	@COVERAGE_FILE=$(CURDIR)/.build/coverage/data $(BIN)/python -m coverage run -m pytest $(ARGS)
	@COVERAGE_FILE=$(CURDIR)/.build/coverage/data $(BIN)/python -m coverage combine --quiet
	@COVERAGE_FILE=$(CURDIR)/.build/coverage/data $(BIN)/python -m coverage report --skip-covered --sort=cover

check: setup docs ## Lint, types, imports, migrations, Dockerfile, compose.yaml, contracts, links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m contracts check
	@# The migration runner sets transaction and timeouts, so the files need not.
	$(BIN)/squawk --pg-version 18.0 --assume-in-transaction \
		--exclude require-lock-timeout,require-statement-timeout projections/store/migrations/*.sql
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml compose.cluster.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml

contracts: setup ## Record additive changes of the HTTP and event contracts, after which they must stay compatible
	@$(BIN)/python -m contracts record $(ARGS)

reference: setup ## Write the generated pages of the documentation: commands, Python client
	@$(BIN)/python -m reference

docs: .build/docs/.set-up ## Build the documentation as a site into .build/site; a broken link is an error
	@rm -rf .build/site
	@.build/docs/bin/python -m sphinx -q -W --keep-going -d .build/docs/doctrees -c docs . .build/site
	@echo "Open .build/site/index.html."

fix: setup ## Fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup bench-setup ## Run the benchmarks, most figures beside a peer or a reference (QUICK=1: a trial; SCALE=10: another size)
	@$(BIN)/python -m benchmarks

lock: $(UV) ## Update the locks to pyproject.toml, keeping versions that still fit (ARGS=--upgrade: take the newest)
	$(COMPILE) $(ARGS) --output-file requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --output-file requirements-otel.lock --extra otel --constraint requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --output-file requirements-dev.lock --extra dev --extra otel --group test pyproject.toml
	$(COMPILE) $(ARGS) --output-file requirements-build.lock --group build
	$(COMPILE) $(ARGS) --output-file requirements-release.lock --group release
	$(COMPILE) $(ARGS) --output-file requirements-audit.lock --group audit
	$(COMPILE) $(ARGS) --output-file requirements-docs.lock --group docs
	$(COMPILE) $(ARGS) --output-file requirements-bench.lock --group bench --constraint requirements-dev.lock

# The version must have a dated section in the changelog, [Unreleased] must be empty, and the contracts recorded.
release: setup ## Build wheels, sdists and SBOM into dist/ if version and CHANGELOG.md agree
	@version=$$(sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml); \
	grep -Eq "^## \[$$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$$" CHANGELOG.md || { \
		echo "CHANGELOG.md has no section '## [$$version] - YYYY-MM-DD' for the version in pyproject.toml." >&2; exit 1; }; \
	if sed -n '/^## \[Unreleased\]/,/^## \[[0-9]/p' CHANGELOG.md | grep -q '^- '; then \
		echo 'CHANGELOG.md has unreleased entries: raise the version in pyproject.toml and date them.' >&2; exit 1; fi
	@$(BIN)/python -m contracts check --recorded
	@rm -rf dist
	@$(MAKE) --no-print-directory sbom
	@.build/release/bin/hatchling build --directory dist
	@cd client && ../.build/release/bin/hatchling build --directory ../dist
	@ls -l dist

sbom: setup .build/release/.set-up ## Write the bill of materials (CycloneDX) of requirements.lock to dist/sbom.cdx.json
	@mkdir -p dist
	@.build/release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.cdx.json requirements.lock
	@echo "dist/sbom.cdx.json lists $$(grep -c '"bom-ref": "requirements-' dist/sbom.cdx.json) packages."

# Exits with an error for a known vulnerability, and if the lookup could not run: the message says which.
audit: setup .build/audit/.set-up ## Look up known vulnerabilities of requirements.lock
	@PATH=.build/audit/bin:$$PATH bash .ci/audit

image: ## Build the image with docker or podman (ENGINE=podman, IMAGE=name:tag, ARGS='--build-arg …')
	@set -eu; for engine in $${ENGINE:-docker podman}; do \
		if command -v "$$engine" >/dev/null && "$$engine" info >/dev/null 2>&1; then \
			exec "$$engine" build $(ARGS) --tag "$${IMAGE:-campaign-membership}" .; \
		fi; \
	done; \
	echo "No image was built: no container engine answers here ($${ENGINE:-docker, podman})." \
		'Start one, or name it: make image ENGINE=…' >&2; \
	exit 1

# Tools apart from .venv, each with its own lock.
.build/release/.set-up .build/audit/.set-up .build/docs/.set-up: .build/%/.set-up: $(BIN)/python requirements-%.lock
	@$(BIN)/python -m venv --clear --without-pip .build/$*
	@$(BIN)/python -m pip --python .build/$* --disable-pip-version-check install --quiet \
		--require-hashes -r requirements-$*.lock
	@touch $@

$(SET_UP): $(BIN)/python requirements-dev.lock pyproject.toml client/pyproject.toml
	@echo 'Installing requirements-dev.lock into .venv; the first time takes a minute or two.'
	@$(BIN)/$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@$(BIN)/$(PIP_INSTALL) --no-deps --no-build-isolation --editable . --editable client
	@touch $@

# The frameworks of benchmarks/peers, separate from .venv: they are compared with, never imported.
bench-setup: .bench-venv/.set-up

.bench-venv/.set-up: $(BIN)/python requirements-bench.lock
	@echo 'Installing requirements-bench.lock into .bench-venv.'
	@$(BIN)/python -m venv --clear --without-pip .bench-venv
	@$(BIN)/python -m pip --python .bench-venv --disable-pip-version-check install --quiet \
		--require-hashes -r requirements-bench.lock
	@touch $@

# PYTHON= selects the interpreter. If venv lacks ensurepip, as on a minimal Debian, virtualenv from pip is used.
$(BIN)/python:
	@set -eu; requested='$(PYTHON)'; python=; \
	for candidate in $${requested:-python3.13 python3.12 python3.11 python3}; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer is required, but found $${requested:-no suitable python3 on the PATH}." \
			'Install it, or name it: make PYTHON=/path/to/python3' >&2; \
		exit 1; \
	fi; \
	"$$python" -m venv --clear .venv >/dev/null 2>&1 || { \
		echo "$$python -m venv does not work here; creating .venv with virtualenv instead."; \
		"$$python" -m pip install --quiet --upgrade --target .build/virtualenv virtualenv && \
		PYTHONPATH=.build/virtualenv "$$python" -m virtualenv --quiet --clear .venv; \
	} || { \
		rm -rf .venv; \
		echo "$$python cannot create a virtual environment: install its venv module or its pip." >&2; \
		exit 1; \
	}

$(UV): $(BIN)/python
	@$(BIN)/$(PIP_INSTALL) --upgrade --target .build/uv uv
