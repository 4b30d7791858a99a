"""How cost grows with the number of memberships: a short run at one size, whose figures are kept in scale.json.

`make bench SCALE=10` measures ten times the standard data set by hand, because it takes half an hour. The busy customer
has at most 100,000 memberships, so that its pages are comparable. docs/benchmarks.md shows every size measured so far.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
from rich.console import Console

from benchmarks import operations, proc
from benchmarks.catch_up import caught_up
from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import BUSY_CUSTOMER, STANDARD, DataSet, Size
from benchmarks.deep_pages import times_ms
from benchmarks.effort import Effort
from benchmarks.load import under_load
from benchmarks.memory import resident
from benchmarks.peer_processes import ROOT
from benchmarks.plots import scale_plot
from benchmarks.report import revision
from benchmarks.stack import Stack, running

KEPT: Final = Path(__file__).with_name("scale.json")
PLOT: Final = ROOT / "docs" / "benchmarks" / "scale.svg"
FIGURES: Final = (
    "page 1, ms",
    "last page, ms",
    "cold reads/s",
    "mixed events applied/s",
    "rebuild, events/s",
    "verify, s",
    "disk, bytes a membership",
    "API's worker, MB",
    "projector, MB",
    "rebuild, MB",
)
Figures = Mapping[str, float]


def size_of(scale: float) -> Size:
    """Return the standard size multiplied, but for the busy customer, which is in as many campaigns as before."""
    size = STANDARD.of(scale)
    return size._replace(busy=min(size.memberships // 10, STANDARD.busy), campaigns=max(20, size.campaigns))


async def measure(scale: float, effort: Effort) -> Figures:
    """Load a data set of this size, and measure what may grow with it."""
    data, console = DataSet(size_of(scale)), Console(stderr=True)
    async with running() as stack:
        console.print(f"publishing and applying {data.size.memberships:,} memberships …")
        await stack.wait_for(await stack.publish(data.events()))
        console.print("reads, catch-up, rebuild, verify …")
        return await _figures(stack, data, effort)


async def _figures(stack: Stack, data: DataSet, effort: Effort) -> Figures:
    pages = {"page 1, ms": "", "last page, ms": f"&offset={data.size.busy - 10}"}
    medians = await times_ms(stack.endpoint, BUSY_CUSTOMER, pages, effort.latency_samples)
    cold = await under_load(stack.endpoint, distinct_paths(data, effort, 0), effort.read_s)
    applied, _ = await caught_up(stack, data.live_events(effort.live_events))
    disk = await _disk_bytes(stack)
    last = stack.applied()
    rebuild = await operations.Command().run(stack, "rebuild", "--yes", "--no-throttle")
    verify = await operations.Command().run(stack, "verify", "--no-throttle", "--json")
    (worker,) = proc.children(stack.api.pid)
    figures = {what: statistics.median(samples) for what, samples in medians.items()}
    return figures | {
        "cold reads/s": cold.rate,
        "mixed events applied/s": applied,
        "rebuild, events/s": last / rebuild.seconds,
        "verify, s": verify.seconds,
        "disk, bytes a membership": disk / data.size.memberships,
        "API's worker, MB": resident(worker).most_mb,
        "projector, MB": resident(stack.projector.pid).most_mb,
        "rebuild, MB": max(rebuild.rss_mb),
    }


async def _disk_bytes(stack: Stack) -> int:
    """Return the size of the live generation, indexes included."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        return int(
            await connection.fetchval(
                "SELECT sum(pg_total_relation_size(pg_class.oid)) FROM pg_class "
                "JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN control.live ON nspname = live.generation "
                "WHERE relkind = 'r'"
            )
        )
    finally:
        await connection.close()


def keep(memberships: int, figures: Figures) -> None:
    """Add the figures of one size to those kept."""
    kept = read()
    kept[str(memberships)] = {"commit": revision(), **{name: round(value, 2) for name, value in figures.items()}}
    ordered = {size: kept[size] for size in sorted(kept, key=int)}
    KEPT.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    PLOT.write_text(scale_plot(ordered), encoding="utf-8")


def read() -> dict[str, dict[str, float | str]]:
    """Return the figures kept, by number of memberships."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def table() -> list[str]:
    """Return the lines of a Markdown table of the figures kept, one column a size."""
    kept = read()
    if not kept:
        return ["Not measured yet."]
    sizes = sorted(kept, key=int)
    lines = [["memberships", *(f"{int(size):,}" for size in sizes)], ["---"] * (len(sizes) + 1)]
    lines += [[name, *(_shown(kept[size].get(name)) for size in sizes)] for name in FIGURES]
    lines.append(["commit", *(str(kept[size]["commit"]) for size in sizes)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _shown(figure: float | str | None) -> str:
    return f"{figure:,}" if isinstance(figure, int | float) else "not measured"
