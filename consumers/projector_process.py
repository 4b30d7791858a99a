"""The projector process: applies the stream and, where a port is configured, serves its metrics and health."""

import os
from contextlib import AsyncExitStack, aclosing

import structlog

from consumers import metrics, projection_runner
from consumers.observer import Observer
from consumers.signals_server import SignalsServer
from projections.settings import Settings
from projections.tracing import configured

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Run until cancelled; raises `SignalsAddressTaken`, and `StreamRefused` when an operator has to decide."""
    tracing = configured("membership-projector", os.environ)
    async with AsyncExitStack() as stack:
        if tracing is not None:
            stack.callback(tracing.close)
        if settings.projector_http_port is not None:
            observer = await stack.enter_async_context(aclosing(Observer(settings, metrics.STATE)))
            server = SignalsServer(settings.projector_http_host, settings.projector_http_port, observer, metrics.STATE)
            await stack.enter_async_context(server)
            log.info("signals_listening", host=settings.projector_http_host, port=server.port)
        await projection_runner.run(settings, tracing)
