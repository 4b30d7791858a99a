"""Configures logging: one line per event on standard error, as text or as JSON."""

import logging
import sys
from typing import Final

import structlog

from projections.settings import Settings

LIBRARIES: Final = ("httpx", "httpcore")
"""Libraries that log each request at INFO, in a format of their own."""


def configure(settings: Settings, *processors: structlog.typing.Processor) -> None:
    """Configure structlog, with further processors; call once, when the process starts."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *processors,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
