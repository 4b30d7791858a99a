"""Generations come and go beside the live one: one pointer, level at every commit, never a name twice."""

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


async def beside(connection: asyncpg.Connection, name: Generation = G2) -> None:
    async with connection.transaction():
        await generations.create(connection, name)


async def held_by_all(connection: asyncpg.Connection) -> list[Checkpoint]:
    return [await checkpoints.take_over(connection, name) for name in await generations.followed(connection)]


async def switch(connection: asyncpg.Connection, to: Generation, follows_s: float | None = 60) -> None:
    async with connection.transaction():
        await generations.switch(connection, to, old_follows_s=follows_s)


def enrolments(first: int, last: int) -> list[Message]:
    return [message(n, *published("target.enrolled.v1", n, customer=n)) for n in range(first, last + 1)]


async def test_generations_that_stand_apart_come_level_in_one_transaction(connection: asyncpg.Connection) -> None:
    (held,) = await held_by_all(connection)
    (await apply_to_all(connection, [held], enrolments(1, 3), CREATED)).checkpoints[0]
    await beside(connection)
    first, second = await held_by_all(connection)
    assert (first.position, second.position) == (3, 0)
    applied = await apply_to_all(connection, [first, second], enrolments(1, 5), CREATED)
    assert [each.position for each in applied.checkpoints] == [5, 5]
    assert await rows(connection, G1) == await rows(connection, G2)
    assert len((await rows(connection, G2))["membership"]) == 5


async def test_a_generation_that_cannot_be_written_to_does_not_stop_the_live_one(
    connection: asyncpg.Connection,
) -> None:
    await beside(connection)
    await connection.execute("DROP TABLE g2.membership")
    applied = await apply_to_all(connection, await held_by_all(connection), enrolments(1, 2), CREATED)
    assert [each.generation for each in applied.checkpoints] == [G1]
    (broken,) = applied.failures
    await generations.mark_broken(connection, broken.generation)
    assert await generations.followed(connection) == [G1]
    assert len((await rows(connection))["membership"]) == 2


async def test_a_switch_needs_both_level_and_a_rollback_is_the_same_switch(connection: asyncpg.Connection) -> None:
    with pytest.raises(NothingToRollBackTo, match="no rebuild"):
        await generations.previous(connection)
    await beside(connection)
    await apply_to_all(connection, (await held_by_all(connection))[:1], enrolments(1, 1), CREATED)
    with pytest.raises(GenerationNotReady, match="position 0"):
        await switch(connection, G2)
    await apply_to_all(connection, await held_by_all(connection), enrolments(1, 2), CREATED)
    await switch(connection, G2)
    assert await checkpoints.live_generation(connection) == G2
    assert await generations.previous(connection) == G1
    await switch(connection, G1, follows_s=None)
    assert await checkpoints.live_generation(connection) == G1
    with pytest.raises(GenerationNotReady, match="gone"):
        await switch(connection, G3)


async def test_a_switch_to_the_live_one_is_refused_so_that_the_way_back_stays(connection: asyncpg.Connection) -> None:
    await beside(connection)
    await apply_to_all(connection, await held_by_all(connection), enrolments(1, 2), CREATED)
    await switch(connection, G2)
    with pytest.raises(GenerationNotReady, match="live already"):
        await switch(connection, G2)
    assert await generations.previous(connection) == G1


async def test_an_event_that_only_the_new_one_parks_is_found_behind_any_number_that_only_the_old_one_does(
    connection: asyncpg.Connection,
) -> None:
    await beside(connection)
    park = (
        "INSERT INTO {}.parked_event (position, subject, body, reason, detail) SELECT n, '', '', 'r', '' FROM {} AS n"
    )
    await connection.execute(park.format("g1", "generate_series(1, 1500)"))
    await connection.execute(park.format("g2", "unnest(ARRAY[7, 1600])"))
    assert await rebuild.newly_parked(connection, G2, G1) == [1600]


async def test_what_was_replaced_twice_has_followed_long_enough(connection: asyncpg.Connection) -> None:
    await beside(connection)
    await switch(connection, G2)
    await beside(connection, G3)
    await switch(connection, G3)
    assert await generations.expired(connection) == [G1]
    assert await generations.drop(connection, G1)
    assert [each.generation for each in await generations.statuses(connection)] == [G3, G2]
    assert await generations.next_name(connection) == "g4"


async def test_the_live_generation_is_never_dropped(connection: asyncpg.Connection) -> None:
    assert not await generations.drop(connection, G1)
    assert await checkpoints.live_generation(connection) == G1
    assert (await rows(connection))["customer"] == []


async def test_a_drop_waits_for_readers_and_then_leaves_it_for_later(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "DROP_WAIT_S", 0.1)
    await beside(connection)
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM g2.customer")
        assert not await generations.drop(connection, G2)
    await reader.close()
    assert await generations.drop(connection, G2)


async def test_when_the_live_one_breaks_the_others_go_on_and_a_rollback_leads_out(
    connection: asyncpg.Connection,
) -> None:
    await beside(connection)
    await switch(connection, G2)
    await apply_to_all(connection, await held_by_all(connection), enrolments(1, 2), CREATED)
    await connection.execute("ALTER TABLE g2.membership ADD CHECK (enrolment_version < 3)")
    last = 3 + REFUSED_PER_BATCH_MAX
    applied = await apply_to_all(connection, await held_by_all(connection), enrolments(3, last), CREATED)
    (broken,) = applied.failures
    assert (broken.generation, "Failing row" in broken.reason) == (G2, False)
    await generations.mark_broken(connection, G2)
    assert [(each.generation, each.position) for each in applied.checkpoints] == [(G1, last)]
    await switch(connection, await generations.previous(connection))
    assert len((await rows(connection, G1))["membership"]) == last


async def test_a_lone_generation_that_breaks_is_said_to_be(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE g1.membership ADD CHECK (enrolment_version < 1)")
    with pytest.raises(TablesRefuse, match="g1 cannot be written") as refusal:
        await apply_to_all(connection, await held_by_all(connection), enrolments(1, 1 + REFUSED_PER_BATCH_MAX), CREATED)
    assert refusal.value.damaged
    found = await rows(connection)
    assert (found["customer"], found["parked_event"]) == ([], [])


async def test_a_comparison_that_holds_its_generation_stops_nobody(
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
