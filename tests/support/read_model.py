"""Applies messages to a generation in a test's database, and reads back all its rows."""

from typing import Any

import asyncpg

from projections.model.batch import read_batch
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_batch
from projections.store.queries import Generation

G1 = Generation("g1")
CREATED = "2026-01-01T00:00:00.123456789Z"
TABLES = {
    "customer": "customer_id",
    "campaign": "campaign_id",
    "campaign_counters": "campaign_id",
    "membership": "customer_id, campaign_id",
    "customer_summary": "customer_id, owner_id, status, deleted",
    "parked_event": "position",
}
COUNTED = """
SELECT customer_id, owner_id, status, deleted, count(*) AS memberships FROM g1.membership
WHERE enrolled_at IS NOT NULL AND owner_id IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


async def empty(connection: asyncpg.Connection) -> Checkpoint:
    """Empty the first generation and return its checkpoint, at position 0 in a new term."""
    await connection.execute("TRUNCATE control.fan_out, " + ", ".join(f"g1.{table}" for table in TABLES))
    await connection.execute(
        "UPDATE control.checkpoint SET position = 0, message_time_ns = NULL, stream_created = NULL"
    )
    return await checkpoints.take_over(connection, G1)


async def applied(connection: asyncpg.Connection, checkpoint: Checkpoint, messages: list[Message]) -> Checkpoint:
    """Apply the messages as one batch and return the new checkpoint."""
    return await apply_batch(connection, checkpoint, read_batch(messages), CREATED)


async def rows(connection: asyncpg.Connection, name: Generation = G1) -> dict[str, list[dict[str, Any]]]:
    """Return all rows by table, in key order, without the only column that depends on the clock."""
    tables = {}
    for table, key in TABLES.items():
        records = await connection.fetch(f"SELECT * FROM {name}.{table} ORDER BY {key}")  # noqa: S608
        tables[table] = [{name: value for name, value in row.items() if name != "first_seen_at"} for row in records]
    return tables
