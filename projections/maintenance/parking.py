"""Parked events in an operator's hands: listed, read again through the current code, discarded with a reason.

Writes: parked_event and the rows a retried event moves, in every generation; control.audit, control.discarded_event.
Invariants: an event leaves parked_event only in the transaction that applies it or records why it never will be.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg
from msgspec import Struct

from projections.errors import MembershipError
from projections.maintenance import audit
from projections.model.batch import read_batch
from projections.model.events import Message, Position, Unreadable
from projections.model.rows import storable
from projections.store import fan_out, generations, notices
from projections.store.projector import write_in_parts
from projections.store.queries import Generation, generation, statements, writes


class NotParked(MembershipError):
    """An operator named positions at which no event is parked."""

    code = "not_parked"

    def __init__(self, positions: Sequence[int], stream_position: int) -> None:
        self.positions = tuple(positions)
        beyond = [position for position in positions if position > stream_position]
        named = ", ".join(map(str, positions))
        where = f" The read model has only reached position {stream_position}." if beyond else ""
        super().__init__(
            f"No event is parked at position {named}.{where} `membership parked list` shows those that are; "
            "nothing was changed."
        )


class Filter(NamedTuple):
    """Which parked events are meant; None leaves all."""

    reason: str | None = None
    subject_prefix: str | None = None


class Retried(Struct, frozen=True):
    """What became of parked events that were read again."""

    applied: list[int]
    still_parked: dict[int, Unreadable]


async def reasons(connection: asyncpg.Connection, name: Generation, wanted: Filter) -> dict[str, int]:
    """Count the parked events by reason, the most frequent first."""
    rows = await connection.fetch(_statements(name)["reasons"], *wanted)
    return {row["reason"]: row["events"] for row in rows}


async def newest(
    connection: asyncpg.Connection, name: Generation, wanted: Filter, rows_max: int
) -> list[asyncpg.Record]:
    """Return (position, reason, first_seen_at, subject, detail) of parked events, the newest first."""
    return await connection.fetch(_statements(name)["newest"], *wanted, rows_max)


async def positions(connection: asyncpg.Connection, name: Generation, wanted: Filter) -> list[int]:
    """Return where events are parked, in stream order."""
    return [row["position"] for row in await connection.fetch(_statements(name)["positions"], *wanted)]


async def get(connection: asyncpg.Connection, name: Generation, position: int) -> asyncpg.Record | None:
    """Return one parked event with everything that is kept of it."""
    return await connection.fetchrow(_statements(name)["whole"], position)


async def retry(connection: asyncpg.Connection, wanted: Sequence[int], actor: str) -> Retried:
    """Read parked events again by the current code, and apply those that can be read. Owns the transaction.

    In every generation that follows and has them parked; one that is being filled reads the stream by itself. Raises
    `NotParked`, having changed nothing, if the live one has not.
    """
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        await require_parked(connection, wanted)
        retried = Retried([], {})
        for name in await generations.followed(connection):
            found = await _retry_in(connection, name, wanted)
            retried.applied.extend(sorted(set(found.applied) - set(retried.applied)))
            retried.still_parked.update(found.still_parked)
        await notices.notify_flush(connection)
        for position in retried.applied:
            await audit.record(connection, actor, "parked.retry", "applied", position)
        for position, why in retried.still_parked.items():
            await audit.record(connection, actor, "parked.retry", f"still {why.reason}", position)
    return retried


async def discard(connection: asyncpg.Connection, wanted: Sequence[int], reason: str, actor: str) -> None:
    """Decide that parked events are never applied: in no generation, nor in one to come. Owns the transaction.

    Raises `NotParked`, having changed nothing, if one of them is parked in no generation. The stream keeps them.
    """
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        missing = set(wanted)
        for each in await generations.statuses(connection):
            name = generation(each.generation)
            # One that is being filled is only asked: its job takes the discarded out when it compares.
            missing -= await _parked_among(connection, name, wanted)
            if each.state != "filling":
                await connection.execute(_statements(name)["take_out"], list(wanted))
        if missing:
            raise NotParked(sorted(missing), await _live_position(connection))
        await connection.execute(
            "INSERT INTO control.discarded_event (position, reason) SELECT unnest($1::bigint[]), $2 "
            "ON CONFLICT (position) DO NOTHING",
            list(wanted),
            reason,
        )
        for position in wanted:
            await audit.record(connection, actor, "parked.discard", reason, position)


async def _retry_in(connection: asyncpg.Connection, name: Generation, wanted: Sequence[int]) -> Retried:
    statements = _statements(name)
    messages: list[Message] = []
    retried = Retried([], {})
    for position in sorted(wanted):
        row = await connection.fetchrow(statements["whole"], position)
        if row is not None:
            # Only what decides the rows is given: the time and the headers of a parked event do not.
            messages.append(Message(Position(position), row["subject"], bytes(row["body"]), 0))
    if not messages:
        return retried
    batch = read_batch(messages)
    reached, refused = await write_in_parts(connection, writes(name), batch, fan_out.MEMBERS_MAX, len(messages))
    retried.still_parked.update({each.message.position: each.why for each in (*batch.parked, *refused)})
    retried.applied.extend(each.position for each in messages if each.position not in retried.still_parked)
    await fan_out.record(connection, name, reached.remaining)
    if reached.remaining:
        await generations.bump_epochs(connection)  # a new term looks for fan-outs
    await connection.execute(statements["take_out"], retried.applied)
    still = retried.still_parked
    await connection.execute(
        statements["still_parked"],
        list(still),
        [why.reason for why in still.values()],
        [storable(why.detail) for why in still.values()],
    )
    return retried


async def require_parked(connection: asyncpg.Connection, wanted: Sequence[int]) -> None:
    """Raise `NotParked` unless the live generation has an event parked at each of these positions."""
    live = next(each for each in await generations.statuses(connection) if each.live)
    parked = await _parked_among(connection, generation(live.generation), wanted)
    if missing := sorted(set(wanted) - parked):
        raise NotParked(missing, Position(live.position))


async def _parked_among(connection: asyncpg.Connection, name: Generation, wanted: Sequence[int]) -> set[int]:
    return {row["position"] for row in await connection.fetch(_statements(name)["parked_among"], list(wanted))}


async def _live_position(connection: asyncpg.Connection) -> int:
    return next(each.position for each in await generations.statuses(connection) if each.live)


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "parking.sql", generation=name)
