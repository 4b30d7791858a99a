"""The contract of the events as the API serves it: a page without scripts, AsyncAPI, and JSON Schemas."""

import json
import re

import pytest

from projections.model import asyncapi, event_schemas
from projections.model.event_examples import EXAMPLES
from service import events_page
from tests.service.test_docs import ASSETS, STATIC, Page
from tests.support.processes import System

PAGE = events_page.page().decode()


def test_the_page_needs_no_script_and_fetches_its_style_sheet_only() -> None:
    page = Page()
    page.feed(PAGE)
    assert page.inline == []
    assert page.fetched == [f"{ASSETS}events.css"]
    assert "<script" not in PAGE
    assert not re.search(r"//\S", (STATIC / "events.css").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_describes_every_field_of_a_type(name: str) -> None:
    section = PAGE.partition(f'<section id="{name}">')[2].partition("</section>")[0]
    schema = event_schemas.schema_of(name)
    data = schema["$defs"][schema["properties"]["data"]["$ref"].rpartition("/")[2]]
    rows = re.findall(r'<th scope="row"><code>(\w+)</code>( <small>optional</small>)?</th><td>(.+?)</td>', section)
    assert {field: not optional for field, optional, _ in rows} == {
        field: field in data["required"] for field in data["properties"]
    }
    assert EXAMPLES[name]["id"] in section


def test_every_link_within_the_page_has_its_target() -> None:
    linked = set(re.findall(r'href="#([^"]+)"', PAGE))
    assert len(linked) > len(EXAMPLES)
    assert linked <= set(re.findall(r'id="([^"]+)"', PAGE))


def test_texts_of_the_document_are_escaped() -> None:
    assert events_page._inline("a <b> `<c>` **d**") == "a &lt;b&gt; <code>&lt;c&gt;</code> <strong>d</strong>"


async def test_the_api_serves_page_document_and_schemas(system: System) -> None:
    page = await system.get("/docs/events")
    assert (page.status_code, page.text) == (200, PAGE)
    assert "script-src" not in page.headers["content-security-policy"]
    document = await system.get("/asyncapi.json")
    assert (document.headers["content-type"], document.content) == ("application/json", asyncapi.document())
    for name in EXAMPLES:
        schema = await system.get(f"/schemas/{name}")
        assert schema.headers["content-type"] == "application/schema+json"
        assert json.loads(schema.content) == event_schemas.schema_of(name)
    for missing in ("CampaignUpserted", "target.enrolled.v2", "%00"):
        response = await system.get(f"/schemas/{missing}")
        assert (response.status_code, response.json()["code"]) == (404, "route_not_found")
