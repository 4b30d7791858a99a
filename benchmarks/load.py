"""Puts a system under full load: with wrk, or with our own callers if wrk is not installed.

All compared systems get the same generator, connections and paths, in turn, so that a temporary slowdown of the machine
affects all of them.
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
    """The result of one system in one round, or in the median round of several."""

    rate: float
    """Responses per second."""
    percentiles_ms: Sequence[float]
    """Percentiles 1 to 99."""

    @property
    def p99_ms(self) -> float:
        """The 99th percentile."""
        return self.percentiles_ms[-1]


async def under_load(endpoint: Endpoint, paths: Sequence[str], seconds: float, *, threads: int = THREADS) -> Load:
    """Request the paths in order, repeatedly; any response but a 200 is an error.

    The number of connections is proportional to the threads.
    """
    with tempfile.NamedTemporaryFile("w", prefix="membership-bench-paths-", encoding="ascii") as file:
        file.write("\n".join(paths))
        file.flush()
        generate = _by_wrk if GENERATOR == "wrk" else _by_callers
        return await generate(endpoint, Path(file.name), seconds, threads)


async def turn_by_turn(
    systems: Mapping[str, Endpoint], rounds: Sequence[Sequence[str]], seconds: float
) -> dict[str, Load]:
    """Put the systems under the load of each round in turn, and return the median load of each."""
    results: dict[str, list[Load]] = {name: [] for name in systems}
    for paths in rounds:
        for name, endpoint in systems.items():
            results[name].append(await under_load(endpoint, paths, seconds))
    return {name: median(loads) for name, loads in results.items()}


def median(loads: Sequence[Load]) -> Load:
    """Return the load whose rate is the median; of two, the slower."""
    rate = statistics.median_low([load.rate for load in loads])
    return next(load for load in loads if load.rate == rate)


async def _by_wrk(endpoint: Endpoint, file: Path, seconds: float, threads: int) -> Load:
    result = json.loads(
        await output_of(
            "wrk",
            *("--threads", threads, "--connections", CONNECTIONS // THREADS * threads, "--timeout", TIMEOUT_S),
            *("--duration", f"{round(seconds)}s", "--header", f"Authorization: Bearer {endpoint.token}"),
            *(("--header", f"Accept-Encoding: {endpoint.accept_encoding}") if endpoint.accept_encoding else ()),
            *("--script", _SCRIPT, endpoint.url, "--", file, threads),
        )
    )
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} of {result['answered']} requests to {endpoint.url} failed")
    return Load(result["answered"] / result["seconds"], result["percentiles_ms"])


async def _by_callers(endpoint: Endpoint, file: Path, seconds: float, threads: int) -> Load:
    command = (sys.executable, "-m", "benchmarks.callers", endpoint.port, file, CONNECTIONS // THREADS, seconds)
    results: list[dict[str, Any]] = [
        json.loads(line)
        for line in await asyncio.gather(
            *(
                output_of(
                    *command, thread / threads, BENCH_TOKEN=endpoint.token, BENCH_ENCODING=endpoint.accept_encoding
                )
                for thread in range(threads)
            )
        )
    ]
    # All processes have the same number of connections, so their times have equal weight.
    took_ms = [ms for result in results for ms in result["spread_ms"]]
    return Load(
        sum(result["rate"] for result in results), [percentile(took_ms, share / 100) for share in range(1, 100)]
    )


async def output_of(*command: object, **environment: str) -> str:
    """Return the last line a program prints; raise if it fails."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {err.decode()}{out.decode()}")
    return out.decode().splitlines()[-1]
