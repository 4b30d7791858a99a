"""Elects the one projector that writes: an advisory lock, held by the very session that writes.

Invariants: who loses the session loses the lock and every uncommitted row with it. PostgreSQL ends the session of
a leader that says nothing for `LEADER_SILENCE_MAX_S` (stopped, cut off), so a standby needs no judgement of its own.
The compare-and-set on the checkpoint fences once more, for setups where lock and writes could part (poolers).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import structlog

from projections.store import database

LOCK_KEY: Final = 0x4D454D42_50524F4A  # "MEMBPROJ"
STANDBY_POLL_S: Final = 0.25

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@asynccontextmanager
async def leadership(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Wait until this process leads, and hand out the connection that leads and writes.

    Raises `database.UNAVAILABLE` when the session is lost, while waiting or later, by whatever uses it.
    """
    connection = await database.connect_leader(database_url)
    try:
        with database.closed_is_unavailable(connection):
            await _wait_for_lock(connection)
            log.info("leading")
            yield connection
    finally:
        # Not close(): a session that hangs must not hold up the one who stands by.
        connection.terminate()


async def _wait_for_lock(connection: asyncpg.Connection) -> None:
    announced = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
        if not announced:
            log.info("standing_by", reason="another projector leads")
            announced = True
        await asyncio.sleep(STANDBY_POLL_S)
