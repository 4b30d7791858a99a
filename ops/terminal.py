"""Terminal output of commands: results on standard output, errors and progress on standard error."""

import asyncio
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress

PIPE_WIDTH = 200
"""A pipe has no width; wide enough not to cut table cells."""


def fail(sentence: str, code: int = 1) -> int:
    """Print a sentence on standard error and return the exit code."""
    print(sentence, file=sys.stderr)
    return code


def console() -> Console:
    """Return the console that prints tables."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


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


def counted(number: int, what: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def escaped(text: str) -> str:
    """Escape text that rich would read as markup."""
    return text.replace("[", r"\[")
