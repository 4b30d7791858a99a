"""Operations on parked events: list them, retry them with the current code, discard them with a reason.

Writes: parked_event and the rows that a retried event changes, in every generation; control.audit,
control.discarded_event.
Invariants: an event is removed from parked_event only in the transaction that applies it or records its discard.
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
    """No event is parked at positions that an operator named."""

    code = "not_parked"

    def __init__(self, positions: Sequence[int], stream_position: int) -> None:
        self.positions = tuple(positions)
        beyond = [position for position in positions if position > stream_position]
        named = ", ".join(map(str, positions))
        where = f" The read model has only reached position {stream_position}." if beyond else ""
        super().__init__(
            f"No event is parked at position {named}.{where} `membership parked list` shows the parked events. "
            "Nothing was changed."
        )


class Filter(NamedTuple):
    """Selects parked events; None does not filter. An empty type or source selects events that have none."""

    reason: str | None = None
    subject_prefix: str | None = None
    type: str | None = None
    source: str | None = None


class Retried(Struct, frozen=True):
    """The result of retrying parked events."""

    applied: list[int]
    still_parked: dict[int, Unreadable]


async def reasons(connection: asyncpg.Connection, name: Generation, selection: Filter) -> dict[str, int]:
    """Return the number of parked events by reason, most frequent first."""
    rows = await connection.fetch(_statements(name)["reasons"], *selection)
    return {row["reason"]: row["events"] for row in rows}


async def newest(
    connection: asyncpg.Connection, name: Generation, selection: Filter, rows_max: int
) -> list[asyncpg.Record]:
    """Return (position, reason, first_seen_at, subject, detail) of parked events, newest first."""
    return await connection.fetch(_statements(name)["newest"], *selection, rows_max)


async def positions(connection: asyncpg.Connection, name: Generation, selection: Filter) -> list[int]:
    """Return the positions of parked events, in stream order."""
    return [row["position"] for row in await connection.fetch(_statements(name)["positions"], *selection)]


async def get(connection: asyncpg.Connection, name: Generation, position: int) -> asyncpg.Record | None:
    """Return one parked event with all its columns."""
    return await connection.fetchrow(_statements(name)["whole"], position)


async def retry(connection: asyncpg.Connection, requested: Sequence[int], actor: str) -> Retried:
    """Decode parked events again with the current code, and apply those that are valid. Owns the transaction.

    They are applied to every following generation that has them parked; a generation being filled reads the stream
    itself. Raises `NotParked`, without any change, if the live generation has not parked one of them.
    """
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        await require_parked(connection, requested)
        retried = Retried([], {})
        for name in await generations.followed(connection):
            result = await _retry_in(connection, name, requested)
            retried.applied.extend(sorted(set(result.applied) - set(retried.applied)))
            retried.still_parked.update(result.still_parked)
        await notices.notify_flush(connection)
        for position in retried.applied:
            await audit.record(connection, actor, "parked.retry", "applied", position)
        for position, why in retried.still_parked.items():
            await audit.record(connection, actor, "parked.retry", f"still {why.reason}", position)
    return retried


async def discard(connection: asyncpg.Connection, requested: Sequence[int], reason: str, actor: str) -> None:
    """Discard parked events: they are never applied, in this or any later generation. Owns the transaction.

    Raises `NotParked`, without any change, if one of them is not parked in any generation. The stream keeps them.
    """
    async with connection.transaction():
        await generations.lock_checkpoints(connection)
        missing = set(requested)
        for status in await generations.statuses(connection):
            name = generation(status.generation)
            # One being filled is only read: its job removes discarded events when it compares.
            missing -= await parked_among(connection, name, requested)
            if status.state != "filling":
                await connection.execute(_statements(name)["remove"], list(requested))
        if missing:
            raise NotParked(sorted(missing), await _live_position(connection))
        await connection.execute(
            "INSERT INTO control.discarded_event (position, reason) SELECT unnest($1::bigint[]), $2 "
            "ON CONFLICT (position) DO NOTHING",
            list(requested),
            reason,
        )
        for position in requested:
            await audit.record(connection, actor, "parked.discard", reason, position)


async def _retry_in(connection: asyncpg.Connection, name: Generation, requested: Sequence[int]) -> Retried:
    statements = _statements(name)
    messages: list[Message] = []
    retried = Retried([], {})
    for position in sorted(requested):
        row = await connection.fetchrow(statements["whole"], position)
        if row is not None:
            # The time and the headers of a parked event do not affect the rows.
            messages.append(Message(Position(position), row["subject"], bytes(row["body"]), 0))
    if not messages:
        return retried
    batch = read_batch(messages)
    progress, refused = await write_in_parts(connection, writes(name), batch, fan_out.MEMBERS_MAX, len(messages))
    retried.still_parked.update({parked.message.position: parked.why for parked in (*batch.parked, *refused)})
    retried.applied.extend(message.position for message in messages if message.position not in retried.still_parked)
    await fan_out.record(connection, name, progress.remaining)
    if progress.remaining:
        await generations.bump_epochs(connection)  # a new term reads the recorded fan-outs
    await connection.execute(statements["remove"], retried.applied)
    still_parked = retried.still_parked
    await connection.execute(
        statements["still_parked"],
        list(still_parked),
        [why.reason for why in still_parked.values()],
        [storable(why.detail) for why in still_parked.values()],
    )
    return retried


async def require_parked(connection: asyncpg.Connection, requested: Sequence[int]) -> None:
    """Raise `NotParked` unless the live generation has a parked event at each of these positions."""
    live = next(status for status in await generations.statuses(connection) if status.live)
    parked = await parked_among(connection, generation(live.generation), requested)
    if missing := sorted(set(requested) - parked):
        raise NotParked(missing, Position(live.position))


async def parked_among(connection: asyncpg.Connection, name: Generation, requested: Sequence[int]) -> set[int]:
    """Return those of the positions at which the generation has a parked event."""
    return {row["position"] for row in await connection.fetch(_statements(name)["parked_among"], list(requested))}


async def _live_position(connection: asyncpg.Connection) -> int:
    return next(status.position for status in await generations.statuses(connection) if status.live)


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "parking.sql", generation=name)
