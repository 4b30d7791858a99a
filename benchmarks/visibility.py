"""How long after the broker's ack an answer has applied an event: what a reader who keeps asking would see.

From the ack, not from the projector's commit: later is what a producer knows, and the wait for the commit is in it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.http import Caller, Endpoint

PAUSE_S: Final = 0.001
"""Between two questions, so that asking is not the load."""
LAST_ONES_S: Final = 60.0


class Visibility:
    """Which positions were acknowledged when, and how long each took to be seen."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self._awaited: deque[tuple[int, float]] = deque()

    def acknowledged(self, position: int) -> None:
        """Begin to look out for a position, just acknowledged; they rise."""
        self._awaited.append((position, time.perf_counter()))

    def answered(self, position: int) -> None:
        """Count what an answer that has applied `position` shows for the first time."""
        now = time.perf_counter()
        while self._awaited and self._awaited[0][0] <= position:
            self.lags_ms.append((now - self._awaited.popleft()[1]) * 1000)

    @property
    def nothing_awaited(self) -> bool:
        """Whether all that was acknowledged has been seen."""
        return not self._awaited


@asynccontextmanager
async def watching(endpoint: Endpoint, paths: Sequence[str]) -> AsyncIterator[Visibility]:
    """Keep asking for `paths` in turn while the context lasts, and then until all that was acknowledged is seen."""
    visibility = Visibility()

    async def watch() -> None:
        async with Caller(endpoint) as caller:
            turn = 0
            while True:
                visibility.answered((await caller.get(paths[turn % len(paths)])).position)
                turn += 1
                await asyncio.sleep(PAUSE_S)

    task = asyncio.create_task(watch())
    try:
        yield visibility
        async with asyncio.timeout(LAST_ONES_S):
            while not visibility.nothing_awaited and not task.done():  # noqa: ASYNC110 - answers come from elsewhere
                await asyncio.sleep(PAUSE_S)
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
