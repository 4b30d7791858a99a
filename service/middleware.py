"""The outermost ASGI layer: what every response gets, whether or not a route was found for it.

Route middleware never runs for an unrouted 404 or 405, so request ids, timing and metrics belong here.
"""

import asyncio
import itertools
import os
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final, cast

import structlog
from litestar.enums import ScopeType
from litestar.status_codes import HTTP_400_BAD_REQUEST
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service import metrics
from service.access_log import AccessLog, Request, traceparent
from service.fast_path import FastPath, is_limited, is_plain_listing
from service.problems import problem_reply, request_id
from service.rate_limit import Charge, Quota, charge
from service.rate_limited_log import RateLimitedLog
from service.read_model.admission import Overloaded, caller
from service.refusal_pace import RefusalPace
from service.representation import CallerTooSlow, Header, RawResponse

_PROCESS: Final = os.urandom(10).hex().encode()
_REQUESTS: Final = itertools.count(1)
REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""Request ids that are echoed; any other is replaced, so that callers cannot forge log lines."""
DEFAULT_HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization, X-API-Key, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
)
CLOSE: Final[tuple[Header, ...]] = ((b"connection", b"close"),)
_CONTENT: Final = frozenset((b"content-length", b"transfer-encoding"))
"""The fields of a request with content, which is checked and takes the longer way."""
LENGTH_DIGITS_MAX: Final = 18
OPERATIONS_CONTENT_BYTES_MAX: Final = 65_536
"""Length of a request's content on the operators' paths: a plan that names 5,000 positions takes 60 KB."""
HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{1,253})(?::[0-9]{0,5})?")
"""A `Host` field's value (RFC 3986, 3.2.2). HTTP/1.1 requires exactly one field (RFC 9112, 3.2)."""
LITESTAR_ALLOW: Final[Header] = (b"allow", b"GET, OPTIONS")
ALLOW: Final[Header] = (b"allow", b"GET, HEAD, OPTIONS")
"""Litestar answers OPTIONS itself, but its `Allow` lacks HEAD, which this layer answers."""
READINESS: Final = "/health/ready"

OVERLOADED: Final = RateLimitedLog("reads_refused")
"""Expensive reads that got no free slot in time."""
SLOW_CALLERS: Final = RateLimitedLog("slow_caller_disconnected")
"""Callers that did not read a large page in time."""

is_head: ContextVar[bool] = ContextVar("is_head", default=False)
"""Whether the caller gets only the headers: an endless response then ends at once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ResponseMiddleware:
    """Wraps the application: serves cached pages, and rejects requests that must not be routed."""

    def __init__(
        self, app: ASGIApp, fast_path: FastPath, access_log: AccessLog, *, query_bytes_max: int, content_bytes_max: int
    ) -> None:
        self._app = app
        self._fast_path = fast_path
        self._access_log = access_log if access_log.enabled else None
        self._query_bytes_max = query_bytes_max
        """Every byte of a query costs time to decode."""
        self._content_bytes_max = content_bytes_max
        """Only the operators' API reads a request's content; the server closes the connection if none has arrived in
        time."""
        self._pace = RefusalPace()
        self.listing: ASGIApp | None = None
        """Answers plain listings instead of the application; set at startup."""
        self.ending = asyncio.Event()
        """Set when connections are being closed: an endless response must end."""
        self._closing: tuple[Header, ...] = ()
        self._draining = False
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._aborting = False
        self._last_host = b"localhost"
        """The last valid `Host`: requests mostly repeat it, and it need not be matched again."""

    def close_connections(self) -> None:
        """Close each connection after its next response."""
        self._closing = CLOSE
        self.ending.set()

    def start_draining(self) -> None:
        """Fail the readiness check and close each connection after its next response."""
        self._draining = True
        self.close_connections()

    def abort(self) -> None:
        """Answer 503 to every request that is still in flight."""
        self._aborting = True
        for task in self._in_flight:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        fields = list(scope["headers"])
        headers = dict(fields)
        # Only the application interprets repeated headers; while connections are closed, each response needs CLOSE.
        is_plain = (
            len(headers) == len(fields)
            and not self._closing
            and _CONTENT.isdisjoint(headers)
            and self._accepts(headers.get(b"host"))
        )
        quota = self._fast_path.spend(scope, headers) if is_plain else None
        if is_plain and await self._respond_at_once(scope, headers, send, began, quota):
            return
        if self._fast_path.caller_limits is not None and is_limited(scope["path"]):
            charge.set(Charge(self._fast_path.caller_limits, quota))
        identity, host = _identify(scope)
        app = self._app_for(scope, host)
        if app is self._app and self.listing is not None and is_plain and is_plain_listing(scope, headers):
            app = self.listing
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"  # same status and headers as GET, without the body
            is_head.set(True)
            send = _without_body(send)
        exchange = Exchange(scope, send, began, identity, self._closing)
        facts = None if self._access_log is None else self._access_log.begin()
        try:
            await self._run(app, scope, receive, exchange)
        finally:
            if self._access_log is not None and facts is not None:
                request = exchange.described(method, fields)
                if selected := self._access_log.select(request.status):
                    facts.principal = caller.get()
                    self._access_log.record(request, facts, selected)

    def _accepts(self, host: bytes | None) -> bool:
        if host != self._last_host:
            if host is None or not HOST.fullmatch(host):
                return False
            self._last_host = host
        return True

    async def _respond_at_once(
        self, scope: HTTPScope, headers: dict[bytes, bytes], send: Send, began: float, quota: Quota | None
    ) -> bool:
        """Respond to a plain request that needs no application: with a cached page, or by refusing it."""
        identity = headers.get(b"x-request-id")
        response = self._fast_path.lookup(scope, headers) if quota is None or quota.accepted else None
        if response is not None:
            own = _own_headers(identity, began)
        elif (code := self._refusal_code(scope, headers, quota)) is None:
            return False
        else:
            if code == "overloaded":
                await self._pace.turn()
            own = _own_headers(identity, began)
            response = _refusal(code, own[0][1].decode(), quota)
        await response.send(send, *DEFAULT_HEADERS, *own, *(() if quota is None else quota.headers))
        metrics.count(metrics.LISTING, response.status, time.perf_counter() - began)
        if self._access_log is not None and (selected := self._access_log.select(response.status)):
            fields = scope["headers"]
            request = Request(
                own[0][1].decode(), "GET", metrics.LISTING, response.status, began, fields, response.headers
            )
            facts = self._fast_path.facts(scope, headers, refused=response.status >= HTTP_400_BAD_REQUEST)
            self._access_log.record(request, facts, selected)
        return True

    def _refusal_code(self, scope: HTTPScope, headers: dict[bytes, bytes], quota: Quota | None) -> str | None:
        """Return the problem code of a plain request that is refused to its caller; None when it is not."""
        if quota is not None and not quota.accepted:
            return "rate_limited"
        return "overloaded" if self._fast_path.refuses(scope, headers) else None

    def _app_for(self, scope: HTTPScope, host: bytes | None) -> ASGIApp:
        code = self._rejection_code(scope, host)
        return self._app if code is None else _rejection(code)

    def _is_content_accepted(self, scope: HTTPScope) -> bool:
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if not lengths:
            return True
        is_operators = scope["path"].startswith(metrics.OPERATIONS)
        bytes_max = OPERATIONS_CONTENT_BYTES_MAX if is_operators else self._content_bytes_max
        return all(
            length.isdigit() and len(length) <= LENGTH_DIGITS_MAX and int(length) <= bytes_max for length in lengths
        )

    def _rejection_code(self, scope: HTTPScope, host: bytes | None) -> str | None:
        """Return the problem code of a request that is rejected before routing; None when it is not."""
        if scope["http_version"] == "1.1" and not self._accepts(host):
            return "bad_request"
        if len(scope["query_string"]) > self._query_bytes_max:
            return "query_too_long"
        if not self._is_content_accepted(scope):
            return "content_too_large"
        if self._draining and scope["path"] == READINESS:
            return "draining"
        return None

    async def _run(self, app: ASGIApp, scope: HTTPScope, receive: Receive, exchange: "Exchange") -> None:
        token = request_id.set(exchange.request_id)
        parent = traceparent.set(_field(scope, b"traceparent"))
        task = cast("asyncio.Task[Any]", asyncio.current_task())  # granian runs each request in a task
        self._in_flight.add(task)
        try:
            await self._respond(app, scope, receive, exchange)
        finally:
            self._in_flight.discard(task)
            traceparent.reset(parent)
            request_id.reset(token)
            exchange.count()

    async def _respond(self, app: ASGIApp, scope: HTTPScope, receive: Receive, exchange: "Exchange") -> None:
        try:
            async with self._fast_path.admitted(scope):
                await app(scope, receive, exchange.send)
        except Overloaded:
            OVERLOADED.warning(request_id=exchange.request_id)
            await self._pace.turn()
            await exchange.fail("overloaded")
        except asyncio.CancelledError:
            if not self._aborting:
                raise
            await exchange.fail("draining")
        except Exception as problem:
            # Litestar raises an error of its own, because the response has begun.
            if isinstance(problem, CallerTooSlow) or isinstance(problem.__cause__, CallerTooSlow):
                SLOW_CALLERS.warning(request_id=exchange.request_id)
                return
            log.exception("unhandled_exception", path=scope["path"])
            await exchange.fail("internal_error")


class Exchange:
    """One request and its response."""

    def __init__(self, scope: HTTPScope, send: Send, began: float, identity: str, closing: tuple[Header, ...]) -> None:
        self.request_id = identity
        self._closing = closing
        self._route = metrics.route_of(scope["path"])
        self._send = send
        self._began = began
        self._status = 0
        self._headers: Iterable[Header] = ()

    async def send(self, message: Message) -> None:
        """Forward a message, adding the middleware's headers to the response's."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *(ALLOW if header == LITESTAR_ALLOW else header for header in message["headers"]),
                *(header for header in DEFAULT_HEADERS if header[0] not in present or header[0] == b"vary"),
                *self._closing,
                *(() if (charged := charge.get()) is None else charged.headers),
                *_own_headers(self.request_id.encode(), self._began),
            ]
            self._headers = message["headers"]
        await self._send(message)

    async def fail(self, code: str) -> None:
        """Respond with a problem, unless a response has begun."""
        if not self._status:
            await problem_reply(code).send(self.send)

    def described(self, method: str, fields: Iterable[Header]) -> Request:
        """Return the exchange for the access log; `method` and `fields` as received."""
        return Request(self.request_id, method, self._route, self._status or 499, self._began, fields, self._headers)

    def count(self) -> None:
        """Record the exchange in the metrics; 499 when nothing was sent."""
        metrics.count(self._route, self._status or 499, time.perf_counter() - self._began)


def _refusal(code: str, identity: str, quota: Quota | None) -> RawResponse:
    if code == "overloaded":
        metrics.shed("queue_full")
        OVERLOADED.warning(request_id=identity)
    token = request_id.set(identity)
    try:
        return problem_reply(code, *(quota.retry_after if quota is not None and not quota.accepted else ()))
    finally:
        request_id.reset(token)


def _rejection(code: str) -> ASGIApp:
    async def reject(_scope: Scope, _receive: Receive, send: Send) -> None:
        await problem_reply(code).send(send)

    return reject


def _field(scope: HTTPScope, name: bytes) -> bytes | None:
    return next((value for field, value in scope["headers"] if field == name), None)


def _own_headers(identity: bytes | None, began: float) -> tuple[Header, ...]:
    if identity is None or not REQUEST_ID.fullmatch(identity):
        identity = new_request_id()
    return (b"x-request-id", identity), (b"server-timing", _timing(began))


def _identify(scope: HTTPScope) -> tuple[str, bytes | None]:
    """Return the request id, sent or generated, and the `Host` field; None for no `Host` or several."""
    identity = ""
    host: bytes | None = None
    repeated = False
    for name, value in scope["headers"]:
        if name == b"host":
            repeated = host is not None
            host = value
        elif name == b"x-request-id" and not identity and REQUEST_ID.fullmatch(value):
            identity = value.decode()
    return identity or new_request_id().decode(), None if repeated else host


def new_request_id() -> bytes:
    """Return an id that no other request has: random per process, then counted, which is cheaper than random bytes."""
    return b"%s%012x" % (_PROCESS, next(_REQUESTS))


def _without_body(send: Send) -> Send:
    """Return a `send` that forwards everything but the content, for HEAD (RFC 9110, 9.3.2)."""

    async def send_headers(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
        elif not message.get("more_body"):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_headers


def _timing(began: float) -> bytes:
    return b"total;dur=%.2f" % ((time.perf_counter() - began) * 1000)
