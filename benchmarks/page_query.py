"""The bound of cold reads: the service's page query asked of PostgreSQL by its own pool, with no HTTP around it.

Started as `python -m benchmarks.page_query FILE SECONDS`, the database in BENCH_DATABASE_URL; FILE holds customers, one
a line. A process of its own with uvloop, as the service is; prints queries a second.
"""

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

import uvloop

from projections.database import open_pool
from service.parameters import ListRequest
from service.reads import read_page, whereabouts

CONNECTIONS = 10
"""As many as an API process has by default."""
TIMEOUT_S = 5.0


async def rate(database_url: str, customers: list[str], seconds: float) -> float:
    """Return how many first pages a second are read."""
    pool = await open_pool(database_url, connections_max=CONNECTIONS, statement_timeout_s=TIMEOUT_S, name="bench")
    found = await whereabouts(pool)
    if found is None:
        raise RuntimeError("there is no read model")
    endless = itertools.cycle(customers)
    answered = 0
    began = time.perf_counter()

    async def ask_on() -> None:
        nonlocal answered
        while time.perf_counter() < began + seconds:
            await read_page(pool, found.generation, ListRequest(next(endless)), None, None)
            answered += 1

    await asyncio.gather(*(ask_on() for _ in range(CONNECTIONS)))
    took_s = time.perf_counter() - began
    await pool.close()
    return answered / took_s


if __name__ == "__main__":
    asked = Path(sys.argv[1]).read_text(encoding="ascii").splitlines()
    measured = uvloop.run(rate(os.environ["BENCH_DATABASE_URL"], asked, float(sys.argv[2])))
    sys.stdout.write(f"{measured}\n")
