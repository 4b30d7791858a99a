"""Whether a job runner is alive: the row that it refreshes, and the epoch that fences an earlier one.

Reads and writes: control.runner. Invariants: the epoch rises with every process that becomes the runner.
"""

from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

BEAT_EVERY_S: Final = 2.0
SILENCE_MAX_S: Final = 10.0
"""A runner that was not seen for this long is not alive."""


class Presence(Struct, frozen=True):
    """The job runner as it was last seen."""

    name: str
    started_at: datetime
    seen_at: datetime
    alive: bool


async def begin(connection: asyncpg.Connection, name: str) -> int:
    """Become the runner and return the epoch; the caller holds the runner's lock."""
    return int(
        await connection.fetchval(
            "INSERT INTO control.runner AS runner (name, epoch, started_at, seen_at) VALUES ($1, 1, now(), now()) "
            "ON CONFLICT (only_row) DO UPDATE "
            "SET name = excluded.name, epoch = runner.epoch + 1, started_at = now(), seen_at = now(), ended_at = NULL "
            "RETURNING epoch",
            name,
        )
    )


async def beat(connection: asyncpg.Connection, epoch: int) -> bool:
    """Report that the runner lives; return False if another one has replaced it."""
    row = await connection.fetchval(
        "UPDATE control.runner SET seen_at = clock_timestamp() WHERE epoch = $1 RETURNING epoch", epoch
    )
    return row is not None


async def end(connection: asyncpg.Connection, epoch: int) -> None:
    """Report that the runner has ended, so that nobody waits for the silence."""
    await connection.execute("UPDATE control.runner SET ended_at = now() WHERE epoch = $1", epoch)


async def read(connection: asyncpg.Connection) -> Presence | None:
    """Return the runner as it was last seen; None if there has never been one."""
    row = await connection.fetchrow(
        "SELECT name, started_at, seen_at, "
        "ended_at IS NULL AND seen_at > clock_timestamp() - make_interval(secs => $1) AS alive FROM control.runner",
        SILENCE_MAX_S,
    )
    return None if row is None else Presence(**dict(row))
