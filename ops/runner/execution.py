"""Executes one plan, with the functions of the command line.

Writes: what the action writes, and the plan.
Invariants: a plan's last change and its end are one transaction, or the plan names the job whose row says how it ended;
so a plan that was interrupted is continued, never repeated. All of it is written under the runner's epoch only.
Locks: the checkpoints before the plan, because an erasure, which holds the checkpoints, changes plans.
Fails: `MembershipError` with the reason for which the plan fails; `database.UNAVAILABLE`, after which it is continued.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, assert_never

import asyncpg

from ops import erase, repair
from ops.jobs import StillRunning, complete_cancel
from ops.parked import CHUNK_EVENTS
from ops.rebuild.command import roll_back
from ops.runner import generation_job
from ops.runner.previews import erase_fingerprint, repair_fingerprint
from projections.maintenance import jobs, parking, sentences
from projections.maintenance.jobs import Job
from projections.maintenance.parking import NotParked
from projections.plans import records
from projections.plans.acceptance import require_unchanged
from projections.plans.actions import (
    Action,
    ActionName,
    Approve,
    Cancel,
    Erase,
    KeyCreate,
    KeyRevoke,
    ParkedDiscard,
    ParkedRetry,
    Rebuild,
    Refuse,
    Repair,
    Rollback,
    Verify,
)
from projections.plans.records import Plan
from projections.plans.refusals import PlanChanged, PlanRefused
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import generations

JOBS: Final[frozenset[ActionName]] = frozenset(("verify", "rebuild", "erase"))
"""Actions whose plan names a job, whose row says how it ended."""
RETRIED_PER_S: Final = 1_000
"""The same as the command line's default."""
POLL_S: Final = 0.2


class Stopped(PlanRefused):
    """Some of a plan's events were not parked any more when their turn came."""

    code = "stopped"


class Execution(NamedTuple):
    """A claimed plan, and what its execution needs."""

    settings: Settings
    connection: asyncpg.Connection
    """For this plan alone: a job's lock ends with it."""
    plan: Plan
    epoch: int
    stopping: asyncio.Event
    """Set when the process drains: stop where another runner can continue."""
    resumed: bool

    @property
    def by(self) -> str:
        """Who runs the plan."""
        return str(self.plan.run_by)

    async def end(self, outcome: str) -> None:
        """End the plan as done, in the caller's transaction or alone."""
        await records.end(self.connection, self.plan, self.epoch, outcome)


async def execute(execution: Execution) -> None:
    """Execute a plan to its end; return before that only when the process drains."""
    if execution.plan.action in JOBS and await _ended_with_its_job(execution):
        return  # before the action is read: an erasure that has ended has removed what names the customer from it
    action: Action = execution.plan.what
    match action:
        case Verify() | Rebuild():
            await _generation_job(execution, action)
        case Erase():
            await _erase(execution, action)
        case ParkedRetry() | ParkedDiscard():
            await _parked(execution, action)
        case Repair():
            await _repair(execution, action)
        case Rollback():
            await _rollback(execution, action)
        case Cancel():
            await _cancel(execution, action)
        case Approve() | Refuse() | KeyCreate() | KeyRevoke():
            raise TypeError(f"{execution.plan.action} is executed by the API")
        case _:
            assert_never(action)


async def _rollback(execution: Execution, action: Rollback) -> None:
    connection = execution.connection
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        await records.require_epoch(connection, execution.plan, execution.epoch)
        await require_unchanged(connection, execution.plan, action)
        await execution.end(await roll_back(connection, execution.by))


async def _cancel(execution: Execution, action: Cancel) -> None:
    connection = execution.connection
    job = next((job for job in await jobs.unfinished(connection) if job.job_id == action.job_id), None)
    if job is None:
        ended = await jobs.get(connection, action.job_id)
        await execution.end(f"Job {action.job_id} has ended: {ended.state if ended else 'long ago'}.")
        return
    try:
        cancelled = await complete_cancel(connection, job, execution.by)
    except StillRunning as problem:
        await execution.end(str(problem))
        return
    await execution.end(cancelled.sentence)


async def _repair(execution: Execution, action: Repair) -> None:
    connection, plan = execution.connection, execution.plan
    async with connection.transaction():
        repaired, _ = await repair.derive(connection, execution.settings, action.entity, by=execution.by, dry_run=False)
        if repair_fingerprint(repaired.differences) != plan.fingerprint:
            raise PlanChanged(plan.count or 0, len(repaired.differences), "row")
        await execution.end(sentences.repaired(len(repaired.differences), repaired.position))


async def _parked(execution: Execution, action: ParkedRetry | ParkedDiscard) -> None:
    connection, plan = execution.connection, execution.plan
    positions = await records.positions_of(connection, plan.plan_id)
    if not plan.done:
        await parking.require_parked(connection, positions)  # before the first chunk: these are not rolled back
    for start in range(plan.done, len(positions), CHUNK_EVENTS):
        if execution.stopping.is_set():
            return
        chunk = positions[start : start + CHUNK_EVENTS]
        began = time.monotonic()
        try:
            await _parked_chunk(execution, action, chunk, start + len(chunk))
        except NotParked as problem:
            raise Stopped(f"Stopped after {start:,} of {len(positions):,} events: {problem}") from None
        await asyncio.sleep(max(0.0, len(chunk) / RETRIED_PER_S - (time.monotonic() - began)))
    if isinstance(action, ParkedDiscard):
        await execution.end(sentences.discarded(len(positions)))
        return
    live = await checkpoints.live_generation(connection)
    still = len(await parking.parked_among(connection, live, positions))
    await execution.end(sentences.retried(len(positions) - still, still))


async def _parked_chunk(
    execution: Execution, action: ParkedRetry | ParkedDiscard, chunk: Sequence[int], done: int
) -> None:
    connection = execution.connection
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        await records.require_epoch(connection, execution.plan, execution.epoch)
        if isinstance(action, ParkedRetry):
            await parking.retry(connection, chunk, execution.by)
        else:
            await parking.discard(connection, chunk, str(execution.plan.reason), execution.by)
        await records.advance(connection, execution.plan, done)


async def _erase(execution: Execution, action: Erase) -> None:
    connection, plan, customer_id = execution.connection, execution.plan, str(action.customer_id)
    if not execution.resumed:
        counted = await erase.count(connection, execution.settings, customer_id)
        if erase_fingerprint(counted) != plan.fingerprint:
            raise PlanChanged(plan.count or 0, sum(counted), plan.unit or "")
    erased = await erase.erase_customer(
        connection, execution.settings, customer_id, by=execution.by, begun=_linking(execution)
    )
    await execution.end(erased.sentence)


async def _generation_job(execution: Execution, action: Verify | Rebuild) -> None:
    if not execution.resumed:
        await require_unchanged(execution.connection, execution.plan, action)
    work = asyncio.ensure_future(
        generation_job.run(execution.settings, execution.connection, action, execution.by, _linking(execution))
    )
    outcome = await _unless_stopping(execution, work)
    if outcome is not None:
        await execution.end(outcome)


async def _unless_stopping(execution: Execution, work: "asyncio.Future[str]") -> str | None:
    """Return the outcome of a job; None if the process stops first: another runner continues the job where it was."""
    stopped = asyncio.ensure_future(execution.stopping.wait())
    try:
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    return None if work.cancelled() else work.result()


async def _ended_with_its_job(execution: Execution) -> bool:
    """Wait until no process runs the job of an interrupted plan; if the job has ended, so does the plan.

    Return True if nothing is left to do here.
    """
    if not execution.resumed:
        return False
    # PostgreSQL notices within a second that a killed runner is gone; one that was only paused ends when it resumes.
    while await jobs.is_running(execution.connection):
        if execution.stopping.is_set():
            return True
        await asyncio.sleep(POLL_S)
    job = None if execution.plan.job_id is None else await jobs.get(execution.connection, execution.plan.job_id)
    if job is None or job.state == "open":
        return False
    code = None if job.state == "done" else f"job_{job.state}"
    sentence = f"Job {job.job_id} has ended: {job.state}. {job.outcome or ''}".rstrip()
    await records.end(execution.connection, execution.plan, execution.epoch, sentence, code)
    return True


def _linking(execution: Execution) -> erase.Begun:
    async def link(job: Job) -> None:
        """Record the job before it changes anything: from then on its row says whether the plan is done."""
        await records.set_job(execution.connection, execution.plan, execution.epoch, job.job_id)

    return link
