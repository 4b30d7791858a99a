"""Events at a constant rate, as producers send them: a few every hundredth of a second, whoever is slow meanwhile."""

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
    """What a stretch of constant publishing did."""

    def __init__(self) -> None:
        self.published = 0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Events acknowledged a second."""
        return self.published / self.seconds


@asynccontextmanager
async def publishing(
    stack: Stack, events: Iterator[Publication], rate: int, visibility: Visibility
) -> AsyncIterator[Steady]:
    """Publish `rate` events a second as long as the context lasts, and tell `visibility` of every ack."""
    told = Steady()
    over = asyncio.Event()

    async def publish() -> None:
        client = await connect_reconnecting(stack.nats_url, "bench-steady")
        began = time.perf_counter()
        while not over.is_set():
            await asyncio.sleep(TICK_S)
            # What an ack that took long has held up is made good at once: producers do not wait for each other.
            due = int(rate * (time.perf_counter() - began)) - told.published
            batch = list(itertools.islice(events, min(BATCH_EVENTS_MAX, max(1, due))))
            receipts = await publish_batch(client, stack.nats_url, batch)
            visibility.acknowledged(receipts[-1].position)
            told.published += len(batch)
        told.seconds = time.perf_counter() - began
        await client.close()

    task = asyncio.create_task(publish())
    try:
        yield told
    finally:
        over.set()
        await task
