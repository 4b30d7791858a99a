"""Re-derives the rows of one customer or one campaign from its own events, compares them, and writes what differs.

The expected rows are made in temporary tables, with the fold and the statements that write a generation. Most events
are read before the checkpoints are locked, so the projector waits only while the last ones are read.

Writes: the live generation, only the rows that are returned; control.audit. Owns its transaction.
Fails: `ErasedMeanwhile`, `NothingToRepair`; TimeoutError when the last events do not arrive in `TAIL_MAX_S`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal, NamedTuple

import asyncpg

from projections.errors import JobRefused, MembershipError
from projections.maintenance import audit, erasure, jobs
from projections.maintenance.differences import Comparison, Difference, Part
from projections.model.batch import BatchBuilder, read_batch
from projections.model.events import SUBJECT_ROOT, Message, Position
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations, notices
from projections.store.fan_out import FanOut
from projections.store.projector import write_registers
from projections.store.queries import Generation, for_generation, statements, writes

EXPECTED: Final = Generation("pg_temp")
"""PostgreSQL's name for a session's own schema of temporary tables."""

TAIL_MAX_S: Final = 3.0
"""Limit on reading the last events while the projector waits; shorter than its lock timeout."""


class Entity(NamedTuple):
    """What a repair corrects: a customer or a campaign, with its memberships and summaries."""

    kind: Literal["customer", "campaign"]
    id: str

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects of all events from which its rows are derived."""
        if self.kind == "customer":
            return f"{SUBJECT_ROOT}.customer.{self.id}", f"{SUBJECT_ROOT}.target.{self.id}.*"
        return (
            f"{SUBJECT_ROOT}.campaign.{self.id}",
            f"{SUBJECT_ROOT}.counters.{self.id}",
            f"{SUBJECT_ROOT}.target.*.{self.id}",
        )


MessageSource = Callable[[str, Position, Position], AsyncGenerator[BatchBuilder, None]]
"""Yields batches of the messages on a subject after one position, up to and including another."""


class ErasedMeanwhile(JobRefused):
    """A customer is being erased, or was erased during a repair: the repair could restore the erased rows."""

    def __init__(self) -> None:
        super().__init__(
            "A customer is being erased, or was erased during the repair. Nothing was changed; run the repair again "
            "after the erasure."
        )


class NothingToRepair(MembershipError):
    """Neither an event nor a row mentions the entity."""

    code = "nothing_to_repair"

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        super().__init__(f"There is no {entity.kind} {entity.id}: neither an event nor a row mentions it.")


class Repaired(NamedTuple):
    """The rows that differed, as of a position."""

    differences: list[Difference]
    position: Position


async def repair(
    connection: asyncpg.Connection, entity: Entity, source: MessageSource, *, actor: str, dry_run: bool
) -> Repaired:
    """Return the rows of the live generation that differ from the stream and, unless `dry_run`, correct them."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        repaired, live = await _find(connection, entity, source)
        if repaired.differences and not dry_run:
            await _write(connection, live, entity, repaired.differences, actor)
            await transaction.commit()
        else:
            await transaction.rollback()
    except BaseException:
        await transaction.rollback()
        raise
    return repaired


async def _find(connection: asyncpg.Connection, entity: Entity, source: MessageSource) -> tuple[Repaired, Generation]:
    live = await checkpoints.live_generation(connection)
    before = await checkpoints.read(connection, live)
    erasures = await erasure.count_started(connection)
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise ErasedMeanwhile
    await connection.execute(_statements(live)["expected_tables"])
    left_out = await _fold(connection, live, _events(entity, source, Position(0), before.position))
    await generations.lock_checkpoints(connection)
    if await erasure.count_started(connection) != erasures:  # the events read so far may belong to the erased customer
        raise ErasedMeanwhile
    now = await checkpoints.read(connection, live)
    async with asyncio.timeout(TAIL_MAX_S):
        left_out += await _fold(connection, live, _events(entity, source, before.position, now.position))
        await _fold_messages(connection, live, left_out)  # those that a retry has applied before the lock
    if not any([await has_rows(connection, name, entity) for name in (live, EXPECTED)]):
        raise NothingToRepair(entity)
    return Repaired(await _differences(connection, live, entity), now.position), live


async def _events(
    entity: Entity, source: MessageSource, after: Position, through: Position
) -> AsyncGenerator[BatchBuilder, None]:
    """Yield the entity's events, in batches, subject by subject.

    No register takes events from two subjects, so their order between subjects does not matter.
    """
    for subject in entity.subjects:
        async with aclosing(source(subject, after, through)) as chunks:
            async for batch in chunks:
                yield batch


async def _fold(
    connection: asyncpg.Connection, live: Generation, events: AsyncGenerator[BatchBuilder, None]
) -> list[Message]:
    """Fold events into the expected rows, except parked ones; return these."""
    left_out: list[Message] = []
    async with aclosing(events) as batches:
        async for batch in batches:
            if await _parked_among(connection, live, [message.position for message in batch.messages]):
                left_out += await _fold_messages(connection, live, batch.messages)
            else:
                await write_registers(connection, writes(EXPECTED), batch.registers)
    return left_out


async def _fold_messages(
    connection: asyncpg.Connection, live: Generation, messages: Sequence[Message]
) -> list[Message]:
    """Fold messages into the expected rows, except those parked in the live generation; return these.

    A parked message cannot be decoded, or has values that the tables refused and would refuse again.
    """
    parked = await _parked_among(connection, live, [message.position for message in messages])
    applied = [message for message in messages if message.position not in parked]
    if applied:
        await write_registers(connection, writes(EXPECTED), read_batch(applied).registers)
    return [message for message in messages if message.position in parked]


async def _parked_among(connection: asyncpg.Connection, live: Generation, positions: Sequence[Position]) -> set[int]:
    query = for_generation("SELECT position FROM {generation}.parked_event WHERE position = any($1::bigint[])", live)
    return {row["position"] for row in await connection.fetch(query, positions)}


async def _differences(connection: asyncpg.Connection, live: Generation, entity: Entity) -> list[Difference]:
    """Complete the live fan-outs and the expected rows, and return the rows that differ."""
    await fan_out.propagate_recorded(connection, live, None)
    complete = _complete_customer if entity.kind == "customer" else _complete_campaign
    scopes = await complete(connection, live, entity)
    comparison = Comparison(connection, live, EXPECTED)
    return [row for table, scope in scopes for row in await comparison.find(Part(table, scope), entity.id)]


async def _write(
    connection: asyncpg.Connection, live: Generation, entity: Entity, differences: Sequence[Difference], actor: str
) -> None:
    await Comparison(connection, live, EXPECTED).write(differences)
    await notices.notify_flush(connection)
    tables = ", ".join(sorted({row.table for row in differences}))
    # The audit names a campaign, never a customer: it outlives an erasure.
    subject = f"campaign {entity.id}" if entity.kind == "campaign" else "one customer"
    rows = "1 row" if len(differences) == 1 else f"{len(differences):,} rows"
    await audit.record(connection, actor, "repair", f"{rows} of {subject} in {tables}, generation {live}")


async def has_rows(connection: asyncpg.Connection, name: Generation, entity: Entity) -> bool:
    """Return whether a generation, or the expected rows, contain rows of the entity."""
    for table in (entity.kind, "membership", *(["campaign_counters"] if entity.kind == "campaign" else [])):
        # Both names come from closed sets.
        query = f"SELECT EXISTS (SELECT FROM {name}.{table} WHERE {entity.kind}_id = $1)"  # noqa: S608
        if await connection.fetchval(query, entity.id):
            return True
    return False


async def _complete_customer(
    connection: asyncpg.Connection, live: Generation, _entity: Entity
) -> list[tuple[str, str]]:
    copied = await connection.fetch(_statements(live)["copy_campaigns"])
    await fan_out.propagate(connection, writes(EXPECTED), (FanOut(row["campaign_id"]) for row in copied), None)
    return [(table, "customer_id = $1::uuid") for table in ("customer", "membership", "customer_summary")]


async def _complete_campaign(connection: asyncpg.Connection, live: Generation, entity: Entity) -> list[tuple[str, str]]:
    statements = {name: text.replace("{campaign}", f"'{entity.id}'::uuid") for name, text in _statements(live).items()}
    await connection.execute(statements["count_memberships"])
    return [
        ("campaign", "campaign_id = $1::uuid"),
        ("campaign_counters", "campaign_id = $1::uuid"),
        ("membership", "campaign_id = $1::uuid"),
        ("customer_summary", f"$1::uuid IS NOT NULL AND customer_id IN ({statements['members']})"),
    ]


def _statements(live: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "repair.sql", live=live)
