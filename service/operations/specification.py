"""The operators' API in the OpenAPI document: each path from its endpoint, each schema from the Struct it answers."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final

import msgspec

from service.openapi_parts import Node, parameter, problem_responses, ref, response_headers
from service.operations.endpoint import PREFIX, Endpoint, Parameter
from service.operations.endpoints import ENDPOINTS
from service.problems import PROBLEMS

COMMON: Final = (
    "bad_request",
    "unauthenticated",
    "insufficient_scope",
    "query_too_long",
    "database_unavailable",
    "not_ready",
    "draining",
    "identity_provider_unavailable",
)
"""The problems that every endpoint may answer."""
OF_WRITES: Final = ("cross_site_request", "content_too_large", "unsupported_media_type")
"""Those of every endpoint that carries content."""
_HEADERS: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    503: ("Retry-After",),
}
INVALID: Final = {
    "description": "Every invalid parameter.",
    "headers": response_headers(),
    "content": {"application/json": {"schema": ref("schemas", "HTTPValidationError")}},
}


def paths() -> dict[str, Node]:
    """Return the paths with their methods."""
    found: dict[str, Node] = {}
    for endpoint in ENDPOINTS:
        found.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return found


def schemas() -> dict[str, Node]:
    """Return the schemas of all answers and contents."""
    shapes = [shape for endpoint in ENDPOINTS for shape in (endpoint.answer, endpoint.content) if shape is not None]
    return {name: _without_nulls(schema) for name, schema in _schemas(shapes)[1].items()}


def _without_nulls(schema: Node) -> Node:
    """Return a schema whose optional properties are absent rather than null, as they are when they are encoded."""
    match schema:
        case {"anyOf": [*kinds]} if {"type": "null"} in kinds:
            rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
            others = [_without_nulls(kind) for kind in kinds if kind != {"type": "null"}]
            return rest | (others[0] if len(others) == 1 else {"anyOf": others})
        case dict():
            return {name: _without_nulls(value) for name, value in schema.items()}
        case list():
            return [_without_nulls(value) for value in schema]
    return schema


def _schemas(shapes: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    return msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")


def _operation(endpoint: Endpoint) -> Node:
    described = {
        "operationId": endpoint.operation_id,
        "tags": ["console"],
        "summary": endpoint.summary,
        "parameters": [_parameter(endpoint, each) for each in endpoint.parameters],
        "responses": _responses(endpoint),
    }
    if endpoint.content is not None:
        schema = _schemas([endpoint.content])[0][0]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _parameter(endpoint: Endpoint, described: Parameter) -> Node:
    in_path = f"{{{described.name}}}" in endpoint.path
    schema = described.schema if described.default is None else described.schema | {"default": described.default}
    return parameter("path" if in_path else "query", described.name, schema, described.description, required=in_path)


def _responses(endpoint: Endpoint) -> dict[str, Node]:
    schema = _schemas([endpoint.answer])[0][0]
    answered = {
        "description": "The answer.",
        "headers": response_headers(),
        "content": {endpoint.media_type: {"schema": schema}},
    }
    responses: dict[str, Node] = {str(endpoint.status): answered}
    codes = (*COMMON, *endpoint.problems, *(OF_WRITES if endpoint.method == "POST" else ()))
    for status, of_status in _by_status(codes):
        responses[str(status)] = problem_responses(*of_status, headers=_HEADERS.get(status, ()))
    if endpoint.parameters or endpoint.content is not None:
        responses["422"] = INVALID
    return dict(sorted(responses.items()))


def _by_status(codes: Iterable[str]) -> Iterable[tuple[int, list[str]]]:
    def status_of(code: str) -> int:
        return PROBLEMS[code].status

    return [(status, list(group)) for status, group in groupby(sorted(codes, key=status_of), status_of)]
