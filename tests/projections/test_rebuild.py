"""The bulk way into a generation ends in the very rows the projector writes, wherever it is cut or killed."""

from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.errors import Fenced
from projections.maintenance import rebuild
from projections.model.events import Message
from projections.store import generations
from tests.support.builders import message, published
from tests.support.bulk_fill import begun, finished, rebuilt
from tests.support.read_model import CREATED, applied, empty, rows
from tests.support.strategies import History, histories


@given(history=histories(), killed_after=st.integers(0, 45))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_rebuild_leaves_the_rows_the_projector_leaves(
    connection: asyncpg.Connection, history: History, killed_after: int
) -> None:
    held = await empty(connection)
    for batch in history.batches:
        held = await applied(connection, held, batch)
    name = await rebuilt(connection, history.batches, killed_after)
    assert await rows(connection, name) == await rows(connection)
    assert await generations.drop(connection, name)


def told_at_random(rng: Random, events: int) -> list[Message]:
    """Return events of one customer in one campaign whose versions often tie while their content differs."""
    types = ("target.enrolled.v1", "target.removed.v1", "target.restored.v1", "campaign.upserted.v1")
    types += ("campaign.status_changed.v1", "campaign.deleted.v1", "campaign.restored.v1", "customer.upserted.v1")
    told = []
    for position in range(1, events + 1):
        kind, given_ = rng.choice(types), {}
        if kind == "target.enrolled.v1":
            given_ = {"enrolled_at": f"2026-01-{rng.randint(1, 28):02}T00:00:00Z", "source": rng.choice("abc")}
        elif kind.startswith("target"):
            given_ = {"reason": rng.choice("abc")}
        elif kind == "campaign.upserted.v1":
            given_ = {"name": rng.choice("abc")}
        told.append(message(position, *published(kind, rng.randint(1, 3), **given_)))
    return told


async def test_of_equal_versions_the_first_of_the_stream_wins_in_both_ways(connection: asyncpg.Connection) -> None:
    rng = Random(11)
    for _ in range(20):
        told = told_at_random(rng, 40)
        await applied(connection, await empty(connection), told)
        cut = rng.randint(1, 38)
        name = await rebuilt(connection, [told[:cut], told[cut:]], 1000)
        assert await rows(connection, name) == await rows(connection)
        assert await generations.drop(connection, name)


async def test_a_rebuilt_generation_has_the_shape_of_every_other(connection: asyncpg.Connection) -> None:
    name = await rebuilt(connection, [[message(1, *published("target.enrolled.v1", 1))]], 1000)
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


async def test_a_chunk_that_was_added_already_is_fenced_off(connection: asyncpg.Connection) -> None:
    held = await begun(connection)
    chunk = [message(1, *published("target.enrolled.v1", 1)), message(2, "membership.nothing", b"")]
    await rebuild.fill(connection, held, chunk, CREATED)
    with pytest.raises(Fenced):
        await rebuild.fill(connection, held, chunk, CREATED)
    await finished(connection, held.generation)
    assert await connection.fetchval(f"SELECT count(*) FROM {held.generation}.parked_event") == 1  # noqa: S608


async def test_what_was_discarded_is_not_parked_again(connection: asyncpg.Connection) -> None:
    held = await begun(connection)
    bad = [message(position, "membership.nothing", b"") for position in (1, 2)]
    await rebuild.fill(connection, held, bad, CREATED)
    await connection.execute("INSERT INTO control.discarded_event (position, reason) VALUES (2, 'test')")
    await rebuild.forget_discarded(connection, held.generation)
    found = await connection.fetch(f"SELECT position FROM {held.generation}.parked_event")  # noqa: S608
    assert [row["position"] for row in found] == [1]
