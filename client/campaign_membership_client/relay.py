"""The relay: publishes what waits in an outbox, then deletes it. Any number of relays may run in parallel.

Reads and writes: the outbox table. Writes: the stream.
Invariants: a row is deleted after its event is stored, so a relay that dies loses nothing; only its transaction locks
its rows, and another relay takes them. An event may be sent twice, with the same id and version, so the second one
changes nothing. Rows may be published in any order, because versions decide.
Fails: never for a while; it logs the problem and tries again. A row that the broker refuses is marked and kept.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, NamedTuple

import asyncpg

from campaign_membership_client.batches import BATCH_EVENTS_MAX
from campaign_membership_client.errors import EventRefused, PublishError
from campaign_membership_client.event import Publication
from campaign_membership_client.outbox import TABLE, statement
from campaign_membership_client.publisher import BATCH_BYTES, Publisher

POLL_S: Final = 0.2
"""How often an empty outbox is looked at."""
RETRY_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 10.0
STATEMENT_TIMEOUT_S: Final = 30.0
_LOG: Final = logging.getLogger("campaign_membership_client")
LOST: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""PostgreSQL does not answer or refuses; a timeout is an OSError too."""
_CLAIM: Final = """\
SELECT number, octet_length(body) AS size FROM {table} WHERE refused IS NULL
ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED"""
_READ: Final = "SELECT subject, event_id, body FROM {table} WHERE number = ANY($1::bigint[]) ORDER BY number"
_DELETE: Final = "DELETE FROM {table} WHERE number = ANY($1::bigint[])"
_REFUSE: Final = "UPDATE {table} SET refused = $2 WHERE number = ANY($1::bigint[])"
_BACKLOG: Final = """\
SELECT count(*) FILTER (WHERE refused IS NULL) AS waiting, count(refused) AS refused,
    coalesce(now() - min(enqueued_at) FILTER (WHERE refused IS NULL), interval '0') AS oldest
FROM {table}"""


class Backlog(NamedTuple):
    """What an outbox holds."""

    waiting: int
    refused: int
    oldest: timedelta
    """How long the oldest waiting event has waited."""


class Relay:
    """Publishes an outbox through a connected publisher."""

    def __init__(self, database_url: str, publisher: Publisher, table: str = TABLE) -> None:
        self._database_url = database_url
        self._publisher = publisher
        self._table = table

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            try:
                await self._publish_while_connected()
            except PublishError as problem:
                _LOG.error("the outbox waits: %s", problem)
            except LOST as problem:
                _LOG.error("the outbox cannot be read: %s", str(problem) or type(problem).__name__)
            await asyncio.sleep(RETRY_S)

    async def run_until_empty(self) -> int:
        """Publish until nothing waits that no other relay holds; return how many rows were published or marked.

        Raises what `run` would log.
        """
        done = 0
        async with self._connected() as connection:
            while handled := await self.publish_batch(connection):
                done += handled
        return done

    async def publish_batch(self, connection: asyncpg.Connection) -> int:
        """Publish at most a thousand rows in one transaction; return how many are done, 0 if none wait."""
        async with connection.transaction():
            numbers = await self._claim(connection)
            if not numbers:
                return 0
            rows = await connection.fetch(statement(_READ, self._table), numbers)
            batch = [Publication(*row) for row in rows]
            try:
                receipts = await self._publisher.send(batch)
            except EventRefused as refused:
                wrong = [number for number, event in zip(numbers, batch, strict=True) if event.msg_id == refused.msg_id]
                await self._refuse(connection, wrong, refused.reason)
                return len(wrong)
            reused = [number for number, receipt in zip(numbers, receipts, strict=True) if receipt.differs]
            if reused:
                await self._refuse(connection, reused, "another event with this id is stored: raise the version")
            stored = sorted(set(numbers) - set(reused))
            await connection.execute(statement(_DELETE, self._table), stored)
            return len(numbers)

    async def _publish_while_connected(self) -> None:
        async with self._connected() as connection:
            while True:
                if not await self.publish_batch(connection):
                    await asyncio.sleep(POLL_S)

    async def _claim(self, connection: asyncpg.Connection) -> list[int]:
        """Lock waiting rows, and return the first of them up to a batch's bytes."""
        numbers: list[int] = []
        size = 0
        for row in await connection.fetch(statement(_CLAIM, self._table), BATCH_EVENTS_MAX):
            if numbers and size + row["size"] > BATCH_BYTES:
                break
            numbers.append(row["number"])
            size += row["size"]
        return numbers

    async def _refuse(self, connection: asyncpg.Connection, numbers: Sequence[int], reason: str) -> None:
        _LOG.error("outbox rows %s are refused and kept: %s", numbers, reason)
        await connection.execute(statement(_REFUSE, self._table), numbers, reason)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(
            self._database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S
        )
        try:
            yield connection
        finally:
            connection.terminate()


async def backlog(connection: asyncpg.Connection, table: str = TABLE) -> Backlog:
    """Return what waits in an outbox, for a metric or an alert."""
    (row,) = await connection.fetch(statement(_BACKLOG, table))
    return Backlog(*row)
