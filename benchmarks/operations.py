"""W2, and the other operator commands that must not slow readers: switch, rollback, repair, verify."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.arrivals import arriving
from benchmarks.bare import bare_rate
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.memory import of_rebuild
from benchmarks.rows import Row, Target, judged
from benchmarks.stack import Stack

READS_A_SECOND = 500
SWITCHES = 10
WARM_UP_S = 2.0
COMMAND_LIMIT_S = 1800
RSS_EVERY_S = 0.1


async def measure(stack: Stack, data: DataSet, effort: Effort) -> list[Row]:
    """Measure on a stack that has applied `data` and any later events."""
    last = stack.applied()
    bare = await bare_rate(stack.nats_url, 0, last)
    return [
        *await _rebuild(stack, last, bare),
        await _verify(stack, data),
        await _repair(stack, data),
        await _switches(stack, _paths(data), effort.select_s),
    ]


async def measure_throttled(stack: Stack, data: DataSet, effort: Effort) -> Row:
    """Measure how a throttled rebuild affects readers; on a small data set, because it is slow."""
    return await _throttled(stack, _paths(data), stack.applied(), effort.idle_s)


def _paths(data: DataSet) -> list[str]:
    return [f"/customers/{customer}/campaigns" for customer in data.customers[:2_000]]


class Command:
    """A finished operator command with its duration, memory and output."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.rss_mb: list[float] = []
        self.out = ""

    async def run(self, stack: Stack, *arguments: str, codes: tuple[int, ...] = (0,)) -> "Command":
        """Run the command to its end; raise if the exit code is not in `codes`."""
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ops",
            *arguments,
            env=stack.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        sampling = asyncio.create_task(self._sample_memory(process.pid))
        async with asyncio.timeout(COMMAND_LIMIT_S):
            out, err = await process.communicate()
        self.seconds = time.perf_counter() - began
        sampling.cancel()
        if process.returncode not in codes:
            raise RuntimeError(f"{arguments} ended with {process.returncode}: {err.decode()}")
        self.out = out.decode()
        return self

    async def _sample_memory(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status")
        while status.exists():  # noqa: ASYNC240 - /proc is memory
            if match := re.search(r"VmRSS:\s+(\d+) kB", status.read_text(encoding="utf-8")):  # noqa: ASYNC240 - the same
                self.rss_mb.append(int(match[1]) / 1024)
            await asyncio.sleep(RSS_EVERY_S)

    def memory_text(self) -> str:
        """Return the maximum memory in the second and in the last quarter of the run."""
        quarter = max(1, len(self.rss_mb) // 4)
        return f"{max(self.rss_mb[quarter : 2 * quarter]):.0f} MB, then {max(self.rss_mb[-quarter:]):.0f} MB"


async def _rebuild(stack: Stack, last: int, bare: float) -> list[Row]:
    rebuild = await Command().run(stack, "rebuild", "--yes", "--no-throttle")
    rate = last / rebuild.seconds
    what = f"rebuild of {last:,} events, unthrottled, comparison and switch included"
    beside = f"nats-py merely reads them: {bare:,.0f} events/s"
    return [
        judged("W2", what, f"{rate:,.0f} events/s", beside, ratio=rate / bare, target=Target(at_least=0.5)),
        of_rebuild(max(rebuild.rss_mb), rebuild.memory_text()),
    ]


async def _verify(stack: Stack, data: DataSet) -> Row:
    verify = await Command().run(stack, "verify", "--no-throttle", "--json")
    report = json.loads(verify.out.splitlines()[-1])
    what = f"verify of {data.size.memberships:,} memberships, unthrottled"
    return Row("", what, f"{verify.seconds:.1f} s", f"{report['differences']} differences")


async def _repair(stack: Stack, data: DataSet) -> Row:
    connection = await asyncpg.connect(stack.database_url)
    customer = data.customers[7]
    name = await connection.fetchval("SELECT generation FROM control.live")
    await connection.execute(f"DELETE FROM {name}.membership WHERE customer_id = $1", customer)  # noqa: S608
    await connection.close()
    repair = await Command().run(stack, "repair", "--customer", customer)
    return Row("", "repair of one customer, process start included", f"{repair.seconds:.2f} s")


async def _switches(stack: Stack, paths: list[str], select_s: float) -> Row:
    async with arriving(stack.endpoint, paths, READS_A_SECOND):
        await asyncio.sleep(WARM_UP_S)
    async with long_select(stack, select_s), arriving(stack.endpoint, paths, READS_A_SECOND) as arrivals:
        for _ in range(SWITCHES):
            await Command().run(stack, "rollback")
    what = f"{SWITCHES} switches with a {select_s:.0f} s SELECT open, {arrivals.rate:,.0f} req/s"
    beside = f"p99 {arrivals.p99_ms():.1f} ms, {arrivals.errors} errors"
    return Row("", what, f"slowest read {max(arrivals.took_ms):.0f} ms", beside)


@asynccontextmanager
async def long_select(stack: Stack, seconds: float) -> AsyncIterator[None]:
    """Keep a SELECT on both generations running, as a report would."""
    connection = await asyncpg.connect(stack.database_url)
    names = await connection.fetch("SELECT generation FROM control.generation WHERE state = 'following'")
    tables = ", ".join(f"{row['generation']}.campaign AS {row['generation']}" for row in names)
    task: asyncio.Task[Any] = asyncio.create_task(
        connection.fetch(f"SELECT pg_sleep($1) FROM control.live, {tables} LIMIT 1", seconds)  # noqa: S608
    )
    await asyncio.sleep(0.2)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.terminate()


async def _throttled(stack: Stack, paths: list[str], events: int, idle_s: float) -> Row:
    async with arriving(stack.endpoint, paths, READS_A_SECOND) as warm:
        await asyncio.sleep(WARM_UP_S)
    async with arriving(stack.endpoint, paths, READS_A_SECOND) as idle:
        await asyncio.sleep(idle_s)
    async with arriving(stack.endpoint, paths, READS_A_SECOND) as arrivals:
        rebuild = await Command().run(stack, "rebuild", "--yes")
    ratio = arrivals.p99_ms() / idle.p99_ms()
    errors = warm.errors + idle.errors + arrivals.errors
    duration = f"{events:,} events in {rebuild.seconds:.0f} s"
    what = f"reads during a throttled rebuild ({duration}), {arrivals.rate:,.0f} req/s, {errors} errors"
    return Row("", what, f"p99 {arrivals.p99_ms():.1f} ms", f"idle p99 {idle.p99_ms():.1f} ms", f"{ratio:.2f} ×")
