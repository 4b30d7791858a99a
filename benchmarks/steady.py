"""Events at a constant rate, as producers send them: a few every 10 ms, even when the system is slow."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.stack import Stack
from benchmarks.visibility import Visibility
from consumers.client import connect_reconnecting
from ops.publisher import BATCH_EVENTS_MAX, Publication, publish_batch

TICK_S: Final = 0.01


class Steady:
    """The result of a period of constant publishing."""

    def __init__(self) -> None:
        self.published = 0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Events acknowledged per second."""
        return self.published / self.seconds


@asynccontextmanager
async def publishing(
    stack: Stack, events: Iterator[Publication], rate: int, visibility: Visibility
) -> AsyncIterator[Steady]:
    """Publish `rate` events per second as long as the context lasts, and report every ack to `visibility`."""
    steady = Steady()
    stopped = asyncio.Event()

    async def publish() -> None:
        client = await connect_reconnecting(stack.nats_url, "bench-steady")
        began = time.perf_counter()
        while not stopped.is_set():
            await asyncio.sleep(TICK_S)
            # Events delayed by a slow ack are sent at once: producers do not wait for each other.
            due = int(rate * (time.perf_counter() - began)) - steady.published
            batch = list(itertools.islice(events, min(BATCH_EVENTS_MAX, max(1, due))))
            receipts = await publish_batch(client, stack.nats_url, batch)
            visibility.acknowledged(receipts[-1].position)
            steady.published += len(batch)
        steady.seconds = time.perf_counter() - began
        await client.close()

    task = asyncio.create_task(publish())
    try:
        yield steady
    finally:
        stopped.set()
        await task
