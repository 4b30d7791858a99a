"""Reads a stretch of the stream again, in order and to its end, whatever happens to the broker meanwhile.

Reads: JetStream, through `intake.Reading`. Invariants: each message once, in order, none left out; after an
interruption the reading goes on behind the last message handed out.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.client import TolerantClient
from consumers.intake import Interrupted, OrderedSubscription
from projections.log_once import LogOnce
from projections.model.events import Message, Position

SLICE_EVENTS: Final = 500
GATHERED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bounds memory against huge bodies; a list may exceed it by a slice."""
WAIT_S: Final = 0.2
WATCH_S: Final = 5.0
RETRY_S: Final = 0.25


async def replay(
    client: TolerantClient, after: Position, through: Position, *, events_max: int, subject: str = ""
) -> AsyncGenerator[list[Message], None]:
    """Yield the messages after `after`, up to and including `through`, in lists of at most `events_max`.

    `subject`, wildcards allowed, leaves out all others; one at a time, for the broker takes 30 times as long to find
    two among a million. Waits for a broker that is away; `client` must be one that reconnects. Close
    the iterator if it is left early.
    """
    trouble = LogOnce()
    position = after
    while position < through:
        try:
            async with OrderedSubscription(client, position, subject) as reading:
                trouble.reset()
                while messages := await _gather(reading, through, events_max):
                    yield messages
                    position = messages[-1].position
                return
        except (NatsError, NatsTimeoutError, Interrupted) as problem:
            trouble.warning("reading_again", problem)
            await asyncio.sleep(RETRY_S)


async def _gather(reading: OrderedSubscription, through: Position, events_max: int) -> list[Message]:
    """Return the next messages, filled up as far as they come without waiting; none at the end of the stretch."""
    gathered: list[Message] = []
    size = 0
    while len(gathered) < events_max and size < GATHERED_BYTES_MAX and reading.position < through:
        if reading.caught_up:
            break
        batch = await reading.next_batch(min(SLICE_EVENTS, events_max - len(gathered)), WAIT_S)
        gathered += batch
        size += sum(len(message.body) for message in batch)
        if not batch:
            await reading.check_pending(WATCH_S)
    while gathered and gathered[-1].position > through:
        gathered.pop()
    return gathered
