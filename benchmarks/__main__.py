"""Runs all benchmarks on the standard data set and prints the table; a full run also writes docs/benchmarks.md."""

import asyncio
import os
import sys
import time

from rich.console import Console

from benchmarks import (
    catch_up,
    cold_reads,
    deep_pages,
    freshness,
    histories,
    hot_reads,
    memory,
    one_campaign,
    operations,
    overload,
    plans,
    publishing,
    replicas,
    report,
    scale,
    status_change,
    workers,
)
from benchmarks.dataset import BUSY_CUSTOMER, LESS_BUSY, STANDARD, DataSet
from benchmarks.effort import FULL, QUICK, Effort, chosen
from benchmarks.findings import Findings
from benchmarks.peer_processes import ROOT, fastapi
from benchmarks.peers.load import load
from benchmarks.rows import show
from benchmarks.stack import Stack, running

SCALE = "SCALE"
"""The environment variable that selects a run at another size, see scale.py."""


class Run:
    """One run: all measurements in sequence, on a stack with the standard data set."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._data = DataSet(STANDARD.of(effort.share))
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self.findings = Findings()

    async def measure_all(self) -> None:
        """Measure everything: reads first, then writes, and last what creates another generation."""
        async with running() as stack:
            await self._load(stack, self._data)
            await self._reads(stack)
            await self._writes(stack)
            self._report("operator commands")
            self.findings.rows += await operations.measure(stack, self._data, self._effort)
        async with running() as stack:
            # A throttled rebuild is slow, so even a full run uses a small data set.
            data = DataSet(STANDARD.of(QUICK.share))
            await self._load(stack, data)
            self._report("a throttled rebuild")
            self.findings.rows.append(await operations.measure_throttled(stack, data, self._effort))
        self._report("done")

    async def _load(self, stack: Stack, data: DataSet) -> None:
        self._report(f"publishing {data.size.memberships:,} memberships with their customers and campaigns")
        last = await stack.publish(data.events())
        self._report(f"applying {last:,} events")
        await stack.wait_for(last)

    async def _reads(self, stack: Stack) -> None:
        effort, data, findings = self._effort, self._data, self.findings
        findings.plans = await plans.document(stack.database_url)
        self._report("comparing the peer's answers with ours")
        await load(stack.database_url)
        customers = [BUSY_CUSTOMER, *LESS_BUSY.values(), *data.customers[: catch_up.COMPARED]]
        await catch_up.compare(stack, customers, effort.same_answers)
        async with fastapi(stack) as peer:
            self._report("hot reads")
            hot = await hot_reads.measure(stack, peer, data, effort)
            self._report("cold reads")
            cold = await cold_reads.measure(stack, peer, data, effort)
            self._report("two workers")
            findings.rows += await workers.measure(stack, list(hot.paths), data, effort)
            self._report("reads from a replica")
            findings.rows.append(await replicas.measure(stack, data, effort))
            self._report("deep pages")
            deep = await deep_pages.measure(stack, peer, data, effort)
        findings.loads = {"hot": hot.loads, "cold": cold.loads}
        findings.growth = deep.growth
        rates = {name: {system: load.rate for system, load in loads.items()} for name, loads in findings.loads.items()}
        findings.rates |= {
            "Hot reads, requests a second (R1)": rates["hot"],
            "Cold reads, requests a second (R2)": {"the page query alone": cold.bound} | rates["cold"],
        }
        findings.rows += [*hot.rows, *cold.rows, *deep.rows]
        self._report("hot reads while events are applied")
        findings.rows += await hot_reads.measure_while_applying(stack, data, effort, hot)
        findings.rows.append(await freshness.measure(stack, data, effort.freshness_samples))
        self._report("histories of memberships")
        findings.rows.append(await histories.measure(stack, data, effort.freshness_samples))
        self._report("overload")
        findings.rows += await overload.measure(stack, data, effort)
        self._report("memory of the API")
        findings.rows.append(await memory.of_api(stack, data, effort))

    async def _writes(self, stack: Stack) -> None:
        effort, data, rows = self._effort, self._data, self.findings.rows
        self._report("a status change of the busy campaign")
        rows += await status_change.measure(stack, data, effort)
        self._report("counter events on one campaign")
        rows += await one_campaign.measure(stack, data, effort)
        self._report("catch-up, FastStream's and ours")
        caught_up = await catch_up.measure(stack, data, effort)
        self.findings.rates["Catch-up, events a second (W1)"] = caught_up.rates
        rows += caught_up.rows
        self._report("publishing by the client")
        rows.append(await publishing.measure(data, effort.live_events))
        rows.append(memory.of_projector(stack, f"after a catch-up of {effort.live_events:,} mixed events"))

    def _report(self, step: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.0f} s  {step} …")


async def main() -> None:
    """Measure and print; after a full run, write the page."""
    effort = chosen()
    if SCALE in os.environ:
        factor = float(os.environ[SCALE])
        scale.keep(scale.size_of(factor).memberships, await scale.measure(factor, effort))
        sys.stdout.write("\n".join(scale.table()) + "\n")
        return
    run = Run(effort)
    try:
        await run.measure_all()
    finally:  # what was measured before a failure is shown, too
        show(run.findings.in_order())
    if effort is FULL:
        report.write(run.findings, ROOT / "docs", scale.table())


if __name__ == "__main__":
    asyncio.run(main())
