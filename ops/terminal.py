"""Terminal output of commands: results on standard output, errors and progress on standard error."""

import asyncio
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

PIPE_WIDTH = 200
"""The width of output to a pipe, which has none; enough for most tables."""
FOLDED_WIDTH_MIN = 20
"""The narrowest readable column of text that is folded into lines."""
PADDING = 2
"""Characters that a table adds to each column."""


def fail(sentence: str, code: int = 1) -> int:
    """Print a sentence on standard error and return the exit code."""
    print(sentence, file=sys.stderr)
    return code


def console() -> Console:
    """Return the console that prints tables."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], folded: Collection[str]) -> None:
    """Print a table in which only the `folded` columns may wrap: ids and times must be copied whole.

    If the terminal is too narrow, each row is printed as lines of `heading: value` instead.
    """
    out = console()
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = []
    for heading, *cells in zip(headings, *rows, strict=True):
        width = max(map(cell_len, (heading, *cells)))
        if heading in folded:
            columns.append(Column(heading, overflow="fold", min_width=min(width, FOLDED_WIDTH_MIN)))
        else:
            columns.append(Column(heading, no_wrap=True, min_width=width))
    if sum((column.min_width or 0) + PADDING for column in columns) > out.width:
        for row in rows:
            out.print(Text("\n".join(f"{heading}: {cell}" for heading, cell in zip(headings, row, strict=True)) + "\n"))
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def printable(text: str) -> str:
    """Return a text of producers or callers with what a terminal would obey shown as escapes; lines stay lines."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def progress() -> Progress:
    """Return a progress bar that disappears when it ends."""
    return Progress(console=Console(stderr=True), transient=True)


def format_time(instant: datetime) -> str:
    """Return a time as all commands print it: UTC, to the second."""
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def confirm(question: str) -> bool:
    """Ask at the terminal and return whether the answer was yes; Ctrl-C works while it waits."""
    print(f"{question} [y/N] ", end="", flush=True)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not answer.done():
            answer.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin.fileno(), read)
    try:
        return (await answer).strip().lower() in {"y", "yes"}
    finally:
        loop.remove_reader(sys.stdin.fileno())
