"""Load without wrk: Python callers in a separate process; slower, so that ratios come out smaller.

Started as `python -m benchmarks.callers PORT FILE CONNECTIONS SECONDS START`, the token in BENCH_TOKEN; requests the
paths of FILE in order, beginning at the share START (0 to 1) of the file, and prints one line of JSON.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.http import Caller, Endpoint
from benchmarks.rows import percentile

SPREAD: Final = 500
"""How many quantiles of the times are printed: enough to combine the results of several processes."""


async def call(endpoint: Endpoint, paths: Iterator[str], connections: int, seconds: float) -> tuple[list[float], float]:
    """Return the time of every response in milliseconds, and the total in seconds."""
    took_ms: list[float] = []
    began = time.perf_counter()

    async def send() -> None:
        async with Caller(endpoint) as caller:
            while (at := time.perf_counter()) < began + seconds:
                await caller.get(next(paths))
                took_ms.append((time.perf_counter() - at) * 1000)

    await asyncio.gather(*(send() for _ in range(connections)))
    return took_ms, time.perf_counter() - began


def main(port: str, file: str, connections: str, seconds: str, start: str) -> None:
    """Run from the command line."""
    paths = Path(file).read_text(encoding="ascii").splitlines()
    first = int(len(paths) * float(start))
    endpoint = Endpoint(int(port), os.environ["BENCH_TOKEN"], os.environ.get("BENCH_ENCODING", ""))
    endless = itertools.cycle(paths[first:] + paths[:first])
    took_ms, took_s = uvloop.run(call(endpoint, endless, int(connections), float(seconds)))
    took_ms.sort()
    spread = [round(percentile(took_ms, share / SPREAD), 4) for share in range(SPREAD)]
    sys.stdout.write(json.dumps({"rate": len(took_ms) / took_s, "spread_ms": spread}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
