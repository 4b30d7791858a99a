"""Writes docs/benchmarks.md."""

from benchmarks.findings import Findings


def write(findings: Findings) -> None:
    """Write."""
