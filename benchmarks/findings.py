"""What a run has found so far: the rows of the table, and the series that the plots show."""

from msgspec import Struct, field

from benchmarks.deep_pages import Growth
from benchmarks.load import Load
from benchmarks.rows import Row


class Findings(Struct):
    """Filled as the run goes on."""

    rows: list[Row] = field(default_factory=list)
    hot: dict[str, Load] = field(default_factory=dict)
    """By system, as `cold`."""
    cold: dict[str, Load] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)

    def in_order(self) -> list[Row]:
        """Return the rows by number, those without one last."""
        return sorted(self.rows, key=lambda row: ("RWM".find(row.number[:1] or "M"), row.number or "M9"))
