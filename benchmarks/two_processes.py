"""Two API processes on ports of their own, as behind a proxy: what a second one adds, where it has a core to run on."""

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
    """Put one process and two under the same load, turn by turn, half of the connections to each of two.

    `hot` are the paths of R1.
    """
    async with another_api(stack) as other:
        both = (stack.endpoint, other)
        for each in both:
            await under_load(each, hot, effort.warm_up_s)
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
            under_load(each, paths[place::3], effort.read_s, threads=THREADS // 2)
            for place, each in enumerate(both, start=1)
        )
        two.append(sum(load.rate for load in await asyncio.gather(*halves)))
    alone, together = statistics.median_low(one), statistics.median_low(two)
    beside = f"one process {alone:,.0f} req/s"
    return Row("", f"{what} from two API processes", f"{together:,.0f} req/s", beside, f"{together / alone:.2f} ×")
