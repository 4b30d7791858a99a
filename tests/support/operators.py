"""Requests to the operators' API: each answer is held against the OpenAPI document."""

import json
import re
from functools import cache
from typing import Any

import httpx
import jsonschema

from service import openapi


async def ask(client: httpx.AsyncClient, path: str, headers: dict[str, str], **params: Any) -> dict[str, Any]:
    """Return the body of an answer that must be a 200, not stored, and as the document says."""
    reply = await client.get(f"/ops{path}", headers=headers, params=params)
    assert reply.status_code == 200, f"{reply.request.url}: {reply.status_code} {reply.text[:300]}"
    assert reply.headers.get_list("cache-control") == ["no-store"]
    body: dict[str, Any] = reply.json()
    require_documented(f"/ops{path}", body)
    return body


def require_documented(path: str, body: Any) -> None:
    """Fail if an answer of a path is not as the document says, or has a member that it does not name."""
    _validator(_template(path)).validate(body)
    undocumented = list(_undocumented(_schema(_template(path)), body))
    assert undocumented == []


@cache
def _document() -> Any:
    return json.loads(openapi.document())


@cache
def _template(path: str) -> str:
    """Return the path in the document; one without parameters wins."""
    paths: list[str] = sorted(_document()["paths"], key=lambda each: each.count("{"))
    return next(each for each in paths if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), path))


def _schema(template: str) -> Any:
    responses = _document()["paths"][template]["get"]["responses"]
    return next(iter(responses["200"]["content"].values()))["schema"]


@cache
def _validator(template: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_schema(template) | {"components": _document()["components"]})


def _undocumented(schema: Any, body: Any, at: str = "$") -> Any:
    """Yield where a body has members that its schema does not name."""
    schema = _resolved(schema, body)
    if isinstance(body, dict) and "properties" in schema:
        for name, value in body.items():
            if name not in schema["properties"]:
                yield f"{at}.{name}"
            else:
                yield from _undocumented(schema["properties"][name], value, f"{at}.{name}")
    elif isinstance(body, list):
        for value in body:
            yield from _undocumented(schema.get("items", {}), value, f"{at}[]")


def _resolved(schema: Any, body: Any) -> Any:
    """Return the schema that a reference, or a choice between null and a reference, leads to."""
    while "$ref" in schema or "anyOf" in schema:
        if "anyOf" in schema:
            wanted = [each for each in schema["anyOf"] if (each.get("type") == "null") == (body is None)]
            schema = wanted[0]
        else:
            schema = _document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
