"""The dev stack's data directory: locks, secret, state kept between runs, and `dev.json` for other programs.

Invariants: only `membership dev` holds `dev.lock`; all its children hold `stack.lock` too, so that a new start can wait
until the children of a killed run are gone. Files with secrets are readable by their owner only. Every file is replaced
atomically, so that neither a reader nor a kill leaves a partial file.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ops.devstack.servers.child import POLL_S
from projections.error_text import error_text
from projections.errors import MembershipError

PREVIOUS_RUN_GONE_S: Final = 30.0
LOG_BYTES_MAX: Final = 10_000_000


class DevRefused(MembershipError):
    """`membership dev` cannot run with these options."""

    code = "dev_refused"


class State(msgspec.Struct):
    """State that one run keeps for the next."""

    ports: dict[str, int] = {}
    nats_nodes: int | None = None
    """Number of nats-servers, decided at the first start: a single server does not become part of a cluster."""
    demo: Literal["undecided", "declined", "published"] = "undecided"
    """Decided once, at the first start; `published` means that the broker acknowledged every event."""


class DevFolder:
    """One data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dev_json = root / "dev.json"
        self.sample_event = root / "try.ndjson"
        self._state = root / "state.json"
        self._secret = root / "jwt_secret"
        self._locks: list[int] = []

    def lock(self) -> None:
        """Create the directory and take its `dev.lock`; raise `DevRefused` if another `membership dev` holds it."""
        try:
            (self.root / "log").mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = self._open_lock("dev.lock")
        except OSError as problem:
            reason = error_text(problem)
            raise DevRefused(f"{self.root} cannot be used: {reason}. Choose another with --data-dir.") from problem
        if not _try_lock(lock):
            pid = os.pread(lock, 20, 0).decode().strip() or "unknown"
            raise DevRefused(
                f"`membership dev` is already running on {self.root}, pid {pid}; dev.json in that directory has its "
                f"addresses. End it with Ctrl-C or `kill {pid}`, or start a second one with --data-dir and --port."
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def wait_until_unused(self) -> Iterator[float]:
        """Wait, in steps, until every child of an earlier run has ended; then remove its `dev.json`."""
        deadline = time.monotonic() + PREVIOUS_RUN_GONE_S
        shared = self._open_lock("stack.lock")
        while not _try_lock(shared):
            if time.monotonic() > deadline:
                raise DevRefused(
                    f"Processes of an earlier run still use {self.root}. End them and start again: "
                    f"{self._earlier_pids()}."
                )
            yield POLL_S
        self.remove_description()

    @property
    def shared_lock(self) -> int:
        """The descriptor of `stack.lock`, which every child inherits."""
        return self._locks[-1]

    def unlock(self) -> None:
        """Release both locks."""
        while self._locks:
            os.close(self._locks.pop())

    def log(self, name: str) -> Path:
        """Return the path of a log; rotate it if earlier runs made it larger than `LOG_BYTES_MAX`."""
        log = self.root / "log" / f"{name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        return log

    def state(self) -> State:
        """Return the state that the last run saved."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return State()

    def nats_nodes(self, requested: int | None) -> int:
        """Return the number of nats-servers; raise `DevRefused` if the directory was made with another."""
        state = self.state()
        made_with = state.nats_nodes or (1 if state.ports else None)
        if None not in (requested, made_with) and requested != made_with:
            raise DevRefused(
                f"{self.root} was made with {made_with} NATS nodes, and nats-server does not move a stream between a "
                "single server and a cluster. Choose another directory with --data-dir, or leave out --nats-nodes."
            )
        return requested or made_with or 1

    def save_state(self, state: State) -> None:
        """Save the state for the next run."""
        _replace(self._state, msgspec.json.format(msgspec.json.encode(state)))

    def jwt_secret(self) -> str:
        """Return this directory's secret; create it at the first use."""
        if not self._secret.exists():
            _replace(self._secret, secrets.token_urlsafe(48).encode())
        return self._secret.read_text(encoding="ascii").strip()

    def write_sample_event(self, event: dict[str, Any] | None) -> None:
        """Write an event that the user can publish to see what changes."""
        if event:
            _replace(self.sample_event, json.dumps(event).encode() + b"\n")

    def describe(self, stack: dict[str, Any]) -> None:
        """Write `dev.json`, which tells other programs that the stack runs and how to reach it."""
        _replace(self.dev_json, json.dumps(stack, indent=2).encode() + b"\n")

    def remove_description(self) -> None:
        """Remove `dev.json`."""
        self.dev_json.unlink(missing_ok=True)

    def _open_lock(self, name: str) -> int:
        self._locks.append(os.open(self.root / name, os.O_RDWR | os.O_CREAT, 0o644))
        return self._locks[-1]

    def _earlier_pids(self) -> str:
        with suppress(OSError, ValueError, KeyError):
            pids = json.loads(self.dev_json.read_text(encoding="utf-8"))["pids"]
            return ", ".join(f"{name} was pid {pid}" for name, pid in pids.items())
        return "they are postgres, nats-server and `python -m ops`"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.replace(path)
