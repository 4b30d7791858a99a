"""The projector's rate, read from its checkpoint, so that process start is not included."""

import asyncio
import time
from typing import Final

import asyncpg

from projections.store.queries import Generation, generation

POLL_S: Final = 0.005
DEADLINE_S: Final = 900.0
_POSITION: Final = "SELECT position FROM control.live INNER JOIN control.checkpoint USING (generation)"


async def applying_rate(database_url: str, after: int, last: int) -> float:
    """Return events per second from the first checkpoint seen beyond `after`, excluding it, to `last`."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(DEADLINE_S):
            first = await _checkpoint_beyond(connection, after)
            began = time.perf_counter()
            await _checkpoint_beyond(connection, last - 1)
            return (last - first) / (time.perf_counter() - began)
    finally:
        await connection.close()


async def live(connection: asyncpg.Connection) -> Generation:
    """Return the live generation."""
    return generation(await connection.fetchval("SELECT generation FROM control.live"))


async def _checkpoint_beyond(connection: asyncpg.Connection, position: int) -> int:
    while (checkpoint := int(await connection.fetchval(_POSITION))) <= position:  # noqa: ASYNC110 - rows send no notifications
        await asyncio.sleep(POLL_S)
    return checkpoint
