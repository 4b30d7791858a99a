"""Publishes the rows of a table: the initial load, and later the reconciliation of what was missed.

Reads: the producer's table, by a cursor, in one snapshot. Writes: the stream.
Invariants: repeating it changes nothing that is already applied, because versions decide; while it runs, the outbox may
publish newer versions of the same rows.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any, Final, NamedTuple

import asyncpg

from campaign_membership_client.event import Event
from campaign_membership_client.publisher import Publisher

ROWS_FETCHED: Final = 1_000
"""Rows that the cursor holds in memory."""


class Loaded(NamedTuple):
    """The result of a load."""

    published: int
    """Events stored now."""
    duplicates: int
    """Events that the stream had stored within the last two minutes."""
    differing: int
    """Of the duplicates: events whose id another content has, so that they were not stored."""
    position: int
    """The highest position; a reader's `min_position` for all of them."""


async def publish_table(
    publisher: Publisher,
    connection: asyncpg.Connection,
    query: str,
    *arguments: Any,  # noqa: ANN401 - of the query
    event: Callable[[asyncpg.Record], Event | None],
) -> Loaded:
    """Publish an event for each row of a query, None: no event; return what happened.

    Raises `InvalidEvent` for a row that cannot be published, `PublishError` when the broker does not store.
    """
    published = duplicates = differing = position = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = connection.cursor(query, *arguments, prefetch=ROWS_FETCHED)
        async for receipt in publisher.publish_many(_events(cursor, event)):
            duplicates += receipt.duplicate
            published += not receipt.duplicate
            differing += bool(receipt.differs)
            position = max(position, receipt.position)
    return Loaded(published, duplicates, differing, position)


async def _events(
    rows: AsyncIterable[asyncpg.Record], event: Callable[[asyncpg.Record], Event | None]
) -> AsyncGenerator[Event, None]:
    async for row in rows:
        made = event(row)
        if made is not None:
            yield made
