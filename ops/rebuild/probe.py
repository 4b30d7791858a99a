"""Measures reads for the throttle in a separate process, so that the job's own event loop does not distort them.

Reads: the live generation, with the same statement as the API, for random customers.
Writes: one line on standard output per read: its milliseconds, and whether an API process has read recently.
Ends when its standard input is closed, that is with the job.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import asyncpg

from projections.store import database
from projections.store.queries import Generation, for_generation
from service.parameters import ListRequest
from service.read_model.reads import page_statement, shape_of, values_of

AT_REST_READS: Final = 100
"""Initial reads in quick succession, before the job begins: the cost of a read at rest."""
AT_REST_EVERY_S: Final = 0.02
EVERY_S: Final = 0.1
READERS_CHECKED_EVERY_S: Final = 1.0
READERS_IDLE_S: Final = 5.0
"""Without any API read for this long there are no readers to slow down."""
RETRY_S: Final = 1.0
SAMPLE: Final = 64
SAMPLE_CUSTOMERS: Final = """
SELECT c.customer_id::text AS customer_id FROM {generation}.customer AS c
WHERE c.customer_id >= (SELECT gen_random_uuid()) ORDER BY c.customer_id LIMIT $1
"""
"""Reads a range of the primary key: the subquery calls the volatile function once, and with `c.` ORDER BY means the
column, not the output's text."""
UNKNOWN_CUSTOMER: Final = "00000000-0000-0000-0000-000000000000"


async def main(database_url: str) -> None:
    """Read continuously, through restarts of PostgreSQL, until the job ends."""
    probe = asyncio.create_task(_probe_until_cancelled(database_url))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)


async def _probe_until_cancelled(database_url: str) -> None:
    reads = 0
    while True:
        with suppress(*database.UNAVAILABLE, asyncpg.PostgresError):
            connection = await database.connect(database_url, "membership-probe", planner=database.GENERIC_PLANS)
            try:
                with database.closed_is_unavailable(connection):
                    async for took_ms, busy in _probe(connection):
                        print(f"{took_ms:.3f} {busy:d}", flush=True)
                        reads += 1
                        await asyncio.sleep(AT_REST_EVERY_S if reads < AT_REST_READS else EVERY_S)
            finally:
                connection.terminate()
        await asyncio.sleep(RETRY_S)


async def _probe(connection: asyncpg.Connection) -> AsyncIterator[tuple[float, bool]]:
    checked_at, busy = 0.0, True
    while True:
        name = Generation(await connection.fetchval("SELECT generation FROM control.live"))
        shape = shape_of(ListRequest(UNKNOWN_CUSTOMER), after=False)
        page = page_statement(name, shape)
        for customer in await _sample(connection, name):
            if time.monotonic() - checked_at > READERS_CHECKED_EVERY_S:
                checked_at, busy = time.monotonic(), await _api_is_read(connection)
            began = time.perf_counter()
            await connection.fetchrow(page, *([value] for value in values_of(ListRequest(customer), None, None, shape)))
            yield (time.perf_counter() - began) * 1000, busy


async def _api_is_read(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'membership-api' "
            "AND datname = current_database() AND state_change > clock_timestamp() - make_interval(secs => $1))",
            READERS_IDLE_S,
        )
    )


async def _sample(connection: asyncpg.Connection, name: Generation) -> list[str]:
    """Return up to `SAMPLE` random customers."""
    rows = await connection.fetch(for_generation(SAMPLE_CUSTOMERS, name), SAMPLE)
    return [row["customer_id"] for row in rows] or [UNKNOWN_CUSTOMER]


if __name__ == "__main__":
    asyncio.run(main(os.environ["MEMBERSHIP_DATABASE_URL"]))
