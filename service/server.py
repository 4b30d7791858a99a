"""Runs the application under granian, in this process, until told to stop."""

import asyncio
import signal

from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from projections.settings import Settings
from service.app import create_app

HEADER_TIMEOUT_MS = 10_000
BACKLOG = 1024


async def serve(settings: Settings) -> None:
    """Listen on the configured address; SIGTERM and SIGINT let requests in flight finish."""
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
    await server.serve()
