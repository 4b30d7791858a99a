"""State shared by all phases of a generation's job: its connections, its two generations and its progress."""

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
    """Everything a job needs during one set of database sessions."""

    def __init__(
        self,
        settings: Settings,
        client: TolerantClient,
        pace: Pace,
        reporter: ProgressReporter,
        *,
        work: asyncpg.Connection,
        report: asyncpg.Connection,
        helper: asyncpg.Connection,
    ) -> None:
        self.settings = settings
        self.client = client
        self.pace = pace
        self.reporter = reporter
        self.connection = work
        """Holds the jobs' lock, so its writes and the right to write end together."""
        self.report_connection = report
        """Records progress outside the transactions of `work`."""
        self.helper_connection = helper
        """Runs statements in parallel with `work`."""
        self.job: Job
        self.live: Generation
        self.new: Generation
        self._reported_at = 0.0

    async def enter(self, phase: str, unit: str = "", done: int = 0, total: int = 0) -> PhaseProgress:
        """Begin a phase."""
        await jobs.enter(self.report_connection, self.job, phase)
        self.job = replace(self.job, phase=phase)
        progress = PhaseProgress(phase, unit, done, total)
        self.reporter.begin(progress)
        return progress

    async def report_progress(self, progress: PhaseProgress, done: int, total: int) -> None:
        """Update a phase; once per `REPORT_EVERY_S` record it in PostgreSQL, raising `JobCancelled` after a cancel."""
        progress.advance(done, total)
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            self.reporter.update(progress)
            await jobs.report(self.report_connection, self.job, progress.done, progress.total, progress.eta_s)

    async def live_position(self) -> int:
        """Return the live generation's position."""
        return (await checkpoints.read(self.report_connection, self.live)).position

    async def stream_created(self) -> str:
        """Return the stream's creation time, after verifying that the live generation was filled from this stream."""
        live = await checkpoints.read(self.report_connection, self.live)
        return (await stream.verify(self.client, live, self.settings.stream_replicas)).created
