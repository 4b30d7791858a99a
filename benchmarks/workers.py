"""Two workers of one API beside one: what a second adds if a core is free for it, and the CPU time of a request."""

import statistics
from collections.abc import Sequence

from msgspec import Struct

from benchmarks import proc
from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Endpoint
from benchmarks.load import under_load
from benchmarks.rows import Row
from benchmarks.stack import Stack, another_api


class Api(Struct, frozen=True):
    """An API under load."""

    endpoint: Endpoint
    pid: int
    """Of its supervisor."""


class Cost(Struct, frozen=True):
    """The result of one round."""

    rate: float
    """Responses per second."""
    cpu_us: float
    """CPU time per response, of the supervisor and all workers."""

    def __str__(self) -> str:
        return f"{self.rate:,.0f} req/s, {self.cpu_us:,.0f} µs of CPU each"


async def measure(stack: Stack, hot: list[str], data: DataSet, effort: Effort) -> list[Row]:
    """Put one worker and two workers under the same load in turn. `hot` are the paths of R1."""
    async with another_api(stack, workers=2) as (endpoint, pid):
        one, two = Api(stack.endpoint, stack.api.pid), Api(endpoint, pid)
        # R1 has filled the cache of the one; each of the two has a cache of its own to fill.
        await under_load(two.endpoint, hot, 2 * effort.warm_up_s)
        cold = [distinct_paths(data, effort, number, "workers") for number in range(effort.rounds)]
        return [
            await _row("hot reads", [hot] * effort.rounds, one, two, effort),
            await _row("cold reads", cold, one, two, effort),
        ]


async def _row(what: str, rounds: Sequence[list[str]], one: Api, two: Api, effort: Effort) -> Row:
    costs: dict[int, list[Cost]] = {one.pid: [], two.pid: []}
    for paths in rounds:
        # Halves, so that no request of one round is a repetition, which the cache would answer.
        for api, half in ((one, paths[::2]), (two, paths[1::2])):
            costs[api.pid].append(await _cost(api, half, effort))
    alone, together = _median(costs[one.pid]), _median(costs[two.pid])
    return Row(
        "", f"{what} by two workers", str(together), f"one worker {alone}", f"{together.rate / alone.rate:.2f} ×"
    )


async def _cost(api: Api, paths: Sequence[str], effort: Effort) -> Cost:
    before_s = proc.cpu_s(api.pid)
    load = await under_load(api.endpoint, paths, effort.read_s)
    return Cost(load.rate, (proc.cpu_s(api.pid) - before_s) / (load.rate * effort.read_s) * 1e6)


def _median(costs: Sequence[Cost]) -> Cost:
    rate = statistics.median_low([cost.rate for cost in costs])
    return next(cost for cost in costs if cost.rate == rate)
