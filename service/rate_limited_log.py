"""Logs a repeated event at most once a second, with the number of occurrences: an outage must not flood the log."""

import asyncio
from contextvars import Context
from typing import Any, Final

import structlog

INTERVAL_S: Final = 1.0
"""Between two lines of the same event."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RateLimitedLog:
    """One event. The first occurrence is logged at once; later ones are counted and logged together."""

    def __init__(self, event: str, interval_s: float = INTERVAL_S) -> None:
        self._event = event
        self._interval_s = interval_s
        self._count = 0
        self._fields: dict[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None

    def warning(self, **fields: Any) -> None:  # noqa: ANN401 - structlog takes any value
        """Record an occurrence; call it from the event loop. A line contains the fields of the latest occurrence."""
        self._count += 1
        self._fields = fields
        if self._timer is None:
            self._write()

    def _write(self) -> None:
        self._timer = None
        if self._count:
            log.warning(self._event, count=self._count, **self._fields)
            self._count = 0
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._write, context=Context())
