"""`membership rebuild` and `verify`: a new generation beside the live one, compared, then switched to or dropped.

The phases, in order: fill, resolve, index, catch up, compare, gate, join, switch. Every one can be killed at any
moment: what is in PostgreSQL says where the same command goes on. Until `join` only this job writes the new
generation; from there on the projector moves it in one transaction with the live one.

Reads: the stream, the live generation. Writes: the new generation, control.job, control.live.
Invariants: the comparison sees both generations at one position, in one snapshot: it applies the last messages up to
the live generation's position itself, in the transaction that compares. The switch and the job's end are one
transaction. Fails: `JobRefused`, `GateRefused`, `JobCancelled`, `StreamRefused`; a database or broker that goes away
is waited for.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, Literal, NamedTuple

import asyncpg
from msgspec import Struct
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.client import BrokerSilent, TolerantClient, connect_lasting
from consumers.replay import replay
from ops.progress import REPORT_EVERY_S, Meter, Screen
from ops.throttle import Pace
from projections import checkpoint as checkpoints
from projections import database, generations, jobs, rebuild
from projections.checkpoint import Checkpoint
from projections.database import UNAVAILABLE
from projections.differences import KEYS, Comparison, Difference, Part
from projections.errors import GateRefused, JobCancelled, JobRefused, StreamMissing
from projections.events import Message, Position
from projections.jobs import Job
from projections.migrations import require_migrated
from projections.projector import apply_batch, park, read_batch, write_registers
from projections.queries import Generation, generation, writes
from projections.settings import Settings
from projections.trouble import Trouble

CHUNK_EVENTS: Final = 10_000
GENTLE_CHUNK_EVENTS: Final = 50
"""A chunk while readers are to be spared: about as much work as a few reads."""
BATCH_EVENTS: Final = 2_000
NEAR_EVENTS: Final = 5_000
"""So close to the live generation, the next phase may begin; it makes up for the rest."""
COMPARE_ROWS: Final = 20_000
GENTLE_COMPARE_ROWS: Final = 250
"""Rows that are compared in one statement, so that it can pause between them."""
COMPARE_SLICES_MAX: Final = 2**14
ROWS_READ_MAX: Final = 1_000
"""Differences that are read whole; beyond they are only counted."""
NEWLY_PARKED_SHOWN: Final = 10
GATE_LAG_MAX_S: Final = 30.0
JOIN_PATIENCE_S: Final = 30.0
"""How long the projector may make no headway with the new generation before the job gives up waiting for it."""
POLL_S: Final = 0.1
RETRY_S: Final = 0.5


class Findings(Struct, frozen=True):
    """What a comparison at one position found."""

    position: int
    differences: list[Difference]
    """The first of them, in the order of their tables and keys."""
    count: int
    newly_parked: list[int]
    """Positions that the new generation parked and the live one did not."""


class Result(NamedTuple):
    """How a job ended."""

    findings: Findings
    switched_to: str | None


Approve = Callable[[Findings], Awaitable[bool]]
"""Asks whether to switch although rows differ."""
Add = Callable[[Checkpoint, Sequence[Message], str], Awaitable[Checkpoint]]
"""Puts messages into the new generation and returns its new checkpoint."""


class GenerationJob:
    """One run of a rebuild or a verify, from wherever the last one left off."""

    def __init__(self, settings: Settings, kind: Literal["rebuild", "verify"], pace: Pace, screen: Screen) -> None:
        self._settings = settings
        self._kind = kind
        self._pace = pace
        self._screen = screen
        self._trouble = Trouble()

    async def run(self, actor: str, approve: Approve) -> Result:
        """Work until done; what is lost on the way is waited for, what is refused is raised."""
        client = await connect_lasting(self._settings.nats_url, "membership-job")
        begun = False
        try:
            while True:
                try:
                    async with self._session() as session:
                        run = _Run(self._settings, session, client, self._pace, self._screen)
                        await run.open(self._kind, actor)
                        begun = True
                        return await run.finish(approve)
                except (NatsError, NatsTimeoutError) as problem:
                    if not begun:
                        raise BrokerSilent(problem) from None
                    self._trouble.tell_by(self._screen.say, "Waiting for the broker", problem)
                except UNAVAILABLE as problem:
                    if not begun:
                        raise
                    self._trouble.tell_by(self._screen.say, "Waiting for PostgreSQL", problem)
                await asyncio.sleep(RETRY_S)
        finally:
            await client.close()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator["_Session"]:
        url = self._settings.database_url
        work = await _connect_worker(url)
        opened = [work]
        try:
            with database.closed_is_unavailable(work):
                await require_migrated(work)
                await jobs.take_lock(work)
            opened.append(await database.connect(url, "membership-job-report"))
            opened.append(await _connect_worker(url))
            yield _Session(*opened)
        finally:
            for connection in opened:
                connection.terminate()


async def _connect_worker(url: str) -> asyncpg.Connection:
    """Open a connection with memory to sort in.

    A commit that a crash of the server loses takes its checkpoint with it, so waiting for the disk gains nothing.
    """
    return await database.connect(
        url, "membership-job", work_mem="64MB", maintenance_work_mem="128MB", synchronous_commit="off"
    )


class _Session(NamedTuple):
    """A job's connections: one that holds the lock and works, one that reports, one that helps."""

    work: asyncpg.Connection
    report: asyncpg.Connection
    helper: asyncpg.Connection


class _Run:
    """One stretch of a job, in one database session."""

    def __init__(
        self, settings: Settings, session: _Session, client: TolerantClient, pace: Pace, screen: Screen
    ) -> None:
        self._settings = settings
        self._work, self._report, self._helper = session
        self._client = client
        self._pace = pace
        self._screen = screen
        self._reported_at = 0.0

    async def open(self, kind: Literal["rebuild", "verify"], actor: str) -> None:
        """Take up the open job of this kind, or begin one."""
        self._actor = actor
        self._live = await checkpoints.live_generation(self._work)
        await self._require_whole_stream()
        async with self._work.transaction():
            self._job = await jobs.open_or_resume(self._work, kind, "fill", actor)
            if self._job.generation is None:
                # Indexed from the start, or filled bare and indexed in strokes that readers would feel.
                create = rebuild.create_indexed if self._pace.gentle else rebuild.create
                self._name = await create(self._work)
                await jobs.give_generation(self._work, self._job, self._name)
                self._job = replace(self._job, generation=self._name)
            else:
                self._name = generation(self._job.generation)
                self._screen.say(f"Going on with job {self._job.job_id}, in phase {self._job.phase}.")

    async def finish(self, approve: Approve) -> Result:
        """Take the job through its remaining phases."""
        try:
            with database.closed_is_unavailable(self._work):
                return await self._phases(approve)
        except JobCancelled as cancelled:
            await give_up(self._work, self._job, self._actor)
            raise JobCancelled(f"{cancelled} Generation {self._name} was dropped; {self._live} stays live.") from None

    async def _phases(self, approve: Approve) -> Result:
        findings = Findings(0, [], 0, [])
        if await self._is_ours():
            held = await checkpoints.take_over(self._work, self._name)
            held = await self._fill(held)
            await self._run_steps()
            held = await self._catch_up(held)
            findings = await self._compare(held)
            if self._job.kind == "verify":
                await self._end_verification(findings)
                return Result(findings, None)
            await self._gate(findings, approve)
        await self._join()
        await self._switch(findings)
        return Result(findings, self._name)

    async def _is_ours(self) -> bool:
        """Say whether this job still writes the generation; after `join` the projector does."""
        found = {each.generation: each for each in await generations.standings(self._work)}
        if self._name not in found:
            raise JobRefused(f"Generation {self._name} is gone. End this job with `membership jobs cancel`.")
        return found[self._name].state == "filling"

    # --- fill, resolve, index, catch up ------------------------------------------------------------------------------

    async def _fill(self, held: Checkpoint) -> Checkpoint:
        steps = await rebuild.steps_left(self._work, self._name)
        if any(step.phase == "resolve" and step.stage == 0 for step in steps):
            return await self._replay("fill", held, self._copy, CHUNK_EVENTS)
        if not steps and self._job.phase == "fill":  # indexed from the start
            return await self._replay("fill", held, self._apply, BATCH_EVENTS)
        return held

    async def _catch_up(self, held: Checkpoint) -> Checkpoint:
        return await self._replay("catch up", held, self._apply, BATCH_EVENTS)

    async def _copy(self, held: Checkpoint, messages: Sequence[Message], created: str) -> Checkpoint:
        return await rebuild.fill(self._work, held, messages, created)

    async def _apply(self, held: Checkpoint, messages: Sequence[Message], created: str) -> Checkpoint:
        return await apply_batch(self._work, held, read_batch(messages), created)

    async def _replay(
        self,
        phase: str,
        held: Checkpoint,
        add: Add,
        events_max: int,
    ) -> Checkpoint:
        """Bring the generation near the live one, which moves on meanwhile."""
        through = await self._live_position()
        meter = await self._enter(phase, "events", held.position, through)
        while True:
            created = await self._stream_created()
            held = await self._replay_through(
                meter, held, Position(through), add=add, events_max=events_max, created=created
            )
            reached, through = through, await self._live_position()
            if through - reached <= NEAR_EVENTS:
                break
        self._screen.end(meter)
        return held

    async def _replay_through(
        self, meter: Meter, held: Checkpoint, through: Position, *, add: Add, events_max: int, created: str
    ) -> Checkpoint:
        chunk = self._pace.events_at_once(GENTLE_CHUNK_EVENTS if self._pace.gentle else events_max)
        async with aclosing(replay(self._client, held.position, through, events_max=chunk)) as stretch:
            began = time.perf_counter()
            async for messages in stretch:
                held = await add(held, messages, created)
                await self._tell(meter, held.position, through)
                await self._pace.worked(time.perf_counter() - began, len(messages))
                began = time.perf_counter()
        return held

    async def _run_steps(self) -> None:
        steps = await rebuild.steps_left(self._work, self._name)
        for phase, of_phase in itertools.groupby(steps, key=lambda step: step.phase):
            todo = list(of_phase)
            meter = await self._enter(phase, "steps", 0, len(todo))
            for _, of_stage in itertools.groupby(todo, key=lambda step: step.stage):
                scripts = [step.script for step in of_stage]
                workers = [self._work] if self._pace.gentle or len(scripts) == 1 else [self._work, self._helper]
                await asyncio.gather(*(self._run_scripts(each, scripts, meter) for each in workers))
            self._screen.end(meter)

    async def _run_scripts(self, connection: asyncpg.Connection, scripts: list[str], meter: Meter) -> None:
        with database.closed_is_unavailable(connection):
            while scripts:
                began = time.perf_counter()
                await connection.execute(scripts.pop(0))
                await self._tell(meter, meter.done + 1, meter.total)
                await self._pace.worked(time.perf_counter() - began)

    # --- compare, gate -----------------------------------------------------------------------------------------------

    async def _compare(self, held: Checkpoint) -> Findings:
        """Compare with the live generation at its position, in one snapshot; commit what was caught up for it."""
        await rebuild.take_statistics(self._work, self._name)
        async with self._work.transaction(isolation="repeatable_read"):
            live = await checkpoints.read(self._work, self._live)  # the snapshot is taken here
            await self._make_up(held, live)
            await rebuild.forget_discarded(self._work, self._name)
            return await self._differences(live.position)

    async def _make_up(self, held: Checkpoint, live: Checkpoint) -> None:
        statements = writes(self._name)
        async with aclosing(replay(self._client, held.position, live.position, events_max=BATCH_EVENTS)) as stretch:
            async for messages in stretch:
                batch = read_batch(messages)
                await write_registers(self._work, statements, batch.registers)
                await park(self._work, statements, batch.parked)
        if live.position > held.position and live.message_time_ns is not None and live.stream_created is not None:
            to = Checkpoint(held.generation, live.position, live.message_time_ns, live.stream_created, held.epoch)
            await checkpoints.advance(self._work, held, to)

    async def _differences(self, position: int) -> Findings:
        comparison = Comparison(self._work, self._live, self._name)
        parts: list[tuple[Part, tuple[str, ...]]] = [(Part(table), ()) for table in KEYS if table not in _SLICED]
        for table in _SLICED:
            rows = await rebuild.row_estimate(self._work, self._name, table)
            slices = _slices(rows // (GENTLE_COMPARE_ROWS if self._pace.gentle else COMPARE_ROWS))
            parts += [(Part(table, _SLICE), bounds) for bounds in slices]
        meter = await self._enter("compare", "slices", 0, len(parts))
        found: list[Difference] = []
        count = 0
        for number, (part, bounds) in enumerate(parts, start=1):
            began = time.perf_counter()
            differing = await comparison.count(part, *bounds)
            if differing and len(found) < ROWS_READ_MAX:
                found += await comparison.find(part, *bounds, rows_max=ROWS_READ_MAX - len(found))
            count += differing
            await self._tell(meter, number, meter.total)
            await self._pace.worked(time.perf_counter() - began)
        self._screen.end(meter)
        # The parked events are the first part, so the limit of what is read whole leaves none of them out.
        newly = [each.key["position"] for each in found if each.table == "parked_event" and not each.held_json]
        return Findings(position, found, count, newly)

    async def _gate(self, findings: Findings, approve: Approve) -> None:
        await self._enter("gate", "", 0, 0)
        reasons = [*await self._lag(findings.position), *await self._empty(), *_newly_parked(findings)]
        if reasons:
            await jobs.note(self._report, self._job, " ".join(reasons))
            raise GateRefused(reasons)
        if findings.count and not await approve(findings):
            reason = (
                f"{findings.count:,} rows differ from {self._live} and nobody approved that. Look at them above; then "
                "`membership rebuild --yes` switches anyway, `membership jobs cancel` gives the new generation up."
            )
            await jobs.note(self._report, self._job, reason)
            raise GateRefused([reason])

    async def _lag(self, position: int) -> list[str]:
        stored_ns = await stream.next_message_time_ns(self._client, position)
        lag_s = 0.0 if stored_ns is None else time.time() - stored_ns / 1e9
        if lag_s <= GATE_LAG_MAX_S:
            return []
        reason = (
            f"The live generation is {lag_s:,.0f} s behind the stream, so a comparison with it proves little. "
            "See that a projector runs and has caught up (`membership status`), then run `membership rebuild` again."
        )
        return [reason]

    async def _empty(self) -> list[str]:
        if not await rebuild.is_empty(self._work, self._name) or await rebuild.is_empty(self._work, self._live):
            return []
        reason = (
            f"The new generation holds no customer, although {self._live} does. Is this the right stream "
            "(MEMBERSHIP_NATS_URL)? `membership jobs cancel` gives the new generation up."
        )
        return [reason]

    # --- join, switch ------------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        """Hand the generation to the projector, and wait until it has brought it level with the live one."""
        meter = await self._enter("join", "events", 0, 0)
        await generations.join(self._work, self._name)
        behind, moved_at = None, time.monotonic()
        while True:
            found = {each.generation: each for each in await generations.standings(self._work)}
            new, live = found[self._name], next(each for each in found.values() if each.live)
            if new.position == live.position:
                break
            if new.position != behind:
                behind, moved_at = new.position, time.monotonic()
            if time.monotonic() - moved_at > JOIN_PATIENCE_S:
                raise JobRefused(
                    f"Generation {self._name} waits at position {new.position} for a projector to bring it to "
                    f"{live.position}, and none does. Start `membership project`, then run `membership rebuild` again."
                )
            await self._tell(meter, new.position, live.position)
            await asyncio.sleep(POLL_S)
        self._screen.end(meter)

    async def _switch(self, findings: Findings) -> None:
        await self._enter("switch", "", 0, 0)
        async with self._work.transaction():
            await self._work.execute("SET LOCAL synchronous_commit = on")
            was = await checkpoints.live_generation(self._work)
            if was != self._live:
                raise JobRefused(
                    f"{was} has become the live generation since {self._name} was compared with {self._live}. "
                    "Run `membership rebuild` again: it compares anew."
                )
            await generations.switch(self._work, self._name, old_follows_s=self._settings.rollback_window_s)
            what = f"switched from {was} to {self._name} with {findings.count} differing rows"
            await jobs.audit(self._work, self._actor, "switch", what)
            await jobs.finish(self._work, self._job, "done", what)

    async def _end_verification(self, findings: Findings) -> None:
        what = f"{findings.count} rows differ at position {findings.position}"
        await _drop(self._work, self._name)
        async with self._work.transaction():
            await self._work.execute("SET LOCAL synchronous_commit = on")
            await jobs.finish(self._work, self._job, "done", what)

    # --- what all phases share ---------------------------------------------------------------------------------------

    async def _enter(self, phase: str, unit: str, done: int, total: int) -> Meter:
        await jobs.enter(self._report, self._job, phase)
        self._job = replace(self._job, phase=phase)
        meter = Meter(phase, unit, done, total)
        self._screen.begin(meter)
        return meter

    async def _tell(self, meter: Meter, done: int, total: int) -> None:
        meter.advance(done, total)
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            self._screen.show(meter)
            await jobs.report(self._report, self._job, meter.done, meter.total, meter.eta_s)

    async def _live_position(self) -> int:
        return (await checkpoints.read(self._report, self._live)).position

    async def _stream_created(self) -> str:
        """Return when the stream was created, after making sure that it is the one the live generation speaks of."""
        live = await checkpoints.read(self._report, self._live)
        return (await stream.verify(self._client, live, self._settings.stream_replicas)).created

    async def _require_whole_stream(self) -> None:
        """Refuse a stream that lacks messages which no recorded erasure took out."""
        live = await checkpoints.read(self._work, self._live)
        if await stream.look(self._client) is None:
            raise StreamMissing(stream.STREAM, live.position)
        state = await stream.verify(self._client, live, self._settings.stream_replicas)
        erased = await jobs.erased_messages(self._work, state.created)
        if state.missing > erased:
            reason = (
                f"Stream {stream.STREAM} lacks {state.missing - erased:,} messages that no erasure took out (its first "
                f"is {state.first_position}, its last {state.last_position}): a new generation would lack what they "
                "said. Restore the stream from its backup; the live generation still has it all."
            )
            raise GateRefused([reason])


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


_SLICED: Final = ("customer", "membership", "customer_summary")
_SLICE: Final = "customer_id BETWEEN $1::uuid AND $2::uuid"


def _slices(wanted: int) -> list[tuple[str, str]]:
    """Cut the space of UUIDs into about so many ranges, inclusive on both ends."""
    number = 2 ** max(0, min(wanted, COMPARE_SLICES_MAX)).bit_length()
    size = 2**16 // number
    first, last = "0000-0000-0000-0000-000000000000", "ffff-ffff-ffff-ffff-ffffffffffff"
    return [(f"{at:04x}{first}", f"{at + size - 1:04x}{last}") for at in range(0, 2**16, size)]


def _newly_parked(findings: Findings) -> list[str]:
    if not findings.newly_parked:
        return []
    shown = ", ".join(map(str, findings.newly_parked[:NEWLY_PARKED_SHOWN]))
    more = " and more" if len(findings.newly_parked) > NEWLY_PARKED_SHOWN else ""
    reason = (
        f"Events at positions {shown}{more} were applied by an earlier release and cannot be by this one: they would "
        "be parked. Run the release that reads them, or `membership parked discard` them with a reason, then run "
        "`membership rebuild` again."
    )
    return [reason]
