"""M1: how much memory our processes take, from /proc: what is resident now, and what was at most."""

import itertools
import re
from pathlib import Path

from msgspec import Struct

from benchmarks.dataset import BUSY_CUSTOMER, DataSet
from benchmarks.effort import Effort
from benchmarks.load import under_load
from benchmarks.rows import Row, Target, figure
from benchmarks.stack import Stack

LIMIT = Target(at_most=300.0, unit="MB")
WIDE = 200
"""Items of the flood's answers: the largest page there is."""
FLOOD_PATHS = 100_000


class Resident(Struct, frozen=True):
    """Megabytes of one process."""

    now_mb: float
    most_mb: float


def resident(pid: int) -> Resident:
    """Return what a process takes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = {name: int(kb) / 1024 for name, kb in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}
    return Resident(found["VmRSS"], found["VmHWM"])


async def of_api(stack: Stack, data: DataSet, effort: Effort) -> Row:
    """Flood the API with requests no two of which are the same, large pages and small, and look."""
    paths = [
        f"/customers/{asked}/campaigns?limit={WIDE}&flood={number}"
        for number, customer in enumerate(itertools.islice(itertools.cycle(data.customers), FLOOD_PATHS // 2))
        for asked in (customer, BUSY_CUSTOMER)
    ]
    flood = await under_load(stack.endpoint, paths, effort.flood_s)
    told = f"{flood.rate * effort.flood_s:,.0f} distinct requests, half of them {WIDE} items"
    return _row("API, its memory of answers full", resident(stack.api.pid), told)


def of_projector(stack: Stack, told: str) -> Row:
    """Look at the projector after what it has been through."""
    return _row("projector", resident(stack.projector.pid), told)


def of_rebuild(most_mb: float, quarters: str) -> Row:
    """Return the row of a rebuild that was watched while it ran."""
    return figure("M1", "memory of the rebuild, at most", most_mb, f"2nd and last quarter: {quarters}", target=LIMIT)


def _row(what: str, found: Resident, told: str) -> Row:
    beside = f"{found.now_mb:.0f} MB now; {told}"
    return figure("M1", f"memory of the {what}, at most", found.most_mb, beside, target=LIMIT)
