"""What all phases of a generation's job share: its connections, its two generations, and how it reports."""

import time
from typing import Final

import asyncpg
from msgspec.structs import replace

from consumers import stream
from consumers.client import TolerantClient
from ops.rebuild.progress import REPORT_EVERY_S, PhaseProgress, ProgressReporter
from ops.rebuild.throttle import Pace
from projections.maintenance import jobs
from projections.maintenance.jobs import Job
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store.queries import Generation

POLL_S: Final = 0.1


class JobContext:
    """One stretch of a job, in one set of database sessions."""

    def __init__(
        self,
        settings: Settings,
        client: TolerantClient,
        pace: Pace,
        screen: ProgressReporter,
        *,
        work: asyncpg.Connection,
        report: asyncpg.Connection,
        helper: asyncpg.Connection,
    ) -> None:
        self.settings = settings
        self.client = client
        self.pace = pace
        self.reporter = screen
        self.connection = work
        """Holds the jobs' lock, so what it writes and the right to write it end together."""
        self.report_connection = report
        """Tells how far the job is, outside of the transactions of `work`."""
        self.helper_connection = helper
        """Does what can be done beside `work`."""
        self.job: Job
        self.live: Generation
        self.new: Generation
        self._reported_at = 0.0

    async def enter(self, phase: str, unit: str = "", done: int = 0, total: int = 0) -> PhaseProgress:
        """Begin a phase."""
        await jobs.enter(self.report_connection, self.job, phase)
        self.job = replace(self.job, phase=phase)
        meter = PhaseProgress(phase, unit, done, total)
        self.reporter.begin(meter)
        return meter

    async def report_progress(self, meter: PhaseProgress, done: int, total: int) -> None:
        """Say how far a phase is; now and then also to PostgreSQL, where a cancel is heard (`JobCancelled`)."""
        meter.advance(done, total)
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            self.reporter.update(meter)
            await jobs.report(self.report_connection, self.job, meter.done, meter.total, meter.eta_s)

    async def live_position(self) -> int:
        """Return where the live generation is now."""
        return (await checkpoints.read(self.report_connection, self.live)).position

    async def stream_created(self) -> str:
        """Return when the stream was created, after making sure that it is the one the live generation speaks of."""
        live = await checkpoints.read(self.report_connection, self.live)
        return (await stream.verify(self.client, live, self.settings.stream_replicas)).created
