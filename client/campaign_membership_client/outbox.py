"""The outbox: events wait in a table of the producer's own database until a relay has published them.

Writes: the outbox table, in the caller's transaction, so an event is enqueued if and only if the producer's change is
committed. Fails: `InvalidEvent` before anything is written.
"""

import re
from typing import Any, Final, Protocol

from campaign_membership_client.event import Event, prepare

TABLE: Final = "membership_outbox"
CREATE: Final = """\
CREATE TABLE IF NOT EXISTS {table} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text NOT NULL,
    event_id text NOT NULL,
    body bytea NOT NULL,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    refused text
)"""
"""`refused`: why the broker does not store this event; such a row is not sent again."""
_INSERT: Final = """\
INSERT INTO {table} (subject, event_id, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])"""
_TABLE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


class Connection(Protocol):
    """An asyncpg connection, as far as enqueuing needs it."""

    async def execute(self, query: str, *args: Any) -> Any:  # noqa: ANN401 - asyncpg's signature
        """Run a statement."""
        ...


class Outbox:
    """Encodes the events of a source and writes them to the outbox table."""

    def __init__(self, source: str, table: str = TABLE) -> None:
        self.source = source
        self._insert = statement(_INSERT, table)

    async def enqueue(self, connection: Connection, *events: Event) -> None:
        """Write events in the connection's transaction; raises `InvalidEvent` if one cannot be published."""
        publications = [prepare(event, self.source) for event in events]
        columns = zip(*publications, strict=True) if publications else ((), (), ())
        await connection.execute(self._insert, *map(list, columns))


def statement(text: str, table: str) -> str:
    """Return a statement about an outbox table; raises ValueError for a name that needs quoting."""
    if not _TABLE_NAME.fullmatch(table):
        raise ValueError(f"{table!r} is not the name of a table in lower case, such as {TABLE} or crm.{TABLE}")
    return text.format(table=table)
