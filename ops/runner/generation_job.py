"""Runs a rebuild or a verification for the job runner: its gate waits for a decision of an operator at the console.

Reads and writes: what the job does; control.job_review. Fails: what the job raises.
"""

import asyncio
from typing import Final

import asyncpg
import structlog

from ops.rebuild.command import switched_sentence
from ops.rebuild.compare import Findings
from ops.rebuild.job import Begun, GenerationJob, Kind
from ops.rebuild.progress import JsonProgressReporter, PhaseProgress
from ops.rebuild.throttle import Throttle
from projections.errors import JobCancelled
from projections.maintenance import jobs, reviews, sentences
from projections.plans.actions import Rebuild, Verify
from projections.settings import Settings
from projections.store import database

DECISION_POLL_S: Final = 0.2

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class LoggingReporter(JsonProgressReporter):
    """Writes a job's messages to the log; its progress is in PostgreSQL already."""

    def update(self, phase: PhaseProgress) -> None:
        """Show nothing."""

    def print(self, sentence: str) -> None:
        log.info("job", detail=sentence)


async def run(
    settings: Settings, connection: asyncpg.Connection, action: Verify | Rebuild, by: str, begun: Begun
) -> str:
    """Run the job to its end and return what it did. `connection` is for its gate."""
    kind: Kind = "rebuild" if isinstance(action, Rebuild) else "verify"
    # The runner also serves other plans, so its own priority stays; the job still yields to readers.
    pace = Throttle(settings.database_url, action.max_rate, niceness=0)

    async def approve(findings: Findings) -> bool:
        return await _decision(connection, findings, settings.approval_wait_s)

    async with pace:
        result = await GenerationJob(settings, kind, pace, LoggingReporter(pace)).run(by, approve, begun)
    if kind == "rebuild":
        return switched_sentence(result, settings.rollback_window_s / 3600)
    found = result.findings
    if found.not_compared:
        return sentences.not_compared(result.was, found.not_compared)
    return sentences.differing_at(found.count, found.position) if found.count else sentences.matching(found.position)


async def _decision(connection: asyncpg.Connection, _findings: Findings, wait_s: float) -> bool:
    """Wait for an operator's decision about the open rebuild; return False if there is none in time."""
    with database.closed_is_unavailable(connection):
        job = next(job for job in await jobs.unfinished(connection) if job.kind == "rebuild")
        await reviews.await_decision(connection, job.job_id, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                while (await reviews.of(connection, [job.job_id]))[job.job_id].decision is None:
                    await _require_wanted(connection, job.job_id)
                    await asyncio.sleep(DECISION_POLL_S)
        except TimeoutError:
            log.info("approval_timed_out", job_id=job.job_id)
        # Also ends the wait: a decision after this statement is refused to the operator.
        return await reviews.end_waiting(connection, job.job_id) == "approve"


async def _require_wanted(connection: asyncpg.Connection, job_id: int) -> None:
    """Raise `JobCancelled` if an operator has cancelled the job meanwhile."""
    unfinished = {job.job_id: job for job in await jobs.unfinished(connection)}
    if job_id not in unfinished or unfinished[job_id].cancel_requested:
        raise JobCancelled(f"Job {job_id} was cancelled.")
