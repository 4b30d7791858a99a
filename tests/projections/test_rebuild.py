"""A bulk fill gives the same rows as the projector, however it is split or interrupted."""

from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.errors import Fenced
from projections.maintenance import rebuild
from projections.model.events import Message
from projections.store import generations
from tests.support.builders import batch_of, message, published
from tests.support.bulk_fill import rebuild_generation, run_remaining_steps, start_rebuild
from tests.support.read_model import CREATED, applied, empty, rows
from tests.support.strategies import History, histories


@given(history=histories(), killed_after=st.integers(0, 45))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_rebuild_gives_the_rows_of_the_projector(
    connection: asyncpg.Connection, history: History, killed_after: int
) -> None:
    checkpoint = await empty(connection)
    for batch in history.batches:
        checkpoint = await applied(connection, checkpoint, batch)
    name = await rebuild_generation(connection, history.batches, killed_after)
    assert await rows(connection, name) == await rows(connection)
    assert await generations.drop(connection, name)


def random_messages(rng: Random, events: int) -> list[Message]:
    """Return events of one customer in one campaign; many have equal versions but different content."""
    types: tuple[str, ...] = ("target.enrolled.v1", "target.removed.v1", "target.restored.v1", "campaign.upserted.v1")
    types += ("campaign.status_changed.v1", "campaign.deleted.v1", "campaign.restored.v1", "customer.upserted.v1")
    messages = []
    for position in range(1, events + 1):
        event_type, fields = rng.choice(types), {}
        if event_type == "target.enrolled.v1":
            fields = {"enrolled_at": f"2026-01-{rng.randint(1, 28):02}T00:00:00Z", "source": rng.choice("abc")}
        elif event_type.startswith("target"):
            fields = {"reason": rng.choice("abc")}
        elif event_type == "campaign.upserted.v1":
            fields = {"name": rng.choice("abc")}
        messages.append(message(position, *published(event_type, rng.randint(1, 3), **fields)))
    return messages


async def test_of_equal_versions_the_first_wins_in_rebuild_and_projector(connection: asyncpg.Connection) -> None:
    rng = Random(11)
    for _ in range(20):
        messages = random_messages(rng, 40)
        await applied(connection, await empty(connection), messages)
        split = rng.randint(1, 38)
        name = await rebuild_generation(connection, [messages[:split], messages[split:]], 1000)
        assert await rows(connection, name) == await rows(connection)
        assert await generations.drop(connection, name)


async def test_a_rebuilt_generation_has_the_same_schema(connection: asyncpg.Connection) -> None:
    name = await rebuild_generation(connection, [[message(1, *published("target.enrolled.v1", 1))]], 1000)
    shape = """
        SELECT c.relname, c.relkind::text, pg_get_indexdef(i.indexrelid) AS index,
            (SELECT array_agg((attname, atttypid, attnotnull, attgenerated)::text ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND c.relkind = 'r') AS columns,
            (SELECT array_agg(pg_get_constraintdef(oid) ORDER BY conname)
             FROM pg_constraint WHERE conrelid = c.oid) AS checks
        FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'i', 'p') ORDER BY 1
    """

    async def shape_of(schema: str) -> list[str]:
        return [str(dict(row)).replace(f"{schema}.", "") for row in await connection.fetch(shape, schema)]

    assert await shape_of(name) == await shape_of("g1")


async def test_a_chunk_that_was_already_added_is_fenced(connection: asyncpg.Connection) -> None:
    checkpoint = await start_rebuild(connection)
    chunk = [message(1, *published("target.enrolled.v1", 1)), message(2, "membership.nothing", b"")]
    await rebuild.fill(connection, checkpoint, batch_of(chunk), CREATED)
    with pytest.raises(Fenced):
        await rebuild.fill(connection, checkpoint, batch_of(chunk), CREATED)
    await run_remaining_steps(connection, checkpoint.generation)
    assert await connection.fetchval(f"SELECT count(*) FROM {checkpoint.generation}.parked_event") == 1  # noqa: S608


async def test_a_discarded_event_is_not_parked_again(connection: asyncpg.Connection) -> None:
    checkpoint = await start_rebuild(connection)
    unreadable = [message(position, "membership.nothing", b"") for position in (1, 2)]
    await rebuild.fill(connection, checkpoint, batch_of(unreadable), CREATED)
    await connection.execute("INSERT INTO control.discarded_event (position, reason) VALUES (2, 'test')")
    await rebuild.forget_discarded(connection, checkpoint.generation)
    parked = await connection.fetch(f"SELECT position FROM {checkpoint.generation}.parked_event")  # noqa: S608
    assert [row["position"] for row in parked] == [1]
