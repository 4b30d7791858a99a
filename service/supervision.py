"""Keeps background tasks running: logs the exception that ended one, and restarts it after a pause."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

RESTART_PAUSE_S: Final = 0.5
"""Long enough that a task that fails immediately neither floods the log nor occupies the event loop."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def supervise(name: str, work: Callable[[], Awaitable[None]], pause_s: float = RESTART_PAUSE_S) -> None:
    """Run `work` until this task is cancelled; run it again whenever it returns or raises."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("background_task_failed", task=name, restart_s=pause_s)
        await asyncio.sleep(pause_s)
