"""Writes a sample of read model and stream every few seconds, so that the API shows the stream without a broker.

Reads: PostgreSQL and the stream. Writes: control.sample, control.stream_report.
Invariants: a round ends within `ROUND_S`. If the broker does not answer, the sample says so; if PostgreSQL does not,
there is none, and the API says since when.
"""

import asyncio
import time
from typing import Final

import asyncpg
from msgspec import Struct

from consumers import lag
from consumers.client import TolerantClient
from consumers.intake import Interrupted
from consumers.lag import Lag
from consumers.stream_report import StreamReporter
from ops.stream_access import read_stream, stream_sentence
from projections.errors import MembershipError, StreamRefused
from projections.log_once import LogOnce
from projections.maintenance import samples
from projections.maintenance.samples import EVERY_S, Sample, StreamReport
from projections.maintenance.status import ReadModelStatus, read_status
from projections.settings import Settings
from projections.store import database
from projections.store.checkpoint import Checkpoint

ROUND_S: Final = 15.0
"""Limit on one round; the broker may take 2 s for each of its answers."""
NAME: Final = "membership-sampler"


async def run(settings: Settings) -> None:
    """Write samples until cancelled. Errors of PostgreSQL are logged, and the next round tries again."""
    problems = LogOnce()
    sampler = Sampler(settings)
    try:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(ROUND_S):
                    await sampler.take()
                problems.reset()
            except (*database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError, MembershipError) as problem:
                problems.warning("sample_not_written", problem)
                sampler.disconnect()
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))
    finally:
        sampler.disconnect()


class Observed(Struct, frozen=True):
    """What a round found in the stream."""

    report: StreamReport | None
    measured: Lag | None
    problem: str


class Sampler:
    """Takes samples on one connection to PostgreSQL, which is opened again after an error."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: asyncpg.Connection | None = None
        self._reporter: StreamReporter | None = None

    async def take(self) -> None:
        """Write one sample, and the report on the stream if the broker answers."""
        connection = await self._connected()
        with database.closed_is_unavailable(connection):
            status = await read_status(connection)
            if self._reporter is None:
                known = await samples.read_stream(connection)
                self._reporter = StreamReporter(() if known is None else known[0].sources)
            found = await self._read_stream(connection, self._reporter, status.checkpoint)
            await samples.write(connection, _sample(status, found.measured, found.problem))
            if found.report is not None:
                await samples.write_stream(connection, found.report)

    def disconnect(self) -> None:
        """Close the connection without waiting for the server."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await database.connect(self._settings.database_url, NAME, command_timeout_s=ROUND_S)
        return self._connection

    async def _read_stream(
        self, connection: asyncpg.Connection, reporter: StreamReporter, checkpoint: Checkpoint
    ) -> Observed:
        async def read(client: TolerantClient) -> Observed:
            try:
                report = await reporter.report(client)
            except Interrupted:
                report = None  # the next round looks again
            try:
                measured = await lag.measure(client, connection, checkpoint)
            except StreamRefused as refused:
                return Observed(report, None, str(refused))
            return Observed(report, measured, stream_sentence(measured))

        found, problem = await read_stream(self._settings, NAME, read)
        return Observed(None, None, problem) if found is None else found


def _sample(status: ReadModelStatus, measured: Lag | None, problem: str) -> Sample:
    return Sample(
        generation=status.checkpoint.generation,
        position=status.checkpoint.position,
        parked=status.parked,
        fan_outs=status.fan_outs,
        leader=status.leader,
        stream_position=None if measured is None else measured.last_position,
        lag_events=None if measured is None else measured.events,
        lag_s=None if measured is None else measured.seconds,
        missing_events=None if measured is None else measured.missing,
        problem=problem or None,
    )
