"""What a row of the table is, how its verdict is found, and how all of them are printed."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

COLUMNS = ("row", "what", "ours", "beside it", "ratio", "target", "")


class Row(NamedTuple):
    """One figure beside its peer or bound; both from this run, so that their ratio means something on any machine."""

    number: str
    """Of the numbers to reach: R1, W3, …; empty for what has no target."""
    what: str
    ours: str
    beside: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Say whether the target was met; nothing where there is none."""
        return "" if self.met is None else "met" if self.met else "missed"


class Target(NamedTuple):
    """A ratio or figure to reach, and from which side."""

    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        """Return whether `value` reaches it."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def __str__(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:,g} {self.unit}".rstrip()


def judged(number: str, what: str, ours: str, beside: str, *, ratio: float, target: Target) -> Row:
    """Return the row whose ratio is held against a target."""
    return Row(number, what, ours, beside, f"{ratio:,.2f} ×", f"{target} ×", target.met(ratio))


def figure(number: str, what: str, value: float, beside: str = "", *, target: Target, digits: int = 0) -> Row:
    """Return the row whose figure is itself held against a target."""
    shown = f"{value:,.{digits}f} {target.unit}"
    return Row(number, what, shown, beside, "", str(target), target.met(value))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def middle(values: Sequence[float]) -> str:
    """Say a median and a 99th percentile in milliseconds."""
    return f"median {statistics.median(values):.2f} ms, p99 {percentile(values, 0.99):.1f} ms"


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(*COLUMNS, box=None)
    for row in rows:
        table.add_row(*row[:-1], row.verdict)
    Console(width=170).print(table)
