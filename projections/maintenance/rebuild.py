"""Fills a new generation in bulk, by the very fold that the projector uses, and finishes it step by step.

Writes: a generation in state `filling`, its checkpoint. Statements: rebuild.sql, generation.sql.
Invariants: a chunk's registers and the checkpoint are one transaction; so is a step of `steps_left` with the trace
that says it is done. So whatever is killed, what is there says where to go on.
Memory: one chunk of events, whatever the stream's length.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from projections.errors import Fenced
from projections.model.batch import BatchBuilder
from projections.model.events import Message
from projections.model.membership import Registers
from projections.model.rows import campaign_row, customer_row, target_row
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.checkpoint import Checkpoint
from projections.store.projector import park
from projections.store.queries import Generation, statements, writes

SLICES: Final = 32
"""Parts that the memberships are resolved in. More would make shorter statements, and COPY slower."""


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "rebuild.sql", generation=name, slices=str(SLICES))


async def create(connection: asyncpg.Connection) -> Generation:
    """Make the next generation, bare, with the tables that chunks are copied into; the caller owns the transaction."""
    name = await generations.next_name(connection)
    await generations.create_bare(connection, name, "filling")
    await connection.execute(_statements(name)["staging"])
    for number in range(SLICES):
        await connection.execute(_statements(name)["staging_slice"].replace("{slice}", str(number)))
    return name


async def create_indexed(connection: asyncpg.Connection) -> Generation:
    """Make the next generation with all its indexes, for events to go in as the projector's do; no step is left."""
    name = await generations.next_name(connection)
    await generations.create(connection, name, "filling")
    return name


async def fill(
    connection: asyncpg.Connection, held: Checkpoint, messages: Sequence[Message], stream_created: str
) -> Checkpoint:
    """Add a chunk of messages on top of `held`; return the new checkpoint. Owns the transaction.

    Raises `Fenced` without writing when the checkpoint in the database is not `held`.
    """
    chunk = BatchBuilder(held.position)
    chunk.add(messages)
    reached = Checkpoint(held.generation, chunk.position, chunk.time_ns, stream_created, held.epoch)
    async with connection.transaction():
        if not await checkpoints.advance(connection, held, reached):
            raise Fenced(held.generation, held.position, held.epoch)
        await _copy(connection, held.generation, chunk)
        await park(connection, writes(held.generation), chunk.parked)
    return reached


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
    ),
    ("key_of_membership", "key_of_customer"),
)
"""Those of one stage may be made at once, and while the customers are resolved; a primary key locks its table."""


class Step(NamedTuple):
    """A script to be run as one transaction. Steps of one `stage` do not wait for each other."""

    phase: Literal["resolve", "index"]
    stage: int
    script: str


async def steps_left(connection: asyncpg.Connection, name: Generation) -> list[Step]:
    """Return what still turns the chunks into a generation, in order; nothing once it is whole."""
    statements, tables = _statements(name), generations.definition(name)
    there = {row["relname"] for row in await connection.fetch(statements["relations"])}
    slices = [number for number in range(SLICES) if f"fill_target_{number}" in there]
    steps: list[Step] = []
    if "fill_campaign" in there:
        steps.append(Step("resolve", 0, statements["resolve_campaigns"]))
    resolve_slice = statements["resolve_targets"]
    steps += [Step("resolve", 1, resolve_slice.replace("{slice}", str(number))) for number in slices]
    if "fill_customer" in there:
        steps.append(Step("index", 2, statements["resolve_customers"]))
    for stage, blocks_ in enumerate(INDEX_STAGES, start=2):
        missing = [block for block in blocks_ if generations.INDEXES[block] not in there]
        steps += [Step("index", stage, tables[block]) for block in missing]
    return steps


async def take_statistics(connection: asyncpg.Connection, name: Generation) -> None:
    """Let the planner look at the tables as they are now; nothing else would before readers come."""
    await connection.execute(generations.definition(name)["statistics"])


async def row_estimate(connection: asyncpg.Connection, name: Generation, table: str) -> int:
    """Return about how many rows a table has, as its statistics say."""
    found = await connection.fetchval(
        "SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass", f"{name}.{table}"
    )
    return max(0, int(found))


async def forget_discarded(connection: asyncpg.Connection, name: Generation) -> None:
    """Take out the parked events that an operator has discarded before."""
    await connection.execute(_statements(name)["forget_discarded"])


async def newly_parked(connection: asyncpg.Connection, name: Generation, live: Generation) -> list[int]:
    """Return the positions that a generation has parked and the live one has not, in stream order."""
    rows = await connection.fetch(_statements(name)["newly_parked"].replace("{live}", live))
    return [row["position"] for row in rows]


async def keep_first_seen(connection: asyncpg.Connection, name: Generation, live: Generation) -> None:
    """Let parked events keep the time at which they were first seen."""
    await connection.execute(_statements(name)["keep_first_seen"].replace("{live}", live))


async def is_empty(connection: asyncpg.Connection, name: Generation) -> bool:
    """Say whether a generation holds neither a customer nor a membership."""
    row = await connection.fetchrow(_statements(name)["size"])
    return row is None or row["customers"] + row["memberships"] == 0


async def _copy(connection: asyncpg.Connection, name: Generation, chunk: BatchBuilder) -> None:
    registers, at = chunk.registers, chunk.position
    await _copy_rows(connection, name, "fill_customer", _customers(at, registers))
    await _copy_rows(connection, name, "fill_campaign", _campaigns(at, chunk))
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
    return ((at, *campaign_row(campaign_id, registers, definitions)) for campaign_id in registers.campaign_ids())


def _targets(at: int, registers: Registers) -> Iterable[tuple[Any, ...]]:
    return ((at, *target_row(key, registers)) for key in registers.presences)
