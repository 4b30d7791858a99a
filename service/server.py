"""Runs the application under granian, in this process, until told to stop."""

import asyncio
import gc
import signal
import socket

import structlog
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from projections.errors import MembershipError
from projections.settings import Settings
from service.app import create_app

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HEADER_TIMEOUT_MS = 10_000
BACKLOG = 1024
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
    """Listen on the configured address; SIGTERM and SIGINT let requests in flight finish.

    Raises `AddressTaken`.
    """
    _require_free(settings.http_host, settings.http_port)
    server = Server(
        create_app(settings),
        address=settings.http_host,
        port=settings.http_port,
        interface=Interfaces.ASGI,
        backlog=BACKLOG,
        websockets=False,
        log_level=LogLevels.error,  # its only warning here says that embedding is young
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    log.info("listening", host=settings.http_host, port=settings.http_port)
    await server.serve()


def _require_free(host: str, port: int) -> None:
    """See that nobody listens there: granian shares its port, and would halve the requests with a forgotten process."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as problem:
            raise AddressTaken(host, port, problem) from None
