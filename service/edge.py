"""The outermost ASGI layer: what every answer gets, whether or not a route was found for it.

Route middleware never runs for an unrouted 404 or 405, so request ids, timing and metrics belong here.
"""

import os
import re
import time
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service import metrics
from service.admission import Overloaded
from service.hot import HotPath
from service.log_rate import RateLimitedLog
from service.problems import PROBLEMS, problem_body, refusal, request_id
from service.replies import Header

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""What is echoed as a request id; anything else is replaced, so that logs cannot be written by callers."""
ALWAYS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization, X-API-Key, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
)

OVERLOADED: Final = RateLimitedLog("reads_refused")
"""Expensive reads that found no free slot."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Edge:
    """Wraps the application, and answers from memory where that is certain."""

    def __init__(self, app: ASGIApp, hot: HotPath) -> None:
        self._app = app
        self._hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        recalled = self._hot.recall(scope)
        if recalled is not None:
            await recalled.send(send, *_own_headers(scope, began))
            metrics.count(metrics.LISTING, recalled.status, time.perf_counter() - began)
            return
        exchange = Exchange(scope, send, began)
        token = request_id.set(exchange.request_id)
        try:
            async with self._hot.admitted(scope):
                await self._app(scope, receive, exchange.send)
        except Overloaded:
            OVERLOADED.warning(request_id=exchange.request_id)
            await refusal("database_unavailable")(scope, receive, exchange.send)
        except Exception:
            log.exception("unforeseen", request_id=exchange.request_id, path=scope["path"])
            await exchange.fail()
        finally:
            request_id.reset(token)
            exchange.count()


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: HTTPScope, send: Send, began: float) -> None:
        self.request_id = _request_id(scope)
        self._route = metrics.route_of(scope["path"])
        self._send = send
        self._began = began
        self._status = 0

    async def send(self, message: Message) -> None:
        """Pass a message on, adding to the answer's headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(header for header in ALWAYS if header[0] not in present or header[0] == b"vary"),
                (b"x-request-id", self.request_id.encode()),
                (b"server-timing", _timing(self._began)),
            ]
        await self._send(message)

    async def fail(self) -> None:
        """Answer 500, unless an answer has begun."""
        if self._status:
            return
        body = problem_body(PROBLEMS["internal_error"])
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ]
        start: Any = {"type": "http.response.start", "status": 500, "headers": headers}
        end: Any = {"type": "http.response.body", "body": body, "more_body": False}
        await self.send(start)
        await self.send(end)

    def count(self) -> None:
        """Record the exchange."""
        metrics.count(self._route, self._status or 499, time.perf_counter() - self._began)


def _own_headers(scope: HTTPScope, began: float) -> tuple[Header, ...]:
    return (*ALWAYS, (b"x-request-id", _request_id(scope).encode()), (b"server-timing", _timing(began)))


def _request_id(scope: HTTPScope) -> str:
    """Return the caller's name of the request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return os.urandom(16).hex()


def _timing(began: float) -> bytes:
    return b"total;dur=%.2f" % ((time.perf_counter() - began) * 1000)
