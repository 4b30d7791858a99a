"""The results of a run so far: the rows of the table and the series of the plots."""

from msgspec import Struct, field

from benchmarks.deep_pages import Growth
from benchmarks.load import Load
from benchmarks.rows import Row


class Findings(Struct):
    """Filled during the run."""

    rows: list[Row] = field(default_factory=list)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Rates per second, by measurement and system."""
    loads: dict[str, dict[str, Load]] = field(default_factory=dict)
    """Loads of `hot` and `cold` reads by system."""
    growth: list[Growth] = field(default_factory=list)
    plans: str = ""
    """The text of docs/plans.md."""

    def in_order(self) -> list[Row]:
        """Return the rows by number, those without one last."""
        return sorted(self.rows, key=lambda row: ("RWM".find(row.number[:1]) if row.number else 3, row.number))
