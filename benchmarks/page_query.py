"""The bound of cold reads: the service's page query through the service's own pool, without HTTP.

Started as `python -m benchmarks.page_query FILE SECONDS`, the database in BENCH_DATABASE_URL; FILE has one
customer per line. A separate process with uvloop, like the service; prints queries per second.
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

CONCURRENT_REQUESTS = 32
"""As many as the load generator has connections."""
TIMEOUT_S = 5.0


async def rate(database_url: str, customers: list[str], seconds: float) -> float:
    """Return how many first pages are read per second."""
    open_named_pool = partial(open_pool, database_url, statement_timeout_s=TIMEOUT_S, name="bench")
    pool = await open_named_pool(connections_max=1, planner=CUSTOM_PLANS)
    generic_pool = await open_named_pool(connections_max=BATCH_CONNECTIONS, planner=GENERIC_PLANS)
    reader = QueryBatcher(pool, generic_pool)
    live = await live_position(pool)
    if live is None:
        raise RuntimeError("there is no read model")
    endless = itertools.cycle(customers)
    answered = 0
    began = time.perf_counter()

    async def read_pages() -> None:
        nonlocal answered
        while time.perf_counter() < began + seconds:
            await read_page(reader, live.generation, ListRequest(next(endless)), None, None)
            answered += 1

    await asyncio.gather(*(read_pages() for _ in range(CONCURRENT_REQUESTS)))
    took_s = time.perf_counter() - began
    await pool.close()
    await generic_pool.close()
    return answered / took_s


if __name__ == "__main__":
    customer_ids = Path(sys.argv[1]).read_text(encoding="ascii").splitlines()
    measured = uvloop.run(rate(os.environ["BENCH_DATABASE_URL"], customer_ids, float(sys.argv[2])))
    sys.stdout.write(f"{measured}\n")
