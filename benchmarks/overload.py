"""Three times as many reads as can be answered, by one caller: how many are answered, and how another caller fares."""

import asyncio
import json
import statistics
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Caller, Endpoint
from benchmarks.load import output_of, under_load
from benchmarks.rows import Row, Target, judged
from benchmarks.stack import SECRET, TOKEN_S, Stack
from ops.token import sign

TIMES: Final = 3
GOODPUT_MIN: Final = 0.9
FIRST_READS: Final = 10
STARTED_S: Final = 0.5
"""Before the first read of the other callers."""
SEARCH: Final = "q=re"
"""A text that the names of many campaigns contain."""


async def measure(stack: Stack, data: DataSet, effort: Effort) -> list[Row]:
    """Measure pages in the default order, and searches."""
    pages = [distinct_paths(data, effort, number, "overload") for number in range(effort.rounds)]
    searches = [[f"{path}&{SEARCH}" for path in paths] for paths in pages]
    return [
        *await _rows("cold pages", stack, pages, data, effort),
        *await _rows("searches", stack, searches, data, effort),
    ]


async def _rows(what: str, stack: Stack, rounds: Sequence[list[str]], data: DataSet, effort: Effort) -> list[Row]:
    """Alternate between the peak and three times as many; the median counts."""
    at_rest = [await _first_read_ms(stack.endpoint, path) for path in _other_paths(data, "rest")]
    ratios: list[tuple[float, float, dict[str, float]]] = []
    meanwhile: list[float] = []
    for number, paths in enumerate(rounds):
        half = len(paths) // 2
        peak = (await under_load(stack.endpoint, paths[:half], effort.read_s)).rate
        flood = asyncio.create_task(_flood(stack.endpoint, paths[half:], TIMES * peak, effort.read_s))
        await asyncio.sleep(STARTED_S)
        meanwhile += [await _first_read_ms(stack.endpoint, path) for path in _other_paths(data, f"flood-{number}")]
        result = await flood
        ratios.append((result["answered"] / peak, peak, result))
    ratio, peak, result = sorted(ratios, key=lambda measured: measured[0])[len(ratios) // 2]
    refused = f"{result['refused']:,.0f} refused/s: median {result['refused_median_ms']:.0f} ms"
    return [
        judged(
            "",
            f"{what} at {TIMES} times the peak, by one caller",
            f"{result['answered']:,.0f} answers/s; {refused}, p99 {result['refused_p99_ms']:.0f} ms",
            f"the peak: {peak:,.0f}/s",
            ratio=ratio,
            target=Target(at_least=GOODPUT_MIN),
        ),
        Row(
            "",
            "another caller's first read meanwhile, on a new connection",
            f"median {statistics.median(meanwhile):.0f} ms, max {max(meanwhile):.0f} ms",
            f"at rest: median {statistics.median(at_rest):.0f} ms",
            f"{statistics.median(meanwhile) / statistics.median(at_rest):.1f} ×",
        ),
    ]


async def _flood(endpoint: Endpoint, paths: Sequence[str], rate: float, seconds: float) -> dict[str, float]:
    needed = int(rate * (seconds + 1))
    repeated = (f"{path}&lap={lap}" for lap in range(needed // len(paths) + 1) for path in paths)
    with tempfile.NamedTemporaryFile("w", prefix="membership-bench-paths-", encoding="ascii") as file:
        file.write("\n".join(repeated))
        file.flush()
        command = (sys.executable, "-m", "benchmarks.open_loop", endpoint.port, file.name, rate, seconds)
        result: dict[str, float] = json.loads(await output_of(*command, BENCH_TOKEN=endpoint.token))
    return result


def _other_paths(data: DataSet, tag: str) -> Iterator[str]:
    return (f"/customers/{customer}/campaigns?first={tag}" for customer in data.customers[:FIRST_READS])


async def _first_read_ms(endpoint: Endpoint, path: str) -> float:
    """Return how long the first read of a caller takes whose token the API has never seen."""
    token = sign(SECRET, str(uuid.uuid4()), admin=True, ttl_s=TOKEN_S)
    began = asyncio.get_running_loop().time()
    async with Caller(Endpoint(endpoint.port, token)) as caller:
        await caller.get(path)
    return (asyncio.get_running_loop().time() - began) * 1000
