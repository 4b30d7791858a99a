"""How fast the projector is, read off its checkpoint: nothing of a process's start is in the figure."""

import asyncio
import time
from typing import Final

import asyncpg

from projections.store.queries import Generation, generation

POLL_S: Final = 0.005
DEADLINE_S: Final = 900.0
_POSITION: Final = "SELECT position FROM control.live INNER JOIN control.checkpoint USING (generation)"


async def applying_rate(database_url: str, after: int, last: int) -> float:
    """Return events a second from the first batch seen behind `after`, itself not counted, to `last`."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(DEADLINE_S):
            first = await _beyond(connection, after)
            began = time.perf_counter()
            await _beyond(connection, last - 1)
            return (last - first) / (time.perf_counter() - began)
    finally:
        await connection.close()


async def live(connection: asyncpg.Connection) -> Generation:
    """Return the generation that is answered from."""
    return generation(await connection.fetchval("SELECT generation FROM control.live"))


async def _beyond(connection: asyncpg.Connection, position: int) -> int:
    while (found := int(await connection.fetchval(_POSITION))) <= position:  # noqa: ASYNC110 - rows tell nobody
        await asyncio.sleep(POLL_S)
    return found
