"""Elects the one projector that writes: an advisory lock, held by the same session that writes.

Invariants: losing the session loses the lock and every uncommitted row with it. PostgreSQL ends the session of a
leader that is silent for `LEADER_SILENCE_MAX_S` (stopped, cut off), so a standby only has to try the lock. The
compare-and-set on the checkpoint is a second protection, for connection poolers, which may send the lock and the writes
to different sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import structlog

from projections.store import database
from projections.store.leader import LOCK_KEY

STANDBY_POLL_S: Final = 0.25

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@asynccontextmanager
async def leadership(
    database_url: str, standing_by: Callable[[], None] = lambda: None
) -> AsyncIterator[asyncpg.Connection]:
    """Wait until this process leads, and yield the connection that holds the lock and writes.

    Calls `standing_by` if another process leads. Raises `database.UNAVAILABLE` when the session is lost, while waiting
    or at its next use.
    """
    connection = await database.connect_leader(database_url)
    try:
        with database.closed_is_unavailable(connection):
            await _wait_for_lock(connection, standing_by)
            log.info("leadership_acquired")
            yield connection
    finally:
        # Not close(): a hanging session must not delay the standby.
        connection.terminate()


async def _wait_for_lock(connection: asyncpg.Connection, standing_by: Callable[[], None]) -> None:
    announced = False
    # Limited, so that a server without power does not hold a standby for as long as a batch may take.
    limit_s = database.LEADER_SILENCE_MAX_S
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY, timeout=limit_s):
        if not announced:
            log.info("standing_by", reason="another projector leads")
            standing_by()
            announced = True
        await asyncio.sleep(STANDBY_POLL_S)
