"""Cold reads from a replica beside those from the primary: the rate, and the CPU time of the primary that they cost."""

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from benchmarks import proc
from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Endpoint
from benchmarks.load import under_load
from benchmarks.rows import Row
from benchmarks.stack import DEADLINE_S, Stack, another_api, replica_of
from ops.devstack.programs import http_get

READS: Final = re.compile(rb'^membership_reads_total\{server="(\w+)"\} ([\d.e+]+)$', re.MULTILINE)


class Cost(Struct, frozen=True):
    """The result of one round."""

    rate: float
    """Responses per second."""
    primary_us: float
    """CPU time of the primary per response."""

    def __str__(self) -> str:
        return f"{self.rate:,.0f} req/s, {self.primary_us:,.0f} µs of the primary's CPU each"


async def measure(stack: Stack, data: DataSet, effort: Effort) -> Row:
    """Put an API that reads from the primary, and one that reads from a replica, under the same load in turn."""
    costs: dict[str, list[Cost]] = {"primary": [], "replica": []}
    async with replica_of(stack) as replica, another_api(stack, workers=1, replica_url=replica.url) as (endpoint, _):
        await _in_use(endpoint)
        # The other API and the primary have been under such load before.
        await under_load(endpoint, distinct_paths(data, effort, 0, "warm-up"), effort.warm_up_s)
        for number in range(effort.rounds):
            paths = distinct_paths(data, effort, number, "replicas")
            for name, port, half in (("primary", stack.endpoint, paths[::2]), ("replica", endpoint, paths[1::2])):
                costs[name].append(await _cost(stack, port, half, effort))
        reads = _reads(endpoint)
    primary, replicated = _median(costs["primary"]), _median(costs["replica"])
    share = reads["replica"] / sum(reads.values())
    return Row(
        "",
        "cold reads from a replica, beside the same from one primary",
        f"{replicated}; {share:.0%} of the reads by the replica",
        f"one primary: {primary}",
        f"{replicated.rate / primary.rate:.2f} ×",
    )


async def _cost(stack: Stack, endpoint: Endpoint, paths: Sequence[str], effort: Effort) -> Cost:
    before_s = proc.cpu_s(stack.postgres.pid)
    load = await under_load(endpoint, paths, effort.read_s)
    return Cost(load.rate, (proc.cpu_s(stack.postgres.pid) - before_s) / (load.rate * effort.read_s) * 1e6)


async def _in_use(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while b'membership_replicas{state="in_use"} 1.0' not in _metrics(endpoint):
        if time.monotonic() > deadline:
            raise TimeoutError("the replica is not in use")
        await asyncio.sleep(0.05)


def _reads(endpoint: Endpoint) -> dict[str, float]:
    return {server.decode(): float(count) for server, count in READS.findall(_metrics(endpoint))}


def _metrics(endpoint: Endpoint) -> bytes:
    response = http_get(endpoint.port, "/metrics")
    return response[1] if response else b""


def _median(costs: Sequence[Cost]) -> Cost:
    rate = statistics.median_low([cost.rate for cost in costs])
    return next(cost for cost in costs if cost.rate == rate)
