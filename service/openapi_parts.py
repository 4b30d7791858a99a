"""The pieces of which the OpenAPI document is made: schemas, parameters, responses."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.problems import PROBLEMS

Node = Any
"""A value of a JSON document."""


def string(**keywords: Node) -> dict[str, Node]:
    """Return the type of a string."""
    return {"type": "string", **keywords}


def integer(**keywords: Node) -> dict[str, Node]:
    """Return the type of an integer."""
    return {"type": "integer", **keywords}


def object_type(title: str, properties: Mapping[str, Node]) -> dict[str, Node]:
    """Return the type of an object whose properties are all required."""
    return {"type": "object", "title": title, "properties": properties, "required": list(properties)}


def parameter(location: str, name: str, schema: Node, description: str, *, required: bool = False) -> dict[str, Node]:
    """Return a parameter."""
    return {"name": name, "in": location, "required": required, "schema": schema, "description": description}


def ref(kind: str, name: str) -> dict[str, Node]:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def response_headers(*names: str) -> dict[str, Node]:
    """Return the headers of a response: these, and those that every response has."""
    return {name: ref("headers", name) for name in (*names, "X-Request-ID", "Server-Timing")}


def json_response(schema: str, description: str) -> dict[str, Node]:
    """Return a JSON response whose body has the schema of this name."""
    content = {"application/json": {"schema": ref("schemas", schema)}}
    return {"description": description, "headers": response_headers(), "content": content}


def problem_responses(*codes: str, headers: Iterable[str] = ()) -> dict[str, Node]:
    """Return a response whose body is one of these problems, all of one status, with an example for each `code`."""
    kinds = [PROBLEMS[code] for code in codes]
    examples = {
        problem.code: {
            "value": {
                "type": "about:blank",
                "title": problem.title,
                "status": problem.status,
                "detail": problem.detail,
                "code": problem.code,
                "request_id": "0c6d3f8e5d5b4c0f9a3f4a2b7d1e6c58",
            }
        }
        for problem in kinds
    }
    content = {"application/problem+json": {"schema": ref("schemas", "Problem"), "examples": examples}}
    return {"description": kinds[0].title, "headers": response_headers(*headers), "content": content}
