"""A worker's end of the socket to its supervisor."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, assert_never

from service.workers.messages import (
    FROM_SUPERVISOR,
    LINE_BYTES_MAX,
    Combined,
    FromSupervisor,
    FromWorker,
    Measure,
    Measured,
    Ready,
    Retire,
    Scraped,
    Snapshot,
    Started,
    line,
)

SCRAPE_S: Final = 2.0
"""How long the supervisor may take to collect the metrics of all workers; it waits `process.MEASURE_S` for each."""
SCRAPES_MAX: Final = 8
"""Scrapes under way at the same time; further ones are refused, like one that takes too long."""


class SupervisorSilent(Exception):
    """The supervisor did not send the metrics of all workers in time."""


class SupervisorLink:
    """Reports this worker's state to the supervisor, and carries out its requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, own: Callable[[], Snapshot]) -> None:
        self._reader = reader
        self._writer = writer
        self._own = own
        """Returns this worker's metrics."""
        self._scrapes: list[asyncio.Future[Snapshot]] = []
        self.retired = asyncio.Event()
        """Set once another worker has taken this one's place."""
        self.lost = asyncio.Event()
        """Set once the supervisor is gone."""

    @classmethod
    async def open(cls, descriptor: int, own: Callable[[], Snapshot]) -> "SupervisorLink":
        """Open the inherited socket."""
        channel = socket.socket(fileno=descriptor)
        channel.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=channel, limit=LINE_BYTES_MAX), own)

    def started(self) -> None:
        """Report that connections are accepted."""
        self._send(Started())

    def ready(self) -> None:
        """Report that the read model was reached."""
        self._send(Ready())

    async def follow(self) -> None:
        """Follow the supervisor's requests until it is gone."""
        try:
            while received := await self._reader.readline():
                self._follow(FROM_SUPERVISOR.decode(received))
        finally:
            self.lost.set()

    def _follow(self, message: FromSupervisor) -> None:
        match message:
            case Measure():
                self._send(Measured(self._own()))
            case Retire():
                self.retired.set()
            case Combined():
                self._deliver(message.metrics)
            case _:
                assert_never(message)

    async def scrape(self) -> Snapshot:
        """Return the metrics of all workers; raise `SupervisorSilent`."""
        if len(self._scrapes) >= SCRAPES_MAX:
            raise SupervisorSilent
        scrape: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._scrapes.append(scrape)
        self._send(Scraped(self._own()))
        try:
            async with asyncio.timeout(SCRAPE_S):
                return await scrape
        except TimeoutError:
            raise SupervisorSilent from None

    async def close(self) -> None:
        """Send the final metrics, so that no count is lost."""
        self._send(Measured(self._own()))
        self._writer.close()
        with suppress(OSError):  # the supervisor is gone
            await self._writer.wait_closed()

    def _send(self, message: FromWorker) -> None:
        if not self._writer.is_closing():
            self._writer.write(line(message))

    def _deliver(self, metrics: Snapshot) -> None:
        """Give an answer to the oldest scrape; the supervisor answers in order, also those that nobody awaits."""
        scrape = self._scrapes.pop(0)
        if not scrape.done():
            scrape.set_result(metrics)
