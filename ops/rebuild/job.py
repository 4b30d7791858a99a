"""The job behind `membership rebuild` and `verify`: a new generation beside the live one, compared, then switched to.

The phases, in order: fill, resolve, index, catch up (filling.py), compare (comparing.py), gate (gate.py), join, switch.
Every one can be killed at any moment: what is in PostgreSQL says where the same command goes on. Until `join` only
this job writes the new generation; from there on the projector moves it in one transaction with the live one.

Reads: the stream, the live generation. Writes: the new generation, control.job, control.live.
Invariants: the switch and the job's end are one transaction.
Fails: `JobRefused`, `GateRefused`, `JobCancelled`, `StreamRefused`; a database or broker that goes away is waited for.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

import asyncpg
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.client import BrokerSilent, TolerantClient, connect_reconnecting
from ops.rebuild.compare import NOT_COMPARED, Findings, compare
from ops.rebuild.context import POLL_S, JobContext
from ops.rebuild.fill import fill
from ops.rebuild.gate import Approve, not_compared, pass_gate
from ops.rebuild.progress import ProgressReporter
from ops.rebuild.throttle import Pace
from ops.stream_check import require_complete_stream
from ops.terminal import counted
from projections.errors import JobCancelled, JobRefused
from projections.fold_version import FOLD_VERSION
from projections.log_once import LogOnce
from projections.maintenance import audit, jobs, rebuild
from projections.maintenance.jobs import Job
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database, generations
from projections.store.database import UNAVAILABLE
from projections.store.migrations import require_migrated
from projections.store.queries import Generation, generation

JOIN_WAIT_MAX_S: Final = 30.0
"""How long the projector may make no headway with the new generation before the job gives up waiting for it."""
RETRY_S: Final = 0.5

Kind = Literal["rebuild", "verify"]


class Result(NamedTuple):
    """How a job ended."""

    findings: Findings
    was: str
    """The generation that was live when it began."""
    switched_to: str | None
    way_back: bool
    """Whether the generation that was live still follows, so that a rollback can return to it."""


class GenerationJob:
    """One run of a rebuild or a verify, from wherever the last one left off."""

    def __init__(self, settings: Settings, kind: Kind, pace: Pace, screen: ProgressReporter) -> None:
        self._settings = settings
        self._kind: Kind = kind
        self._pace = pace
        self._reporter = screen
        self._log_once = LogOnce()

    async def run(self, actor: str, approve: Approve) -> Result:
        """Work until done; what is lost on the way is waited for, what is refused is raised."""
        client = await connect_reconnecting(self._settings.nats_url, "membership-job")
        known: Job | None = None
        try:
            while True:
                try:
                    async with self._context(client) as place:
                        with database.closed_is_unavailable(place.connection):
                            await _open(place, self._kind, actor, known)
                        known = place.job
                        return await _finish(place, actor, approve)
                except (NatsError, NatsTimeoutError) as problem:
                    if known is None:
                        raise BrokerSilent(problem) from None
                    self._log_once.report_by(self._reporter.print, "Waiting for the broker", problem)
                except UNAVAILABLE as problem:
                    if known is None:
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
    """Open a connection with memory to sort in.

    A commit that a crash of the server loses takes its checkpoint with it, so waiting for the disk gains nothing. A
    statement whose client has died is ended within a second, so that the job can be taken up again.
    """
    return await database.connect(
        url,
        "membership-job",
        work_mem="64MB",
        maintenance_work_mem="128MB",
        synchronous_commit="off",
        client_connection_check_interval="1s",
    )


async def _open(place: JobContext, kind: Kind, actor: str, known: Job | None) -> None:
    """Take up the open job of this kind, or begin one; one of another release, or without its generation, again.

    `known` is the job this process worked on before it lost PostgreSQL: meanwhile another may have cancelled it.
    """
    place.live = await checkpoints.live_generation(place.connection)
    await require_complete_stream(place.connection, place.client, await checkpoints.read(place.connection, place.live))
    if known is not None and known.job_id not in {each.job_id for each in await jobs.unfinished(place.connection)}:
        raise JobCancelled(f"Job {known.job_id} was cancelled while PostgreSQL was away.")
    place.job = await jobs.open_or_resume(place.connection, kind, "fill", actor)
    there = {each.generation: each for each in await generations.statuses(place.connection)}
    begun = there.get(str(place.job.generation))
    if begun is not None and (begun.state != "filling" or place.job.release == FOLD_VERSION):
        place.new = generation(begun.generation)
        place.reporter.print(f"Going on with job {place.job.job_id}, in phase {place.job.phase}.")
        return
    if begun is not None:
        place.reporter.print(
            f"Job {place.job.job_id} was begun by another release, which folds otherwise: from the start."
        )
        await _drop(place.connection, generation(begun.generation))
    async with place.connection.transaction():
        # Indexed from the start, or filled bare and indexed in strokes that readers would feel.
        create = rebuild.create_indexed if place.pace.small_batches else rebuild.create
        place.new = await create(place.connection)
        await jobs.assign_generation(place.connection, place.job, place.new)
    place.job = replace(place.job, generation=place.new, phase="fill")


async def _finish(place: JobContext, actor: str, approve: Approve) -> Result:
    """Take the job through its remaining phases."""
    try:
        with database.closed_is_unavailable(place.connection):
            return await _phases(place, actor, approve)
    except JobCancelled as cancelled:
        await abandon(place.connection, place.job, actor)
        raise JobCancelled(f"{cancelled} Generation {place.new} was dropped; {place.live} stays live.") from None


async def _phases(place: JobContext, actor: str, approve: Approve) -> Result:
    findings = NOT_COMPARED
    if await _is_filling(place):
        held = await checkpoints.take_over(place.connection, place.new)
        held = await fill(place, held)
        findings = await compare(place, held)
        if place.job.kind == "verify":
            await _end_verification(place, findings)
            return Result(findings, place.live, None, way_back=False)
        await pass_gate(place, findings, approve)
    await _join(place, findings)
    await _switch(place, actor, findings)
    way_back = await generations.state_of(place.connection, place.live) != "broken"
    return Result(findings, place.live, place.new, way_back)


async def _is_filling(place: JobContext) -> bool:
    """Say whether this job still writes the generation; after `join` the projector does."""
    found = {each.generation: each for each in await generations.statuses(place.connection)}
    return found[place.new].state == "filling"


async def _join(place: JobContext, findings: Findings) -> None:
    """Hand the generation to the projector, and wait until it has brought it level with the live one."""
    meter = await place.enter("join", "events")
    await generations.start_following(place.connection, place.new, broken=place.live if findings.not_compared else None)
    behind, moved_at = None, time.monotonic()
    while True:
        found = {each.generation: each for each in await generations.statuses(place.connection)}
        new, live = found[place.new], next(each for each in found.values() if each.live)
        if new.position >= live.position:
            break
        if new.position != behind:
            behind, moved_at = new.position, time.monotonic()
        if time.monotonic() - moved_at > JOIN_WAIT_MAX_S:
            raise JobRefused(
                f"Generation {place.new} waits at position {new.position} for a projector to bring it to "
                f"{live.position}, and none does. Start `membership project`, then run `membership rebuild` again."
            )
        await place.report_progress(meter, new.position, live.position)
        await asyncio.sleep(POLL_S)
    place.reporter.end(meter)


async def _switch(place: JobContext, actor: str, findings: Findings) -> None:
    await place.enter("switch")
    async with place.connection.transaction():
        await place.connection.execute("SET LOCAL synchronous_commit = on")
        was = await checkpoints.live_generation(place.connection)
        if was != place.live:
            raise JobRefused(
                f"{was} has become the live generation while {place.new} was made. Run `membership rebuild` again to "
                f"switch to {place.new} all the same, or `membership jobs cancel` to keep {was}."
            )
        await rebuild.forget_discarded(place.connection, place.new)  # since the comparison, too
        await generations.switch(place.connection, place.new, old_follows_s=place.settings.rollback_window_s)
        compared = findings is not NOT_COMPARED  # in this run, and not in one that died between the comparison and here
        how = _how(findings) if compared else "as an earlier run was allowed to"
        what = f"switched from {was} to {place.new} {how}"
        await audit.record(place.connection, actor, "switch", what)
        await jobs.finish(place.connection, place.job, "done", what)


def _how(findings: Findings) -> str:
    if findings.not_compared:
        return f"without a comparison: {findings.not_compared}"
    return f"with {counted(findings.count, 'differing row')}"


async def _end_verification(place: JobContext, findings: Findings) -> None:
    await _drop(place.connection, place.new)
    async with place.connection.transaction():
        await place.connection.execute("SET LOCAL synchronous_commit = on")
        what = f"{counted(findings.count, 'difference')} at position {findings.position}"
        if findings.not_compared:
            what = not_compared(place.live, findings)
        await jobs.finish(place.connection, place.job, "failed" if findings.not_compared else "done", what)


async def abandon(connection: asyncpg.Connection, job: Job, actor: str) -> None:
    """End an open rebuild or verify, and drop what it made; the caller holds the jobs' lock."""
    if job.generation is not None:
        await _drop(connection, Generation(job.generation))
    async with connection.transaction():
        await audit.record(connection, actor, "cancel", f"job {job.job_id}, a {job.kind}, in phase {job.phase}")
        await jobs.finish(connection, job, "cancelled", f"cancelled in phase {job.phase}")


async def _drop(connection: asyncpg.Connection, name: Generation) -> None:
    while not await generations.drop(connection, name):  # noqa: ASYNC110 - nobody tells when a reader has left
        await asyncio.sleep(POLL_S)
