"""Serves a projector's `/metrics` and `/health` on a port of its own, from the projector's event loop.

A few lines over asyncio instead of a framework: every response closes its connection, and connections, head, time and
bytes are bounded, so that no caller can slow the projection. prometheus_client's own server starts a thread for every
connection and waits for a silent one without a limit.

Fails: `SignalsAddressTaken` if the address cannot be used.
"""

import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Final, NamedTuple, Self

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from consumers import metrics
from consumers.metrics import ProjectorState
from consumers.observer import Observer
from projections.errors import MembershipError

CONNECTIONS_MAX: Final = 16
"""Connections open at the same time; a further one is closed at once."""
HEAD_BYTES_MAX: Final = 8_192
EXCHANGE_S: Final = 10.0
"""From the connection until the last byte of the response is taken; then the connection is reset."""
log: structlog.stdlib.BoundLogger = structlog.get_logger()

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


class SignalsAddressTaken(MembershipError):
    """The configured address cannot be listened on."""

    code = "signals_address_taken"

    def __init__(self, host: str, port: int, problem: OSError) -> None:
        super().__init__(
            f"Cannot serve /metrics and /health on {host}:{port}: {problem.strerror or problem}. Choose another "
            "address with MEMBERSHIP_PROJECTOR_HTTP_HOST and MEMBERSHIP_PROJECTOR_HTTP_PORT, or unset the port."
        )


class Reply(NamedTuple):
    """A response: its status, media type and body."""

    status: HTTPStatus
    media_type: str
    body: bytes


class SignalsServer:
    """Listens while its context is open."""

    def __init__(self, host: str, port: int, observer: Observer, state: ProjectorState) -> None:
        self._host = host
        self._port = port
        self._observer = observer
        self._state = state
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port in use, also if any free one was requested."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else self._port

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=HEAD_BYTES_MAX)
        except OSError as problem:
            raise SignalsAddressTaken(self._host, self._port, problem) from None
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for exchange in self._exchanges:
            exchange.cancel()
        if self._exchanges:
            await asyncio.wait(self._exchanges)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._exchanges) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        exchange = asyncio.create_task(self._exchange(reader, writer), name="serve a signal")
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._on_exchange_end)

    def _on_exchange_end(self, exchange: asyncio.Task[None]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled() and exchange.exception() is not None:
            log.error("signals_failed", exc_info=exchange.exception())

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; a caller that is too slow, or sends no request, is disconnected."""
        try:
            with suppress(TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
                async with asyncio.timeout(EXCHANGE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    method, _, rest = head.decode("latin-1").partition(" ")
                    reply = await self._reply(method, rest.partition(" ")[0].partition("?")[0])
                    writer.write(_encoded(reply, with_body=method != "HEAD"))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()  # without effect once everything was sent

    async def _reply(self, method: str, path: str) -> Reply:
        if method not in {"GET", "HEAD"}:
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET and HEAD only.\n")
        match path:
            case "/metrics":
                await self._observer.refresh()
                return Reply(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(metrics.REGISTRY))
            case "/health/live":
                return self._health(HTTPStatus.OK)
            case "/health" | "/health/ready":
                return self._health(HTTPStatus.OK if self._state.is_ready else HTTPStatus.SERVICE_UNAVAILABLE)
        return Reply(HTTPStatus.NOT_FOUND, _TEXT, b"/metrics, /health, /health/live and /health/ready exist.\n")

    def _health(self, status: HTTPStatus) -> Reply:
        body = {
            "status": "ok" if self._state.is_ready else "waiting",
            "role": self._state.role,
            "broker_connected": self._state.broker_connected,
            "position": self._state.position,
        }
        return Reply(status, _JSON, json.dumps(body).encode() + b"\n")


def _encoded(reply: Reply, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {reply.status} {reply.status.phrase}\r\nContent-Type: {reply.media_type}\r\n"
        f"Content-Length: {len(reply.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n"
        f"{'Allow: GET, HEAD' + chr(13) + chr(10) if reply.status == HTTPStatus.METHOD_NOT_ALLOWED else ''}\r\n"
    )
    return head.encode("latin-1") + (reply.body if with_body else b"")
