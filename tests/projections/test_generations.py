"""Generations are created and dropped beside the live one: one live generation, equal positions, unique names."""

import asyncpg
import pytest

from projections.errors import GenerationNotReady, NothingToRollBackTo, TablesRefuse
from projections.maintenance import rebuild
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.checkpoint import Checkpoint
from projections.store.projector import REFUSED_PER_BATCH_MAX, apply_to_all
from projections.store.queries import Generation
from tests.support.builders import message, published
from tests.support.read_model import CREATED, rows

G1, G2, G3 = Generation("g1"), Generation("g2"), Generation("g3")


async def create_generation(connection: asyncpg.Connection, name: Generation = G2) -> None:
    async with connection.transaction():
        await generations.create(connection, name)


async def take_over_all(connection: asyncpg.Connection) -> list[Checkpoint]:
    return [await checkpoints.take_over(connection, name) for name in await generations.followed(connection)]


async def switch(connection: asyncpg.Connection, to: Generation, follows_s: float | None = 60) -> None:
    async with connection.transaction():
        await generations.switch(connection, to, old_follows_s=follows_s)


def enrolments(first: int, last: int) -> list[Message]:
    return [message(n, *published("target.enrolled.v1", n, customer=n)) for n in range(first, last + 1)]


async def test_one_transaction_brings_generations_to_the_same_position(connection: asyncpg.Connection) -> None:
    (checkpoint,) = await take_over_all(connection)
    (await apply_to_all(connection, [checkpoint], enrolments(1, 3), CREATED)).checkpoints[0]
    await create_generation(connection)
    first, second = await take_over_all(connection)
    assert (first.position, second.position) == (3, 0)
    applied = await apply_to_all(connection, [first, second], enrolments(1, 5), CREATED)
    assert [checkpoint.position for checkpoint in applied.checkpoints] == [5, 5]
    assert await rows(connection, G1) == await rows(connection, G2)
    assert len((await rows(connection, G2))["membership"]) == 5


async def test_a_generation_that_cannot_be_written_does_not_stop_the_live_one(
    connection: asyncpg.Connection,
) -> None:
    await create_generation(connection)
    await connection.execute("DROP TABLE g2.membership")
    applied = await apply_to_all(connection, await take_over_all(connection), enrolments(1, 2), CREATED)
    assert [checkpoint.generation for checkpoint in applied.checkpoints] == [G1]
    (broken,) = applied.failures
    await generations.mark_broken(connection, broken.generation)
    assert await generations.followed(connection) == [G1]
    assert len((await rows(connection))["membership"]) == 2


async def test_a_switch_and_a_rollback_require_equal_positions(connection: asyncpg.Connection) -> None:
    with pytest.raises(NothingToRollBackTo, match="no rebuild"):
        await generations.previous(connection)
    await create_generation(connection)
    await apply_to_all(connection, (await take_over_all(connection))[:1], enrolments(1, 1), CREATED)
    with pytest.raises(GenerationNotReady, match="position 0"):
        await switch(connection, G2)
    await apply_to_all(connection, await take_over_all(connection), enrolments(1, 2), CREATED)
    await switch(connection, G2)
    assert await checkpoints.live_generation(connection) == G2
    assert await generations.previous(connection) == G1
    await switch(connection, G1, follows_s=None)
    assert await checkpoints.live_generation(connection) == G1
    with pytest.raises(GenerationNotReady, match="gone"):
        await switch(connection, G3)


async def test_a_switch_to_the_live_generation_is_refused(connection: asyncpg.Connection) -> None:
    await create_generation(connection)
    await apply_to_all(connection, await take_over_all(connection), enrolments(1, 2), CREATED)
    await switch(connection, G2)
    with pytest.raises(GenerationNotReady, match="live already"):
        await switch(connection, G2)
    assert await generations.previous(connection) == G1


async def test_newly_parked_ignores_events_that_only_the_old_one_parked(
    connection: asyncpg.Connection,
) -> None:
    await create_generation(connection)
    park = (
        "INSERT INTO {}.parked_event (position, subject, body, reason, detail) SELECT n, '', '', 'r', '' FROM {} AS n"
    )
    await connection.execute(park.format("g1", "generate_series(1, 1500)"))
    await connection.execute(park.format("g2", "unnest(ARRAY[7, 1600])"))
    assert await rebuild.newly_parked(connection, G2, G1) == [1600]


async def test_a_generation_replaced_twice_expires(connection: asyncpg.Connection) -> None:
    await create_generation(connection)
    await switch(connection, G2)
    await create_generation(connection, G3)
    await switch(connection, G3)
    assert await generations.expired(connection) == [G1]
    assert await generations.drop(connection, G1)
    assert [status.generation for status in await generations.statuses(connection)] == [G3, G2]
    assert await generations.next_name(connection) == "g4"


async def test_the_live_generation_is_never_dropped(connection: asyncpg.Connection) -> None:
    assert not await generations.drop(connection, G1)
    assert await checkpoints.live_generation(connection) == G1
    assert (await rows(connection))["customer"] == []


async def test_a_drop_waits_for_readers_and_then_gives_up(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "DROP_WAIT_S", 0.1)
    await create_generation(connection)
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM g2.customer")
        assert not await generations.drop(connection, G2)
    await reader.close()
    assert await generations.drop(connection, G2)


async def test_a_broken_live_generation_can_be_rolled_back(
    connection: asyncpg.Connection,
) -> None:
    await create_generation(connection)
    await switch(connection, G2)
    await apply_to_all(connection, await take_over_all(connection), enrolments(1, 2), CREATED)
    await connection.execute("ALTER TABLE g2.membership ADD CHECK (enrolment_version < 3)")
    last = 3 + REFUSED_PER_BATCH_MAX
    applied = await apply_to_all(connection, await take_over_all(connection), enrolments(3, last), CREATED)
    (broken,) = applied.failures
    assert (broken.generation, "Failing row" in broken.reason) == (G2, False)
    await generations.mark_broken(connection, G2)
    assert [(checkpoint.generation, checkpoint.position) for checkpoint in applied.checkpoints] == [(G1, last)]
    await switch(connection, await generations.previous(connection))
    assert len((await rows(connection, G1))["membership"]) == last


async def test_a_single_broken_generation_is_reported_as_damaged(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE g1.membership ADD CHECK (enrolment_version < 1)")
    with pytest.raises(TablesRefuse, match="g1 cannot be written") as refusal:
        await apply_to_all(
            connection, await take_over_all(connection), enrolments(1, 1 + REFUSED_PER_BATCH_MAX), CREATED
        )
    assert refusal.value.damaged
    tables = await rows(connection)
    assert (tables["customer"], tables["parked_event"]) == ([], [])


async def test_a_comparison_in_progress_does_not_block_others(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with connection.transaction():
        await generations.create(connection, G2, "filling")
    comparing = await asyncpg.connect(database_url)
    async with comparing.transaction(isolation="repeatable_read"):
        await comparing.execute("UPDATE control.checkpoint SET epoch = epoch + 1 WHERE generation = 'g2'")
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '500ms'")
            await generations.lock_checkpoints(connection)
            await generations.bump_epochs(connection)
    await comparing.close()
