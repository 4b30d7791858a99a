"""M1: memory of our processes from /proc: resident now, and the maximum so far."""

import itertools
import re
from pathlib import Path

from msgspec import Struct

from benchmarks.dataset import BUSY_CUSTOMER, DataSet
from benchmarks.effort import Effort
from benchmarks.load import under_load
from benchmarks.proc import children
from benchmarks.rows import Row, Target, figure
from benchmarks.stack import Stack

LIMIT = Target(at_most=300.0, unit="MB")
WIDE = 200
"""Items per page of the flood: the largest page size."""
FLOOD_PATHS = 100_000


class Resident(Struct, frozen=True):
    """Megabytes of one process."""

    now_mb: float
    most_mb: float


def resident(pid: int) -> Resident:
    """Return the memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    sizes_mb = {name: int(kb) / 1024 for name, kb in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)}
    return Resident(sizes_mb["VmRSS"], sizes_mb["VmHWM"])


async def of_api(stack: Stack, data: DataSet, effort: Effort) -> Row:
    """Send the API unique requests for small and large customers until its cache is full, then read its memory."""
    paths = [
        f"/customers/{requested}/campaigns?limit={WIDE}&flood={number}"
        for number, customer in enumerate(itertools.islice(itertools.cycle(data.customers), FLOOD_PATHS // 2))
        for requested in (customer, BUSY_CUSTOMER)
    ]
    flood = await under_load(stack.endpoint, paths, effort.flood_s)
    note = f"{flood.rate * effort.flood_s:,.0f} distinct requests, half of them {WIDE} items"
    (worker,) = children(stack.api.pid)
    note += f"; its supervisor {resident(stack.api.pid).most_mb:.0f} MB"
    return _row("API's worker, its memory of answers full", resident(worker), note)


def of_projector(stack: Stack, note: str) -> Row:
    """Return the row of the projector; `note` names the work it has done."""
    return _row("projector", resident(stack.projector.pid), note)


def of_rebuild(most_mb: float, quarters: str) -> Row:
    """Return the row of a rebuild whose memory was sampled while it ran."""
    return figure("M1", "memory of the rebuild, at most", most_mb, f"2nd and last quarter: {quarters}", target=LIMIT)


def _row(process: str, memory: Resident, note: str) -> Row:
    beside = f"{memory.now_mb:.0f} MB now; {note}"
    return figure("M1", f"memory of the {process}, at most", memory.most_mb, beside, target=LIMIT)
