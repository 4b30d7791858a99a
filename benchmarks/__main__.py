"""Runs every benchmark on a stack of its own and prints the table; QUICK=1 takes less of everything."""

import asyncio
import os
from typing import Final

from rich.console import Console

from benchmarks import freshness, intake, operations, reads
from benchmarks.dataset import STANDARD, DataSet
from benchmarks.rows import show
from benchmarks.stack import running
from ops.dev.demo import demo_events

SMALL: Final = 0.05
"""The share of the standard data set that a quick run, or a slow job, makes do with."""
QUICK: Final = bool(os.environ.get("QUICK"))


async def main() -> None:
    """Measure and print."""
    console = Console(stderr=True)
    async with running() as stack:
        console.print("Loading the demo data set …")
        await stack.wait_for(await stack.publish(demo_events()))
        console.print("Measuring freshness …")
        rows = [await freshness.measure(stack, 50 if QUICK else 200)]
        console.print("Measuring reads …")
        rows += await reads.measure(stack, 2 if QUICK else 10)
        console.print("Measuring catch-up …")
        rows.append(await intake.measure(stack, 50_000 if QUICK else 250_000))
    async with running() as stack:
        data = DataSet(STANDARD.of(SMALL))
        await stack.wait_for(await stack.publish(data.events()))
        console.print("Measuring a throttled rebuild …")
        rows.append(await operations.measure_throttled(stack, data, quick=QUICK))
    async with running() as stack:
        data = DataSet(STANDARD.of(SMALL) if QUICK else STANDARD)
        console.print("Loading the standard data set …")
        await stack.wait_for(await stack.publish(data.events()))
        console.print("Measuring an operator's work …")
        rows += await operations.measure(stack, data, quick=QUICK)
    show(rows)


if __name__ == "__main__":
    asyncio.run(main())
