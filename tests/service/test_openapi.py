"""The served document extends the contract: nothing changed, nothing undeclared, valid OpenAPI 3.1."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import jsonschema_rs
import pytest
import schemathesis

from service import openapi, page_reader, parameters, problems, routes
from service.operations import specification
from service.operations.endpoint import PREFIX
from service.operations.endpoints import ENDPOINTS

LIST = "/customers/{customer_id}/campaigns"
HISTORY = f"{LIST}/{{campaign_id}}/history"
CONTRACT_SHA256 = "7b4d11370c2f72278ec15ead1be53c01a15d007af49e635ae348c2633b5e70a3"

DECLARED = (
    r"/info/description",
    r"/servers/0",
    r"/tags/operations",
    r"/components/headers",
    rf"/components/schemas/({'|'.join(specification.schemas())})",
    r"/components/schemas/(HistoryEvent|Liveness|MembershipHistory|Problem|Readiness)",
    r"/components/schemas/MetaOut/properties/next_cursor",
    r"/components/schemas/AggregationsOut/properties/\w+/description",
    r"/paths/(/health/live|/health/ready|/metrics)",
    r"/paths/(/ops/[^/]*)(/[^/]*)*",
    r"/tags/console",
    re.escape(f"/paths/{HISTORY}"),
    re.escape(f"/paths/{LIST}/get/parameters/") + r"[\w-]+/description",
    re.escape(f"/paths/{LIST}/get/parameters/") + "(cursor|Membership-Min-Position|Prefer|If-None-Match|X-Request-ID)",
    re.escape(f"/paths/{LIST}/get/responses/") + r"(304|400|401|403|404|413|414|429|503)",
    re.escape(f"/paths/{LIST}/get/responses/") + r"(200|422)/headers",
)
"""Where the served document may have additions. None of them restricts what a client may send."""


@pytest.fixture
def contract() -> Any:
    return json.loads(openapi.CONTRACT.read_bytes())


@pytest.fixture
def served() -> Any:
    return json.loads(openapi.document())


def named(items: list[Any]) -> dict[str, Any]:
    """Return a list's items by name, or by index if they have none."""
    return {item["name"] if isinstance(item, dict) and "name" in item else str(i): item for i, item in enumerate(items)}


def aligned(mine: list[Any], theirs: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both lists by name; without names, the contract's items must come last, as its servers do."""
    extra = len(theirs) - len(mine)
    by_name = named(theirs)
    if all(isinstance(item, dict) and "name" in item for item in theirs):
        return named(mine), by_name
    return {str(i + extra): item for i, item in enumerate(mine)}, by_name


def additions(mine: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """Yield the paths that `theirs` adds to `mine`; fail if it lacks or changes anything."""
    if isinstance(mine, list) and isinstance(theirs, list):
        mine, theirs = aligned(mine, theirs)
        assert [name for name in theirs if name in mine] == list(mine), f"{at}: order or items changed"
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        assert (type(mine), mine) == (type(theirs), theirs), at
        return
    assert mine.keys() <= theirs.keys(), f"{at}: {mine.keys() - theirs.keys()} is missing"
    for key, value in theirs.items():
        if key in mine:
            yield from additions(mine[key], value, f"{at}/{key}")
        else:
            yield f"{at}/{key}"


def test_the_contract_file_is_the_agreed_one_byte_for_byte() -> None:
    assert hashlib.sha256(openapi.CONTRACT.read_bytes()).hexdigest() == CONTRACT_SHA256


def test_the_contract_is_served_unchanged_with_declared_additions_only(
    contract: Any,
    served: Any,
) -> None:
    added = list(additions(contract, served))

    assert [path for path in added if not any(re.fullmatch(pattern, path) for pattern in DECLARED)] == []
    assert [pattern for pattern in DECLARED if not any(re.fullmatch(pattern, path) for path in added)] == []


def test_the_comparison_detects_changed_missing_and_reordered_values() -> None:
    for theirs in ({"a": [1, 2], "b": "x"}, {"a": [1], "b": "y"}, {"b": "x"}, {"a": [2, 1], "b": "x"}, {"a": [True]}):
        with pytest.raises(AssertionError):
            assert list(additions({"a": [1], "b": "x"}, theirs)) == []
    with pytest.raises(AssertionError, match="order"):
        list(additions([{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}]))


def test_an_addition_that_would_replace_a_contract_value_is_an_error() -> None:
    assert openapi.extended({"a": 1}, {"a": 1, "b": 2}) == {"a": 1, "b": 2}
    replacements: list[Any] = [{"a": 2}, {"a": {"b": 1}}, {"a": [1]}, []]
    for addition in replacements:
        with pytest.raises(ValueError, match="of the contract"):
            openapi.extended({"a": 1}, addition)


def test_requests_sent_from_the_docs_page_go_to_this_host_by_default(served: Any) -> None:
    assert served["servers"][0]["url"] == "/"


def test_the_document_has_the_same_bytes_at_every_call() -> None:
    openapi.document.cache_clear()
    first = openapi.document()
    openapi.document.cache_clear()
    assert openapi.document() == first


def test_the_document_is_valid_openapi_3_1(served: Any) -> None:
    schemathesis.openapi.from_dict(served).validate()

    del served["paths"]["/metrics"]["get"]["responses"]["200"]["description"]
    with pytest.raises(jsonschema_rs.ValidationError, match="description"):
        schemathesis.openapi.from_dict(served).validate()


def test_every_schema_is_valid_and_every_reference_resolves(
    served: Any,
) -> None:
    schemas = [*objects_under("schema", served), *served["components"]["schemas"].values()]
    assert len(schemas) > 20
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)

    for reference in objects_under("$ref", served):
        target = served
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def objects_under(key: str, node: Any) -> Iterator[Any]:
    """Yield every value of this key, at any depth."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from objects_under(key, value)
    elif isinstance(node, list):
        for value in node:
            yield from objects_under(key, value)


def test_the_documented_problems_are_those_of_the_service(served: Any) -> None:
    schema = served["components"]["schemas"]["Problem"]
    documented = {}
    for content in objects_under("application/problem+json", served):
        for code, example in content["examples"].items():
            jsonschema.validate(example["value"], schema)
            documented[code] = example["value"]

    for code, example in documented.items():
        problem = problems.PROBLEMS[code]
        assert example == {
            "type": "about:blank",
            "title": problem.title,
            "status": problem.status,
            "detail": problem.detail,
            "code": code,
            "request_id": example["request_id"],
        }
    statuses = {int(status) for status in served["paths"][LIST]["get"]["responses"]}
    possible = {code for code, problem in problems.PROBLEMS.items() if problem.status in statuses}
    assert possible - documented.keys() - set(specification.OF_WRITES) == {"route_not_found"}
    statuses_of_history = {int(status) for status in served["paths"][HISTORY]["get"]["responses"]}
    assert statuses_of_history == statuses


def test_the_documented_paths_are_the_routes(served: Any) -> None:
    paths = {re.sub(r":\w+}", "}", path) for handler in routes.HANDLERS for path in handler.paths}
    paths |= {PREFIX + endpoint.path for endpoint in ENDPOINTS}

    documents = {"/openapi.json", "/docs/openapi.json", "/asyncapi.json", "/schemas/{event_type}"}
    pages = {"/docs", "/docs/events", "/docs/assets/{name}", "/console", "/console/assets/{name}"}
    assert paths - documents - pages == served["paths"].keys()


def test_the_descriptions_of_sorting_and_waiting_match_the_code(served: Any) -> None:
    parameters_served = served["paths"][LIST]["get"]["parameters"]
    descriptions = {parameter["name"]: parameter.get("description", "") for parameter in parameters_served}

    assert set(re.findall(r"`(\w+)`", descriptions["sort_field"])) == set(get_args(parameters.SortField))
    wait = f"{page_reader.WAIT_DEFAULT_S:g} by default, {page_reader.WAIT_MAX_S:g} at most"
    assert wait in descriptions["Prefer"]
