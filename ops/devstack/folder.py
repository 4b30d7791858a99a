"""The dev stack's data directory: who may use it, its secret, what it remembers, and what it tells other programs.

Invariants: `dev.lock` is held by `membership dev` alone, `stack.lock` by all its children too, so that a new start can
wait until the children of a run that was killed are gone. Files that hold secrets are their owner's alone; every file
is replaced whole, so that a reader or a kill never meets half of one.
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

LEFTOVERS_GONE_S: Final = 30.0
LOG_BYTES_MAX: Final = 10_000_000


class DevRefused(MembershipError):
    """`membership dev` cannot run here as it was asked to."""

    code = "dev_refused"


class State(msgspec.Struct):
    """What one run leaves for the next."""

    ports: dict[str, int] = {}
    demo: Literal["undecided", "declined", "published"] = "undecided"
    """Decided at the first start, once and for all; published means that every receipt was there."""


class DevFolder:
    """One data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dev_json = root / "dev.json"
        self.trial = root / "try.ndjson"
        self._state = root / "state.json"
        self._secret = root / "jwt_secret"
        self._locks: list[int] = []

    def lock(self) -> None:
        """Create the directory and become its only `membership dev`; raises `DevRefused` if another runs."""
        try:
            (self.root / "log").mkdir(mode=0o755, parents=True, exist_ok=True)
            mine = self._open_lock("dev.lock")
        except OSError as problem:
            why = error_text(problem)
            raise DevRefused(f"{self.root} cannot be used: {why}. Choose another with --data-dir.") from problem
        if not _locked(mine):
            pid = os.pread(mine, 20, 0).decode().strip() or "unknown"
            raise DevRefused(
                f"`membership dev` is already running on {self.root}, pid {pid}; dev.json in there says where. End "
                f"it with Ctrl-C or `kill {pid}`, or start another one beside it with --data-dir and --port."
            )
        os.ftruncate(mine, 0)
        os.pwrite(mine, f"{os.getpid()}\n".encode(), 0)

    def wait_until_unused(self) -> Iterator[float]:
        """Wait, in steps, until no child of an earlier run lives; remove what that run could not."""
        ends = time.monotonic() + LEFTOVERS_GONE_S
        shared = self._open_lock("stack.lock")
        while not _locked(shared):
            if time.monotonic() > ends:
                raise DevRefused(
                    f"Processes of an earlier run still use {self.root}. End them and start again: {self._earlier_pids()}."
                )
            yield POLL_S
        self.remove_description()

    @property
    def shared_lock(self) -> int:
        """The descriptor that every child holds too."""
        return self._locks[-1]

    def unlock(self) -> None:
        """Let go of both locks."""
        while self._locks:
            os.close(self._locks.pop())

    def log(self, name: str) -> Path:
        """Return a log's path; one that has grown large over earlier runs makes place for a new one."""
        log = self.root / "log" / f"{name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        return log

    def state(self) -> State:
        """Return what the last run left."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return State()

    def save_state(self, state: State) -> None:
        """Leave this for the next run."""
        _replace(self._state, msgspec.json.format(msgspec.json.encode(state)))

    def jwt_secret(self) -> str:
        """Return this directory's own secret, made at its first use."""
        if not self._secret.exists():
            _replace(self._secret, secrets.token_urlsafe(48).encode())
        return self._secret.read_text(encoding="ascii").strip()

    def write_trial(self, event: dict[str, Any] | None) -> None:
        """Leave an event to be published by whoever is curious."""
        if event:
            _replace(self.trial, json.dumps(event).encode() + b"\n")

    def describe(self, stack: dict[str, Any]) -> None:
        """Tell other programs that the stack runs, and where."""
        _replace(self.dev_json, json.dumps(stack, indent=2).encode() + b"\n")

    def remove_description(self) -> None:
        """Take that back."""
        self.dev_json.unlink(missing_ok=True)

    def _open_lock(self, name: str) -> int:
        self._locks.append(os.open(self.root / name, os.O_RDWR | os.O_CREAT, 0o644))
        return self._locks[-1]

    def _earlier_pids(self) -> str:
        with suppress(OSError, ValueError, KeyError):
            pids = json.loads(self.dev_json.read_text(encoding="utf-8"))["pids"]
            return ", ".join(f"{name} was pid {pid}" for name, pid in pids.items())
        return "they are postgres, nats-server and `python -m ops`"


def _locked(descriptor: int) -> bool:
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
