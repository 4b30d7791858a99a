"""The document behind /docs: the contract with other names and an example, and nothing else changed."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest
import schemathesis

from service import docs_document, openapi
from service.parameters import SortField
from tests.service.test_docs import STATIC
from tests.support.processes import System

LIST = docs_document.LIST
CHANGED = (
    r"/info/title",
    re.escape(f"/paths/{LIST}/get/") + r"(operationId|summary)",
    re.escape(f"/paths/{LIST}/get/parameters/") + r"\d+/example",
    re.escape(f"/paths/{LIST}/get/parameters/") + r"\d+/schema/(enum|default)",
    re.escape(f"/paths/{LIST}/{{campaign_id}}/history/get/parameters/") + r"\d+/example",
    re.escape(f"/paths/{LIST}/get/responses/200/content/application/json/example"),
)


@pytest.fixture
def document() -> Any:
    return json.loads(docs_document.document())


def differences(mine: Any, theirs: Any, at: str = "") -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in mine.keys() | theirs.keys():
            if key in mine and key in theirs:
                yield from differences(mine[key], theirs[key], f"{at}/{key}")
            else:
                yield f"{at}/{key}"
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from differences(*pair, f"{at}/{number}")
    elif mine != theirs:
        yield at


def test_only_names_examples_and_listed_values_differ(document: Any) -> None:
    found = set(differences(json.loads(openapi.document()), document))
    assert [path for path in found if not any(re.fullmatch(pattern, path) for pattern in CHANGED)] == []
    assert [pattern for pattern in CHANGED if not any(re.fullmatch(pattern, path) for path in found)] == []


def test_the_document_is_valid_and_titled_for_this_product(document: Any) -> None:
    schemathesis.openapi.from_dict(document).validate()
    assert document["info"]["title"] == "Campaign Membership API"
    assert "<title>Campaign Membership API</title>" in (STATIC / "docs.html").read_text(encoding="utf-8")
    assert document["servers"][0]["url"] == "/"


def test_operation_ids_are_short_and_distinct(document: Any) -> None:
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids)) >= 5
    assert [each for each in ids if not re.fullmatch("[a-z][a-z_]{0,29}", each)] == []


def test_sort_field_lists_exactly_the_accepted_values(document: Any) -> None:
    parameters = document["paths"][LIST]["get"]["parameters"]
    schema = next(parameter for parameter in parameters if parameter["name"] == "sort_field")["schema"]
    assert schema["enum"] == list(get_args(SortField))
    assert schema["default"] == "enrolled_at"


def test_the_example_is_valid_by_the_contract(document: Any) -> None:
    content = document["paths"][LIST]["get"]["responses"]["200"]["content"]["application/json"]
    schema = content["schema"] | {"components": document["components"]}
    jsonschema.validate(content["example"], schema)
    assert content["example"]["data"][0].keys() > {"stages", "goal_spec", "call_working_hours"}


async def test_the_page_shows_the_document_that_the_api_serves(system: System) -> None:
    script = (await system.get("/docs/assets/docs.js")).text
    path = re.findall(r'url: "(.+?)"', script)
    assert path == ["/docs/openapi.json"]
    assert (await system.get(path[0])).content == docs_document.document()
