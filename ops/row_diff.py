"""Describes a differing row: its table and key, and per column the stored and the expected value."""

from typing import Any

from projections.maintenance.differences import Difference


def describe_difference(difference: Difference) -> str:
    """Return one line for the row, then one line per differing column."""
    key = " ".join(f"{name}={value}" for name, value in difference.key.items())
    row = f"{difference.table} {key}"
    if not difference.held_json:
        return f"{row}\n    missing row: expected from the stream"
    if not difference.expected_json:
        return f"{row}\n    unexpected row: not derivable from the stream"
    columns = [
        f"    {column} is {_text(stored)}; expected {_text(expected)}"
        for column, stored, expected in difference.columns()
    ]
    return "\n".join([row, *columns])


def _text(value: Any) -> str:  # noqa: ANN401 - any column
    return "null" if value is None else str(value)
