"""The outermost ASGI layer: what every answer gets, whether or not a route was found for it.

Route middleware never runs for an unrouted 404 or 405, so request ids, timing and metrics belong here.
"""

import re
import time
import uuid
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.problems import PROBLEMS, problem_body, request_id

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
"""What is echoed as a request id; anything else is replaced, so that logs cannot be written by callers."""
ALWAYS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization, X-API-Key, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        token = request_id.set(exchange.request_id)
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            log.exception("unforeseen", request_id=exchange.request_id, path=scope["path"])
            await exchange.fail()
        finally:
            request_id.reset(token)
            exchange.count()


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self._route = metrics.route_of(scope["path"])
        self._send = send
        self._began = time.perf_counter()
        self._status = 0

    async def send(self, message: Message) -> None:
        """Pass a message on, adding to the answer's headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            present = {name.lower() for name, _ in message["headers"]}
            total = f"total;dur={(time.perf_counter() - self._began) * 1000:.2f}"
            message["headers"] = [
                *message["headers"],
                *(header for header in ALWAYS if header[0] not in present or header[0] == b"vary"),
                (b"x-request-id", self.request_id.encode()),
                (b"server-timing", total.encode()),
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
        metrics.REQUESTS.labels(self._route, str(self._status or 499)).inc()
        metrics.DURATION.labels(self._route).observe(time.perf_counter() - self._began)
