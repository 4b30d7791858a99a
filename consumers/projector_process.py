"""The projector process: applies the stream and, where a port is configured, serves its metrics and health."""

from contextlib import AsyncExitStack, aclosing

import structlog

from consumers import metrics, projection_runner
from consumers.observer import Observer
from consumers.signals_server import SignalsServer
from projections.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Run until cancelled; raises `SignalsAddressTaken`, and `StreamRefused` when an operator has to decide."""
    async with AsyncExitStack() as stack:
        if settings.projector_http_port is not None:
            observer = await stack.enter_async_context(aclosing(Observer(settings, metrics.STATE)))
            server = SignalsServer(settings.projector_http_host, settings.projector_http_port, observer, metrics.STATE)
            await stack.enter_async_context(server)
            log.info("signals_listening", host=settings.projector_http_host, port=server.port)
        await projection_runner.run(settings)
