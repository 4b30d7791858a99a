"""R2: reads with no request repeated, so that PostgreSQL answers every one.

An ignored query parameter makes each request unique. The page query without HTTP, with the same driver and the
service's own pool, shows how much could still be gained.
"""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Endpoint
from benchmarks.load import GENERATOR, Load, output_of, turn_by_turn
from benchmarks.rows import Row, Target, judged
from benchmarks.stack import Stack

PATHS_A_SECOND = 15_000
"""More than are answered, so that none is repeated within a round."""


class ColdReads(NamedTuple):
    """The rows of R2, the loads behind them by system, and the rate of the page query alone."""

    rows: list[Row]
    loads: dict[str, Load]
    bound: float


async def measure(stack: Stack, peer: Endpoint, data: DataSet, effort: Effort) -> ColdReads:
    """Request every customer once, then again with another value of the ignored parameter."""
    rounds = [distinct_paths(data, effort, number) for number in range(effort.rounds)]
    loads = await turn_by_turn({"ours": stack.endpoint, "FastAPI": peer}, rounds, effort.read_s)
    ours, peers = loads["ours"], loads["FastAPI"]
    bound = await _page_query(stack, data.customers, effort.read_s)
    what = f"cold reads, every request another one; {GENERATOR}"
    shown = f"{ours.rate:,.0f} req/s, p99 {ours.p99_ms:.1f} ms"
    beside = f"FastAPI + SQLAlchemy: {peers.rate:,.0f} req/s, p99 {peers.p99_ms:.0f} ms"
    rows = [
        judged("R2", what, shown, beside, ratio=ours.rate / peers.rate, target=Target(at_least=6)),
        judged(
            "R2",
            what,
            shown,
            f"the page query alone, by asyncpg: {bound:,.0f}/s",
            ratio=ours.rate / bound,
            target=Target(at_least=0.5),
        ),
    ]
    return ColdReads(rows, loads, bound)


def distinct_paths(data: DataSet, effort: Effort, number: int, parameter: str = "cold") -> list[str]:
    """Return the paths of a round; no path is in another round or under another `parameter`."""
    count = int(PATHS_A_SECOND * effort.read_s)
    laps = itertools.count()
    endless = ((lap, customer) for lap in laps for customer in data.customers[number :: effort.rounds])
    return [
        f"/customers/{customer}/campaigns?{parameter}={number}-{lap}"
        for lap, customer in itertools.islice(endless, count)
    ]


async def _page_query(stack: Stack, customers: Sequence[str], seconds: float) -> float:
    with tempfile.NamedTemporaryFile("w", prefix="membership-bench-customers-", encoding="ascii") as file:
        file.write("\n".join(customers))
        file.flush()
        command = (sys.executable, "-m", "benchmarks.page_query", file.name, seconds)
        return float(await output_of(*command, BENCH_DATABASE_URL=stack.database_url))
