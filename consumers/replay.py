"""Reads a range of the stream again, in order and to its end, across restarts of the broker.

Reads: JetStream, through `intake.OrderedSubscription`. Invariants: each message once, in order, none left out; after an
interruption, reading continues after the last message yielded.
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
LIST_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bounds memory when bodies are huge; a list may exceed it by one slice."""
WAIT_S: Final = 0.2
WATCH_S: Final = 5.0
RETRY_S: Final = 0.25


async def replay(
    client: TolerantClient, after: Position, through: Position, *, events_max: int, subject: str = ""
) -> AsyncGenerator[list[Message], None]:
    """Yield the messages after `after`, up to and including `through`, in lists of at most `events_max`.

    `subject` (wildcards allowed) selects one subject; only one per call, because the broker takes 30 times as long to
    find two among a million. Waits for an unavailable broker, so `client` must reconnect by itself. Close the iterator
    if you leave it early.
    """
    problems = LogOnce()
    position = after
    while position < through:
        try:
            async with OrderedSubscription(client, position, subject) as subscription:
                problems.reset()
                while messages := await _collect(subscription, through, events_max):
                    yield messages
                    position = messages[-1].position
                return
        except (NatsError, NatsTimeoutError, Interrupted) as problem:
            problems.warning("resubscribing", problem)
            await asyncio.sleep(RETRY_S)


async def _collect(subscription: OrderedSubscription, through: Position, events_max: int) -> list[Message]:
    """Return the next messages up to a limit or the end of the range; an empty list when the range is complete."""
    messages: list[Message] = []
    size = 0
    while len(messages) < events_max and size < LIST_BYTES_MAX and subscription.position < through:
        if subscription.caught_up:
            break
        batch = await subscription.next_batch(min(SLICE_EVENTS, events_max - len(messages)), WAIT_S)
        messages += batch
        size += sum(len(message.body) for message in batch)
        if not batch:
            await subscription.check_pending(WATCH_S)
    while messages and messages[-1].position > through:
        messages.pop()
    return messages
