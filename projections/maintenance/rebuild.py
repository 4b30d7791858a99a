"""Fills a new generation in bulk, with the fold that the projector uses, and finishes it step by step.

Writes: a generation in state `filling`, its checkpoint. Statements: rebuild.sql, generation.sql.
Invariants: a chunk's registers and the checkpoint are written in one transaction; so are a step of `steps_left` and the
change that shows that it is done. So after a crash, the existing tables and indexes show where to resume.
Memory: one chunk of events, whatever the stream's length; the caller bounds its events and bytes.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from projections.errors import Fenced
from projections.model.batch import BatchBuilder
from projections.model.membership import Registers
from projections.model.rows import campaign_row, counters_row, customer_row, target_row
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.checkpoint import Checkpoint
from projections.store.projector import park
from projections.store.queries import Generation, statements, writes

SLICES: Final = 32
"""Parts in which the memberships are resolved. More parts would make statements shorter, but COPY slower."""


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "rebuild.sql", generation=name, slices=str(SLICES))


async def create(connection: asyncpg.Connection) -> Generation:
    """Create the next generation, without keys, and the tables for its chunks; the caller owns the transaction."""
    name = await generations.next_name(connection)
    await generations.create_bare(connection, name, "filling")
    await connection.execute(_statements(name)["staging"])
    for number in range(SLICES):
        await connection.execute(_statements(name)["staging_slice"].replace("{slice}", str(number)))
    return name


async def create_indexed(connection: asyncpg.Connection) -> Generation:
    """Create the next generation with all indexes, to be filled as the projector does; it needs no further steps."""
    name = await generations.next_name(connection)
    await generations.create(connection, name, "filling")
    return name


async def fill(
    connection: asyncpg.Connection, checkpoint: Checkpoint, chunk: BatchBuilder, stream_created: str
) -> Checkpoint:
    """Add a chunk of messages, at least one, after `checkpoint`; return the new checkpoint. Owns the transaction.

    Raises `Fenced` without writing when the checkpoint in the database is not `checkpoint`.
    """
    advanced = Checkpoint(checkpoint.generation, chunk.position, chunk.time_ns, stream_created, checkpoint.epoch)
    async with connection.transaction():
        if not await checkpoints.advance(connection, checkpoint, advanced):
            raise Fenced(checkpoint.generation, checkpoint.position, checkpoint.epoch)
        await _copy(connection, checkpoint.generation, chunk)
        await park(connection, writes(checkpoint.generation), chunk.parked)
    return advanced


INDEX_STAGES: Final = (
    (
        "membership_by_enrolled_at",
        "membership_by_campaign",
        "key_of_customer_summary",
        "campaign_by_text",
        "campaign_by_name_prefix",
        "campaign_by_created_at",
        "campaign_by_created_at_desc",
        "key_of_campaign",
        "key_of_campaign_counters",
    ),
    ("key_of_membership", "key_of_customer"),
)
"""Indexes of one stage may be built in parallel, those of the first also while customers are resolved. Building a
primary key locks its table."""


class Step(NamedTuple):
    """A script to run as one transaction. Steps of the same `stage` may run in parallel."""

    phase: Literal["resolve", "index"]
    stage: int
    script: str


async def steps_left(connection: asyncpg.Connection, name: Generation) -> list[Step]:
    """Return the remaining steps that turn the chunks into a generation, in order; empty once it is complete."""
    statements, tables = _statements(name), generations.definition(name)
    existing = {row["relname"] for row in await connection.fetch(statements["relations"])}
    slices = [number for number in range(SLICES) if f"fill_target_{number}" in existing]
    steps: list[Step] = []
    if "fill_campaign" in existing:
        steps.append(Step("resolve", 0, statements["resolve_campaigns"]))
    if "fill_counters" in existing:  # not in stage 0: once that is done, no more chunks are filled
        steps.append(Step("resolve", 1, statements["resolve_counters"]))
    resolve_slice = statements["resolve_targets"]
    steps += [Step("resolve", 1, resolve_slice.replace("{slice}", str(number))) for number in slices]
    if "fill_customer" in existing:
        steps.append(Step("index", 2, statements["resolve_customers"]))
    for stage, blocks in enumerate(INDEX_STAGES, start=2):
        missing = [block for block in blocks if generations.INDEXES[block] not in existing]
        steps += [Step("index", stage, tables[block]) for block in missing]
    return steps


async def take_statistics(connection: asyncpg.Connection, name: Generation) -> None:
    """Collect the planner's statistics on the tables now; nothing else would collect them before the first reads."""
    await connection.execute(generations.definition(name)["statistics"])


async def row_estimate(connection: asyncpg.Connection, name: Generation, table: str) -> int:
    """Return the approximate number of rows of a table, from its statistics."""
    rows = await connection.fetchval(
        "SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass", f"{name}.{table}"
    )
    return max(0, int(rows))


async def forget_discarded(connection: asyncpg.Connection, name: Generation) -> None:
    """Remove the parked events that an operator has already discarded."""
    await connection.execute(_statements(name)["forget_discarded"])


async def newly_parked(connection: asyncpg.Connection, name: Generation, live: Generation) -> list[int]:
    """Return the positions parked in a generation but not in the live one, in stream order."""
    rows = await connection.fetch(_statements(name)["newly_parked"].replace("{live}", live))
    return [row["position"] for row in rows]


async def keep_first_seen(connection: asyncpg.Connection, name: Generation, live: Generation) -> None:
    """Copy from the live generation the time at which parked events were first seen."""
    await connection.execute(_statements(name)["keep_first_seen"].replace("{live}", live))


async def is_empty(connection: asyncpg.Connection, name: Generation) -> bool:
    """Return whether a generation contains neither a customer nor a membership."""
    row = await connection.fetchrow(_statements(name)["size"])
    return row is None or row["customers"] + row["memberships"] == 0


async def _copy(connection: asyncpg.Connection, name: Generation, chunk: BatchBuilder) -> None:
    registers, at = chunk.registers, chunk.position
    await _copy_rows(connection, name, "fill_customer", _customers(at, registers))
    await _copy_rows(connection, name, "fill_campaign", _campaigns(at, chunk))
    await _copy_rows(connection, name, "fill_counters", _counters(at, registers))
    await _copy_rows(connection, name, "fill_target", _targets(at, registers))


async def _copy_rows(
    connection: asyncpg.Connection, name: Generation, table: str, rows: Iterable[tuple[Any, ...]]
) -> None:
    records = list(rows)
    if records:
        await connection.copy_records_to_table(table, schema_name=name, records=records)


def _customers(at: int, registers: Registers) -> Iterable[tuple[Any, ...]]:
    return ((at, *customer_row(event)) for event in registers.customers.values())


def _campaigns(at: int, chunk: BatchBuilder) -> Iterable[tuple[Any, ...]]:
    registers, definitions = chunk.registers, chunk.definitions
    changed = registers.definitions.keys() | registers.statuses.keys() | registers.deletions.keys()
    return ((at, *campaign_row(campaign_id, registers, definitions)) for campaign_id in changed)


def _counters(at: int, registers: Registers) -> Iterable[tuple[Any, ...]]:
    return ((at, *counters_row(event)) for event in registers.counters.values())


def _targets(at: int, registers: Registers) -> Iterable[tuple[Any, ...]]:
    return ((at, *target_row(key, registers)) for key in registers.presences)
