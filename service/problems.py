"""Every error response: problem+json with a stable code, and the contract's exact 422."""

from collections.abc import Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from litestar import Response

from service.identity.refusals import REALM, Refusal
from service.representation import Header, RawResponse

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current request; set by the middleware, before anything can fail."""


def add_request_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401 - a processor of structlog
    """Add the current request's id to a log line."""
    if identity := request_id.get():
        event.setdefault("request_id", identity)
    return event


class Problem(NamedTuple):
    """One kind of error. `detail` is the sentence shown to the caller; it is constant, so it never reveals data.

    A 401 for credentials that were sent has another constant sentence, which gives the reason.
    """

    code: str
    status: int
    title: str
    detail: str


PAGE_TOO_LARGE: Final = "The page is larger than this server can answer; ask for a smaller limit."
"""Like two others below, a 503 that a repetition of the request cannot resolve: it has no `Retry-After`."""
IDENTITY_PROVIDER_UNAVAILABLE: Final = (
    "The token cannot be checked, because the keys of its issuer could not be read yet; try again shortly."
)
PAGE_MEMORY_BUSY: Final = "The memory for large pages is in use by other requests; try again shortly."

RUNNER_UNAVAILABLE: Final = "No job runner is running; start `membership jobs run`."
READ_MODEL_BEHIND: Final = (
    "The read model is behind what earlier answers have stated, as after a failover that lost commits; the events are "
    "being applied again: try again shortly."
)

HISTORY_TOO_LONG: Final = (
    "This membership has more events than a history is made of; omit include=counters if it is sent."
)
BROKER_NOT_CONFIGURED: Final = "This process reads no histories: set MEMBERSHIP_NATS_URL for `membership serve`."
_NOT_TRANSIENT: Final = frozenset({PAGE_TOO_LARGE, HISTORY_TOO_LONG, BROKER_NOT_CONFIGURED})

PROBLEMS: Final[Mapping[str, Problem]] = {
    problem.code: problem
    for problem in (
        Problem("unauthenticated", 401, "Unauthorized", Refusal.NO_CREDENTIALS.value),
        Problem("insufficient_scope", 403, "Forbidden", "The credentials have no scope that allows this request."),
        Problem("customer_not_found", 404, "Not Found", "There is no such customer among those you may see."),
        Problem(
            "membership_not_found", 404, "Not Found", "There is no such customer or campaign among those you may see."
        ),
        Problem("job_not_found", 404, "Not Found", "There is no job of this number."),
        Problem("parked_event_not_found", 404, "Not Found", "No event is parked at this position."),
        Problem("route_not_found", 404, "Not Found", "This path does not exist; /docs lists the paths that do."),
        Problem(
            "method_not_allowed", 405, "Method Not Allowed", "This path has no such method; Allow lists its methods."
        ),
        Problem("bad_request", 400, "Bad Request", "The request is malformed."),
        Problem(
            "beyond_caller",
            403,
            "Forbidden",
            "Credentials that are no admin's create and revoke keys of their own user only.",
        ),
        Problem("plan_not_found", 404, "Not Found", "There is no such plan."),
        Problem("nothing_to_plan", 409, "Conflict", "The action would do nothing, or cannot be done now."),
        Problem("plan_already_run", 409, "Conflict", "The plan was run before; a plan runs once."),
        Problem("plan_changed", 409, "Conflict", "What the plan acts on has changed since it was made."),
        Problem("plan_expired", 409, "Conflict", "The plan has expired; make a new one."),
        Problem("plan_not_ready", 409, "Conflict", "What the plan would do is not known yet, or could not be found."),
        Problem("query_too_long", 414, "URI Too Long", "The query string is longer than this server accepts."),
        Problem(
            "content_too_large", 413, "Content Too Large", "The request's content is longer than this path accepts."
        ),
        Problem("unsupported_media_type", 415, "Unsupported Media Type", "Send the content as application/json."),
        Problem("cross_site_request", 403, "Forbidden", "A page of another site sent this request, so it was refused."),
        Problem("rate_limited", 429, "Too Many Requests", "You have used up your requests; wait as Retry-After says."),
        Problem("internal_error", 500, "Internal Server Error", "An unexpected error occurred; it was logged."),
        Problem(
            "database_unavailable",
            503,
            "Service Unavailable",
            "The read model cannot be reached or took too long; try again shortly.",
        ),
        Problem("read_model_behind", 503, "Service Unavailable", READ_MODEL_BEHIND),
        Problem("identity_provider_unavailable", 503, "Service Unavailable", IDENTITY_PROVIDER_UNAVAILABLE),
        Problem("overloaded", 503, "Service Unavailable", "Too many reads are waiting; try again shortly."),
        Problem("page_too_large", 503, "Service Unavailable", PAGE_TOO_LARGE),
        Problem("page_memory_busy", 503, "Service Unavailable", PAGE_MEMORY_BUSY),
        Problem("history_too_long", 503, "Service Unavailable", HISTORY_TOO_LONG),
        Problem(
            "history_busy",
            503,
            "Service Unavailable",
            "Other histories are being read at the moment; try again shortly.",
        ),
        Problem(
            "broker_unavailable",
            503,
            "Service Unavailable",
            "The event stream, which only histories are read from, does not answer; try again shortly.",
        ),
        Problem("broker_not_configured", 503, "Service Unavailable", BROKER_NOT_CONFIGURED),
        Problem("too_many_streams", 503, "Service Unavailable", "Too many live streams are open; close one."),
        Problem("stream_unavailable", 503, "Service Unavailable", "Nothing is known of the stream at the moment."),
        Problem("draining", 503, "Service Unavailable", "This process is shutting down; send requests to another."),
        Problem("not_ready", 503, "Service Unavailable", "The read model is still being filled for the first time."),
        Problem("runner_unavailable", 503, "Service Unavailable", RUNNER_UNAVAILABLE),
        Problem(
            "position_not_reached",
            503,
            "Service Unavailable",
            "The requested position has not been applied yet; try again, or wait longer with Prefer: wait=S.",
        ),
    )
}
"""All problems by code; docs/api.md explains each."""

RETRY_AFTER_S: Final = 1


def problem_body(problem: Problem, members: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Return the body of a problem, RFC 9457, with further `members`."""
    return msgspec.json.encode(
        {
            "type": "about:blank",
            "title": problem.title,
            "status": problem.status,
            "detail": problem.detail,
            "code": problem.code,
            "request_id": request_id.get(),
            **members,
        }
    )


def problem_headers(problem: Problem) -> dict[str, str]:
    """Return the headers that a problem's status requires."""
    if problem.status == 401:  # noqa: PLR2004
        return {"WWW-Authenticate": REALM}
    if problem.status == 503 and problem.detail not in _NOT_TRANSIENT:  # noqa: PLR2004
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {}


def problem_response(
    code: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    detail: str | None = None,
    members: Mapping[str, Any] = MappingProxyType({}),
) -> Response[bytes]:
    """Return a problem as a Litestar response, with further `headers` and `members`, and another `detail` if given."""
    problem = PROBLEMS[code] if detail is None else PROBLEMS[code]._replace(detail=detail)
    return Response(
        problem_body(problem, members),
        status_code=problem.status,
        media_type=_MEDIA_TYPE,
        headers=problem_headers(problem) | dict(headers),
    )


def problem_reply(code: str, *headers: Header) -> RawResponse:
    """Return a problem as a raw response, with further `headers`."""
    problem = PROBLEMS[code]
    body = problem_body(problem)
    raw = ((name.lower().encode(), value.encode()) for name, value in problem_headers(problem).items())
    return RawResponse(problem.status, (*_content_headers(body, _MEDIA_TYPE), *raw, *headers), body)


def unprocessable(violations: Iterable[Any]) -> RawResponse:
    """Return the contract's 422: `{"detail": [{"loc", "msg", "type"}, …]}`."""
    detail = [{"loc": violation.loc, "msg": violation.msg, "type": violation.type} for violation in violations]
    body = msgspec.json.encode({"detail": detail})
    return RawResponse(422, _content_headers(body, "application/json"), body)


def _content_headers(body: bytes, media_type: str) -> tuple[Header, ...]:
    return (b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))


_MEDIA_TYPE: Final = "application/problem+json"
