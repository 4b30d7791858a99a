"""Reads from both stores what a projector's metrics show, at each scrape; a standby shows the same as the leader.

Reads: PostgreSQL through a connection of its own, the stream through the projector's.
Invariants: concurrent scrapes share one reading, and a reading ends within `READING_S`. A value that could not be read
is NaN, never the last one known.
"""

import asyncio
import math
import time
from typing import Final, get_args

import asyncpg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import lag, metrics
from consumers.metrics import ProjectorState
from projections.errors import MembershipError
from projections.log_once import LogOnce
from projections.maintenance import jobs, parking
from projections.model.events import Reason
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database, fan_out, generations
from projections.store.checkpoint import Checkpoint

READING_S: Final = 4.0
"""Below Prometheus' usual limit of 10 s for a scrape."""
READING_EVERY_S: Final = 0.2
"""The shortest interval between two readings: a scrape that comes earlier waits, and several share the next one."""


class Observer:
    """Keeps the store gauges of one projector process current."""

    def __init__(self, settings: Settings, state: ProjectorState) -> None:
        self._url = settings.database_url
        self._state = state
        self._connection: asyncpg.Connection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._problems = LogOnce()

    async def refresh(self) -> None:
        """Read the stores, or wait for the reading in progress."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="read the stores for metrics")
        reading = self._reading
        await asyncio.wait({reading})
        reading.result()

    async def aclose(self) -> None:
        """End a reading in progress and close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        self._disconnect()

    async def _read(self) -> None:
        await asyncio.sleep(self._read_at + READING_EVERY_S - time.monotonic())
        metrics.forget_stores()
        try:
            async with asyncio.timeout(READING_S):
                checkpoint = await self._read_database()
                await self._read_stream(checkpoint)
        except (MembershipError, NatsError, NatsTimeoutError) as problem:
            self._problems.warning("metrics_incomplete", problem)
        except (*database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as problem:
            self._problems.warning("metrics_incomplete", problem)
            self._disconnect()
        else:
            self._problems.reset()
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    async def _read_database(self) -> Checkpoint:
        connection = await self._connected()
        with database.closed_is_unavailable(connection):
            live = await checkpoints.live_generation(connection)
            checkpoint = await checkpoints.read(connection, live)
            parked = await parking.reasons(connection, live, parking.Filter())
            fan_outs = await fan_out.count(connection, live)
            statuses = await generations.statuses(connection)
            is_running = await jobs.is_running(connection)
            unfinished = await jobs.unfinished(connection)
        metrics.DATABASE_CONNECTED.set(1)
        metrics.POSITION.set(checkpoint.position)
        metrics.EPOCH.set(checkpoint.epoch)
        metrics.FAN_OUTS.set(fan_outs)
        for reason in get_args(Reason):
            metrics.PARKED.labels(reason).set(parked.get(reason, 0))
        _show_generations(statuses)
        _show_jobs(unfinished, is_running=is_running)
        return checkpoint

    async def _read_stream(self, checkpoint: Checkpoint) -> None:
        if self._state.client is None or not self._state.broker_connected or self._connection is None:
            return
        measured = await lag.measure(self._state.client, self._connection, checkpoint)
        metrics.LAG_EVENTS.set(measured.events)
        metrics.LAG_SECONDS.set(measured.seconds)
        metrics.STREAM_POSITION.set(measured.last_position)
        metrics.STREAM_FIRST_POSITION.set(measured.first_position)
        metrics.MISSING.set(measured.missing)
        metrics.OBSERVED.set(time.time())

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await database.connect(self._url, "membership-metrics", command_timeout_s=READING_S)
        return self._connection

    def _disconnect(self) -> None:
        # Not close(): a server that does not answer must not delay the next reading.
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _show_generations(statuses: list[generations.GenerationStatus]) -> None:
    shown = ["live" if status.live and status.state == "following" else status.state for status in statuses]
    for state in ("live", "following", "filling", "broken"):
        metrics.GENERATIONS.labels(state).set(shown.count(state))


def _show_jobs(unfinished: list[jobs.Job], *, is_running: bool) -> None:
    for kind in get_args(jobs.Kind):
        of_kind = [job for job in unfinished if job.kind == kind]
        states = [jobs.open_state(job, running=is_running) for job in of_kind]
        for state in get_args(jobs.OpenState):
            metrics.JOBS.labels(kind, state).set(states.count(state))
        for job in of_kind:
            metrics.JOB_PROGRESS.labels(kind).set(job.done / job.total if job.total else math.nan)
