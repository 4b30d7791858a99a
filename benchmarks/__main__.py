"""Runs every benchmark on the standard data set and prints the table; the full run also writes docs/benchmarks.md."""

import asyncio
import time

from rich.console import Console

from benchmarks import (
    catch_up,
    cold_reads,
    deep_pages,
    freshness,
    hot_reads,
    memory,
    one_campaign,
    operations,
    plans,
    report,
    status_change,
    two_processes,
)
from benchmarks.dataset import BUSY_CUSTOMER, LESS_BUSY, STANDARD, DataSet
from benchmarks.effort import FULL, QUICK, Effort, chosen
from benchmarks.findings import Findings
from benchmarks.peer_processes import ROOT, fastapi
from benchmarks.peers.load import load
from benchmarks.rows import show
from benchmarks.stack import Stack, running


class Run:
    """One run: a stack with the standard data set on which one measurement follows the other."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._data = DataSet(STANDARD.of(effort.share))
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self.findings = Findings()

    async def whole(self) -> None:
        """Measure everything; writes come after reads, and what makes another generation comes last."""
        async with running() as stack:
            await self._load(stack, self._data)
            await self._reads(stack)
            await self._writes(stack)
            self._say("an operator's work")
            self.findings.rows += await operations.measure(stack, self._data, self._effort)
        async with running() as stack:
            # A throttled rebuild takes its time, so even a full run makes do with a small set.
            data = DataSet(STANDARD.of(QUICK.share))
            await self._load(stack, data)
            self._say("a throttled rebuild")
            self.findings.rows.append(await operations.measure_throttled(stack, data, self._effort))
        self._say("done")

    async def _load(self, stack: Stack, data: DataSet) -> None:
        self._say(f"publishing {data.size.memberships:,} memberships and all that belongs to them")
        last = await stack.publish(data.events())
        self._say(f"applying {last:,} events")
        await stack.wait_for(last)

    async def _reads(self, stack: Stack) -> None:
        effort, data, findings = self._effort, self._data, self.findings
        findings.plans = await plans.document(stack.database_url)
        self._say("comparing the peer's answers with ours")
        await load(stack.database_url)
        customers = [BUSY_CUSTOMER, *LESS_BUSY.values(), *data.customers[: catch_up.COMPARED]]
        await catch_up.compare(stack, customers, effort.same_answers)
        async with fastapi(stack) as peer:
            self._say("hot reads")
            hot = await hot_reads.measure(stack, peer, data, effort)
            self._say("cold reads")
            cold = await cold_reads.measure(stack, peer, data, effort)
            self._say("two API processes")
            findings.rows += await two_processes.measure(stack, list(hot.paths), data, effort)
            self._say("deep pages")
            deep = await deep_pages.measure(stack, peer, data, effort)
        findings.loads = {"hot": hot.loads, "cold": cold.loads}
        findings.growth = deep.growth
        rates = {name: {system: load.rate for system, load in loads.items()} for name, loads in findings.loads.items()}
        findings.rates |= {
            "Hot reads, requests a second (R1)": rates["hot"],
            "Cold reads, requests a second (R2)": {"the page query alone": cold.bound} | rates["cold"],
        }
        findings.rows += [*hot.rows, *cold.rows, *deep.rows]
        self._say("hot reads while events are applied")
        findings.rows += await hot_reads.measure_while_applying(stack, data, effort, hot)
        findings.rows.append(await freshness.measure(stack, data, effort.freshness_samples))
        self._say("memory of the API")
        findings.rows.append(await memory.of_api(stack, data, effort))

    async def _writes(self, stack: Stack) -> None:
        effort, data, rows = self._effort, self._data, self.findings.rows
        self._say("a status change of the busy campaign")
        rows += await status_change.measure(stack, data, effort)
        self._say("counter events on one campaign")
        rows += await one_campaign.measure(stack, data, effort)
        self._say("catch-up, FastStream's and ours")
        caught_up = await catch_up.measure(stack, data, effort)
        self.findings.rates["Catch-up, events a second (W1)"] = caught_up.rates
        rows += caught_up.rows
        rows.append(memory.of_projector(stack, f"after a catch-up of {effort.live_events:,} mixed events"))

    def _say(self, what: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:6.0f} s  {what} …")


async def main() -> None:
    """Measure, print, and of a full run write the page."""
    effort = chosen()
    run = Run(effort)
    await run.whole()
    rows = run.findings.in_order()
    show(rows)
    if effort is FULL:
        report.write(run.findings, ROOT / "docs")


if __name__ == "__main__":
    asyncio.run(main())
