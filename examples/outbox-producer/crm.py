"""A small CRM: its own tables, and an event in the transaction of every change."""

from uuid import UUID

import asyncpg

from campaign_membership_client import Event, EventMethods, events
from campaign_membership_client.outbox import CREATE, TABLE, statement

_TABLES = """\
CREATE TABLE IF NOT EXISTS enrolment (
    customer uuid NOT NULL,
    campaign uuid NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    left_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (customer, campaign)
)"""
_JOIN = """\
INSERT INTO enrolment (customer, campaign) VALUES ($1, $2)
ON CONFLICT (customer, campaign) DO UPDATE SET since = now(), left_at = NULL, version = enrolment.version + 1
RETURNING *"""
_LEAVE = """\
UPDATE enrolment SET left_at = now(), version = version + 1
WHERE customer = $1 AND campaign = $2 AND left_at IS NULL RETURNING *"""


async def create_tables(connection: asyncpg.Connection) -> None:
    """Create the CRM's table and the outbox; a real service does it in its migrations."""
    await connection.execute(_TABLES)
    await connection.execute(statement(CREATE, TABLE))


class Crm:
    """The use cases. `publisher` is a `Publisher`, or a `Recorder` in tests."""

    def __init__(self, publisher: EventMethods) -> None:
        self._publisher = publisher

    async def join(self, connection: asyncpg.Connection, customer: UUID, campaign: UUID) -> None:
        """Enrol a customer, or enrol it again."""
        async with connection.transaction():
            row = await connection.fetchrow(_JOIN, customer, campaign)
            await self._publisher.enqueue(connection, event_of(row))

    async def leave(self, connection: asyncpg.Connection, customer: UUID, campaign: UUID) -> bool:
        """Remove a customer; return False, and publish nothing, if it is not enrolled."""
        async with connection.transaction():
            row = await connection.fetchrow(_LEAVE, customer, campaign)
            if row is not None:
                await self._publisher.enqueue(connection, event_of(row))
            return row is not None


def event_of(row: asyncpg.Record) -> Event:
    """Return the event of a row as it is now; the initial load uses it, too."""
    if row["left_at"] is not None:
        return events.removed(row["customer"], row["campaign"], version=row["version"], reason="left")
    return events.enrolled(row["customer"], row["campaign"], version=row["version"], at=row["since"])
