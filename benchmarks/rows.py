"""The rows of the table: their verdicts, number formats and printing."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

COLUMNS = ("row", "what", "ours", "beside it", "ratio", "target", "")


class Row(NamedTuple):
    """One figure beside its peer or bound, both from this run, so that their ratio is meaningful on any machine."""

    number: str
    """The number of the target: R1, W3, …; empty without a target."""
    what: str
    ours: str
    beside: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Return "met" or "missed"; empty without a target."""
        return "" if self.met is None else "met" if self.met else "missed"


class Target(NamedTuple):
    """A lower or upper bound for a ratio or figure."""

    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        """Return whether `value` is within the bound."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def __str__(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:,g} {self.unit}".rstrip()


def judged(number: str, what: str, ours: str, beside: str, *, ratio: float, target: Target) -> Row:
    """Return a row whose ratio is judged against a target."""
    return Row(number, what, ours, beside, f"{ratio:,.2f} ×", f"{target} ×", target.met(ratio))


def figure(number: str, what: str, value: float, beside: str = "", *, target: Target, digits: int = 0) -> Row:
    """Return a row whose figure itself is judged against a target."""
    shown = f"{value:,.{digits}f} {target.unit}"
    return Row(number, what, shown, beside, "", str(target), target.met(value))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def middle(values: Sequence[float]) -> str:
    """Return median and 99th percentile in milliseconds as text."""
    return f"median {statistics.median(values):.2f} ms, p99 {percentile(values, 0.99):.1f} ms"


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(*COLUMNS, box=None)
    for row in rows:
        table.add_row(*row[:-1], row.verdict)
    Console(width=170).print(table)
