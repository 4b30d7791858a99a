"""Runs the application under granian, in this process, until a signal stops it."""

import asyncio
import gc
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path

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
"""How long a connection may take to send a request's head, or stay idle, before it is closed. The limit also applies to
kept-alive connections, so a proxy must close its idle connections earlier."""
HEAD_BYTES_MAX = 24_576
"""How much of a request's head is buffered before it is rejected with 431: room for the longest query and the
longest token, 8,192 bytes each, and as much for the rest. With `CONNECTIONS_MAX`, it bounds the memory that
unauthenticated callers can take: 90 MB, at a measured 35 KB per connection."""
CONNECTIONS_MAX = 2_560
"""Connections open at the same time; further ones wait in the kernel's queue until one closes."""
BACKLOG = 1_024
"""Length of that queue."""
DESCRIPTORS_RESERVED = 256
"""File descriptors for everything but callers' connections: PostgreSQL, files, the event loop."""
UNREAD_MAX_MS = 5_000
"""How long a caller may take none of the bytes sent to it before the kernel resets its connection. granian has no write
timeout and buffers a megabyte per connection, which a caller that never reads would hold as long as it likes."""
LISTEN_CHECK_S = 0.05
LISTEN_CHECKS_MAX = 100
"""How often, and how many times, to look for granian's listening socket, which opens some 0.1 s after the start."""
DESCRIPTORS = Path("/proc/self/fd")
STOP_S = 4.0
"""How long requests in flight may take after draining; then they get 503 (`draining`)."""
ABORT_S = 1.0
"""How long sending these last responses may take before the process exits regardless."""
GARBAGE_THRESHOLDS = (20_000, 50, 1_000)
"""A full run of Python's cycle collector traverses the whole cache; a request creates hardly any cycles, so the
collector may run less often."""


class AddressTaken(MembershipError):
    """Another process already listens on the configured address."""

    code = "address_taken"

    def __init__(self, host: str, port: int, problem: OSError) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port}: {problem.strerror}. "
            "Choose another address with MEMBERSHIP_HTTP_HOST and MEMBERSHIP_HTTP_PORT."
        )


async def serve(settings: Settings) -> None:
    """Listen on the configured address until a signal arrives.

    SIGTERM drains first: for `drain_s`, readiness fails and each response closes its connection. Then, or immediately
    on SIGINT or a second signal, the process stops listening and finishes the requests in flight.
    Raises `AddressTaken`.
    """
    _require_free(settings.http_host, settings.http_port)
    app = create_app(settings)
    server = Server(
        app.asgi,
        address=settings.http_host,
        port=settings.http_port,
        interface=Interfaces.ASGINL,  # granian would wait for every connection before it ends a lifespan
        backlog=BACKLOG,
        backpressure=_connections_max(),
        websockets=False,
        log_level=LogLevels.error,  # its only warning is that embedding is experimental
        http=HTTPModes.http1,  # granian applies the header timeout to HTTP/1 connections only
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
    )
    shutdown = Shutdown(app.asgi, settings.drain_s)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    async with app.lifespan():
        log.info("listening", host=settings.http_host, port=settings.http_port)
        await shutdown.supervise(server)


class Shutdown:
    """Stops a server within a bounded time, without losing a caller's request."""

    def __init__(self, app: ResponseMiddleware, drain_s: float) -> None:
        self._app = app
        self._drain_s = drain_s
        self._requested = asyncio.Event()
        self._immediate = asyncio.Event()

    async def supervise(self, server: Server) -> None:
        """Run the server until it fails or a signal ends it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self._on_sigint)
        serving = asyncio.create_task(server.serve(), name="serve")
        requested = asyncio.create_task(self._requested.wait(), name="shutdown requested")
        limiting = asyncio.create_task(_limit_unread_bytes(), name="limit unread bytes")
        await asyncio.wait((serving, requested), return_when=asyncio.FIRST_COMPLETED)
        requested.cancel()
        limiting.cancel()
        if not serving.done():
            await self._drain()
            server.stop()  # type: ignore[no-untyped-call]
            await self._finish(serving)
        if serving.done() and not serving.cancelled():
            serving.result()

    def _on_sigterm(self) -> None:
        if self._requested.is_set():
            self._immediate.set()
        self._requested.set()

    def _on_sigint(self) -> None:
        self._immediate.set()
        self._requested.set()

    async def _drain(self) -> None:
        """Keep answering, but fail the readiness check and close connections, so that callers use other processes.

        Waits even if no connection is open: a load balancer may open one per request until it sees the failed check.
        """
        self._app.start_draining()
        log.info("draining", seconds=self._drain_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._immediate.wait()

    async def _finish(self, serving: asyncio.Task[None]) -> None:
        """Wait for requests in flight; answer 503 to those that take too long, then stop in any case."""
        if not (await asyncio.wait((serving,), timeout=STOP_S))[0]:
            log.warning("requests_aborted", after_s=STOP_S)
            self._app.abort()
            if not (await asyncio.wait((serving,), timeout=ABORT_S))[0]:
                serving.cancel()  # a caller sends or reads too slowly: granian would wait for it
                await asyncio.wait((serving,), timeout=ABORT_S)


async def _limit_unread_bytes() -> None:
    """Set the kernel's limit on the listening socket, from which each connection inherits it; Linux only."""
    if not _has_user_timeout():
        return
    for _ in range(LISTEN_CHECKS_MAX):
        if _set_user_timeout():
            return
        await asyncio.sleep(LISTEN_CHECK_S)
    log.warning("unread_bytes_not_limited", detail="The listening socket was not found.")


def _has_user_timeout() -> bool:
    return hasattr(socket, "TCP_USER_TIMEOUT") and DESCRIPTORS.is_dir()


def _set_user_timeout() -> bool:
    """Set `TCP_USER_TIMEOUT` on this process's listening sockets, which granian does not expose; return if any."""
    found = False
    for descriptor in DESCRIPTORS.iterdir():
        # A descriptor may be closed meanwhile, or be no socket; the copy shares the socket, and only it is closed.
        with suppress(OSError), socket.fromfd(int(descriptor.name), socket.AF_INET, socket.SOCK_STREAM) as shared:
            if shared.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MAX_MS)
                found = True
    return found


def _connections_max() -> int:
    """Raise this process's file descriptor limit as far as needed; return the number of connections that fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS_MAX + DESCRIPTORS_RESERVED
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return CONNECTIONS_MAX
    connections_max = max(allowed - DESCRIPTORS_RESERVED, 1)
    log.warning("connections_limited", connections_max=connections_max, wanted=CONNECTIONS_MAX, descriptors_max=hard)
    return connections_max


def _require_free(host: str, port: int) -> None:
    """Raise `AddressTaken` if the port is in use: granian shares ports, so a leftover process would get requests."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as problem:
            raise AddressTaken(host, port, problem) from None
