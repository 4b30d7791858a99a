"""Two API processes on two ports, as behind a proxy: what a second process adds if a core is free for it."""

import asyncio
import statistics
from collections.abc import Sequence

from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Endpoint
from benchmarks.load import THREADS, under_load
from benchmarks.rows import Row
from benchmarks.stack import Stack, another_api


async def measure(stack: Stack, hot: list[str], data: DataSet, effort: Effort) -> list[Row]:
    """Put one process and two processes under the same load in turn; each of two gets half the connections.

    `hot` are the paths of R1.
    """
    async with another_api(stack) as other:
        both = (stack.endpoint, other)
        for endpoint in both:
            await under_load(endpoint, hot, effort.warm_up_s)
        cold = [distinct_paths(data, effort, number, "two") for number in range(effort.rounds)]
        return [
            await _row("hot reads", [hot] * effort.rounds, both, effort),
            await _row("cold reads", cold, both, effort),
        ]


async def _row(what: str, rounds: Sequence[list[str]], both: Sequence[Endpoint], effort: Effort) -> Row:
    one, two = [], []
    for paths in rounds:
        one.append((await under_load(both[0], paths[::3], effort.read_s)).rate)
        halves = (
            under_load(endpoint, paths[index::3], effort.read_s, threads=THREADS // 2)
            for index, endpoint in enumerate(both, start=1)
        )
        two.append(sum(load.rate for load in await asyncio.gather(*halves)))
    alone, together = statistics.median_low(one), statistics.median_low(two)
    beside = f"one process {alone:,.0f} req/s"
    return Row("", f"{what} from two API processes", f"{together:,.0f} req/s", beside, f"{together / alone:.2f} ×")
