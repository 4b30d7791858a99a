"""Runs the console examples of a page in one shell, and compares what they print with what the page shows.

On the page, a line that starts with `$ ` is a command, and what follows is its output, also a plain block directly
after it. Numbers, times and random ids may differ; `…` stands for any text, and alone on a line for any lines. A
command whose output is not shown must succeed; its output is not compared. Before a block that is not run here, an HTML
comment says `not run: <reason>; held by <test file>::<test>`.
"""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

COMMAND_DEADLINE_S: Final = 60.0
OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
"""The longest line that a command prints."""
_MARK: Final = "=== exit code "
_BLOCK: Final = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^>]*?) -->\n)?^(?P<indent>[ ]*)```console\n(?P<text>.*?)^[ ]*```\n"
    r"(?:^[ ]*```\n(?P<output>.*?)^[ ]*```\n)?",
    re.MULTILINE | re.DOTALL,
)
_VOLATILE: Final = (
    (re.compile(r"eyJ[\w.-]+"), "<token>"),
    (re.compile(r"mbr_\w+"), "<key>"),
    (re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{12}\b(?!-)"), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?"), "<time>"),
    (re.compile(r"\b\w+@[\w.-]+"), "<operator>"),
    (re.compile(r"\s+"), " "),
)
"""What differs between any two runs, and what it is compared as."""
_NUMBER: Final = re.compile(r"\d[\d,]*(\.\d+)?")
"""Differs on a stack that was used before: positions, counts, generations."""


_NOTICE: Final = "Using the dev stack described in "
"""Said on standard error by every command in the folder of a dev stack; the pages leave it out."""


class Command(NamedTuple):
    """A command of a page and the output that the page shows."""

    text: str
    expected: list[str]


class Block(NamedTuple):
    """A console block."""

    commands: list[Command]
    reason: str | None
    """Why it is not run here, and what holds it instead."""


def blocks(page: str) -> list[Block]:
    """Return the console blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(page):
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        commands = list(_commands(lines))
        if match["output"] is not None:
            commands[-1].expected.extend(match["output"].splitlines())
        found.append(Block(commands, match["reason"]))
    return found


def _commands(lines: list[str]) -> Iterator[Command]:
    current: Command | None = None
    for line in lines:
        if line.startswith("$ ") and (current is None or _is_complete(current.text)):
            if current is not None:
                yield current
            current = Command(line.removeprefix("$ "), [])
        elif current is not None and not current.expected and not _is_complete(current.text):
            current = Command(f"{current.text}\n{line}", [])
        elif current is not None:
            current.expected.append(line)
    if current is not None:
        yield current


def _is_complete(text: str) -> bool:
    """Return whether a shell would run this text now, instead of waiting for a quote, a here-document or a line."""
    checked = subprocess.run(
        ["/bin/bash", "-n"], input=f"{text}\n", check=False, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S
    )
    return checked.returncode == 0 and not checked.stderr and not text.endswith("\\")


class Shell:
    """A bash process; the commands of a page share its variables, as those of a reader do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path, path: str) -> "Shell":
        """Start a shell in a folder, without this process's settings."""
        environment = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "--norc",
            "--noprofile",
            cwd=folder,
            env=environment | {"PATH": path, "COLUMNS": "400", "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=OUTPUT_BYTES_MAX,
        )
        return cls(process)

    async def run(self, command: str) -> tuple[list[str], int]:
        """Run a command; return the lines it printed and its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode() + f"printf '\\n{_MARK}%s\\n' $?\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            while True:
                line = (await self._process.stdout.readline()).decode().rstrip("\n")
                if line.startswith(_MARK):
                    return (lines[:-1] if lines and not lines[-1] else lines), int(line.removeprefix(_MARK))
                assert line or not self._process.stdout.at_eof(), f"the shell ended in {command!r}: {lines}"
                lines.append(line)

    async def close(self) -> None:
        """End the shell."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(COMMAND_DEADLINE_S):
            await self._process.wait()


def matches(expected: list[str], printed: list[str], *, exact: bool = False) -> bool:
    """Return whether the printed lines are those of the page; `exact`: numbers too, as on a new stack."""
    pattern = "".join(_line_pattern(line, exact) for line in _meaningful(expected))
    text = "".join(f"{_comparable(line, exact)}\n" for line in _meaningful(printed))
    return re.fullmatch(pattern, text) is not None


def _meaningful(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip() and not line.startswith(_NOTICE)]


def _line_pattern(line: str, exact: bool) -> str:
    if line.strip() == "…":
        return "(?:.*\n)*"
    return ".*".join(re.escape(_comparable(part, exact)) for part in line.split("…")) + "\n"


def _comparable(text: str, exact: bool) -> str:
    for volatile, placeholder in _VOLATILE:
        text = volatile.sub(placeholder, text)
    return (text if exact else _NUMBER.sub("#", text)).strip()
