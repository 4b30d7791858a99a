"""The checkpoint: the last position that a generation has applied, of which stream, and in which epoch.

Invariants: it moves only by compare-and-set, in the transaction that writes the rows up to its position.
"""

import math

import asyncpg
from msgspec import Struct

from projections.errors import DatabaseNotMigrated
from projections.model.events import Position
from projections.store.queries import Generation, generation, writes


class Checkpoint(Struct, frozen=True):
    """A generation's checkpoint. `message_time_ns` and `stream_created` are None before the first event."""

    generation: Generation
    position: Position
    message_time_ns: int | None
    stream_created: str | None
    epoch: int


async def live_generation(connection: asyncpg.Connection) -> Generation:
    """Return the generation that serves reads."""
    return generation(await connection.fetchval("SELECT generation FROM control.live"))


async def take_over(connection: asyncpg.Connection, name: Generation) -> Checkpoint:
    """Increase the epoch and return the checkpoint with it.

    Waits for an open transaction of the former leader on this row. From then on the former leader's compare-and-set
    finds another epoch, so it can commit nothing more.
    """
    row = await connection.fetchrow(
        "UPDATE control.checkpoint SET epoch = epoch + 1 WHERE generation = $1 "
        "RETURNING position, message_time_ns, stream_created, epoch",
        name,
    )
    if row is None:
        raise DatabaseNotMigrated([f"the checkpoint of generation {name}"])
    return Checkpoint(name, Position(row["position"]), row["message_time_ns"], row["stream_created"], row["epoch"])


async def advance(connection: asyncpg.Connection, expected: Checkpoint, to: Checkpoint) -> bool:
    """Move from `expected` to `to` in the caller's transaction; return False when another projector took over."""
    row = await connection.fetchrow(
        writes(expected.generation)["advance_checkpoint"],
        expected.generation,
        expected.position,
        expected.epoch,
        to.position,
        to.message_time_ns,
        to.stream_created,
    )
    return row is not None


async def lock(connection: asyncpg.Connection, checkpoint: Checkpoint) -> bool:
    """Lock the checkpoint until the caller's transaction ends; return False when another projector took over."""
    row = await connection.fetchrow(
        "SELECT FROM control.checkpoint WHERE generation = $1 AND position = $2 AND epoch = $3 FOR UPDATE",
        checkpoint.generation,
        checkpoint.position,
        checkpoint.epoch,
    )
    return row is not None


async def epoch_unchanged(connection: asyncpg.Connection, checkpoint: Checkpoint) -> bool:
    """Return whether the epoch is still that of `checkpoint`; the query also keeps the leader's session alive."""
    epoch = await connection.fetchval(
        "SELECT epoch FROM control.checkpoint WHERE generation = $1", checkpoint.generation
    )
    return bool(epoch == checkpoint.epoch)


async def read(connection: asyncpg.Connection, name: Generation) -> Checkpoint:
    """Return the checkpoint without taking it over."""
    row = await connection.fetchrow(
        "SELECT position, message_time_ns, stream_created, epoch FROM control.checkpoint WHERE generation = $1", name
    )
    if row is None:
        raise DatabaseNotMigrated([f"the checkpoint of generation {name}"])
    return Checkpoint(name, Position(row["position"]), row["message_time_ns"], row["stream_created"], row["epoch"])


async def applied_ago_s(connection: asyncpg.Connection, name: Generation) -> float:
    """Return how long ago the last batch was applied, by PostgreSQL's clock; infinite if none ever was."""
    seconds = await connection.fetchval(
        "SELECT extract(epoch FROM now() - applied_at)::float8 FROM control.checkpoint WHERE generation = $1", name
    )
    return math.inf if seconds is None else float(seconds)


async def mark_caught_up(connection: asyncpg.Connection, name: Generation) -> None:
    """Record when the generation first reached the end of the stream; later calls change nothing."""
    await connection.execute(
        "UPDATE control.checkpoint SET caught_up_at = now() WHERE generation = $1 AND caught_up_at IS NULL",
        name,
    )
