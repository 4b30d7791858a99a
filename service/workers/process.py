"""The supervisor's handle of one worker: process, socket, last report.

Invariants: the process is started from the event loop's thread, because Linux ends a child when the thread that started
it ends. It runs in its own session, so that a terminal's Ctrl-C reaches only the supervisor.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, assert_never

import msgspec

from service.workers.messages import (
    FROM_WORKER,
    LINE_BYTES_MAX,
    FromSupervisor,
    Measure,
    Measured,
    Ready,
    Scraped,
    Snapshot,
    Started,
    line,
)

MEASURE_S: Final = 0.5
"""How long a worker may take to send its metrics; then its last known ones are used."""
END_S: Final = 5.0
"""How long the kernel may take to end a process after SIGKILL."""


class WorkerProcess:
    """A running worker."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        on_scrape: Callable[["WorkerProcess"], None],
    ) -> None:
        self._process = process
        self._reader, self._writer = channel
        self._on_scrape = on_scrape
        self._measured: asyncio.Event = asyncio.Event()
        self.pid = process.pid
        self.metrics: Snapshot = ()
        """The last metrics it sent."""
        self.unanswered = 0
        """How many of the regular requests for its metrics in a row it has not answered."""
        self.started = asyncio.Event()
        self.ready = asyncio.Event()
        self.ended: asyncio.Task[int] = asyncio.create_task(self._until_ended(), name=f"worker {process.pid}")
        """Returns the exit code once the process is gone and everything it sent was read."""

    @classmethod
    async def launch(
        cls, command: Sequence[str], listener: socket.socket, on_scrape: Callable[["WorkerProcess"], None]
    ) -> "WorkerProcess":
        """Start `command`; it gets the supervisor's process id and the two inherited descriptors as arguments.

        Raises OSError if the operating system cannot.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            inherited = (listener.fileno(), theirs.fileno())
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    *map(str, (os.getpid(), *inherited)),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=inherited,
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        return cls(process, await asyncio.open_unix_connection(sock=ours, limit=LINE_BYTES_MAX), on_scrape)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return not self.ended.done()

    def send(self, message: FromSupervisor) -> None:
        """Send a message; it is lost if the worker ends."""
        if not self._writer.is_closing():
            self._writer.write(line(message))

    def signal(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def measure(self) -> bool:
        """Ask for its metrics; return whether they came within `MEASURE_S`. A worker that is starting has none yet."""
        if not self.started.is_set():
            return True
        self._measured.clear()
        self.send(Measure())
        try:
            async with asyncio.timeout(MEASURE_S):
                return await self._measured.wait()
        except TimeoutError:
            return False

    async def wait_for_end(self, limit_s: float) -> bool:
        """Wait until the process has ended; after `limit_s` kill it, and return False."""
        if (await asyncio.wait({self.ended}, timeout=limit_s))[0]:
            return True
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.ended}, timeout=END_S)
        return False

    async def _until_ended(self) -> int:
        try:
            await self._receive()
        except (OSError, ValueError, msgspec.DecodeError):  # a broken connection, a line too long, no message
            self.signal(signal.SIGKILL)
        self._writer.close()
        return await self._process.wait()

    async def _receive(self) -> None:
        while received := await self._reader.readline():
            message = FROM_WORKER.decode(received)
            match message:
                case Started():
                    self.started.set()
                case Ready():
                    self.ready.set()
                case Measured():
                    self._keep(message.metrics)
                case Scraped():
                    self._keep(message.metrics)
                    self._on_scrape(self)
                case _:
                    assert_never(message)

    def _keep(self, metrics: Snapshot) -> None:
        self.metrics = metrics
        self._measured.set()
