"""How many cores this process may use, where a container may allow fewer than the machine has."""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

CPU_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")
"""The limit of a container (cgroup v2): microseconds of CPU time per period, or `max`."""


def cores() -> int:
    """Return the number of cores, at least 1; a fraction counts as a core."""
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(present, _limit()))


def _limit() -> int:
    with suppress(OSError, ValueError):
        quota, period = CPU_LIMIT.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    return os.cpu_count() or 1
