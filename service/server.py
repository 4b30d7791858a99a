"""Runs the application under granian, in this process, until told to stop."""

import asyncio
import gc
import resource
import signal
import socket
from contextlib import suppress

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from projections.errors import MembershipError
from projections.settings import Settings
from service.app import create_app
from service.middleware import ResponseMiddleware

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HEADER_TIMEOUT_MS = 10_000
"""How long a connection may take to send a request's head, or stay silent, before it is closed. Idle kept-alive
connections fall under the same limit, so a proxy must keep its idle connections for less."""
HEAD_BYTES_MAX = 24_576
"""How much of a request's head is buffered before it is refused with 431: room for the longest query, the longest
token, and as much again. Times `CONNECTIONS_MAX` it bounds the memory that callers without credentials can take:
90 MB, at the 35 KB that were measured for each connection."""
CONNECTIONS_MAX = 2_560
"""Connections open at once; further ones wait in the kernel's queue until one closes."""
BACKLOG = 1_024
"""Length of that queue."""
DESCRIPTORS_RESERVED = 256
"""File descriptors for everything but callers: PostgreSQL, files, the event loop."""
STOP_S = 4.0
"""How long requests in flight may take once draining is over; then they are answered 503 (`draining`)."""
ABORT_S = 1.0
"""How long these last answers may take to be sent, before the process ends all the same."""
GARBAGE_THRESHOLDS = (20_000, 50, 1_000)
"""Python's cycle collector goes through all remembered answers each time it looks at everything; a request leaves
hardly a cycle, so it may look less often."""


class AddressTaken(MembershipError):
    """Something else listens on the configured address already."""

    code = "address_taken"

    def __init__(self, host: str, port: int, problem: OSError) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port}: {problem.strerror}. "
            "Choose another address with MEMBERSHIP_HTTP_HOST and MEMBERSHIP_HTTP_PORT."
        )


async def serve(settings: Settings) -> None:
    """Listen on the configured address until a signal.

    SIGTERM drains first: for `drain_s` readiness fails and each response closes its connection. Then, or at once on
    SIGINT or a second signal, the process stops listening and finishes what is in flight.
    Raises `AddressTaken`.
    """
    _require_free(settings.http_host, settings.http_port)
    app = create_app(settings)
    server = Server(
        app,
        address=settings.http_host,
        port=settings.http_port,
        interface=Interfaces.ASGI,
        backlog=BACKLOG,
        backpressure=_connections_max(),
        websockets=False,
        log_level=LogLevels.error,  # its only warning here says that embedding is young
        http=HTTPModes.http1,  # the header timeout does not apply to connections that open with HTTP/2's preface
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
    )
    shutdown = Shutdown(app, settings.drain_s)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    log.info("listening", host=settings.http_host, port=settings.http_port)
    await shutdown.supervise(server)


class Shutdown:
    """Ends a server so that no caller loses a request, within a bounded time."""

    def __init__(self, app: ResponseMiddleware, drain_s: float) -> None:
        self._app = app
        self._drain_s = drain_s
        self._requested = asyncio.Event()
        self._at_once = asyncio.Event()

    async def supervise(self, server: Server) -> None:
        """Run the server until it fails or a signal ends it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self._on_sigint)
        serving = asyncio.create_task(server.serve(), name="serve")
        requested = asyncio.create_task(self._requested.wait(), name="shutdown requested")
        await asyncio.wait((serving, requested), return_when=asyncio.FIRST_COMPLETED)
        requested.cancel()
        if not serving.done():
            await self._drain()
            server.stop()  # type: ignore[no-untyped-call]
            await self._finish(serving)
        if serving.done() and not serving.cancelled():
            serving.result()

    def _on_sigterm(self) -> None:
        if self._requested.is_set():
            self._at_once.set()
        self._requested.set()

    def _on_sigint(self) -> None:
        self._at_once.set()
        self._requested.set()

    async def _drain(self) -> None:
        """Keep answering, but fail the readiness check and close connections, so that callers go elsewhere.

        Also while no connection is open: a load balancer may open one for each request, until it has noticed.
        """
        self._app.start_draining()
        log.info("draining", seconds=self._drain_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._at_once.wait()

    async def _finish(self, serving: asyncio.Task[None]) -> None:
        """Wait for requests in flight; answer 503 to those that take too long, and end in any case."""
        if not (await asyncio.wait((serving,), timeout=STOP_S))[0]:
            log.warning("requests_aborted", after_s=STOP_S)
            self._app.abort()
            if not (await asyncio.wait((serving,), timeout=ABORT_S))[0]:
                serving.cancel()  # a caller that sends or reads too slowly
                await asyncio.wait((serving,), timeout=ABORT_S)


def _connections_max() -> int:
    """Raise this process's limit of file descriptors as far as needed; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + DESCRIPTORS_RESERVED
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return CONNECTIONS_MAX
    fitting = max(allowed - DESCRIPTORS_RESERVED, 1)
    log.warning("connections_limited", connections_max=fitting, wanted=CONNECTIONS_MAX, descriptors_max=hard)
    return fitting


def _require_free(host: str, port: int) -> None:
    """See that nobody listens there: granian shares its port, and would halve the requests with a forgotten process."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as problem:
            raise AddressTaken(host, port, problem) from None
