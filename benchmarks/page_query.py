"""The bound of cold reads: the service's page query asked of PostgreSQL by its own pool, with no HTTP around it.

Started as `python -m benchmarks.page_query FILE SECONDS`, the database in BENCH_DATABASE_URL; FILE holds customers, one
a line. A process of its own with uvloop, as the service is; prints queries a second.
"""

import asyncio
import itertools
import os
import sys
import time
from functools import partial
from pathlib import Path

import uvloop

from projections.store.database import CUSTOM_PLANS, GENERIC_PLANS, open_pool
from service.parameters import ListRequest
from service.read_model.query_batcher import BATCH_CONNECTIONS, QueryBatcher
from service.read_model.reads import live_position, read_page

AT_ONCE = 32
"""Requests that wait at the same moment, as many as the load generator's connections."""
TIMEOUT_S = 5.0


async def rate(database_url: str, customers: list[str], seconds: float) -> float:
    """Return how many first pages a second are read."""
    to_postgres = partial(open_pool, database_url, statement_timeout_s=TIMEOUT_S, name="bench")
    pool = await to_postgres(connections_max=1, planner=CUSTOM_PLANS)
    steady = await to_postgres(connections_max=BATCH_CONNECTIONS, planner=GENERIC_PLANS)
    reader = QueryBatcher(pool, steady)
    found = await live_position(pool)
    if found is None:
        raise RuntimeError("there is no read model")
    endless = itertools.cycle(customers)
    answered = 0
    began = time.perf_counter()

    async def ask_on() -> None:
        nonlocal answered
        while time.perf_counter() < began + seconds:
            await read_page(reader, found.generation, ListRequest(next(endless)), None, None)
            answered += 1

    await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    took_s = time.perf_counter() - began
    await pool.close()
    await steady.close()
    return answered / took_s


if __name__ == "__main__":
    asked = Path(sys.argv[1]).read_text(encoding="ascii").splitlines()
    measured = uvloop.run(rate(os.environ["BENCH_DATABASE_URL"], asked, float(sys.argv[2])))
    sys.stdout.write(f"{measured}\n")
