"""Documentation is checked against the code: everything that exists is documented, and everything documented exists."""

import ast
import json
import re
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from consumers import metrics as projector_metrics
from ops.cli import cli
from projections.model import event_schemas
from projections.model.events import EVENT_TYPES, Reason
from projections.settings import RESERVED_PREFIXES, TABLE, VARIABLES
from service import metrics as api_metrics
from service import openapi, routes
from service.identity.refusals import Refusal
from service.operations.endpoint import PREFIX
from service.operations.endpoints import ENDPOINTS
from service.parameters import SortField
from service.problems import PROBLEMS
from tests.support.metrics import labelled_families

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_event_type_is_documented() -> None:
    text = page("docs/events.md")
    for types in EVENT_TYPES.values():
        for name in types:
            assert f"`{name}`" in text


def test_every_parking_reason_has_its_meaning_and_a_remedy() -> None:
    section = page("docs/events.md").partition("## What cannot be applied is parked")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert {reason for reason, _, _ in rows} == set(get_args(Reason))
    assert len(rows) == len(get_args(Reason))
    for reason, meaning, remedy in rows:
        assert min(len(meaning), len(remedy)) > len("do this"), reason


VERSION_MAX_US = 10**17
"""The year 5138 in microseconds: a larger version is in nanoseconds, and no microsecond version could exceed it."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_example_uses_nanoseconds_as_a_version(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "%s%N" not in text
    assert all(int(version) < VERSION_MAX_US for version in re.findall(r'"version": ?(\d+)', text))


def test_exactly_the_existing_settings_are_documented() -> None:
    text = page("docs/configuration.md")
    for variable in TABLE:
        assert f"| `{variable.name}`" in text
        if variable.default:
            assert f"| `{variable.default}` |" in text
    named = set(re.findall(r"MEMBERSHIP_[A-Z_]+", text))
    assert named - set(VARIABLES) == set(RESERVED_PREFIXES)


def test_deployment_files_set_only_existing_settings() -> None:
    deploy = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    files = [ROOT / "compose.yaml", ROOT / "Dockerfile", *deploy]
    named = {name for file in files for name in re.findall(r"MEMBERSHIP_[A-Z_]+", file.read_text(encoding="utf-8"))}
    assert {"MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_HTTP_HOST"} <= named <= set(VARIABLES)


def test_every_problem_code_is_documented_with_its_status() -> None:
    text = page("docs/api.md")
    for problem in PROBLEMS.values():
        assert f"| `{problem.code}` | {problem.status} |" in text


def metric_rows(registry: CollectorRegistry) -> set[str]:
    """Return our metrics as the documentation writes them: `name{label,…}`."""
    rows = set()
    for family, labels in labelled_families(registry):
        if family.name.startswith("membership_"):
            suffix = "_total" if family.type == "counter" else ""
            rows.add(f"{family.name}{suffix}" + ("{" + ",".join(labels) + "}" if labels else ""))
    return rows


@pytest.mark.parametrize(
    ("heading", "registry"),
    [
        ("| metric of a projector |", projector_metrics.REGISTRY),
        ("| metric of an API |", api_metrics.REGISTRY),
    ],
    ids=["projector", "API"],
)
def test_exactly_the_existing_metrics_are_documented(heading: str, registry: CollectorRegistry) -> None:
    table = page("docs/operations.md").partition(heading)[2].partition("\n\n")[0]
    documented = re.findall(r"^\| `([^`]+)` \| .+ \|$", table, re.MULTILINE)
    assert len(documented) == len(set(documented)) > 4
    of_all_workers = (
        {"membership_workers", "membership_worker_restarts_total", "process_*"} if "API" in heading else set()
    )
    assert set(documented) == metric_rows(registry) | of_all_workers


LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def logged_events(module: ast.Module) -> set[tuple[str, str]]:
    """Return the names and levels of the events that a module logs, directly or through its two kinds of wrapper."""
    events = set()
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        level = "warning" if name == "RateLimitedLog" else LEVELS.get(name)
        if level is not None and call.args:
            names = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
            events |= {(event, level) for event in names if isinstance(event, str)}
    return events


def test_exactly_the_existing_log_events_are_documented() -> None:
    table = page("docs/operations.md").partition("| event | level |")[2].partition("\n\n")[0]
    documented = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (?:API|projector|both|jobs|projector, jobs) \| .+ \|$", table, re.MULTILINE
    )
    modules = [path for room in ("service", "projections", "consumers", "ops") for path in (ROOT / room).rglob("*.py")]
    existing = {event for path in modules for event in logged_events(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(documented) == len(set(documented))
    assert set(documented) == existing


def test_every_reason_of_a_401_is_documented() -> None:
    section = page("docs/api.md").partition("### Why a 401")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    assert set(re.findall(r"`([a-z_]+)`", " ".join(first_cells))) == {refusal.code for refusal in Refusal}


def test_every_route_and_sort_field_is_documented() -> None:
    text = page("docs/api.md")
    for handler in routes.HANDLERS:
        for path in handler.paths:
            assert re.sub(r":\w+", "", path) in text
    for field in get_args(SortField):
        assert f"`{field}`" in text


def test_exactly_the_existing_paths_of_the_operators_api_are_documented() -> None:
    documented = re.findall(r"^\| `(GET|POST) (/ops/[^`]+)` \| .+ \|$", page("docs/ops-api.md"), re.MULTILINE)
    assert set(documented) == {(endpoint.method, PREFIX + endpoint.path) for endpoint in ENDPOINTS}
    assert len(documented) == len(ENDPOINTS)


def commands(group: click.Group, prefix: str = "membership") -> set[str]:
    lines: set[str] = set()
    for name, command in group.commands.items():
        lines |= commands(command, f"{prefix} {name}") if isinstance(command, click.Group) else {f"{prefix} {name}"}
    return lines


def test_every_command_is_in_the_readme_and_has_a_help_text() -> None:
    text = page("README.md")
    for line in commands(cli):
        assert line in text, line
    for name, command in cli.commands.items():
        assert command.help, name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_and_links_on_a_page_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = commands(cli) | {"membership parked", "membership api-key", "membership dev"}
    for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"(?:^|\| )\s*(?:\$ )?(membership [a-z-]+(?: [a-z]+)?)", block, re.MULTILINE):
            assert line in known or line.rsplit(" ", 1)[0] in known, line
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / target).exists(), target


def test_every_guarantee_names_tests_that_exist() -> None:
    rows = [
        line for line in page("docs/guarantees.md").splitlines() if line.startswith("| ") and "promise |" not in line
    ]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE), f"{file}::{test}"


def test_the_make_targets_on_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    for path in PAGES:
        named = set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, path.name


def test_the_contents_of_the_operations_page_are_its_sections() -> None:
    text = page("docs/operations.md")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    listed = re.findall(r"^- \[(.+)\]\(#([\w-]+)\)$", text.partition("\n## ")[0], re.MULTILINE)
    assert [
        (name, re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-")) for name in sections if name != "Rehearse"
    ] == listed


def test_every_parameter_and_header_of_a_listing_is_documented() -> None:
    document = json.loads(openapi.document())
    listing = document["paths"]["/customers/{customer_id}/campaigns"]["get"]
    text = page("docs/api.md")
    named = [parameter["name"] for parameter in listing["parameters"] if parameter["in"] != "path"]
    headers = {name for response in listing["responses"].values() for name in response["headers"]}
    assert [name for name in (*named, *sorted(headers)) if f"`{name}" not in text and f"{name}:" not in text] == []


def test_exactly_the_fields_of_each_event_type_are_documented() -> None:
    rows = re.findall(
        r"^\| .+? \| (`[a-z_.v1]+`(?:, `[a-z_.v1]+`)*) \| `(.+)` \|$", page("docs/events.md"), re.MULTILINE
    )
    documented = {name: fields for names, fields in rows for name in re.findall(r"`([\w.]+)`", names)}
    types = event_schemas.data_types()
    assert documented.keys() == types.keys()
    for name, fields in documented.items():
        required = {field.encode_name: field.required for field in msgspec.structs.fields(types[name])}
        listed = [field.strip() for field in re.sub(r" = \w+", "", fields).split(",")]
        assert {field.rstrip("‡"): "‡" not in field for field in listed} == required, name
