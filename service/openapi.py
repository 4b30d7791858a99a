"""The document served at /openapi.json: the unchanged contract plus this service's additions.

Reads: contract/openapi.json, the agreed file, byte for byte.
Invariants: nothing in the contract is changed or left out; an addition that would do so fails at the first call.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, get_args

import msgspec

from projections.model.explanation import Verdict
from projections.model.history import Outcome
from service import history_parameters
from service.openapi_parts import (
    Node,
    integer,
    json_response,
    object_type,
    parameter,
    problem_responses,
    ref,
    response_headers,
    string,
)
from service.operations import specification
from service.parameters import LIMIT_MAX

CONTRACT: Final = Path(__file__).parent / "contract" / "openapi.json"
POSITION_MAX: Final = 2**63 - 1

_DESCRIPTION: Final = """\
Lists the campaigns that a customer is in, from a read model that follows the platform's events.

**Credentials.** A bearer JWT or an `X-API-Key`; either is enough. When both are sent, both must be valid and name the
same user. An admin sees everything; anyone else sees only the customers and campaigns they own, and gets 404 for any
other customer.

**Freshness.** `Membership-Position` is the position of the event stream at which a response is exact. Send the position
of an event you published as `Membership-Min-Position`: the response then includes that event, or is 503.

**Paging.** By `limit` and `offset`, or by `cursor`, which neither repeats nor skips unchanged rows while memberships
come and go: repeat the request with the `meta.next_cursor` of the previous response.

**Why.** `/customers/{customer_id}/campaigns/{campaign_id}/history` explains why a campaign is, or is not, in the list:
a sentence, and every event of the membership with its outcome.

**HEAD.** Every path that answers GET answers HEAD: the same status and headers, without the body.

**Errors.** 422 lists every invalid parameter at once. All others are `application/problem+json` with a stable `code`.
"""


def _operation(operation_id: str, summary: str, responses: Mapping[str, Node]) -> dict[str, Node]:
    """Return an operation for operators, which needs no credentials."""
    operation = {"operationId": operation_id, "tags": ["operations"], "summary": summary}
    return {"get": {**operation, "security": [], "responses": responses}}


_HEADERS: Final = {
    "ETag": (string(), "Identifies this exact body; send it back in `If-None-Match`."),
    "Link": (string(), "The `next` page and, when paging by offset, also `first`, `prev` and `last` (RFC 8288)."),
    "Membership-Position": (integer(minimum=0), "The position of the event stream at which this response is exact."),
    "Membership-Parked": (
        string(),
        "Why the event at `Membership-Min-Position` was parked: this response does not include it. Absent otherwise.",
    ),
    "X-Request-ID": (string(), "The id sent with the request, or a generated one. Quote it when you ask for support."),
    "Server-Timing": (string(), "How many milliseconds the response took, as `total;dur=…`."),
    "WWW-Authenticate": (
        string(),
        "The scheme that the service accepts; for refused credentials also `error` and `error_description` (RFC 6750).",
    ),
    "Retry-After": (integer(minimum=0), "Seconds to wait before trying again."),
    "RateLimit": (
        string(examples=['"caller";r=12;t=1']),
        "If requests are limited: how many are left (`r`), and the seconds until there are more (`t`).",
    ),
    "RateLimit-Policy": (
        string(examples=['"caller";q=100;w=1']),
        "If requests are limited: how many each caller may send (`q`) within how many seconds (`w`).",
    ),
}

_LIMITS: Final = ("RateLimit", "RateLimit-Policy")
_UNAVAILABLE: Final = ("database_unavailable", "not_ready", "draining")

_LIST_RESPONSES: Final = {
    "200": {"headers": response_headers("ETag", "Link", "Membership-Position", "Membership-Parked", *_LIMITS)},
    "304": {
        "description": "The caller already has this body: `If-None-Match` contains its current tag.",
        "headers": response_headers("ETag", "Link", "Membership-Position", "Membership-Parked", *_LIMITS),
    },
    "400": problem_responses("bad_request"),
    "401": problem_responses("unauthenticated", headers=("WWW-Authenticate", "RateLimit-Policy")),
    "403": problem_responses("insufficient_scope", headers=("WWW-Authenticate", "RateLimit-Policy")),
    "404": problem_responses("customer_not_found", headers=("Membership-Position", "Membership-Parked", *_LIMITS)),
    "413": problem_responses("content_too_large", headers=("RateLimit-Policy",)),
    "414": problem_responses("query_too_long", headers=("RateLimit-Policy",)),
    "422": {"headers": response_headers(*_LIMITS)},
    "429": problem_responses("rate_limited", headers=("Retry-After", *_LIMITS)),
    "503": problem_responses(
        *_UNAVAILABLE,
        "identity_provider_unavailable",
        "overloaded",
        "page_too_large",
        "page_memory_busy",
        "position_not_reached",
        "read_model_behind",
        headers=("Retry-After", *_LIMITS),
    ),
}

_PARAMETER_DESCRIPTIONS: Final = {
    "include_deleted": "Also list memberships whose target was removed or whose campaign was deleted.",
    "only_deleted": "List only those. Overrides `include_deleted`.",
    "limit": "Items per page.",
    "offset": "Items to skip; absent or 0 with `cursor`.",
    "q": "Text to find in the campaign's name, goal or agent name, ignoring case and accents. "
    "Every character is literal.",
    "sort_field": "One of `enrolled_at` (the default), `name`, `status`, `created_at`, `progress`, `contacts_total`, "
    "`contacts_contacted`, `contacts_remaining`, `contacts_to_recall`, `contacts_failed`, `contacts_succeeded`. "
    "Equal values are ordered by campaign id; missing values come last.",
    "include_aggregations": "Also count the matches by status (`quick_filters`) and the deleted ones "
    "(`extra.deleted`).",
    "date_from": "Enrolled at or after this ISO 8601 date or date-time; without an offset it is UTC.",
    "date_to": "Enrolled at or before this date or date-time; a date includes its whole day.",
    "X-API-Key": "The API key of a server, instead of a bearer token.",
}
"""Descriptions of parameters that the contract does not describe."""

_COMMON_PARAMETERS: Final = [
    parameter(
        "header",
        "Membership-Min-Position",
        integer(format="int64", minimum=0, maximum=POSITION_MAX),
        "Respond only after this position of the event stream has been applied; 503 when that takes too long.",
    ),
    parameter(
        "header",
        "Prefer",
        string(examples=["wait=5"]),
        "`wait=S`: how many seconds to wait for `Membership-Min-Position`; 2 by default, 10 at most (RFC 7240).",
    ),
    parameter(
        "header", "If-None-Match", string(), "Tags of responses the caller has, or `*`; 304 when one is current."
    ),
    parameter("header", "X-Request-ID", string(), "An id for this request, up to 128 letters, digits or `._:/+=@-`."),
]

_PARAMETERS: Final = [
    *({"name": name, "description": description} for name, description in _PARAMETER_DESCRIPTIONS.items()),
    parameter(
        "query",
        "cursor",
        string(title="Cursor"),
        "`meta.next_cursor` of the previous response. Valid only for the same customer, filters, order and caller; "
        "otherwise 422.",
    ),
    *_COMMON_PARAMETERS,
]

_HISTORY: Final = {
    "operationId": "explain_membership",
    "tags": ["customer-campaigns"],
    "summary": "Why is, or is not, this customer in this campaign?",
    "description": "The verdict, a sentence that explains it, and the events of the target and of the campaign's "
    "definition, status and deletion, in the order of the stream, as far as the read model has applied it.",
    "parameters": [
        parameter("path", "customer_id", string(format="uuid"), "The customer.", required=True),
        parameter("path", "campaign_id", string(format="uuid"), "The campaign.", required=True),
        parameter(
            "query",
            "limit",
            integer(minimum=1, maximum=LIMIT_MAX, default=history_parameters.LIMIT_DEFAULT),
            "Events per page.",
        ),
        parameter(
            "query",
            "cursor",
            string(),
            "`meta.next_cursor` of the previous response. Valid only for the same customer, campaign, `include` and "
            "caller; otherwise 422.",
        ),
        parameter(
            "query", "include", string(enum=["counters"]), "`counters`: also the events of the campaign's counters."
        ),
        *_COMMON_PARAMETERS,
    ],
    "responses": {
        "200": {
            "description": "The history.",
            "headers": response_headers("ETag", "Membership-Position", "Membership-Parked", *_LIMITS),
            "content": {"application/json": {"schema": ref("schemas", "MembershipHistory")}},
        },
        "304": {
            "description": "The caller already has this body: `If-None-Match` contains its current tag.",
            "headers": response_headers("ETag", "Membership-Position", "Membership-Parked", *_LIMITS),
        },
        "400": problem_responses("bad_request"),
        "401": problem_responses("unauthenticated", headers=("WWW-Authenticate", "RateLimit-Policy")),
        "403": problem_responses("insufficient_scope", headers=("WWW-Authenticate", "RateLimit-Policy")),
        "404": problem_responses(
            "membership_not_found", headers=("Membership-Position", "Membership-Parked", *_LIMITS)
        ),
        "413": problem_responses("content_too_large", headers=("RateLimit-Policy",)),
        "414": problem_responses("query_too_long", headers=("RateLimit-Policy",)),
        "422": {
            "description": "Every invalid parameter.",
            "headers": response_headers(*_LIMITS),
            "content": {"application/json": {"schema": ref("schemas", "HTTPValidationError")}},
        },
        "429": problem_responses("rate_limited", headers=("Retry-After", *_LIMITS)),
        "503": problem_responses(
            *_UNAVAILABLE,
            "identity_provider_unavailable",
            "position_not_reached",
            "read_model_behind",
            "broker_unavailable",
            "broker_not_configured",
            "history_busy",
            "history_too_long",
            "overloaded",
            headers=("Retry-After", *_LIMITS),
        ),
    },
}

_HISTORY_EVENT: Final = {
    "type": "object",
    "title": "HistoryEvent",
    "description": "One event. Of a parked one, what could not be read is absent.",
    "required": ["position", "outcome"],
    "properties": {
        "position": integer(description="Its position in the event stream."),
        "time": string(format="date-time", description="The event's own time."),
        "type": string(),
        "id": string(),
        "source": string(description="Who published it."),
        "version": string(pattern="^[0-9]+$", description="An int64; a string, because it may exceed 2⁵³."),
        "outcome": string(
            enum=list(get_args(Outcome)),
            description="`applied`: it changed the membership or campaign when it came. `superseded`: an event "
            "with the same or a higher version had come before. `duplicate`: it had come before itself. `parked`: it "
            "could not be applied.",
        ),
        "superseded_by": integer(
            description="The position of the event that replaced an applied one, or that a superseded one lost to."
        ),
        "detail": string(description="What the event says, or why it is parked."),
    },
}

_MEMBERSHIP_HISTORY: Final = {
    "type": "object",
    "title": "MembershipHistory",
    "required": ["customer_id", "campaign_id", "visible", "reason", "detail", "events", "meta"],
    "properties": {
        "customer_id": string(format="uuid"),
        "campaign_id": string(format="uuid"),
        "visible": {"type": "boolean", "description": "Whether the list shows the campaign by default."},
        "reason": string(
            enum=list(get_args(Verdict)), description="`visible`, or why not: the first that applies, in this order."
        ),
        "detail": string(description="The reason as a sentence, with times and positions."),
        "enrolled_at": string(format="date-time"),
        "events": {"type": "array", "items": ref("schemas", "HistoryEvent")},
        "meta": {
            "type": "object",
            "required": ["limit"],
            "properties": {
                "limit": integer(),
                "next_cursor": string(description="The `cursor` of the next page; absent on the last page."),
            },
        },
    },
}

_SCHEMAS: Final = {
    "HistoryEvent": _HISTORY_EVENT,
    "MembershipHistory": _MEMBERSHIP_HISTORY,
    "MetaOut": {
        "properties": {
            "next_cursor": string(
                title="Next Cursor", description="The `cursor` of the next page; absent on the last page."
            )
        }
    },
    "AggregationsOut": {
        "properties": {
            "quick_filters": {
                "description": "Number of matches: `all` (always equal to `meta.total`), and by status `draft`, "
                "`running`, `paused` and `done`."
            },
            "extra": {"description": "`deleted`: how many deleted memberships the same `q` and dates match."},
        }
    },
    "Problem": object_type(
        "Problem",
        {
            "type": string(description="Always `about:blank`: `code` identifies the problem."),
            "title": string(description="The name of the HTTP status."),
            "status": integer(),
            "detail": string(description="An explanation for people."),
            "code": string(description="Identifies the problem; stable, for programs."),
            "request_id": string(description="The value of `X-Request-ID`."),
        },
    )
    | {"description": "An error other than 422 (RFC 9457)."},
    **specification.schemas(),
    "Liveness": object_type("Liveness", {"status": string(const="live")}),
    "Readiness": object_type(
        "Readiness",
        {
            "status": string(const="ready"),
            "generation": string(description="The generation of the read model that serves reads."),
            "position": integer(description="The position of the event stream that this generation has applied."),
        },
    ),
}

_OPERATIONS: Final = {
    "/health/live": _operation(
        "live", "Is the process running?", {"200": json_response("Liveness", "It is; nothing else is checked.")}
    ),
    "/health/ready": _operation(
        "ready",
        "Can the service answer reads?",
        {
            "200": json_response(
                "Readiness", "The database responds, and the read model has caught up with the stream once."
            ),
            "503": problem_responses(*_UNAVAILABLE, headers=("Retry-After",)),
        },
    ),
    "/metrics": _operation(
        "metrics",
        "This process's metrics, for Prometheus",
        {
            "200": {
                "description": "Prometheus' text format.",
                "headers": response_headers(),
                "content": {"text/plain": {"schema": string()}},
            }
        },
    ),
}

ADDITIONS: Final = {
    "info": {"description": _DESCRIPTION},
    "tags": [
        {"name": "operations", "description": "For operators. No credentials."},
        {"name": "console", "description": "For the operators' console: credentials with the scope `operate`."},
    ],
    "components": {
        "headers": {name: {"schema": schema, "description": text} for name, (schema, text) in _HEADERS.items()},
        "schemas": _SCHEMAS,
    },
    "paths": {
        "/customers/{customer_id}/campaigns": {"get": {"parameters": _PARAMETERS, "responses": _LIST_RESPONSES}},
        "/customers/{customer_id}/campaigns/{campaign_id}/history": {"get": _HISTORY},
        **_OPERATIONS,
        **specification.paths(),
    },
}
"""Every addition, in the structure of the document that it extends."""

THIS_HOST: Final = {"url": "/", "description": "This host"}
"""Listed before the contract's servers, so that a request tried on /docs goes to the host that served the page."""


@cache
def document() -> bytes:
    """Return the document as JSON; the same bytes at every call."""
    contract = msgspec.json.decode(CONTRACT.read_bytes())
    extended_contract = extended(contract, ADDITIONS)
    return msgspec.json.encode(extended_contract | {"servers": [THIS_HOST, *contract["servers"]]})


def extended(base: Node, addition: Node) -> Node:
    """Return `base` extended by `addition`, at any depth; list items of the same `name` are merged.

    Raises ValueError if that would replace a value.
    """
    match base, addition:
        case _ if base == addition:
            return base
        case dict(), dict():
            both = {key: extended(base[key], addition[key]) for key in base.keys() & addition.keys()}
            return base | addition | both
        case list(), list():
            added = {item["name"]: item for item in addition}
            merged = [extended(item, added.pop(item["name"], {})) for item in base]
            return [*merged, *added.values()]
    raise ValueError(f"Adding {addition!r} would replace {base!r} of the contract.")
