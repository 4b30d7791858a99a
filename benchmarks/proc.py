"""Reads what Linux knows of a process: its children and the CPU time it has used."""

import os
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children: the workers of an API."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children so far, in user and in kernel mode."""
    return _cpu_s(pid) + sum(map(_cpu_s, children(pid)))


def cpu_with_ended_s(pid: int) -> float:
    """Return the same including children that have ended: PostgreSQL ends a process with each connection."""
    running = children(pid)
    return _cpu_s(pid, ended_children=True) + sum(map(_cpu_s, running))


def _cpu_s(pid: int, *, ended_children: bool = False) -> float:
    # After the name, which is in parentheses and may contain anything, come the fields from the third on.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = fields[11:15] if ended_children else fields[11:13]
    return sum(map(int, ticks)) / TICKS_PER_S
