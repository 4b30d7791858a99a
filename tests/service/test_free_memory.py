"""Memory that was freed below a block in use goes back to the operating system."""

import subprocess
import sys

PROGRAM = """
from pathlib import Path
from service.free_memory import return_free_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

blocks = [bytes(10_000) for _ in range(6_000)]
kept = blocks[-1]  # glibc returns nothing below it
blocks.clear()
before = resident_mb()
return_free_memory()
print(before - resident_mb())
"""


def test_free_memory_below_a_used_block_is_returned() -> None:
    command = (sys.executable, "-c", PROGRAM)
    completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own program
    assert float(completed.stdout) > 40
