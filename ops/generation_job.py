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

from consumers.client import BrokerSilent, TolerantClient, connect_lasting
from ops.comparing import NOTHING, Findings, compare
from ops.filling import fill
from ops.gate import Approve, not_compared, pass_gate, require_whole_stream
from ops.progress import Screen
from ops.terminal import counted
from ops.throttle import Pace
from ops.workplace import POLL_S, Workplace
from projections import checkpoint as checkpoints
from projections import database, generations, jobs, rebuild
from projections.database import UNAVAILABLE
from projections.errors import JobCancelled, JobRefused
from projections.jobs import Job
from projections.migrations import require_migrated
from projections.queries import Generation, generation
from projections.release import release
from projections.settings import Settings
from projections.trouble import Trouble

JOIN_PATIENCE_S: Final = 30.0
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

    def __init__(self, settings: Settings, kind: Kind, pace: Pace, screen: Screen) -> None:
        self._settings = settings
        self._kind: Kind = kind
        self._pace = pace
        self._screen = screen
        self._trouble = Trouble()

    async def run(self, actor: str, approve: Approve) -> Result:
        """Work until done; what is lost on the way is waited for, what is refused is raised."""
        client = await connect_lasting(self._settings.nats_url, "membership-job")
        known: Job | None = None
        try:
            while True:
                try:
                    async with self._workplace(client) as place:
                        with database.closed_is_unavailable(place.work):
                            await _open(place, self._kind, actor, known)
                        known = place.job
                        return await _finish(place, actor, approve)
                except (NatsError, NatsTimeoutError) as problem:
                    if known is None:
                        raise BrokerSilent(problem) from None
                    self._trouble.tell_by(self._screen.say, "Waiting for the broker", problem)
                except UNAVAILABLE as problem:
                    if known is None:
                        raise
                    self._trouble.tell_by(self._screen.say, "Waiting for PostgreSQL", problem)
                await asyncio.sleep(RETRY_S)
        finally:
            await client.close()

    @asynccontextmanager
    async def _workplace(self, client: TolerantClient) -> AsyncIterator[Workplace]:
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
            yield Workplace(self._settings, client, self._pace, self._screen, work=work, report=report, helper=helper)
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


async def _open(place: Workplace, kind: Kind, actor: str, known: Job | None) -> None:
    """Take up the open job of this kind, or begin one; one of another release, or without its generation, again.

    `known` is the job this process worked on before it lost PostgreSQL: meanwhile another may have cancelled it.
    """
    place.live = await checkpoints.live_generation(place.work)
    await require_whole_stream(place.work, place.client, await checkpoints.read(place.work, place.live))
    if known is not None and known.job_id not in {each.job_id for each in await jobs.unfinished(place.work)}:
        raise JobCancelled(f"Job {known.job_id} was cancelled while PostgreSQL was away.")
    place.job = await jobs.open_or_resume(place.work, kind, "fill", actor)
    there = {each.generation: each for each in await generations.standings(place.work)}
    begun = there.get(str(place.job.generation))
    if begun is not None and (begun.state != "filling" or place.job.release == release()):
        place.new = generation(begun.generation)
        place.screen.say(f"Going on with job {place.job.job_id}, in phase {place.job.phase}.")
        return
    if begun is not None:
        place.screen.say(f"Job {place.job.job_id} was begun by another release, which folds otherwise: from the start.")
        await _drop(place.work, generation(begun.generation))
    async with place.work.transaction():
        # Indexed from the start, or filled bare and indexed in strokes that readers would feel.
        create = rebuild.create_indexed if place.pace.gentle else rebuild.create
        place.new = await create(place.work)
        await jobs.give_generation(place.work, place.job, place.new)
    place.job = replace(place.job, generation=place.new, phase="fill")


async def _finish(place: Workplace, actor: str, approve: Approve) -> Result:
    """Take the job through its remaining phases."""
    try:
        with database.closed_is_unavailable(place.work):
            return await _phases(place, actor, approve)
    except JobCancelled as cancelled:
        await give_up(place.work, place.job, actor)
        raise JobCancelled(f"{cancelled} Generation {place.new} was dropped; {place.live} stays live.") from None


async def _phases(place: Workplace, actor: str, approve: Approve) -> Result:
    findings = NOTHING
    if await _is_ours(place):
        held = await checkpoints.take_over(place.work, place.new)
        held = await fill(place, held)
        findings = await compare(place, held)
        if place.job.kind == "verify":
            await _end_verification(place, findings)
            return Result(findings, place.live, None, way_back=False)
        await pass_gate(place, findings, approve)
    await _join(place, findings)
    await _switch(place, actor, findings)
    way_back = await generations.state_of(place.work, place.live) != "broken"
    return Result(findings, place.live, place.new, way_back)


async def _is_ours(place: Workplace) -> bool:
    """Say whether this job still writes the generation; after `join` the projector does."""
    found = {each.generation: each for each in await generations.standings(place.work)}
    return found[place.new].state == "filling"


async def _join(place: Workplace, findings: Findings) -> None:
    """Hand the generation to the projector, and wait until it has brought it level with the live one."""
    meter = await place.enter("join", "events")
    await generations.join(place.work, place.new, broken=place.live if findings.not_compared else None)
    behind, moved_at = None, time.monotonic()
    while True:
        found = {each.generation: each for each in await generations.standings(place.work)}
        new, live = found[place.new], next(each for each in found.values() if each.live)
        if new.position >= live.position:
            break
        if new.position != behind:
            behind, moved_at = new.position, time.monotonic()
        if time.monotonic() - moved_at > JOIN_PATIENCE_S:
            raise JobRefused(
                f"Generation {place.new} waits at position {new.position} for a projector to bring it to "
                f"{live.position}, and none does. Start `membership project`, then run `membership rebuild` again."
            )
        await place.tell(meter, new.position, live.position)
        await asyncio.sleep(POLL_S)
    place.screen.end(meter)


async def _switch(place: Workplace, actor: str, findings: Findings) -> None:
    await place.enter("switch")
    async with place.work.transaction():
        await place.work.execute("SET LOCAL synchronous_commit = on")
        was = await checkpoints.live_generation(place.work)
        if was != place.live:
            raise JobRefused(
                f"{was} has become the live generation while {place.new} was made. Run `membership rebuild` again to "
                f"switch to {place.new} all the same, or `membership jobs cancel` to keep {was}."
            )
        await rebuild.forget_discarded(place.work, place.new)  # since the comparison, too
        await generations.switch(place.work, place.new, old_follows_s=place.settings.rollback_window_s)
        compared = findings is not NOTHING  # in this run, and not in one that died between the comparison and here
        how = _how(findings) if compared else "as an earlier run was allowed to"
        what = f"switched from {was} to {place.new} {how}"
        await jobs.audit(place.work, actor, "switch", what)
        await jobs.finish(place.work, place.job, "done", what)


def _how(findings: Findings) -> str:
    if findings.not_compared:
        return f"without a comparison: {findings.not_compared}"
    return f"with {counted(findings.count, 'differing row')}"


async def _end_verification(place: Workplace, findings: Findings) -> None:
    await _drop(place.work, place.new)
    async with place.work.transaction():
        await place.work.execute("SET LOCAL synchronous_commit = on")
        what = f"{counted(findings.count, 'difference')} at position {findings.position}"
        if findings.not_compared:
            what = not_compared(place.live, findings)
        await jobs.finish(place.work, place.job, "failed" if findings.not_compared else "done", what)


async def give_up(connection: asyncpg.Connection, job: Job, actor: str) -> None:
    """End an open rebuild or verify, and drop what it made; the caller holds the jobs' lock."""
    if job.generation is not None:
        await _drop(connection, Generation(job.generation))
    async with connection.transaction():
        await jobs.audit(connection, actor, "cancel", f"job {job.job_id}, a {job.kind}, in phase {job.phase}")
        await jobs.finish(connection, job, "cancelled", f"cancelled in phase {job.phase}")


async def _drop(connection: asyncpg.Connection, name: Generation) -> None:
    while not await generations.drop(connection, name):  # noqa: ASYNC110 - nobody tells when a reader has left
        await asyncio.sleep(POLL_S)
