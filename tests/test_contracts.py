"""The compatibility gate: each change that would fail yesterday's clients is found and named, each other one passes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from contracts import asyncapi_comparison, openapi_comparison
from contracts.__main__ import CONTRACTS, RECORDED, main
from contracts.changes import Change
from contracts.schema_comparison import SchemaComparison

ROOT = Path(__file__).parent.parent
LIST = "/customers/{customer_id}/campaigns"
HISTORY = f"{LIST}/{{campaign_id}}/history"
Mutation = Callable[[Any], None]


@cache
def text_of(file: str) -> bytes:
    return (RECORDED / file).read_bytes()


def recorded(file: str) -> Any:
    """Return the recorded contract; a new object at every call."""
    return json.loads(text_of(file))


def changes_of(file: str, mutate: Mutation) -> list[Change]:
    """Return the changes that the gate finds after a mutation of the recorded contract."""
    compare = {contract.file: contract.compare for contract in CONTRACTS}[file]
    new = recorded(file)
    mutate(new)
    return list(dict.fromkeys(compare(recorded(file), new)))


def at(document: Any, path: str) -> Any:
    """Return the object at a path of keys, separated by ` > `."""
    for step in path.split(" > "):
        document = document[int(step) if isinstance(document, list) else step]
    return document


def put(path: str, key: str, value: Any) -> Mutation:
    return lambda document: at(document, path).update({key: value})


def remove(path: str, key: Any) -> Mutation:
    def mutate(document: Any) -> None:
        node = at(document, path)
        if isinstance(node, list):
            node.remove(key)
        else:
            del node[key]

    return mutate


def add(path: str, value: Any) -> Mutation:
    return lambda document: at(document, path).append(value)


def parameter(name: str, **changed: Any) -> Mutation:
    def mutate(document: Any) -> None:
        parameters = document["paths"][LIST]["get"]["parameters"]
        next(item for item in parameters if item["name"] == name)["schema"].update(changed)

    return mutate


def without_parameter(name: str) -> Mutation:
    def mutate(document: Any) -> None:
        operation = document["paths"][LIST]["get"]
        operation["parameters"] = [item for item in operation["parameters"] if item["name"] != name]

    return mutate


ITEM = "components > schemas > CampaignListItemOut"
ENROLLED = "components > schemas > TargetEnrolled"
CAMPAIGN = "components > schemas > CampaignUpserted"
GET = f"paths > {LIST} > get"
NEW_PARAMETER = {"name": "colour", "in": "query", "schema": {"type": "string"}}

BREAKING: list[tuple[str, str, Mutation]] = [
    ("openapi.json", f"the path {HISTORY} was removed", remove("paths", HISTORY)),
    ("openapi.json", f"GET {LIST} was removed", remove(f"paths > {LIST}", "get")),
    ("openapi.json", "the operation's id changed to list", put(GET, "operationId", "list")),
    (
        "openapi.json",
        "the accepted credentials changed",
        put("paths > /health/live > get", "security", [{"bearerAuth": []}]),
    ),
    ("openapi.json", "the query parameter q was removed", without_parameter("q")),
    ("openapi.json", "the query parameter limit: maximum changed from 200 to 100", parameter("limit", maximum=100)),
    ("openapi.json", "the query parameter limit: the default changed from 10 to 20", parameter("limit", default=20)),
    ("openapi.json", "the query parameter q may no longer be string", parameter("q", type="integer")),
    ("openapi.json", "the query parameter q: minLength changed from none to 3", parameter("q", minLength=3)),
    ("openapi.json", "the query parameter sort_dir may no longer be asc", parameter("sort_dir", enum=["desc"])),
    ("openapi.json", "the query parameter sort_field is restricted to name", parameter("sort_field", enum=["name"])),
    (
        "openapi.json",
        "the query parameter colour is new and required",
        add(f"{GET} > parameters", NEW_PARAMETER | {"required": True}),
    ),
    ("openapi.json", "the response 200.data[].name was removed", remove(f"{ITEM} > properties", "name")),
    (
        "openapi.json",
        "the response 200.data[].agent_name may now be null",
        put(f"{ITEM} > properties > agent_name", "type", ["string", "null"]),
    ),
    ("openapi.json", "the response 200.data[].name became optional", remove(f"{ITEM} > required", "name")),
    (
        "openapi.json",
        "the response 200.data[].status may now be archived",
        add(f"{ITEM} > properties > status > enum", "archived"),
    ),
    (
        "openapi.json",
        "the response 200.data[].contacts_total may now be number",
        put(f"{ITEM} > properties > contacts_total", "type", "number"),
    ),
    (
        "openapi.json",
        "the response 200.data[].id: format changed from 'uuid' to none",
        remove(f"{ITEM} > properties > id", "format"),
    ),
    ("openapi.json", "the response 200 was removed", remove(f"{GET} > responses", "200")),
    (
        "openapi.json",
        "the response 200 no longer has the header ETag",
        remove(f"{GET} > responses > 200 > headers", "ETag"),
    ),
    (
        "openapi.json",
        "is no longer sent as application/problem+json",
        remove(f"{GET} > responses > 404 > content", "application/problem+json"),
    ),
    (
        "openapi.json",
        "no longer has the problem customer_not_found",
        remove(f"{GET} > responses > 404 > content > application/problem+json > examples", "customer_not_found"),
    ),
    (
        "openapi.json",
        "goal_spec.objectives[] may now be FaxObjective",
        lambda document: (
            document["components"]["schemas"].update({"FaxObjective": {"type": "object"}}),
            add(
                "components > schemas > CampaignGoalSpec > properties > objectives > items > anyOf",
                {"$ref": "#/components/schemas/FaxObjective"},
            )(document),
        )[0],
    ),
    ("asyncapi.json", "the channel target was removed", remove("channels", "target")),
    (
        "asyncapi.json",
        "the channel target: the subject changed from",
        put("channels > target", "address", "m.{customer_id}"),
    ),
    (
        "asyncapi.json",
        "the channel target no longer takes target.removed.v1",
        remove("channels > target > messages", "target.removed.v1"),
    ),
    (
        "asyncapi.json",
        "the event type target.removed.v1 was removed",
        remove("components > messages", "target.removed.v1"),
    ),
    (
        "asyncapi.json",
        "target.enrolled.v1: the content type changed",
        put("components > messages > target.enrolled.v1", "contentType", "text/plain"),
    ),
    ("asyncapi.json", "target.enrolled.v1.data.source was removed", remove(f"{ENROLLED} > properties", "source")),
    ("asyncapi.json", "target.enrolled.v1.data.source became required", add(f"{ENROLLED} > required", "source")),
    (
        "asyncapi.json",
        "target.enrolled.v1.data.channel is a new required field",
        lambda document: (
            put(f"{ENROLLED} > properties", "channel", {"type": "string"})(document),
            add(f"{ENROLLED} > required", "channel")(document),
        )[0],
    ),
    (
        "asyncapi.json",
        "target.enrolled.v1.data.source may no longer be null",
        put(f"{ENROLLED} > properties > source", "type", "string"),
    ),
    (
        "asyncapi.json",
        "target.enrolled.v1.data.version: minimum changed from 1 to 10",
        put(f"{ENROLLED} > properties > version", "minimum", 10),
    ),
    (
        "asyncapi.json",
        "data.name: pattern changed from none to '^a'",
        put(f"{CAMPAIGN} > properties > name", "pattern", "^a"),
    ),
    (
        "asyncapi.json",
        "data.owner_id: pattern changed from",
        put(f"{CAMPAIGN} > properties > owner_id", "pattern", "^a"),
    ),
    (
        "asyncapi.json",
        "data.status may no longer be draft",
        remove(f"{CAMPAIGN} > properties > status > enum", "draft"),
    ),
    (
        "asyncapi.json",
        "data.progress may no longer be number",
        put("components > schemas > CountersChanged > properties > progress", "type", "integer"),
    ),
    (
        "asyncapi.json",
        "data.call_attempt_delays[]: maximum changed",
        put(f"{CAMPAIGN} > properties > call_attempt_delays > items", "maximum", 9),
    ),
    (
        "asyncapi.json",
        "objectives[] may no longer be EmailObjective",
        remove(
            "components > schemas > GoalSpec > properties > objectives > items > anyOf",
            {"$ref": "#/components/schemas/EmailObjective"},
        ),
    ),
    (
        "asyncapi.json",
        "target.enrolled.v1: additional fields changed from True to False",
        put("components > schemas > target.enrolled.v1", "additionalProperties", False),
    ),
    (
        "asyncapi.json",
        "target.enrolled.v1: the headers.trace is a new required field",
        lambda document: (
            put("components > messages > target.enrolled.v1 > headers > properties", "trace", {"type": "string"})(
                document
            ),
            add("components > messages > target.enrolled.v1 > headers > required", "trace")(document),
        )[0],
    ),
]

ADDITIVE: list[tuple[str, str, Mutation]] = [
    ("openapi.json", "GET /campaigns is new", put("paths", "/campaigns", {"get": {"responses": {}}})),
    ("openapi.json", "the query parameter colour is new and optional", add(f"{GET} > parameters", NEW_PARAMETER)),
    ("openapi.json", "the query parameter limit: maximum changed from 200 to 500", parameter("limit", maximum=500)),
    (
        "openapi.json",
        "the query parameter sort_dir may now be none",
        parameter("sort_dir", enum=["asc", "desc", "none"]),
    ),
    (
        "openapi.json",
        "data[].colour is a new optional field",
        put(f"{ITEM} > properties", "colour", {"type": "string"}),
    ),
    ("openapi.json", "data[].agent_name became required", add(f"{ITEM} > required", "agent_name")),
    ("openapi.json", "the response 409 is new", put(f"{GET} > responses", "409", {"description": ""})),
    (
        "openapi.json",
        "the response 200 has the new header Age",
        put(f"{GET} > responses > 200 > headers", "Age", {"schema": {}}),
    ),
    (
        "openapi.json",
        "the response 404 has the new problem gone",
        put(f"{GET} > responses > 404 > content > application/problem+json > examples", "gone", {}),
    ),
    (
        "asyncapi.json",
        "data.channel is a new optional field",
        put(f"{ENROLLED} > properties", "channel", {"type": "string"}),
    ),
    ("asyncapi.json", "data.status may now be archived", add(f"{CAMPAIGN} > properties > status > enum", "archived")),
    (
        "asyncapi.json",
        "target.enrolled.v1.source became optional",
        remove("components > schemas > target.enrolled.v1 > required", "source"),
    ),
    (
        "asyncapi.json",
        "data.version: minimum changed from 1 to 0",
        put(f"{ENROLLED} > properties > version", "minimum", 0),
    ),
    (
        "asyncapi.json",
        "the channel target takes target.moved.v1",
        put("channels > target > messages", "target.moved.v1", {}),
    ),
    (
        "asyncapi.json",
        "the event type target.moved.v1 is new",
        lambda document: put(
            "components > messages", "target.moved.v1", document["components"]["messages"]["target.removed.v1"]
        )(document),
    ),
]


def cases(table: list[tuple[str, str, Mutation]]) -> list[Any]:
    return [pytest.param(file, sentence, mutate, id=sentence[-60:]) for file, sentence, mutate in table]


@pytest.mark.parametrize(("file", "sentence", "mutate"), cases(BREAKING))
def test_a_change_that_fails_clients_is_named(file: str, sentence: str, mutate: Mutation) -> None:
    found = [change.sentence for change in changes_of(file, mutate) if change.breaking]
    assert any(sentence in each for each in found), found


@pytest.mark.parametrize(("file", "sentence", "mutate"), cases(ADDITIVE))
def test_a_change_that_clients_do_not_notice_passes(file: str, sentence: str, mutate: Mutation) -> None:
    found = changes_of(file, mutate)
    assert [change.sentence for change in found if change.breaking] == []
    assert any(sentence in change.sentence for change in found), found


def fields_of(file: str) -> list[tuple[str, str]]:
    """Return the schema and name of every field that the paths or messages of a contract reach."""
    schemas = recorded(file)["components"]["schemas"]
    return [
        (f"components > schemas > {name}", field) for name, schema in schemas.items() for field in schema["properties"]
    ]


@pytest.mark.parametrize("file", ["openapi.json", "asyncapi.json"])
def test_no_field_of_any_schema_can_be_removed_or_change_its_type(file: str) -> None:
    fields = fields_of(file)
    assert len(fields) > 80
    for schema, field in fields:
        mutations = [remove(f"{schema} > properties", field)]
        if at(recorded(file), f"{schema} > properties > {field}").keys() - {
            "default",
            "description",
            "title",
        }:  # not: any
            mutations.append(put(f"{schema} > properties", field, {"type": "null"}))
        for mutate in mutations:
            found = [change.sentence for change in changes_of(file, mutate) if change.breaking]
            assert any(f".{field}" in sentence for sentence in found), (schema, field, found)


@pytest.mark.parametrize("file", ["openapi.json", "asyncapi.json"])
def test_texts_may_change_freely(file: str) -> None:
    def reworded(node: Any) -> Any:
        if isinstance(node, list):
            return [reworded(value) for value in node]
        if isinstance(node, dict):
            texts = ("description", "summary")
            return {
                key: "other words" if key in texts and isinstance(value, str) else reworded(value)
                for key, value in node.items()
            }
        return node

    compare = {"openapi.json": openapi_comparison.compare, "asyncapi.json": asyncapi_comparison.compare}[file]
    assert list(compare(recorded(file), reworded(recorded(file)))) == []


@pytest.mark.parametrize(
    ("old", "new", "is_breaking"),
    [
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, True),
        ({"type": "string"}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, True),
        ({"type": "integer"}, {"type": "number"}, False),
        ({"const": "a"}, {"enum": ["a", "b"]}, False),
        ({"enum": ["a", "b"]}, {"const": "a"}, True),
        ({"type": "array", "items": {"type": "string"}}, {"type": "array"}, False),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}, True),
        ({"additionalProperties": {"type": "integer"}}, {"additionalProperties": {"type": "string"}}, True),
        ({}, {"type": "string"}, True),
    ],
)
def test_what_clients_send_must_stay_accepted(old: Any, new: Any, is_breaking: bool) -> None:
    sent = list(SchemaComparison({}, {}, "sent").compare(old, new, "it"))
    received = list(SchemaComparison({}, {}, "received").compare(new, old, "it"))
    assert any(change.breaking for change in sent) == is_breaking, sent
    assert any(change.breaking for change in received) == is_breaking, received


def test_a_schema_that_contains_itself_is_compared_once() -> None:
    document = {"tree": {"type": "object", "properties": {"branch": {"$ref": "#/tree"}}}}
    comparison = SchemaComparison(document, document, "sent")
    assert list(comparison.compare({"$ref": "#/tree"}, {"$ref": "#/tree"}, "it")) == []


def test_a_change_that_the_gate_cannot_judge_is_breaking() -> None:
    unknown = {"dependentRequired": {"a": ["b"]}}
    union = {"anyOf": [{"type": "object"}]}
    comparison = SchemaComparison({}, {}, "sent")
    for old, new in (({}, unknown), (unknown, {}), (union, union | {"required": ["a"]})):
        assert [change.breaking for change in comparison.compare(old, new, "it")] == [True]
        assert list(comparison.compare(new, new, "it")) == []


def test_the_contracts_of_this_code_are_compatible_with_the_recorded_ones() -> None:
    assert main(["check"]) == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with a copy of the gate and its records; the service is imported from this checkout."""
    shutil.copytree(ROOT / "contracts", tmp_path / "contracts", ignore=shutil.ignore_patterns("__pycache__"))
    assert gate(tmp_path, "record").returncode == 0
    return tmp_path


def gate(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "contracts", *arguments],
        cwd=checkout,
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )


def recorded_in(checkout: Path) -> Path:
    return checkout / "contracts" / "recorded" / "asyncapi.json"


def store(checkout: Path, mutate: Mutation) -> Path:
    """Change the recorded contract, so that the code's is a change of it."""
    path = recorded_in(checkout)
    document = json.loads(path.read_bytes())
    mutate(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_breaking_change_fails_the_check_and_is_not_recorded(checkout: Path) -> None:
    today = recorded_in(checkout).read_bytes()
    path = store(checkout, put(f"{ENROLLED} > properties", "channel", {"type": "string"}))
    yesterday = path.read_bytes()
    for command in ("check", "record"):
        outcome = gate(checkout, command)
        assert outcome.returncode == 1
        assert "asyncapi.json: breaking: target.enrolled.v1.data.channel was removed." in outcome.stderr
    assert path.read_bytes() == yesterday
    assert gate(checkout, "record", "--even-breaking").returncode == 0
    assert path.read_bytes() == today


def test_an_additive_change_passes_and_is_recorded_by_a_command(checkout: Path) -> None:
    today = recorded_in(checkout).read_bytes()
    path = store(checkout, remove(f"{ENROLLED} > properties", "source"))
    outcome = gate(checkout, "check")
    assert outcome.returncode == 0
    assert "asyncapi.json: additive: target.enrolled.v1.data.source is a new optional field." in outcome.stdout
    assert "make contracts" in outcome.stdout
    for_a_release = gate(checkout, "check", "--recorded")
    assert (for_a_release.returncode, for_a_release.stderr) == (
        1,
        "contracts/recorded lacks changes of asyncapi.json: run `make contracts`.\n",
    )
    assert gate(checkout, "record").returncode == 0
    assert path.read_bytes() == today
    unchanged = gate(checkout, "check", "--recorded")
    assert (unchanged.returncode, unchanged.stdout) == (0, "")


def test_wrong_usage_is_an_error_of_its_own(checkout: Path) -> None:
    outcome = gate(checkout, "checks")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("Usage:")
