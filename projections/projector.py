"""Applies a batch of messages to a generation: one transaction for the rows, the parked events and the checkpoint.

Writes: every table of the generation, control.checkpoint. Statements: writes.sql.
Invariants: a batch is in the rows if and only if the checkpoint says so; a batch applied twice changes nothing.
Fails: `Fenced` when another projector took over, nothing written; `database.UNAVAILABLE` when PostgreSQL is away,
nothing written either, so that the same batch may be applied again.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Final, NamedTuple

import asyncpg
from msgspec import Struct

from projections import checkpoint as checkpoints
from projections import fan_out, notices
from projections.checkpoint import Checkpoint
from projections.errors import Fenced
from projections.events import Event, Message, Position, Unreadable, decode
from projections.fan_out import FanOut
from projections.membership import Registers, fold
from projections.queries import Generation, writes
from projections.rows import campaign_columns, columns, customer_row, parked_row, target_row


class Parked(Struct, frozen=True):
    """A message that could not be read, and why."""

    message: Message
    why: Unreadable


class Batch(Struct, frozen=True):
    """Messages in stream order, read and folded: what one transaction will write."""

    registers: Registers
    parked: tuple[Parked, ...]
    position: Position
    time_ns: int


class Unwritable(Struct, frozen=True):
    """A generation whose tables refused an event, and what PostgreSQL said."""

    generation: Generation
    problem: str


class Applied(NamedTuple):
    """What became of messages that were applied to all generations that follow."""

    held: list[Checkpoint]
    unwritable: list[Unwritable]
    parked: Sequence[Parked]
    fanning_out: bool
    """Whether a campaign's changed keys are left to be copied to some of its memberships."""


class Reached(NamedTuple):
    """Whom changed keys of campaigns have reached through their memberships, and whom they have not yet."""

    customers: list[str]
    left: list[FanOut]
    superseded: bool
    """Whether a fan-out under way was overtaken: whom it had not reached sees a change, though his copy has none."""


_ROWS_REFUSED: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
)
"""What tables raise that are damaged, changed by hand or gone: no trouble of the server's, and none that passes."""


class Gathered:
    """A batch that grows: messages in stream order, decoded and folded as they come. No I/O."""

    def __init__(self, after: Position) -> None:
        self.after = after
        """The position that the first message follows upon."""
        self.position = after
        self.events = 0
        self.bytes = 0
        """Of all bodies."""
        self._time_ns = 0
        self._registers = Registers()
        self._parked: list[Parked] = []

    def add(self, messages: Sequence[Message]) -> None:
        """Decode and fold the next messages; at least one."""
        events: list[Event] = []
        for message in messages:
            event = decode(message.subject, message.body)
            if isinstance(event, Unreadable):
                self._parked.append(Parked(message, event))
            else:
                events.append(event)
        fold(events, self._registers)
        self.bytes += sum([len(message.body) for message in messages])
        self.events += len(messages)
        self.position = messages[-1].position
        self._time_ns = messages[-1].time_ns

    def batch(self) -> Batch:
        """Return what was added so far, at least one message, as the batch it is."""
        return Batch(self._registers, tuple(self._parked), self.position, self._time_ns)


def read_batch(messages: Sequence[Message]) -> Batch:
    """Decode and fold messages in stream order; at least one. Pure."""
    gathered = Gathered(Position(0))
    gathered.add(messages)
    return gathered.batch()


async def apply_batch(
    connection: asyncpg.Connection, held: Checkpoint, batch: Batch, stream_created: str
) -> Checkpoint:
    """Write `batch` on top of `held`, fan-outs to their end, and return the new checkpoint. Owns the transaction.

    Raises `Fenced` without writing when the checkpoint in the database is not `held`.
    """
    async with connection.transaction():
        reached, _ = await _write(connection, held, batch, stream_created, None)
        return reached


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
    and it is returned as `Unwritable` in place of a checkpoint.
    """
    behind = sorted({each.position for each in held if each.position < messages[-1].position})
    # Read before the transaction opens, so that no lock is held while Python works.
    batches = {after: read_batch([each for each in messages if each.position > after]) for after in behind}
    return await _apply(connection, held, batches, stream_created, members_max)


async def apply_level(
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
    parked = max((batch.parked for batch in batches.values()), key=len, default=())

    async def write(each: Checkpoint) -> tuple[Checkpoint, bool]:
        batch = batches.get(each.position)
        return (each, False) if batch is None else await _write(connection, each, batch, stream_created, members_max)

    return (await _for_all(connection, held, write))._replace(parked=parked)


async def fan_out_in_all(connection: asyncpg.Connection, held: Sequence[Checkpoint]) -> Applied:
    """Go on with the fan-outs of every generation that follows, a chunk of each, in one transaction."""

    async def write(each: Checkpoint) -> tuple[Checkpoint, bool]:
        if not await checkpoints.hold(connection, each):
            raise Fenced(each.generation, each.position, each.epoch)
        return each, await fan_out.level_recorded(connection, each.generation, fan_out.MEMBERS_MAX)

    return await _for_all(connection, held, write)


async def _for_all(
    connection: asyncpg.Connection,
    held: Sequence[Checkpoint],
    write: Callable[[Checkpoint], Awaitable[tuple[Checkpoint, bool]]],
) -> Applied:
    applied = Applied([], [], (), fanning_out=False)
    try:
        async with connection.transaction():
            for each in held:
                try:
                    # Alone, it needs no savepoint: what rolls it back rolls all back.
                    async with connection.transaction() if len(held) > 1 else nullcontext():
                        reached, left = await write(each)
                except _ROWS_REFUSED as problem:
                    if len(held) == 1:
                        raise
                    applied.unwritable.append(_unwritable(each, problem))
                else:
                    applied.held.append(reached)
                    applied = applied._replace(fanning_out=applied.fanning_out or left)
    except _ROWS_REFUSED as problem:
        return Applied([], [_unwritable(held[0], problem)], (), fanning_out=False)
    return applied


def _unwritable(held: Checkpoint, problem: asyncpg.PostgresError) -> Unwritable:
    """Say what was refused without the row, which is a customer's."""
    return Unwritable(held.generation, str(problem.args[0]).rstrip(".") if problem.args else type(problem).__name__)


async def _write(
    connection: asyncpg.Connection, held: Checkpoint, batch: Batch, stream_created: str, members_max: int | None
) -> tuple[Checkpoint, bool]:
    """Return the new checkpoint, and whether fan-outs are left to do."""
    to = Checkpoint(held.generation, batch.position, batch.time_ns, stream_created, held.epoch)
    if not await checkpoints.advance(connection, held, to):
        raise Fenced(held.generation, held.position, held.epoch)
    statements = writes(held.generation)
    reached = await write_registers(connection, statements, batch.registers, members_max)
    await fan_out.record(connection, held.generation, reached.left)
    await park(connection, statements, batch.parked)
    # Whom a campaign's keys have not reached yet is answered otherwise from now on all the same.
    unnamed = reached.left or reached.superseded
    touched = None if unnamed else _touched(batch.registers, reached.customers)
    told = notices.told(held.generation, to.position, touched)
    await connection.execute(statements["tell_readers"], held.generation, told)
    return to, bool(reached.left)


def _touched(registers: Registers, fanned_out: Iterable[str]) -> Iterator[str]:
    """Name what an answer may depend on that this batch changed, customers that only share a campaign included."""
    customers = {*registers.customers, *(key.customer_id for key in registers.presences), *fanned_out}
    yield from map(notices.customer_tag, customers)
    yield from map(notices.campaign_tag, registers.campaign_ids())


async def write_registers(
    connection: asyncpg.Connection,
    statements: Mapping[str, str],
    registers: Registers,
    members_max: int | None = None,
) -> Reached:
    """Offer folded registers to a generation's rows, in the caller's transaction.

    A changed key of a campaign is copied to about `members_max` memberships (None: to all); what is left is the
    caller's to record.
    """
    if registers.customers:
        await connection.execute(
            statements["write_customers"], *columns(map(customer_row, registers.customers.values()))
        )
    if registers.enrolments:
        await connection.execute(statements["know_customers"], [key.customer_id for key in registers.enrolments])
    moved = []
    if registers.campaign_ids():
        moved = await connection.fetch(statements["write_campaigns"], *campaign_columns(registers))
    if registers.presences:
        rows = (target_row(key, registers) for key in sorted(registers.presences))
        if emptied := await connection.fetch(statements["write_targets"], *columns(rows)):
            await connection.execute(statements["forget_empty_counts"], [row["customer_id"] for row in emptied])
    wanted = [FanOut(row["campaign_id"]) for row in moved]
    superseded = any(row["fanning_out"] for row in moved)
    if members_max == 0:
        return Reached([], wanted, superseded)
    return Reached(*await fan_out.level(connection, statements, wanted, members_max), superseded)


async def park(connection: asyncpg.Connection, statements: Mapping[str, str], parked: Sequence[Parked]) -> None:
    """Keep messages that could not be read, in the caller's transaction."""
    if parked:
        rows = (parked_row(each.message, each.why) for each in parked)
        await connection.execute(statements["park_events"], *columns(rows))
