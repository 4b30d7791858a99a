"""Runs the `membership` command as an operator does, and returns its exit code and output."""

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple


class CompletedCommand(NamedTuple):
    code: int
    out: str
    err: str


async def membership(environment: dict[str, str], *arguments: str, cwd: Path | None = None) -> CompletedCommand:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops",
        *arguments,
        env={name: value for name, value in environment.items() if value} | {"COLUMNS": "200"},
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return CompletedCommand(process.returncode, out.decode(), err.decode())
