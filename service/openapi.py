"""The document served at /openapi.json: the contract as it was written, plus what this service adds to it.

Reads: contract/openapi.json, the agreed file, byte for byte.
Invariants: nothing of the contract is changed or left out; an addition that would do so is an error at the first call.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

CONTRACT: Final = Path(__file__).parent / "contract" / "openapi.json"
POSITION_MAX: Final = 2**63 - 1

Node = Any
"""A value of a JSON document."""

_ABOUT: Final = """\
Which campaigns is this customer in? Answered from a read model that follows the platform's events.

**Credentials.** A bearer JWT or an `X-API-Key`; either is enough. When both are sent, both must be valid and name the
same user. An admin sees everything; anyone else only the customers and campaigns they own, and whatever they may not
see is answered as if it did not exist.

**Freshness.** `Membership-Position` says up to which position of the event stream an answer is true. Send the position
of an event you published as `Membership-Min-Position`, and the answer holds it, or is 503.

**Paging.** By `limit` and `offset`, or by `cursor`, which stays in step while memberships come and go: repeat the
request with the `meta.next_cursor` of the answer before.

**HEAD.** Every path that answers GET answers HEAD: the same status and headers, without the body.

**Errors.** 422 lists every bad parameter at once. All others are `application/problem+json` with a stable `code`.
"""


def _string(**more: Node) -> dict[str, Node]:
    return {"type": "string", **more}


def _integer(**more: Node) -> dict[str, Node]:
    return {"type": "integer", **more}


def _object(title: str, properties: Mapping[str, Node]) -> dict[str, Node]:
    return {"type": "object", "title": title, "properties": properties, "required": list(properties)}


def _parameter(place: str, name: str, schema: Node, description: str) -> dict[str, Node]:
    return {"name": name, "in": place, "required": False, "schema": schema, "description": description}


def _ref(kind: str, name: str) -> dict[str, Node]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _headers(*names: str) -> dict[str, Node]:
    return {name: _ref("headers", name) for name in (*names, "X-Request-ID", "Server-Timing")}


def _json(schema: str, description: str) -> dict[str, Node]:
    content = {"application/json": {"schema": _ref("schemas", schema)}}
    return {"description": description, "headers": _headers(), "content": content}


def _problems(status: int, title: str, details: Mapping[str, str], *headers: str) -> dict[str, Node]:
    """Return a response whose body is one of these problems, each `code` with its sentence as an example."""
    examples = {
        code: {
            "value": {
                "type": "about:blank",
                "title": title,
                "status": status,
                "detail": detail,
                "code": code,
                "request_id": "0c6d3f8e5d5b4c0f9a3f4a2b7d1e6c58",
            }
        }
        for code, detail in details.items()
    }
    content = {"application/problem+json": {"schema": _ref("schemas", "Problem"), "examples": examples}}
    return {"description": title, "headers": _headers(*headers), "content": content}


def _operation(operation_id: str, summary: str, responses: Mapping[str, Node]) -> dict[str, Node]:
    """Return an operation for those who run the service: no credentials."""
    operation = {"operationId": operation_id, "tags": ["operations"], "summary": summary}
    return {"get": {**operation, "security": [], "responses": responses}}


_HEADERS: Final = {
    "ETag": (_string(), "Names these very bytes; send it back in `If-None-Match`."),
    "Link": (_string(), "Where `next` is, and when paging by offset also `first`, `prev` and `last` (RFC 8288)."),
    "Membership-Position": (_integer(minimum=0), "The position of the event stream up to which this answer is true."),
    "Membership-Parked": (
        _string(),
        "Why the event at `Membership-Min-Position` was parked: this answer does not contain it. Absent otherwise.",
    ),
    "X-Request-ID": (_string(), "The request's own id, or one made for it. Quote it when you ask for help."),
    "Server-Timing": (_string(), "How many milliseconds the answer took, as `total;dur=…`."),
    "WWW-Authenticate": (_string(), "The credentials that are understood."),
    "Retry-After": (_integer(minimum=0), "Seconds after which it is worth trying again."),
}

_NOT_READY: Final = {
    "database_unavailable": "The read model cannot be reached or took too long; try again shortly.",
    "not_ready": "The read model is still being filled for the first time.",
}

_DRAINING: Final = {"draining": "This process is shutting down; send requests to another."}

_LIST_RESPONSES: Final = {
    "200": {"headers": _headers("ETag", "Link", "Membership-Position", "Membership-Parked")},
    "304": {
        "description": "The caller already has these bytes: a tag in `If-None-Match` is the current one.",
        "headers": _headers("ETag", "Link", "Membership-Position", "Membership-Parked"),
    },
    "400": _problems(400, "Bad Request", {"bad_request": "The request cannot be read."}),
    "401": _problems(
        401,
        "Unauthorized",
        {"unauthenticated": "Send a valid bearer token or a valid X-API-Key."},
        "WWW-Authenticate",
    ),
    "404": _problems(
        404,
        "Not Found",
        {"customer_not_found": "There is no such customer among those you may see."},
        "Membership-Position",
        "Membership-Parked",
    ),
    "414": _problems(414, "URI Too Long", {"query_too_long": "The query string is longer than 8,192 bytes."}),
    "422": {"headers": _headers()},
    "503": _problems(
        503,
        "Service Unavailable",
        _NOT_READY
        | _DRAINING
        | {
            "page_too_large": "The page is larger than this server can answer at the moment; ask for a smaller limit.",
            "position_not_reached": "The position asked for is not applied yet; "
            "try again, or wait longer with Prefer: wait=S.",
        },
        "Retry-After",
    ),
}

_DESCRIBED: Final = {
    "include_deleted": "Also list memberships whose target was removed or whose campaign was deleted.",
    "only_deleted": "List those alone. Wins when both are true.",
    "limit": "Items of a page.",
    "offset": "Items to skip; absent or 0 with `cursor`.",
    "q": "Text to look for in the campaign's name, goal or agent name, whatever its case and accents. "
    "Every character is literal.",
    "sort_field": "One of `enrolled_at` (when absent), `name`, `status`, `created_at`, `progress`, `contacts_total`, "
    "`contacts_contacted`, `contacts_remaining`, `contacts_to_recall`, `contacts_failed`, `contacts_succeeded`. "
    "Equal values stand in the order of their campaign ids; missing ones come last.",
    "include_aggregations": "Also count what matches by status (`quick_filters`), and how much of it is deleted "
    "(`extra.deleted`).",
    "date_from": "Enrolled at or after this ISO 8601 date or date-time; without an offset it is UTC.",
    "date_to": "Enrolled at or before it; a date stands for the whole of its day.",
    "X-API-Key": "The API key, for servers; instead of a bearer token.",
}
"""What the contract's parameters mean, where the contract leaves it open."""

_PARAMETERS: Final = [
    *({"name": name, "description": description} for name, description in _DESCRIBED.items()),
    _parameter(
        "query",
        "cursor",
        _string(title="Cursor"),
        "`meta.next_cursor` of the answer before. Only for the same customer, filters, order and caller; else 422.",
    ),
    _parameter(
        "header",
        "Membership-Min-Position",
        _integer(format="int64", minimum=0, maximum=POSITION_MAX),
        "Answer only once this position of the event stream is applied; 503 when it takes too long.",
    ),
    _parameter(
        "header",
        "Prefer",
        _string(examples=["wait=5"]),
        "`wait=S`: how many seconds to wait for `Membership-Min-Position`, 2 when absent, 10 at most (RFC 7240).",
    ),
    _parameter(
        "header", "If-None-Match", _string(), "Tags of answers the caller has, or `*`; 304 when one is current."
    ),
    _parameter("header", "X-Request-ID", _string(), "An id for this request, up to 128 letters, digits or `._:/+=@-`."),
]

_SCHEMAS: Final = {
    "MetaOut": {
        "properties": {
            "next_cursor": _string(
                title="Next Cursor", description="The `cursor` of the next page; absent when there is none."
            )
        }
    },
    "AggregationsOut": {
        "properties": {
            "quick_filters": {
                "description": "How many match: `all` (always `meta.total`), and of these `draft`, `running`, `paused` "
                "and `done`."
            },
            "extra": {"description": "`deleted`: how many deleted memberships the same `q` and dates match."},
        }
    },
    "Problem": _object(
        "Problem",
        {
            "type": _string(description="Always `about:blank`: `code` says which problem it is."),
            "title": _string(description="The status in words."),
            "status": _integer(),
            "detail": _string(description="A sentence for the person who reads it."),
            "code": _string(description="Which problem it is; stable, for programs."),
            "request_id": _string(description="The same as in `X-Request-ID`."),
        },
    )
    | {"description": "An error other than 422 (RFC 9457)."},
    "Liveness": _object("Liveness", {"status": _string(const="live")}),
    "Readiness": _object(
        "Readiness",
        {
            "status": _string(const="ready"),
            "generation": _string(description="The generation of the read model that answers come from."),
            "position": _integer(description="The position of the event stream that it has applied."),
        },
    ),
}

_OPERATIONS: Final = {
    "/health/live": _operation(
        "live", "Does the process run?", {"200": _json("Liveness", "It does; nothing else was asked.")}
    ),
    "/health/ready": _operation(
        "ready",
        "Are reads answered?",
        {
            "200": _json("Readiness", "The database is there, and the read model was complete once."),
            "503": _problems(503, "Service Unavailable", _NOT_READY | _DRAINING, "Retry-After"),
        },
    ),
    "/metrics": _operation(
        "metrics",
        "This process's metrics, for Prometheus",
        {
            "200": {
                "description": "Prometheus' text format.",
                "headers": _headers(),
                "content": {"text/plain": {"schema": _string()}},
            }
        },
    ),
}

ADDITIONS: Final = {
    "info": {"description": _ABOUT},
    "tags": [{"name": "operations", "description": "For those who run the service. No credentials."}],
    "components": {
        "headers": {name: {"schema": schema, "description": text} for name, (schema, text) in _HEADERS.items()},
        "schemas": _SCHEMAS,
    },
    "paths": {
        "/customers/{customer_id}/campaigns": {"get": {"parameters": _PARAMETERS, "responses": _LIST_RESPONSES}},
        **_OPERATIONS,
    },
}
"""All of it, in the shape of the document it goes into."""

THIS_HOST: Final = {"url": "/", "description": "This host"}
"""Stands before the contract's servers, so that a request tried on /docs goes to where the page came from."""


@cache
def document() -> bytes:
    """Return the document as JSON; the same bytes at every call."""
    contract = msgspec.json.decode(CONTRACT.read_bytes())
    whole = extended(contract, ADDITIONS)
    return msgspec.json.encode(whole | {"servers": [THIS_HOST, *contract["servers"]]})


def extended(base: Node, addition: Node) -> Node:
    """Return `base` with what `addition` adds, at any depth; list items of the same `name` are one.

    Raises ValueError where that would replace a value.
    """
    match base, addition:
        case _ if base == addition:
            return base
        case dict(), dict():
            both = {key: extended(base[key], addition[key]) for key in base.keys() & addition.keys()}
            return base | addition | both
        case list(), list():
            more = {item["name"]: item for item in addition}
            mine = [extended(item, more.pop(item["name"], {})) for item in base]
            return [*mine, *more.values()]
    raise ValueError(f"The contract says {base!r} where {addition!r} would be added.")
