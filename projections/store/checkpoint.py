"""The checkpoint: how far a generation has applied which stream, and under whose leadership.

Invariants: it moves only by compare-and-set inside the transaction that writes the rows it speaks of.
"""

import asyncpg
from msgspec import Struct

from projections.errors import DatabaseNotMigrated
from projections.model.events import Position
from projections.store.queries import Generation, generation, writes


class Checkpoint(Struct, frozen=True):
    """Where a generation stands. `message_time_ns` and `stream_created` are None before the first event."""

    generation: Generation
    position: Position
    message_time_ns: int | None
    stream_created: str | None
    epoch: int


async def live_generation(connection: asyncpg.Connection) -> Generation:
    """Return the generation that reads are answered from."""
    return generation(await connection.fetchval("SELECT generation FROM control.live"))


async def take_over(connection: asyncpg.Connection, name: Generation) -> Checkpoint:
    """Raise the epoch and return the checkpoint under it.

    Waits for a transaction of the former leader that is still open on this row; from then on the former leader's
    compare-and-set finds another epoch, so nothing it still holds can commit.
    """
    row = await connection.fetchrow(
        "UPDATE control.checkpoint SET epoch = epoch + 1 WHERE generation = $1 "
        "RETURNING position, message_time_ns, stream_created, epoch",
        name,
    )
    if row is None:
        raise DatabaseNotMigrated([f"the checkpoint of generation {name}"])
    return Checkpoint(name, Position(row["position"]), row["message_time_ns"], row["stream_created"], row["epoch"])


async def advance(connection: asyncpg.Connection, held: Checkpoint, to: Checkpoint) -> bool:
    """Move from `held` to `to` in the caller's transaction; False when another projector took over."""
    row = await connection.fetchrow(
        writes(held.generation)["advance_checkpoint"],
        held.generation,
        held.position,
        held.epoch,
        to.position,
        to.message_time_ns,
        to.stream_created,
    )
    return row is not None


async def lock(connection: asyncpg.Connection, held: Checkpoint) -> bool:
    """Keep the checkpoint where it is to the end of the caller's transaction; False when another took over."""
    row = await connection.fetchrow(
        "SELECT FROM control.checkpoint WHERE generation = $1 AND position = $2 AND epoch = $3 FOR UPDATE",
        held.generation,
        held.position,
        held.epoch,
    )
    return row is not None


async def epoch_unchanged(connection: asyncpg.Connection, held: Checkpoint) -> bool:
    """Say whether the term under which `held` was read goes on; a question that also shows that its holder lives."""
    epoch = await connection.fetchval("SELECT epoch FROM control.checkpoint WHERE generation = $1", held.generation)
    return bool(epoch == held.epoch)


async def read(connection: asyncpg.Connection, name: Generation) -> Checkpoint:
    """Return the checkpoint as it is, without taking anything over."""
    row = await connection.fetchrow(
        "SELECT position, message_time_ns, stream_created, epoch FROM control.checkpoint WHERE generation = $1", name
    )
    if row is None:
        raise DatabaseNotMigrated([f"the checkpoint of generation {name}"])
    return Checkpoint(name, Position(row["position"]), row["message_time_ns"], row["stream_created"], row["epoch"])


async def mark_caught_up(connection: asyncpg.Connection, name: Generation) -> None:
    """Record that the generation has reached the end of the stream once; it stays recorded."""
    await connection.execute(
        "UPDATE control.checkpoint SET caught_up_at = now() WHERE generation = $1 AND caught_up_at IS NULL",
        name,
    )
