"""What a run has found so far: the rows of the table, and the series that the plots show."""

from msgspec import Struct, field

from benchmarks.deep_pages import Growth
from benchmarks.load import Load
from benchmarks.rows import Row


class Findings(Struct):
    """Filled as the run goes on."""

    rows: list[Row] = field(default_factory=list)
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """What is counted a second, by what it is and by system."""
    loads: dict[str, dict[str, Load]] = field(default_factory=dict)
    """Loads of `hot` and `cold` reads by system."""
    growth: list[Growth] = field(default_factory=list)
    plans: str = ""
    """How PostgreSQL reads pages of the busy customer, as a document."""

    def in_order(self) -> list[Row]:
        """Return the rows by number, those without one last."""
        return sorted(self.rows, key=lambda row: ("RWM".find(row.number[:1]) if row.number else 3, row.number))
