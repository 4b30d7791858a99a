"""Requests at a constant rate, however slowly they are answered, and whether they are answered or refused.

Started as `python -m benchmarks.open_loop PORT FILE RATE SECONDS`, the token in BENCH_TOKEN; requests the paths of FILE
in order, each once, and prints one line of JSON. A request that finds no idle connection is not sent, but counted.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.http import Caller, Endpoint, Refused
from benchmarks.rows import percentile

TICK_S: Final = 0.005
CONNECTIONS: Final = 900
"""As many as a process may open where the limit of file descriptors is the usual 1,024."""
OPENED_TOGETHER: Final = 50


class OpenLoop:
    """One run."""

    def __init__(self, endpoint: Endpoint, paths: Iterator[str]) -> None:
        self._endpoint = endpoint
        self._paths = paths
        self._idle: list[Caller] = []
        self._running: set[asyncio.Task[None]] = set()
        self.answered = 0
        self.not_sent = 0
        self.refused_ms: list[float] = []

    async def connect(self) -> None:
        """Open all connections."""
        for _ in range(CONNECTIONS // OPENED_TOGETHER):
            callers = [Caller(self._endpoint).__aenter__() for _ in range(OPENED_TOGETHER)]
            self._idle += await asyncio.gather(*callers)

    async def run(self, rate: float, seconds: float) -> float:
        """Send requests for so long; return the actual seconds, until the last is answered or refused."""
        began = time.perf_counter()
        sent = 0
        while (passed := time.perf_counter() - began) < seconds:
            for _ in range(int(passed * rate) - sent):
                sent += 1
                self._send()
            await asyncio.sleep(TICK_S)
        took_s = time.perf_counter() - began
        answered = self.answered
        await asyncio.gather(*self._running)
        self.answered = answered  # those answered later were waiting when the time was over
        for caller in self._idle:
            await caller.__aexit__(None, None, None)
        return took_s

    def _send(self) -> None:
        if not self._idle:
            self.not_sent += 1
            return
        task = asyncio.create_task(self._request(self._idle.pop(), next(self._paths)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _request(self, caller: Caller, path: str) -> None:
        began = time.perf_counter()
        try:
            await caller.get(path)
            self.answered += 1
        except Refused:
            self.refused_ms.append((time.perf_counter() - began) * 1000)
        self._idle.append(caller)


async def measure(endpoint: Endpoint, paths: Iterator[str], rate: float, seconds: float) -> dict[str, float]:
    """Return rates and times of a run."""
    run = OpenLoop(endpoint, paths)
    await run.connect()
    took_s = await run.run(rate, seconds)
    refused = run.refused_ms or [0.0]
    return {
        "answered": run.answered / took_s,
        "refused": len(run.refused_ms) / took_s,
        "not_sent": run.not_sent / took_s,
        "refused_median_ms": percentile(refused, 0.5),
        "refused_p99_ms": percentile(refused, 0.99),
    }


def main(port: str, file: str, rate: str, seconds: str) -> None:
    """Run from the command line."""
    paths = iter(Path(file).read_text(encoding="ascii").splitlines())
    endpoint = Endpoint(int(port), os.environ["BENCH_TOKEN"])
    result = uvloop.run(measure(endpoint, paths, float(rate), float(seconds)))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
