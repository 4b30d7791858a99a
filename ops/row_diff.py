"""A differing row in words: which table and row, and column by column what is held and what the stream says."""

from typing import Any

from projections.maintenance.differences import Difference


def describe_difference(difference: Difference) -> str:
    """Return the row on a line, and a line a column under it."""
    key = " ".join(f"{name}={value}" for name, value in difference.key.items())
    row = f"{difference.table} {key}"
    if not difference.held_json:
        return f"{row}\n    is missing; the stream has it"
    if not difference.expected_json:
        return f"{row}\n    is there; the stream knows nothing of it"
    columns = [
        f"    {column} is {_text(held)}; the stream says {_text(wanted)}"
        for column, held, wanted in difference.columns()
    ]
    return "\n".join([row, *columns])


def _text(value: Any) -> str:  # noqa: ANN401 - any column
    return "null" if value is None else str(value)
