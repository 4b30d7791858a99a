"""Runs the application under granian, in this worker process, until a signal or the supervisor stops it."""

import asyncio
import gc
import os
import resource
import signal
from contextlib import suppress
from typing import Any

import structlog
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from projections.settings import Settings
from projections.store.membership_history import StreamReader
from projections.tracing import configured
from service import metrics
from service.app import create_app
from service.middleware import ResponseMiddleware
from service.workers.link import SupervisorLink
from service.workers.listener import BACKLOG, stop_accepting
from service.workers.messages import RETIRE_S_MIN

log: structlog.stdlib.BoundLogger = structlog.get_logger()

DESCRIPTORS_RESERVED = 256
"""File descriptors for everything but callers' connections: PostgreSQL, files, the event loop."""
STOP_S = 4.0
"""How long requests in flight may take after draining; then they get 503 (`draining`)."""
ABORT_S = 1.0
"""How long sending these last responses may take before the process exits regardless."""
GARBAGE_THRESHOLDS = (20_000, 50, 1_000)
"""A full run of Python's cycle collector traverses the whole cache; a request creates hardly any cycles, so the
collector may run less often."""


async def serve(settings: Settings, listener: int, channel: int, reader: StreamReader | None = None) -> None:
    """Accept connections on an inherited socket until a signal arrives or the supervisor retires this worker.

    `reader` reads the stream for histories.

    SIGTERM drains first: for `drain_s`, readiness fails and each response closes its connection. Then, or immediately
    on SIGINT or a second SIGTERM, the process stops accepting and finishes the requests in flight. A retired worker
    does the same, but stops accepting first, and its readiness does not fail: other workers accept on the same address.
    """
    link = await SupervisorLink.open(channel, metrics.snapshot)
    following = asyncio.create_task(link.follow(), name="follow the supervisor")
    tracing = configured("membership-api", os.environ)
    app = create_app(settings, link, reader, tracing)
    server = _Server(
        app.asgi,
        listener=listener,
        interface=Interfaces.ASGINL,  # granian would wait for every connection before it ends a lifespan
        backlog=BACKLOG,
        backpressure=_connections_max(settings.http_connections_max),
        websockets=False,
        log_level=LogLevels.error,  # its only warning is that embedding is experimental
        http=HTTPModes.http1,  # granian applies the header timeout to HTTP/1 connections only
        # granian has one timeout for a head and for idle connections.
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.http_idle_timeout_s * 1000), max_buffer_size=settings.http_head_bytes_max
        ),
    )
    shutdown = Shutdown(app.asgi, settings.drain_s, listener, link)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        async with app.lifespan():
            await shutdown.supervise(server)
    finally:
        await link.close()
        following.cancel()
        if tracing is not None:
            tracing.close()


class _Server(Server):
    """granian's server on a listening socket that this process has inherited."""

    def __init__(self, target: Any, *, listener: int, **options: Any) -> None:  # noqa: ANN401 - as granian declares it
        super().__init__(target, **options)
        self._listener = listener

    def _init_shared_socket(self) -> None:
        # granian would open a socket of its own with SO_REUSEPORT; it accepts on `_shd` where `_ssp` is None.
        # Its type stubs know neither the arguments of the holder nor that the attribute holds one.
        self._shd = SocketHolder(self._listener, False, self.backlog)  # type: ignore[assignment, call-arg]
        self._ssp = None


class Shutdown:
    """Stops a server within a bounded time, without losing a caller's request."""

    def __init__(self, app: ResponseMiddleware, drain_s: float, listener: int, link: SupervisorLink) -> None:
        self._app = app
        self._drain_s = drain_s
        self._listener = listener
        self._link = link
        self._terminated = asyncio.Event()
        self._immediate = asyncio.Event()

    async def supervise(self, server: Server) -> None:
        """Run the server until it fails, or until a signal or the supervisor ends it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self._on_sigint)
        serving = asyncio.create_task(server.serve(), name="serve")
        self._link.started()
        reasons = {
            asyncio.create_task(event.wait()) for event in (self._terminated, self._link.retired, self._link.lost)
        }
        await asyncio.wait({serving, *reasons}, return_when=asyncio.FIRST_COMPLETED)
        for reason in reasons:
            reason.cancel()
        if not serving.done():
            await self._drain()
            server.stop()  # type: ignore[no-untyped-call]
            await self._finish(serving)
        if serving.done() and not serving.cancelled():
            serving.result()

    def _on_sigterm(self) -> None:
        if self._terminated.is_set():
            self._immediate.set()
        self._terminated.set()

    def _on_sigint(self) -> None:
        self._immediate.set()
        self._terminated.set()

    async def _drain(self) -> None:
        """Keep answering for a while, and close connections, so that callers use other processes or workers.

        Waits even if no connection is open: a load balancer may open one per request until it sees the failed check.
        """
        drain_s = self._drain_s
        if self._link.lost.is_set():  # the supervisor was killed: its workers must not stay
            return
        if self._terminated.is_set():
            self._app.start_draining()
        else:
            # A connection accepted when the server stops would be closed before its first request is read.
            stop_accepting(self._listener)
            self._app.close_connections()
            drain_s = max(drain_s, RETIRE_S_MIN)
        log.info("draining", seconds=drain_s, retired=self._link.retired.is_set())
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._immediate.wait()

    async def _finish(self, serving: asyncio.Task[None]) -> None:
        """Wait for requests in flight; answer 503 to those that take too long, then stop in any case."""
        if not (await asyncio.wait((serving,), timeout=STOP_S))[0]:
            log.warning("requests_aborted", after_s=STOP_S)
            self._app.abort()
            if not (await asyncio.wait((serving,), timeout=ABORT_S))[0]:
                serving.cancel()  # a caller sends or reads too slowly: granian would wait for it
                await asyncio.wait((serving,), timeout=ABORT_S)


def _connections_max(wanted: int) -> int:
    """Raise this process's file descriptor limit as far as needed; return the number of connections that fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_RESERVED
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return wanted
    connections_max = max(allowed - DESCRIPTORS_RESERVED, 1)
    log.warning("connections_limited", connections_max=connections_max, wanted=wanted, descriptors_max=hard)
    return connections_max
