"""What a row of the table is, and how all of them are printed."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """One figure beside its bound; both from this run, so that their ratio means something on any machine."""

    what: str
    measured: str
    bound: str
    ratio: str


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("what", "measured", "beside it", "ratio", box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
