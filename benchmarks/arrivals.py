"""Requests at a constant rate, timed from when each should have been sent: a stall is not hidden by waiting for it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.http import Caller, Endpoint
from benchmarks.rows import percentile

CONNECTIONS = 16


class Arrivals:
    """What a stretch of constant load saw."""

    def __init__(self) -> None:
        self.took_ms: list[float] = []
        self.errors = 0
        self._began = time.perf_counter()
        self.seconds = 0.0

    def p99_ms(self) -> float:
        """Return what all but a hundredth of the requests stayed below."""
        return percentile(self.took_ms, 0.99)

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.took_ms) / self.seconds

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._began


@asynccontextmanager
async def arriving(endpoint: Endpoint, paths: Sequence[str], rate: float) -> AsyncIterator[Arrivals]:
    """Keep asking at `rate` for as long as the context lasts."""
    seen = Arrivals()
    due: asyncio.Queue[float] = asyncio.Queue()
    over = asyncio.Event()
    draw = random.Random(1)  # noqa: S311 - the same order every time

    async def schedule() -> None:
        at = time.perf_counter()
        while not over.is_set():
            at += 1 / rate
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            due.put_nowait(at)

    async def ask() -> None:
        async with Caller(endpoint) as caller:
            while not over.is_set():
                at = await due.get()
                try:
                    await caller.get(draw.choice(paths))
                except RuntimeError:
                    seen.errors += 1
                seen.took_ms.append((time.perf_counter() - at) * 1000)

    tasks = [asyncio.create_task(schedule()), *(asyncio.create_task(ask()) for _ in range(CONNECTIONS))]
    try:
        yield seen
    finally:
        seen.end()
        over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
