"""Records answered requests: a line in the log, and a span where tracing is configured. Off, it costs nothing.

The route and the principal's id are recorded, never a path, a query or a credential: they name customers.
"""

import time
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Literal, NamedTuple

import structlog
from msgspec import Struct

from projections.tracing import Span, TraceParent, Tracing

SAMPLE_EVERY: Final = 100
"""Of `sampled` lines: one in so many, and every response with a status from 500 on."""
SERVER_ERROR: Final = 500
CacheOutcome = Literal["hit", "miss"]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Selected(NamedTuple):
    """How a request is recorded."""

    line: bool
    """Whether it gets a line in the log."""


class Facts(Struct):
    """What only the code that answers a request knows."""

    principal: str = ""
    rows: int | None = None
    cache: CacheOutcome | None = None


class Request(Struct, frozen=True):
    """An answered request."""

    request_id: str
    method: str
    route: str
    status: int
    began: float
    """By `time.perf_counter`."""
    headers: Iterable[tuple[bytes, bytes]]
    """As received."""
    response_headers: Iterable[tuple[bytes, bytes]]


traceparent: ContextVar[bytes | None] = ContextVar("traceparent", default=None)
"""The header of the current request; set by the middleware, parsed only where a line is logged."""


def add_trace_id(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401 - a processor of structlog
    """Add the trace id of the current request to a log line, if its caller sent a valid one."""
    value = traceparent.get()
    parent = None if value is None else TraceParent.parse(value.decode("latin-1"))
    if parent is not None:
        event.setdefault("trace_id", parent.trace_id)
    return event


_facts: ContextVar[Facts | None] = ContextVar("facts", default=None)


def note(cache: CacheOutcome | None = None, rows: int | None = None) -> None:
    """Note how the current request is answered; without effect unless requests are recorded."""
    facts = _facts.get()
    if facts is not None:
        facts.cache = cache or facts.cache
        facts.rows = rows if rows is not None else facts.rows


def trace_parent(headers: Iterable[tuple[bytes, bytes]]) -> TraceParent | None:
    """Return the caller's span, if its `traceparent` is valid."""
    value = next((value for name, value in headers if name == b"traceparent"), None)
    return None if value is None else TraceParent.parse(value.decode("latin-1"))


class AccessLog:
    """Records requests according to the settings."""

    def __init__(self, mode: str, tracing: Tracing | None) -> None:
        self._every = {"off": 0, "sampled": SAMPLE_EVERY, "on": 1}[mode]
        self._tracing = tracing
        self._requests = 0

    @property
    def enabled(self) -> bool:
        """Whether any request may be recorded."""
        return self._every > 0 or self._tracing is not None

    def begin(self) -> Facts:
        """Collect what is noted during the current request."""
        facts = Facts()
        _facts.set(facts)
        return facts

    def select(self, status: int) -> Selected | None:
        """Count an answered request; return how to record it, None for not at all."""
        self._requests += 1
        line = self._every > 0 and (self._requests % self._every == 0 or status >= SERVER_ERROR)
        return Selected(line=line) if line or self._tracing is not None else None

    def record(self, request: Request, facts: Facts, selected: Selected) -> None:
        """Log a request if it was selected, and report its span if tracing is configured."""
        took_s = time.perf_counter() - request.began
        if selected.line:
            log.info("request", **_fields(request, facts, took_s))
        if self._tracing is not None:
            self._tracing.report_request(_span(request, facts, took_s), trace_parent(request.headers))


def _fields(request: Request, facts: Facts, took_s: float) -> dict[str, Any]:
    parent = trace_parent(request.headers)
    position = next((value for name, value in request.response_headers if name == b"membership-position"), None)
    fields = {
        "request_id": request.request_id,
        "trace_id": None if parent is None else parent.trace_id,
        "principal": facts.principal or None,
        "method": request.method,
        "route": request.route,
        "status": request.status,
        "ms": round(took_s * 1000, 2),
        "rows": facts.rows,
        "cache": facts.cache,
        "position": None if position is None else int(position),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _span(request: Request, facts: Facts, took_s: float) -> Span:
    ended_ns = time.time_ns()
    attributes = {
        "http.request.method": request.method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "membership.request_id": request.request_id,
    }
    if facts.cache is not None:
        attributes["membership.cache"] = facts.cache
    failed = request.status >= SERVER_ERROR
    return Span(f"{request.method} {request.route}", ended_ns - int(took_s * 1e9), ended_ns, attributes, failed)
