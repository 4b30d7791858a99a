"""Applies a batch of messages to a generation: one transaction for the rows, the parked events and the checkpoint.

Writes: every table of the generation, control.checkpoint. Statements: writes.sql.
Invariants: a batch is in the rows if and only if the checkpoint is at or beyond it; applying it twice changes nothing.
Fails: `Fenced` when another projector took over and `database.UNAVAILABLE` when PostgreSQL is unavailable; both leave
nothing written, so the same batch can be applied again. A message whose values the tables refuse is found by halving
the batch, and parked (decision 0018); `TablesRefuse` when no single message is the cause.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
from msgspec import Struct

from projections.errors import Fenced, TablesRefuse
from projections.model import arrivals
from projections.model.arrivals import CAMPAIGN, COUNTERS, CUSTOMER, TABLES, TARGET, Table, Tally
from projections.model.batch import Batch, Parked, read_batch
from projections.model.events import (
    REFUSED_BY_TABLES,
    Message,
    Position,
    Unreadable,
)
from projections.model.membership import Registers
from projections.model.rows import Columns, columns, parked_row, register_columns
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, notices
from projections.store.checkpoint import Checkpoint
from projections.store.database import PLAN_LOOKUPS
from projections.store.fan_out import FanOut
from projections.store.queries import Generation, writes

REFUSED_PER_BATCH_MAX: Final = 10
"""Limit of messages per batch that are parked because the tables refuse their values. More of them indicate damaged
tables, not faulty messages: the tables of this release are designed to accept every valid event."""
REFUSED_PARKED_MAX: Final = 100
"""The same limit per generation, so that damaged tables do not park a slow stream message by message."""


class WriteFailure(Struct, frozen=True):
    """A generation whose tables refused an event, and PostgreSQL's message."""

    generation: Generation
    reason: str


class Applied(NamedTuple):
    """The result of applying messages to all following generations."""

    checkpoints: list[Checkpoint]
    failures: list[WriteFailure]
    parked: Sequence[Parked]
    fanning_out: bool
    """Whether a campaign's changed keys still have to be copied to some of its memberships."""
    outcomes: "Outcomes"
    """Of the generation that was furthest, so that the events which another one catches up on are not counted twice."""


class Outcomes(NamedTuple):
    """How many valid events won their register on arrival, and how many lost it, by type."""

    applied: Tally
    superseded: Tally

    def plus(self, other: "Outcomes") -> "Outcomes":
        """Return the sum."""
        return Outcomes(self.applied + other.applied, self.superseded + other.superseded)


class FanOutProgress(NamedTuple):
    """The customers whose memberships received a campaign's changed keys, and the fan-outs not yet complete."""

    customers: list[str]
    remaining: list[FanOut]
    superseded: bool
    """Whether a pending fan-out was superseded: members not yet updated must be invalidated, too."""


class Written(NamedTuple):
    """The result of one generation's part of a transaction."""

    checkpoint: Checkpoint
    fanning_out: bool = False
    parked: Sequence[Parked] = ()
    outcomes: Outcomes = Outcomes(Counter(), Counter())
    after: Position = Position(0)
    """The position before the batch that was written; 0 if none was."""


VALUES_REFUSED: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
)
"""Errors about a row or a value: the message that contains it can be found and parked."""
SESSION_REFUSED: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors about this session: a pooler mixes up prepared statements, or the server is a standby. A new session may
succeed; no generation is the cause."""
_TABLES_REFUSED: Final = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)
"""Errors about tables that are missing, changed by hand, or not granted: no other session or message would succeed."""
_CONTROL_SCHEMA: Final = "control"
"""Named in PostgreSQL's message if the missing object belongs to all generations."""


async def apply_batch(
    connection: asyncpg.Connection, checkpoint: Checkpoint, batch: Batch, stream_created: str
) -> Checkpoint:
    """Write `batch` after `checkpoint`, with complete fan-outs, and return the new checkpoint. Owns the transaction.

    Raises `Fenced` without writing when the checkpoint in the database is not `checkpoint`.
    """
    try:
        async with connection.transaction():
            await connection.execute(PLAN_LOOKUPS)
            return (await _write(connection, checkpoint, batch, stream_created, None)).checkpoint
    except VALUES_REFUSED:
        async with connection.transaction():
            await connection.execute(PLAN_LOOKUPS)
            return (await _write(connection, checkpoint, batch, stream_created, None, in_parts=True)).checkpoint


async def apply_to_all(
    connection: asyncpg.Connection,
    current: Sequence[Checkpoint],
    messages: Sequence[Message],
    stream_created: str,
    members_max: int = fan_out.MEMBERS_MAX,
) -> Applied:
    """Apply messages to every following generation, in one transaction, with fan-outs to `members_max` members.

    A generation that is already further on receives only the messages after its checkpoint, so afterwards all are at
    the same position. If one of several cannot be written, the others continue: its part is rolled back, and it is
    returned as a `WriteFailure` instead of a checkpoint. Raises `TablesRefuse` with nothing written if no generation
    can be written, or if the live one cannot be written although its tables are not damaged.
    """
    positions = sorted({checkpoint.position for checkpoint in current if checkpoint.position < messages[-1].position})
    # Decoded before the transaction, so that no lock is held meanwhile.
    batches = {after: read_batch([message for message in messages if message.position > after]) for after in positions}
    return await _apply(connection, current, batches, stream_created, members_max)


async def apply_shared_batch(
    connection: asyncpg.Connection,
    current: Sequence[Checkpoint],
    batch: Batch,
    stream_created: str,
    members_max: int = fan_out.MEMBERS_MAX,
) -> Applied:
    """Like `apply_to_all`, with a batch that is already decoded, for generations that are all at its start."""
    return await _apply(
        connection, current, {checkpoint.position: batch for checkpoint in current}, stream_created, members_max
    )


async def _apply(
    connection: asyncpg.Connection,
    current: Sequence[Checkpoint],
    batches: Mapping[Position, Batch],
    stream_created: str,
    members_max: int,
) -> Applied:
    """Write to each generation the batch that starts at its position; a generation without one stays unchanged."""

    async def write(checkpoint: Checkpoint, *, in_parts: bool) -> Written:
        batch = batches.get(checkpoint.position)
        if batch is None:
            return Written(checkpoint)
        return await _write(connection, checkpoint, batch, stream_created, members_max, in_parts=in_parts)

    try:
        # Refused values roll the whole transaction back, so that all other transactions need no savepoints.
        return await _for_all(connection, current, partial(write, in_parts=False), _TABLES_REFUSED)
    except VALUES_REFUSED:
        return await _for_all(connection, current, partial(write, in_parts=True), (*_TABLES_REFUSED, *VALUES_REFUSED))


async def fan_out_in_all(connection: asyncpg.Connection, current: Sequence[Checkpoint]) -> Applied:
    """Continue the fan-outs of every following generation, one chunk of each, in one transaction."""

    async def write(checkpoint: Checkpoint) -> Written:
        if not await checkpoints.lock(connection, checkpoint):
            raise Fenced(checkpoint.generation, checkpoint.position, checkpoint.epoch)
        return Written(
            checkpoint, await fan_out.propagate_recorded(connection, checkpoint.generation, fan_out.MEMBERS_MAX)
        )

    return await _for_all(connection, current, write, (*_TABLES_REFUSED, *VALUES_REFUSED))


async def _for_all(
    connection: asyncpg.Connection,
    current: Sequence[Checkpoint],
    write: Callable[[Checkpoint], Awaitable[Written]],
    refusals: tuple[type[asyncpg.PostgresError], ...],
) -> Applied:
    """Write to each generation in one transaction, skipping those that raise one of `refusals`."""
    written: list[Written] = []
    refused: list[tuple[Checkpoint, asyncpg.PostgresError]] = []
    try:
        async with connection.transaction():
            for checkpoint in current:
                try:
                    # A single generation needs no savepoint: rolling it back rolls everything back.
                    async with connection.transaction() if len(current) > 1 else nullcontext():
                        written.append(await write(checkpoint))
                except SESSION_REFUSED:
                    raise
                except refusals as problem:
                    if len(current) == 1:
                        raise
                    refused.append((checkpoint, problem))
            await _require_written(connection, written, refused)
    except SESSION_REFUSED:
        raise
    except refusals as problem:
        raise TablesRefuse(current[0].generation, _message_of(problem), damaged=is_damage(problem)) from problem
    return _applied(written, refused)


async def _require_written(
    connection: asyncpg.Connection,
    written: Sequence[Written],
    refused: Sequence[tuple[Checkpoint, asyncpg.PostgresError]],
) -> None:
    """Raise `TablesRefuse` unless the refusals are caused by those generations alone.

    A refusal by every generation may have a common cause elsewhere, so none is marked as broken. If the live generation
    is not damaged, the caller retries: a missing right, for example, can be granted again.
    """
    if not refused:
        return
    first, problem = refused[0]
    if not written:
        raise TablesRefuse(first.generation, _message_of(problem), damaged=False)
    live = await checkpoints.live_generation(connection)
    for checkpoint, problem in refused:
        if checkpoint.generation == live and not is_damage(problem):
            raise TablesRefuse(live, _message_of(problem), damaged=False)


def is_damage(problem: asyncpg.PostgresError) -> bool:
    """Return whether a refusal is caused by changed tables of the generation, not by a right or a shared object."""
    if isinstance(problem, asyncpg.InsufficientPrivilegeError | asyncpg.UndefinedFunctionError):
        return False
    missing = isinstance(problem, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError)
    return not (missing and _CONTROL_SCHEMA in _message_of(problem))


def _applied(written: Sequence[Written], refused: Sequence[tuple[Checkpoint, asyncpg.PostgresError]]) -> Applied:
    parked = {parked.message.position: parked for part in written for parked in part.parked}
    return Applied(
        checkpoints=[part.checkpoint for part in written],
        failures=[WriteFailure(checkpoint.generation, _message_of(problem)) for checkpoint, problem in refused],
        parked=[parked[position] for position in sorted(parked)],
        fanning_out=any(part.fanning_out for part in written),
        outcomes=max(written, key=lambda part: part.after).outcomes,
    )


def _message_of(problem: asyncpg.PostgresError) -> str:
    """Return PostgreSQL's message without its detail, which contains the row and so a customer's data."""
    return str(problem.args[0]).rstrip(".") if problem.args else type(problem).__name__


async def _write(
    connection: asyncpg.Connection,
    checkpoint: Checkpoint,
    batch: Batch,
    stream_created: str,
    members_max: int | None,
    *,
    in_parts: bool = False,
) -> Written:
    """Write a batch and its checkpoint; `in_parts` finds and parks messages whose values are refused."""
    to = Checkpoint(checkpoint.generation, batch.position, batch.time_ns, stream_created, checkpoint.epoch)
    if not await checkpoints.advance(connection, checkpoint, to):
        raise Fenced(checkpoint.generation, checkpoint.position, checkpoint.epoch)
    statements = writes(checkpoint.generation)
    parked: Sequence[Parked] = batch.parked
    if in_parts:
        refused_max = await _refusals_left(connection, checkpoint.generation)
        writer = _PartWriter(connection, statements, members_max, refused_max)
        await writer.write(batch)
        progress, outcomes = writer.progress(), writer.outcomes
        parked = [*batch.parked, *writer.refused]
    else:
        progress, outcomes = await write_batch(connection, statements, batch, members_max)
    await fan_out.record(connection, checkpoint.generation, progress.remaining)
    await park(connection, statements, parked)
    # Answers also change for members that the fan-out has not updated yet, so only a flush covers them all.
    flush = progress.remaining or progress.superseded or _tags_min(batch.registers) > notices.TAGS_MAX
    tags = None if flush else _changed_tags(batch.registers, progress.customers)
    payloads = notices.encode_notices(checkpoint.generation, to.position, tags)
    await connection.execute(statements["notify_readers"], checkpoint.generation, payloads)
    return Written(to, bool(progress.remaining), parked, outcomes, checkpoint.position)


async def _refusals_left(connection: asyncpg.Connection, name: Generation) -> int:
    parked: int = await connection.fetchval(writes(name)["count_refused"], REFUSED_BY_TABLES)
    return max(0, min(REFUSED_PER_BATCH_MAX, REFUSED_PARKED_MAX - parked))


async def write_in_parts(
    connection: asyncpg.Connection,
    statements: Mapping[str, str],
    batch: Batch,
    members_max: int | None = None,
    refused_max: int = REFUSED_PER_BATCH_MAX,
) -> tuple[FanOutProgress, list[Parked]]:
    """Write the messages of a batch that the tables accept, in the caller's transaction; return the refused ones.

    Raises PostgreSQL's error when there are more than `refused_max`.
    """
    writer = _PartWriter(connection, statements, members_max, refused_max)
    await writer.write(batch)
    return writer.progress(), writer.refused


class _PartWriter:
    """Halves a refused batch recursively until the refused messages are isolated, and writes the rest."""

    def __init__(
        self, connection: asyncpg.Connection, statements: Mapping[str, str], members_max: int | None, refused_max: int
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._members_max = members_max
        self._refused_max = refused_max
        self._parts: list[FanOutProgress] = []
        self.refused: list[Parked] = []
        self.outcomes = Outcomes(Counter(), Counter())

    async def write(self, batch: Batch) -> None:
        """Write the batch, or its halves: every split of the same events gives the same rows."""
        try:
            async with self._connection.transaction():
                progress, outcomes = await write_batch(self._connection, self._statements, batch, self._members_max)
        except VALUES_REFUSED as problem:
            if len(batch.messages) == 1:
                self._refuse(batch.messages[0], problem)
                return
        else:
            self._parts.append(progress)
            self.outcomes = self.outcomes.plus(outcomes)
            return
        middle = len(batch.messages) // 2
        for half in (batch.messages[:middle], batch.messages[middle:]):
            await asyncio.sleep(0)  # let other tasks run between halves: decoding one may take 0.1 s
            await self.write(read_batch(half))

    def progress(self) -> FanOutProgress:
        """Return the combined progress; a campaign unfinished in several parts resumes at the lowest customer."""
        remaining: dict[UUID, FanOut] = {}
        for unfinished in sorted(unfinished for part in self._parts for unfinished in part.remaining):
            remaining.setdefault(unfinished.campaign_id, unfinished)
        customers = [customer for part in self._parts for customer in part.customers]
        return FanOutProgress(customers, list(remaining.values()), any(part.superseded for part in self._parts))

    def _refuse(self, message: Message, problem: asyncpg.PostgresError) -> None:
        if len(self.refused) >= self._refused_max:
            raise problem
        self.refused.append(
            Parked(message, Unreadable(REFUSED_BY_TABLES, f"{_message_of(problem)} ({problem.sqlstate})."))
        )


def _tags_min(registers: Registers) -> int:
    """Return how many tags a batch has at least: without making them, which takes long for a large batch."""
    return len(registers.customers) + max(len(registers.counters), len(registers.statuses))


def _changed_tags(registers: Registers, fanned_out: Iterable[str]) -> Iterator[str]:
    """Yield the tags of everything that this batch changed, including customers updated by a fan-out."""
    customers = {*registers.customers, *(key.customer_id for key in registers.presences), *fanned_out}
    yield from map(notices.customer_tag, customers)
    yield from map(notices.campaign_tag, registers.campaign_ids())
    yield from map(notices.definition_tag, registers.definitions)


async def write_batch(
    connection: asyncpg.Connection, statements: Mapping[str, str], batch: Batch, members_max: int | None
) -> tuple[FanOutProgress, Outcomes]:
    """Like `write_columns`, and count the batch's events by outcome."""
    held = {table: await _held(connection, statements, table, batch) for table in TABLES}
    progress, unchanged_rows = await write_columns(connection, statements, batch.columns, members_max)
    superseded = arrivals.superseded(batch.registers, batch.arrivals, held, unchanged_rows)
    return progress, Outcomes(batch.arrivals.valid - superseded, superseded)


async def _held(
    connection: asyncpg.Connection, statements: Mapping[str, str], table: Table, batch: Batch
) -> dict[arrivals.Key, Sequence[int]]:
    """Return the versions of the doubtful rows of a table; the checkpoint's lock keeps them until they are written."""
    keys = list(arrivals.doubtful(table, batch.registers, batch.arrivals))
    if not keys:
        return {}
    parameters = map(list, zip(*keys, strict=True)) if table is TARGET else (keys,)
    row = await connection.fetchrow(statements[_HELD[table]], *parameters)
    return dict(zip(keys, zip(*tuple(row or ()), strict=True), strict=True))


_HELD: Final = {
    CUSTOMER: "held_customers",
    CAMPAIGN: "held_campaigns",
    COUNTERS: "held_counters",
    TARGET: "held_targets",
}


async def write_registers(connection: asyncpg.Connection, statements: Mapping[str, str], registers: Registers) -> None:
    """Offer folded registers to a generation's rows, with complete fan-outs, in the caller's transaction."""
    await write_columns(connection, statements, register_columns(registers), None)


async def write_columns(
    connection: asyncpg.Connection, statements: Mapping[str, str], offered: Columns, members_max: int | None
) -> tuple[FanOutProgress, dict[Table, int]]:
    """Offer registers, as columns, to a generation's rows, in the caller's transaction.

    A campaign's changed keys are copied to about `members_max` memberships (None: to all); the caller records the
    remainder. Also returns how many of the offered rows of the tables with a usual type did not change.
    """
    unchanged = dict.fromkeys((CUSTOMER, COUNTERS, TARGET), 0)
    changed: Sequence[asyncpg.Record] = ()
    if offered.customers:
        command = await connection.execute(statements["write_customers"], *offered.customers)
        unchanged[CUSTOMER] = len(offered.customers[0]) - int(command.rpartition(" ")[2])
    if offered.enrolled:
        await connection.execute(statements["ensure_customers"], offered.enrolled)
    if offered.campaigns:
        changed = await connection.fetch(statements["write_campaigns"], *offered.campaigns)
    if offered.counters:
        command = await connection.execute(statements["write_counters"], *offered.counters)
        unchanged[COUNTERS] = len(offered.counters[0]) - int(command.rpartition(" ")[2])
    if offered.targets:
        moved = await connection.fetchval(statements["write_targets"], *offered.targets)
        unchanged[TARGET] = len(offered.targets[0]) - moved
    fan_outs = [FanOut(row["campaign_id"]) for row in changed]
    superseded = any(row["fanning_out"] for row in changed)
    if members_max == 0:
        return FanOutProgress([], fan_outs, superseded), unchanged
    propagated = await fan_out.propagate(connection, statements, fan_outs, members_max)
    return FanOutProgress(*propagated, superseded), unchanged


async def park(connection: asyncpg.Connection, statements: Mapping[str, str], parked: Sequence[Parked]) -> None:
    """Store messages that could not be applied, in the caller's transaction."""
    if parked:
        rows = (parked_row(item.message, item.why) for item in parked)
        await connection.execute(statements["park_events"], *columns(rows))
