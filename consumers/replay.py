"""Reads a range of the stream again, in order and to its end, across restarts of the broker.

Reads: JetStream, through `intake.OrderedSubscription`. Invariants: each message once, in order, none left out; after an
interruption, reading continues after the last message yielded. Memory: two batches and what the subscription buffers.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.batch_limits import BATCH_BYTES_MAX
from consumers.client import TolerantClient
from consumers.intake import Interrupted, OrderedSubscription
from projections.log_once import LogOnce
from projections.model.batch import BatchBuilder
from projections.model.events import Position

WAIT_S: Final = 0.2
WATCH_S: Final = 5.0
RETRY_S: Final = 0.25


async def replay(
    client: TolerantClient, after: Position, through: Position, *, events_max: int, subject: str = ""
) -> AsyncGenerator[BatchBuilder, None]:
    """Yield the messages after `after`, up to and including `through`, in folded batches of at most `events_max`.

    A batch also ends at `BATCH_BYTES_MAX`; it may exceed that by one slice of the subscription. `subject` (wildcards
    allowed) selects one subject; only one per call, because the broker takes 30 times as long to find two among a
    million. Waits for an unavailable broker, so `client` must reconnect by itself. Close the iterator if you leave it
    early.
    """
    problems = LogOnce()
    position = after
    while position < through:
        try:
            async with OrderedSubscription(client, position, subject) as subscription:
                problems.reset()
                while (batch := await _collect(subscription, position, through, events_max)).events:
                    position = batch.position
                    yield batch
                return
        except (NatsError, NatsTimeoutError, Interrupted) as problem:
            problems.warning("resubscribing", problem)
            await asyncio.sleep(RETRY_S)


async def _collect(
    subscription: OrderedSubscription, after: Position, through: Position, events_max: int
) -> BatchBuilder:
    """Return the next messages up to a limit or the end of the range; an empty batch when the range is complete."""
    batch = BatchBuilder(after)
    while batch.events < events_max and batch.bytes < BATCH_BYTES_MAX and subscription.position < through:
        if subscription.caught_up:
            break
        messages = await subscription.next_batch(events_max - batch.events, WAIT_S)
        while messages and messages[-1].position > through:
            messages.pop()
        if messages:
            batch.add(messages)
        else:
            await subscription.check_pending(WATCH_S)
    return batch
