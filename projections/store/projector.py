"""Applies a batch of messages to a generation: one transaction for the rows, the parked events and the checkpoint.

Writes: every table of the generation, control.checkpoint. Statements: writes.sql.
Invariants: a batch is in the rows if and only if the checkpoint says so; a batch applied twice changes nothing.
Fails: `Fenced` when another projector took over, nothing written; `database.UNAVAILABLE` when PostgreSQL is away,
nothing written either, so that the same batch may be applied again. A message whose values the tables refuse is found
by halving the batch, and parked (decision 0018); `TablesRefuse` when the refusal is not about a message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
from msgspec import Struct

from projections.errors import Fenced, TablesRefuse
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
from projections.store.fan_out import FanOut
from projections.store.queries import Generation, writes

REFUSED_PER_BATCH_MAX: Final = 10
"""Messages of one batch that are parked because the tables refuse their values. More of them say that the tables are
damaged, not the messages: a release's own tables are meant to take every valid event."""
REFUSED_PARKED_MAX: Final = 100
"""The same for all that are parked in one generation, so that damaged tables do not park a slow stream one by one."""


class WriteFailure(Struct, frozen=True):
    """A generation whose tables refused an event, and what PostgreSQL said."""

    generation: Generation
    reason: str


class Applied(NamedTuple):
    """What became of messages that were applied to all generations that follow."""

    checkpoints: list[Checkpoint]
    failures: list[WriteFailure]
    parked: Sequence[Parked]
    fanning_out: bool
    """Whether a campaign's changed keys are left to be copied to some of its memberships."""


class FanOutProgress(NamedTuple):
    """Whom changed keys of campaigns have reached through their memberships, and whom they have not yet."""

    customers: list[str]
    remaining: list[FanOut]
    superseded: bool
    """Whether a fan-out under way was overtaken: whom it had not reached sees a change, though his copy has none."""


class Written(NamedTuple):
    """The outcome of one generation's part of a transaction."""

    checkpoint: Checkpoint
    fanning_out: bool = False
    parked: Sequence[Parked] = ()


VALUES_REFUSED: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
)
"""Errors about a row or a value: the message that brings it can be found and parked."""
SESSION_REFUSED: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors about this session: a pooler mixes up prepared statements, or the server is a standby. A new session may
succeed; no generation is at fault."""
_TABLES_REFUSED: Final = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)
"""Errors about tables that are missing, changed by hand, or not granted. No other session or message would succeed."""
_CONTROL_SCHEMA: Final = "control"
"""Named in PostgreSQL's message if what is missing belongs to all generations."""


async def apply_batch(
    connection: asyncpg.Connection, held: Checkpoint, batch: Batch, stream_created: str
) -> Checkpoint:
    """Write `batch` on top of `held`, fan-outs to their end, and return the new checkpoint. Owns the transaction.

    Raises `Fenced` without writing when the checkpoint in the database is not `held`.
    """
    try:
        async with connection.transaction():
            return (await _write(connection, held, batch, stream_created, None)).checkpoint
    except VALUES_REFUSED:
        async with connection.transaction():
            return (await _write(connection, held, batch, stream_created, None, in_parts=True)).checkpoint


async def apply_to_all(
    connection: asyncpg.Connection,
    held: Sequence[Checkpoint],
    messages: Sequence[Message],
    stream_created: str,
    members_max: int = fan_out.MEMBERS_MAX,
) -> Applied:
    """Apply messages to every generation that follows, in one transaction, with fan-outs to `members_max` members.

    A generation that stands further already is given only what lies behind its checkpoint, so those that stand
    apart come level here. One of several that cannot be written to must not stop the others: its part is rolled back,
    and it is returned as `Unwritable` in place of a checkpoint. Raises `TablesRefuse` with nothing written if no
    generation can be written to, or if the live one cannot although its tables are not damaged.
    """
    behind = sorted({each.position for each in held if each.position < messages[-1].position})
    # Read before the transaction opens, so that no lock is held while Python works.
    batches = {after: read_batch([each for each in messages if each.position > after]) for after in behind}
    return await _apply(connection, held, batches, stream_created, members_max)


async def apply_shared_batch(
    connection: asyncpg.Connection,
    held: Sequence[Checkpoint],
    batch: Batch,
    stream_created: str,
    members_max: int = fan_out.MEMBERS_MAX,
) -> Applied:
    """Do the same with a batch that was read already, for generations that all stand where it begins."""
    return await _apply(connection, held, {each.position: batch for each in held}, stream_created, members_max)


async def _apply(
    connection: asyncpg.Connection,
    held: Sequence[Checkpoint],
    batches: Mapping[Position, Batch],
    stream_created: str,
    members_max: int,
) -> Applied:
    """Write to each generation the batch that begins where it stands; one that has none stays as it is."""

    async def write(each: Checkpoint, *, in_parts: bool) -> Written:
        batch = batches.get(each.position)
        if batch is None:
            return Written(each)
        return await _write(connection, each, batch, stream_created, members_max, in_parts=in_parts)

    try:
        # Refused values end the whole transaction, which spares every other one the savepoints.
        return await _for_all(connection, held, partial(write, in_parts=False), _TABLES_REFUSED)
    except VALUES_REFUSED:
        return await _for_all(connection, held, partial(write, in_parts=True), (*_TABLES_REFUSED, *VALUES_REFUSED))


async def fan_out_in_all(connection: asyncpg.Connection, held: Sequence[Checkpoint]) -> Applied:
    """Go on with the fan-outs of every generation that follows, a chunk of each, in one transaction."""

    async def write(each: Checkpoint) -> Written:
        if not await checkpoints.lock(connection, each):
            raise Fenced(each.generation, each.position, each.epoch)
        return Written(each, await fan_out.propagate_recorded(connection, each.generation, fan_out.MEMBERS_MAX))

    return await _for_all(connection, held, write, (*_TABLES_REFUSED, *VALUES_REFUSED))


async def _for_all(
    connection: asyncpg.Connection,
    held: Sequence[Checkpoint],
    write: Callable[[Checkpoint], Awaitable[Written]],
    refusals: tuple[type[asyncpg.PostgresError], ...],
) -> Applied:
    """Write to each generation in one transaction, leaving out those that raise one of `refusals`."""
    written: list[Written] = []
    refused: list[tuple[Checkpoint, asyncpg.PostgresError]] = []
    try:
        async with connection.transaction():
            for each in held:
                try:
                    # Alone, it needs no savepoint: what rolls it back rolls all back.
                    async with connection.transaction() if len(held) > 1 else nullcontext():
                        written.append(await write(each))
                except SESSION_REFUSED:
                    raise
                except refusals as problem:
                    if len(held) == 1:
                        raise
                    refused.append((each, problem))
            await _require_written(connection, written, refused)
    except SESSION_REFUSED:
        raise
    except refusals as problem:
        raise TablesRefuse(held[0].generation, _said(problem), damaged=is_damage(problem)) from problem
    return _applied(written, refused)


async def _require_written(
    connection: asyncpg.Connection,
    written: Sequence[Written],
    refused: Sequence[tuple[Checkpoint, asyncpg.PostgresError]],
) -> None:
    """Raise `TablesRefuse` unless the refusals are the fault of those generations alone.

    What every generation refuses may have one cause elsewhere, so none is blamed. A live generation that is not damaged
    is waited for: what it lacks, a right for example, can be granted again.
    """
    if not refused:
        return
    first, problem = refused[0]
    if not written:
        raise TablesRefuse(first.generation, _said(problem), damaged=False)
    live = await checkpoints.live_generation(connection)
    for each, problem in refused:
        if each.generation == live and not is_damage(problem):
            raise TablesRefuse(live, _said(problem), damaged=False)


def is_damage(problem: asyncpg.PostgresError) -> bool:
    """Return whether a refusal says that a generation's own tables were changed: not a right, nor anything shared."""
    if isinstance(problem, asyncpg.InsufficientPrivilegeError | asyncpg.UndefinedFunctionError):
        return False
    missing = isinstance(problem, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError)
    return not (missing and _CONTROL_SCHEMA in _said(problem))


def _applied(written: Sequence[Written], refused: Sequence[tuple[Checkpoint, asyncpg.PostgresError]]) -> Applied:
    parked = {parked.message.position: parked for each in written for parked in each.parked}
    return Applied(
        checkpoints=[each.checkpoint for each in written],
        failures=[WriteFailure(each.generation, _said(problem)) for each, problem in refused],
        parked=[parked[position] for position in sorted(parked)],
        fanning_out=any(each.fanning_out for each in written),
    )


def _said(problem: asyncpg.PostgresError) -> str:
    """Return PostgreSQL's message without its detail, which holds the row, and so a customer's data."""
    return str(problem.args[0]).rstrip(".") if problem.args else type(problem).__name__


async def _write(
    connection: asyncpg.Connection,
    held: Checkpoint,
    batch: Batch,
    stream_created: str,
    members_max: int | None,
    *,
    in_parts: bool = False,
) -> Written:
    """Write a batch and its checkpoint; `in_parts` finds and parks the messages whose values are refused."""
    to = Checkpoint(held.generation, batch.position, batch.time_ns, stream_created, held.epoch)
    if not await checkpoints.advance(connection, held, to):
        raise Fenced(held.generation, held.position, held.epoch)
    statements = writes(held.generation)
    parked: Sequence[Parked] = batch.parked
    if in_parts:
        refused_max = await _refusals_left(connection, held.generation)
        reached, refused = await write_in_parts(connection, statements, batch, members_max, refused_max)
        parked = [*batch.parked, *refused]
    else:
        reached = await write_columns(connection, statements, batch.columns, members_max)
    await fan_out.record(connection, held.generation, reached.remaining)
    await park(connection, statements, parked)
    # Whom a campaign's keys have not reached yet is answered otherwise from now on all the same.
    unnamed = reached.remaining or reached.superseded
    touched = None if unnamed else _changed_tags(batch.registers, reached.customers)
    told = notices.encode_notices(held.generation, to.position, touched)
    await connection.execute(statements["tell_readers"], held.generation, told)
    return Written(to, bool(reached.remaining), parked)


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
    """Write what the tables accept of a batch, in the caller's transaction; return the messages they refuse.

    Raises the refusal itself when there are more than `refused_max`.
    """
    writer = _PartWriter(connection, statements, members_max, refused_max)
    await writer.write(batch)
    return writer.reached(), writer.refused


class _PartWriter:
    """Halves a batch that is refused until the messages at fault stand alone; the rest is written on the way."""

    def __init__(
        self, connection: asyncpg.Connection, statements: Mapping[str, str], members_max: int | None, refused_max: int
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._members_max = members_max
        self._refused_max = refused_max
        self._reached: list[FanOutProgress] = []
        self.refused: list[Parked] = []

    async def write(self, batch: Batch) -> None:
        """Write the batch, or its halves: any split of the same events gives the same rows."""
        try:
            async with self._connection.transaction():
                reached = await write_columns(self._connection, self._statements, batch.columns, self._members_max)
        except VALUES_REFUSED as problem:
            if len(batch.messages) == 1:
                self._refuse(batch.messages[0], problem)
                return
        else:
            self._reached.append(reached)
            return
        middle = len(batch.messages) // 2
        for half in (batch.messages[:middle], batch.messages[middle:]):
            await asyncio.sleep(0)  # other tasks run between two halves: decoding one may take a tenth of a second
            await self.write(read_batch(half))

    def reached(self) -> FanOutProgress:
        """Return what all parts reached; a campaign that several parts left goes on at the first member left."""
        left: dict[UUID, FanOut] = {}
        for fan_out_left in sorted(each for reached in self._reached for each in reached.remaining):
            left.setdefault(fan_out_left.campaign_id, fan_out_left)
        customers = [customer for reached in self._reached for customer in reached.customers]
        return FanOutProgress(customers, list(left.values()), any(reached.superseded for reached in self._reached))

    def _refuse(self, message: Message, problem: asyncpg.PostgresError) -> None:
        if len(self.refused) >= self._refused_max:
            raise problem
        self.refused.append(Parked(message, Unreadable(REFUSED_BY_TABLES, f"{_said(problem)} ({problem.sqlstate}).")))


def _changed_tags(registers: Registers, fanned_out: Iterable[str]) -> Iterator[str]:
    """Name what an answer may depend on that this batch changed, customers that only share a campaign included."""
    customers = {*registers.customers, *(key.customer_id for key in registers.presences), *fanned_out}
    yield from map(notices.customer_tag, customers)
    yield from map(notices.campaign_tag, registers.campaign_ids())


async def write_registers(connection: asyncpg.Connection, statements: Mapping[str, str], registers: Registers) -> None:
    """Offer folded registers to a generation's rows, fan-outs to their end, in the caller's transaction."""
    await write_columns(connection, statements, register_columns(registers), None)


async def write_columns(
    connection: asyncpg.Connection, statements: Mapping[str, str], offered: Columns, members_max: int | None
) -> FanOutProgress:
    """Offer registers, as columns, to a generation's rows, in the caller's transaction.

    A changed key of a campaign is copied to about `members_max` memberships (None: to all); what is left is the
    caller's to record.
    """
    if offered.customers:
        await connection.execute(statements["write_customers"], *offered.customers)
    if offered.enrolled:
        await connection.execute(statements["know_customers"], offered.enrolled)
    moved = await connection.fetch(statements["write_campaigns"], *offered.campaigns) if offered.campaigns else []
    if offered.targets:
        emptied = await connection.fetch(statements["write_targets"], *offered.targets)
        if emptied:
            await connection.execute(statements["forget_empty_counts"], [row["customer_id"] for row in emptied])
    wanted = [FanOut(row["campaign_id"]) for row in moved]
    superseded = any(row["fanning_out"] for row in moved)
    if members_max == 0:
        return FanOutProgress([], wanted, superseded)
    return FanOutProgress(*await fan_out.propagate(connection, statements, wanted, members_max), superseded)


async def park(connection: asyncpg.Connection, statements: Mapping[str, str], parked: Sequence[Parked]) -> None:
    """Keep messages that could not be applied, in the caller's transaction."""
    if parked:
        rows = (parked_row(each.message, each.why) for each in parked)
        await connection.execute(statements["park_events"], *columns(rows))
