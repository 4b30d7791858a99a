"""Requests at a constant rate, timed from when each was due, so that a stall counts for all requests it delays."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.http import Caller, Endpoint
from benchmarks.rows import percentile

CONNECTIONS = 16


class Arrivals:
    """Times and errors of a period of constant load."""

    def __init__(self) -> None:
        self.took_ms: list[float] = []
        self.errors = 0
        self._began = time.perf_counter()
        self.seconds = 0.0

    def p99_ms(self) -> float:
        """Return the 99th percentile in milliseconds."""
        return percentile(self.took_ms, 0.99)

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return len(self.took_ms) / self.seconds

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._began


@asynccontextmanager
async def arriving(endpoint: Endpoint, paths: Sequence[str], rate: float) -> AsyncIterator[Arrivals]:
    """Send `rate` requests per second as long as the context lasts."""
    arrivals = Arrivals()
    due: asyncio.Queue[float] = asyncio.Queue()
    stopped = asyncio.Event()
    draw = random.Random(1)  # noqa: S311 - the same order every time

    async def schedule() -> None:
        at = time.perf_counter()
        while not stopped.is_set():
            at += 1 / rate
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            due.put_nowait(at)

    async def send() -> None:
        async with Caller(endpoint) as caller:
            while not stopped.is_set():
                at = await due.get()
                try:
                    await caller.get(draw.choice(paths))
                except RuntimeError:
                    arrivals.errors += 1
                arrivals.took_ms.append((time.perf_counter() - at) * 1000)

    tasks = [asyncio.create_task(schedule()), *(asyncio.create_task(send()) for _ in range(CONNECTIONS))]
    try:
        yield arrivals
    finally:
        arrivals.end()
        stopped.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
