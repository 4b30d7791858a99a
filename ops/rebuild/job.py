"""The job behind `membership rebuild` and `verify`: a new generation beside the live one, compared, then switched to.

The phases, in order: fill, resolve, index, catch up (fill.py), compare (compare.py), gate (gate.py), join, switch.
Each can be killed at any moment: PostgreSQL holds the state from which the same command resumes. Until `join` only this
job writes the new generation; afterwards the projector advances it in one transaction with the live one.

Reads: the stream, the live generation. Writes: the new generation, control.job, control.live.
Invariants: the switch and the job's end are one transaction.
Fails: `JobRefused`, `GateRefused`, `JobCancelled`, `StreamRefused`. Waits for a database or broker that is unavailable.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

import asyncpg
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, TolerantClient, connect_reconnecting
from ops.rebuild.compare import NOT_COMPARED, Findings, compare, report_of
from ops.rebuild.context import POLL_S, JobContext
from ops.rebuild.fill import fill
from ops.rebuild.gate import Approve, not_compared, pass_gate
from ops.rebuild.progress import ProgressReporter
from ops.rebuild.throttle import Pace
from ops.stream_check import require_complete_stream
from projections.errors import JobCancelled, JobRefused
from projections.fold_version import FOLD_VERSION
from projections.log_once import LogOnce
from projections.maintenance import audit, jobs, rebuild, reviews
from projections.maintenance.jobs import Job
from projections.maintenance.sentences import counted
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database, generations
from projections.store.database import UNAVAILABLE
from projections.store.migrations import require_migrated
from projections.store.queries import Generation, generation

JOIN_WAIT_MAX_S: Final = 30.0
"""How long the job waits while the projector does not advance the new generation."""
RETRY_S: Final = 0.5

Kind = Literal["rebuild", "verify"]


class Result(NamedTuple):
    """How a job ended."""

    findings: Findings
    was: str
    """The generation that was live when the job began."""
    switched_to: str | None
    can_roll_back: bool
    """Whether the previous live generation still follows, so that a rollback can return to it."""


Begun = Callable[[Job], Awaitable[None]]


async def _nothing(_job: Job) -> None: ...


class GenerationJob:
    """One run of a rebuild or a verify, resumed where an earlier run stopped."""

    def __init__(self, settings: Settings, kind: Kind, pace: Pace, reporter: ProgressReporter) -> None:
        self._settings = settings
        self._kind: Kind = kind
        self._pace = pace
        self._reporter = reporter
        self._log_once = LogOnce()

    async def run(self, actor: str, approve: Approve, begun: Begun = _nothing) -> Result:
        """Run to completion; wait for a lost database or broker, raise a refusal.

        Calls `begun` with the job that begins or is resumed, before anything is done.
        """
        client = await connect_reconnecting(BrokerAccess.of(self._settings), "membership-job")
        job: Job | None = None
        try:
            while True:
                try:
                    async with self._context(client) as context:
                        with database.closed_is_unavailable(context.connection):
                            await _open(context, self._kind, actor, job)
                        if job is None:
                            await begun(context.job)
                        job = context.job
                        return await _finish(context, actor, approve)
                except (NatsError, NatsTimeoutError) as problem:
                    if job is None:
                        raise BrokerUnavailable(problem) from None
                    self._log_once.report_by(self._reporter.print, "Waiting for the broker", problem)
                except UNAVAILABLE as problem:
                    if job is None:
                        raise
                    self._log_once.report_by(self._reporter.print, "Waiting for PostgreSQL", problem)
                await asyncio.sleep(RETRY_S)
        finally:
            await client.close()

    @asynccontextmanager
    async def _context(self, client: TolerantClient) -> AsyncIterator[JobContext]:
        url = self._settings.database_url
        opened: list[asyncpg.Connection] = []
        try:
            for _ in range(2):
                opened.append(await _connect_worker(url))  # noqa: PERF401 - each must be closed if the next fails
            opened.append(await database.connect(url, "membership-job-report"))
            work, helper, report = opened
            with database.closed_is_unavailable(work):
                await require_migrated(work)
                await jobs.take_lock(work)
            with database.closed_is_unavailable(helper):
                await jobs.take_helpers_lock(helper)
            yield JobContext(
                self._settings, client, self._pace, self._reporter, work=work, report=report, helper=helper
            )
        finally:
            for connection in opened:
                connection.terminate()


async def _connect_worker(url: str) -> asyncpg.Connection:
    """Open a connection with memory for sorting.

    A commit lost in a server crash loses its checkpoint too, so waiting for the disk gains nothing. PostgreSQL
    ends a statement within a second after its client has died, so that the job can be resumed.
    """
    return await database.connect(
        url,
        "membership-job",
        work_mem="64MB",
        maintenance_work_mem="128MB",
        synchronous_commit="off",
        client_connection_check_interval="1s",
    )


async def _open(context: JobContext, kind: Kind, actor: str, previous: Job | None) -> None:
    """Resume the open job of this kind, or begin one; restart a job of another fold version or without its generation.

    `previous` is this process's job from before it lost PostgreSQL; another process may have cancelled it since.
    """
    context.live = await checkpoints.live_generation(context.connection)
    await require_complete_stream(
        context.connection, context.client, await checkpoints.read(context.connection, context.live)
    )
    if previous is not None:
        unfinished = {job.job_id for job in await jobs.unfinished(context.connection)}
        if previous.job_id not in unfinished:
            raise JobCancelled(f"Job {previous.job_id} was cancelled while PostgreSQL was unavailable.")
    context.job = await jobs.open_or_resume(context.connection, kind, "fill", actor)
    statuses = {status.generation: status for status in await generations.statuses(context.connection)}
    existing = statuses.get(str(context.job.generation))
    if existing is not None and (existing.state != "filling" or context.job.release == FOLD_VERSION):
        context.new = generation(existing.generation)
        context.reporter.print(f"Resuming job {context.job.job_id} in phase {context.job.phase}.")
        return
    if existing is not None:
        context.reporter.print(
            f"Job {context.job.job_id} was begun by a release with another fold version: starting over."
        )
        await _drop(context.connection, generation(existing.generation))
    async with context.connection.transaction():
        # Indexed from the start when yielding to readers: building an index on a full table would slow them down.
        create = rebuild.create_indexed if context.pace.small_batches else rebuild.create
        context.new = await create(context.connection)
        await jobs.assign_generation(context.connection, context.job, context.new)
    context.job = replace(context.job, generation=context.new, phase="fill")


async def _finish(context: JobContext, actor: str, approve: Approve) -> Result:
    """Run the remaining phases of the job."""
    try:
        with database.closed_is_unavailable(context.connection):
            return await _phases(context, actor, approve)
    except JobCancelled as cancelled:
        await abandon(context.connection, context.job, actor)
        raise JobCancelled(f"{cancelled} Generation {context.new} was dropped; {context.live} stays live.") from None


async def _phases(context: JobContext, actor: str, approve: Approve) -> Result:
    findings = NOT_COMPARED
    if await _is_filling(context):
        checkpoint = await checkpoints.take_over(context.connection, context.new)
        checkpoint = await fill(context, checkpoint)
        findings = await compare(context, checkpoint)
        report = report_of(context.live, context.new, findings)
        await reviews.keep(context.report_connection, context.job, report)
        if context.job.kind == "verify":
            await _end_verification(context, findings)
            return Result(findings, context.live, None, can_roll_back=False)
        await pass_gate(context, findings, approve)
    await _join(context, findings)
    await _switch(context, actor, findings)
    can_roll_back = await generations.state_of(context.connection, context.live) != "broken"
    return Result(findings, context.live, context.new, can_roll_back)


async def _is_filling(context: JobContext) -> bool:
    """Return whether this job still writes the generation; after `join` the projector does."""
    statuses = {status.generation: status for status in await generations.statuses(context.connection)}
    return statuses[context.new].state == "filling"


async def _join(context: JobContext, findings: Findings) -> None:
    """Hand the generation over to the projector, and wait until it has reached the live position."""
    progress = await context.enter("join", "events")
    await generations.start_following(
        context.connection, context.new, broken=context.live if findings.not_compared else None
    )
    last_position, moved_at = None, time.monotonic()
    while True:
        statuses = {status.generation: status for status in await generations.statuses(context.connection)}
        new, live = statuses[context.new], next(status for status in statuses.values() if status.live)
        if new.position >= live.position:
            break
        if new.position != last_position:
            last_position, moved_at = new.position, time.monotonic()
        if time.monotonic() - moved_at > JOIN_WAIT_MAX_S:
            raise JobRefused(
                f"Generation {context.new} waits at position {new.position} for a projector to bring it to "
                f"{live.position}, and none does. Start `membership project`, then run `membership rebuild` again."
            )
        await context.report_progress(progress, new.position, live.position)
        await asyncio.sleep(POLL_S)
    context.reporter.end(progress)


async def _switch(context: JobContext, actor: str, findings: Findings) -> None:
    await context.enter("switch")
    async with context.connection.transaction():
        await context.connection.execute("SET LOCAL synchronous_commit = on")
        was = await checkpoints.live_generation(context.connection)
        if was != context.live:
            raise JobRefused(
                f"{was} has become the live generation while {context.new} was made. Run `membership rebuild` again to "
                f"switch to {context.new} anyway, or `membership jobs cancel` to keep {was}."
            )
        await rebuild.forget_discarded(context.connection, context.new)  # also those discarded since the comparison
        await generations.switch(context.connection, context.new, old_follows_s=context.settings.rollback_window_s)
        compared = findings is not NOT_COMPARED  # false if an earlier run compared and was killed before the switch
        basis = _comparison_summary(findings) if compared else "as approved in an earlier run"
        what = f"switched from {was} to {context.new} {basis}"
        await audit.record(context.connection, actor, "switch", what)
        await jobs.finish(context.connection, context.job, "done", what)


def _comparison_summary(findings: Findings) -> str:
    if findings.not_compared:
        return f"without a comparison: {findings.not_compared}"
    return f"with {counted(findings.count, 'differing row')}"


async def _end_verification(context: JobContext, findings: Findings) -> None:
    await _drop(context.connection, context.new)
    async with context.connection.transaction():
        await context.connection.execute("SET LOCAL synchronous_commit = on")
        what = f"{counted(findings.count, 'difference')} at position {findings.position}"
        if findings.not_compared:
            what = not_compared(context.live, findings)
        await jobs.finish(context.connection, context.job, "failed" if findings.not_compared else "done", what)


async def abandon(connection: asyncpg.Connection, job: Job, actor: str) -> None:
    """Cancel an open rebuild or verify and drop its generation; the caller holds the jobs' lock."""
    if job.generation is not None:
        await _drop(connection, Generation(job.generation))
    async with connection.transaction():
        await audit.record(connection, actor, "cancel", f"job {job.job_id}, a {job.kind}, in phase {job.phase}")
        await jobs.finish(connection, job, "cancelled", f"cancelled in phase {job.phase}")


async def _drop(connection: asyncpg.Connection, name: Generation) -> None:
    while not await generations.drop(connection, name):  # noqa: ASYNC110 - nothing signals that a reader has finished
        await asyncio.sleep(POLL_S)
