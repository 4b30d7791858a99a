"""The time from the broker's ack to the first answer that has applied the event, as a polling reader sees it.

It starts at the ack, which a producer receives, so it includes the wait for the projector's commit.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.http import Caller, Endpoint

PAUSE_S: Final = 0.001
"""Between two requests, so that polling is not the load."""
DRAIN_S: Final = 60.0


class Visibility:
    """Positions with the time of their ack, and the lag until each was visible."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self._pending: deque[tuple[int, float]] = deque()

    def acknowledged(self, position: int) -> None:
        """Start waiting for a position that was just acknowledged; positions increase."""
        self._pending.append((position, time.perf_counter()))

    def answered(self, position: int) -> None:
        """Record the lag of all pending positions up to `position`, which an answer has just stated."""
        now = time.perf_counter()
        while self._pending and self._pending[0][0] <= position:
            self.lags_ms.append((now - self._pending.popleft()[1]) * 1000)

    @property
    def all_visible(self) -> bool:
        """Whether all acknowledged positions have been visible."""
        return not self._pending


@asynccontextmanager
async def watching(endpoint: Endpoint, paths: Sequence[str]) -> AsyncIterator[Visibility]:
    """Request `paths` in turn while the context lasts, and then until all acknowledged positions are visible."""
    visibility = Visibility()

    async def watch() -> None:
        async with Caller(endpoint) as caller:
            number = 0
            while True:
                visibility.answered((await caller.get(paths[number % len(paths)])).position)
                number += 1
                await asyncio.sleep(PAUSE_S)

    task = asyncio.create_task(watch())
    try:
        yield visibility
        async with asyncio.timeout(DRAIN_S):
            while not visibility.all_visible and not task.done():  # noqa: ASYNC110 - answers come from elsewhere
                await asyncio.sleep(PAUSE_S)
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
