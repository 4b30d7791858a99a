"""Puts a system under load with as many requests as it can answer: by wrk, or by our own callers where there is none.

The same generator, connections and paths for whoever is compared, turn by turn, so that a machine that is slower for a
while is slower for all.
"""

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.http import Endpoint
from benchmarks.rows import percentile

THREADS: Final = 2
CONNECTIONS: Final = 32
TIMEOUT_S: Final = 10
GENERATOR: Final = "wrk" if shutil.which("wrk") else "Python callers"
_SCRIPT: Final = Path(__file__).with_name("wrk.lua")


class Load(NamedTuple):
    """What one system did in one round, or in the middle one of several."""

    rate: float
    """Answers a second."""
    percentiles_ms: Sequence[float]
    """Of 1 % to 99 % of the requests."""

    @property
    def p99_ms(self) -> float:
        """What all but a hundredth of the requests stayed below."""
        return self.percentiles_ms[-1]


async def under_load(endpoint: Endpoint, paths: Sequence[str], seconds: float, *, threads: int = THREADS) -> Load:
    """Ask for the paths in order, again from the first after the last; any answer but a 200 is an error.

    With fewer threads the connections are fewer by as much.
    """
    with tempfile.NamedTemporaryFile("w", prefix="membership-bench-paths-", encoding="ascii") as file:
        file.write("\n".join(paths))
        file.flush()
        by = _by_wrk if GENERATOR == "wrk" else _by_callers
        return await by(endpoint, Path(file.name), seconds, threads)


async def turn_by_turn(
    systems: Mapping[str, Endpoint], rounds: Sequence[Sequence[str]], seconds: float
) -> dict[str, Load]:
    """Put each system under the load of each round, and return the middle one of each."""
    seen: dict[str, list[Load]] = {name: [] for name in systems}
    for paths in rounds:
        for name, endpoint in systems.items():
            seen[name].append(await under_load(endpoint, paths, seconds))
    return {name: median(loads) for name, loads in seen.items()}


def median(loads: Sequence[Load]) -> Load:
    """Return the load whose rate is the median; of two, the slower."""
    rate = statistics.median_low([load.rate for load in loads])
    return next(load for load in loads if load.rate == rate)


async def _by_wrk(endpoint: Endpoint, file: Path, seconds: float, threads: int) -> Load:
    told = json.loads(
        await output_of(
            "wrk",
            *("--threads", threads, "--connections", CONNECTIONS // THREADS * threads, "--timeout", TIMEOUT_S),
            *("--duration", f"{round(seconds)}s", "--header", f"Authorization: Bearer {endpoint.token}"),
            *("--script", _SCRIPT, endpoint.url, "--", file, threads),
        )
    )
    if told["errors"]:
        raise RuntimeError(f"{told['errors']} of {told['answered']} requests to {endpoint.url} failed")
    return Load(told["answered"] / told["seconds"], told["percentiles_ms"])


async def _by_callers(endpoint: Endpoint, file: Path, seconds: float, threads: int) -> Load:
    words = (sys.executable, "-m", "benchmarks.callers", endpoint.port, file, CONNECTIONS // THREADS, seconds)
    told: list[dict[str, Any]] = [
        json.loads(each)
        for each in await asyncio.gather(
            *(output_of(*words, place / threads, BENCH_TOKEN=endpoint.token) for place in range(threads))
        )
    ]
    # Each process has the same number of connections, so each one's times weigh the same.
    took_ms = [ms for each in told for ms in each["spread_ms"]]
    return Load(sum(each["rate"] for each in told), [percentile(took_ms, share / 100) for share in range(1, 100)])


async def output_of(*words: object, **environment: str) -> str:
    """Return the last line that a program says; any failure of it is an error."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}: {err.decode()}{out.decode()}")
    return out.decode().splitlines()[-1]
