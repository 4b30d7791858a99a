"""A campaign's changed keys reach all its memberships, however small the chunks, whatever comes between them."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.errors import Fenced
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations
from projections.store.checkpoint import Checkpoint
from projections.store.notices import CHANNEL, decode_notice
from projections.store.projector import apply_to_all, fan_out_in_all
from projections.store.queries import Generation
from tests.support.builders import campaign_id, customer_id, message, owner_id, published
from tests.support.read_model import COUNTED, CREATED, applied, empty, rows
from tests.support.strategies import History, histories

G1 = Generation("g1")
CHUNKS_MAX = 1_000
"""A fan-out that takes more here does not end."""


async def chunked(
    connection: asyncpg.Connection, held: Checkpoint, messages: list[Message], members_max: int
) -> tuple[Checkpoint, bool]:
    found = await apply_to_all(connection, [held], messages, CREATED, members_max)
    assert not found.failures
    return found.checkpoints[0], found.fanning_out


async def finished(connection: asyncpg.Connection, held: Checkpoint) -> int:
    """Go on until nothing is left; return how many chunks that took."""
    for number in range(1, CHUNKS_MAX):
        if not (await fan_out_in_all(connection, [held])).fanning_out:
            return number
    raise AssertionError("the fan-out does not end")


async def recorded(connection: asyncpg.Connection) -> list[str]:
    found = await connection.fetch("SELECT campaign_id::text FROM control.fan_out ORDER BY turn")
    return [row["campaign_id"] for row in found]


async def counted_right(connection: asyncpg.Connection) -> bool:
    held = await connection.fetch("SELECT * FROM g1.customer_summary ORDER BY 1, 2, 3, 4")
    return bool(held == await connection.fetch(COUNTED))


def members(number: int, first: int = 1) -> list[Message]:
    return [message(n, *published("target.enrolled.v1", 1, customer=n)) for n in range(first, first + number)]


@given(history=histories(), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_chunks_at_any_moment_leave_the_rows_that_one_fan_out_would(
    connection: asyncpg.Connection, history: History, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order = [message(position, *each) for position, each in enumerate(history.events, start=1)]
    await applied(connection, await empty(connection), in_order)
    wanted = await rows(connection)

    held = await empty(connection)
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", data.draw(st.integers(2, 5)))
    monkeypatch.setattr(fan_out, "CAMPAIGNS_MAX", data.draw(st.integers(1, 3)))
    for batch in history.batches:
        held, _ = await chunked(connection, held, batch, data.draw(st.integers(0, 3)))
        # What is not recorded is level: a reader who finds no record may believe the copies.
        strays = await connection.fetchval(
            "SELECT count(*) FROM g1.membership m JOIN g1.campaign c ON c.campaign_id = m.campaign_id "
            "AND c.definition_version > 0 "
            "WHERE (m.owner_id, m.status, m.campaign_deleted) IS DISTINCT FROM (c.owner_id, c.status, c.deleted) "
            "AND m.campaign_id NOT IN (SELECT campaign_id FROM control.fan_out WHERE generation = 'g1')"
        )
        assert strays == 0
        assert await counted_right(connection)
        if data.draw(st.booleans()):
            await fan_out_in_all(connection, [held])
            assert await counted_right(connection)
    await finished(connection, held)
    assert await recorded(connection) == []
    assert await rows(connection) == wanted


async def test_a_large_campaign_is_copied_in_chunks_and_goes_on_where_it_stood(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 10)
    held = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    held = await applied(connection, held, members(95, first=2))
    change = published("campaign.status_changed.v1", 2, status="done")
    held, left = await chunked(connection, held, [message(200, *change)], 10)
    assert left
    assert await recorded(connection) == [campaign_id(1)]
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 10
    # Another connection, as after a kill: what is recorded is all it needs.
    assert (await fan_out_in_all(connection, [held])).fanning_out
    # The member to go on at is gone through again, so a chunk of ten moves nine.
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 19
    assert await finished(connection, held) > 5
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 95
    assert await recorded(connection) == []


async def test_a_newer_change_supersedes_the_one_under_way(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 10)
    held = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    held = await applied(connection, held, members(40, first=2))
    for position, status in ((200, "done"), (201, "paused")):
        change = published("campaign.status_changed.v1", position, status=status)
        held, _ = await chunked(connection, held, [message(position, *change)], 10)
    await finished(connection, held)
    found = await connection.fetch("SELECT status, count(*) AS members FROM g1.membership GROUP BY status")
    assert [tuple(row) for row in found] == [(2, 40)]
    assert await counted_right(connection)


async def test_behind_nothing_is_copied_and_what_has_members_is_recorded(connection: asyncpg.Connection) -> None:
    held = await applied(connection, await empty(connection), members(3))
    events = [published("campaign.upserted.v1", 1, campaign=n) for n in (1, 2)]
    held, left = await chunked(connection, held, [message(9 + n, *each) for n, each in enumerate(events)], 0)
    assert left
    assert await recorded(connection) == [campaign_id(1)], "the other one has no members"
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 0
    await finished(connection, held)
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 3


async def test_a_chunk_of_a_former_leader_is_fenced_off(connection: asyncpg.Connection) -> None:
    held = await applied(connection, await empty(connection), members(3))
    held, _ = await chunked(connection, held, [message(9, *published("campaign.upserted.v1", 1))], 0)
    await checkpoints.take_over(connection, G1)
    with pytest.raises(Fenced):
        await fan_out_in_all(connection, [held])
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 0


async def test_readers_are_told_of_more_than_can_be_named_while_copies_are_left_to_make(
    connection: asyncpg.Connection, database_url: str
) -> None:
    listener = await asyncpg.connect(database_url)
    heard: list[str] = []
    await listener.add_listener(CHANNEL, lambda *notice: heard.append(notice[3]))
    held = await applied(connection, await empty(connection), members(3))
    held, _ = await chunked(connection, held, [message(9, *published("campaign.upserted.v1", 1))], 0)
    await fan_out_in_all(connection, [held])
    change = published("campaign.status_changed.v1", 2, status="done")
    await chunked(connection, held, [message(10, *change)], 100)
    await listener.execute("SELECT 1")
    told = [decode_notice(each) for each in heard]
    assert [each.flush for each in told] == [False, True, False]
    tags = set(told[2].tags)
    assert {f"c{customer_id(n)[-12:]}" for n in (1, 2, 3)} <= tags, "all whom the change reached are named"
    await listener.close()


async def test_readers_forget_all_when_a_change_is_taken_back_before_it_has_reached_everybody(
    connection: asyncpg.Connection, database_url: str
) -> None:
    """The copies never change, but answers did, twice: exact ones said so in between."""
    listener = await asyncpg.connect(database_url)
    heard: list[str] = []
    held = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    held = await applied(connection, held, members(3, first=2))
    held, left = await chunked(
        connection, held, [message(9, *published("campaign.status_changed.v1", 2, status="done"))], 0
    )
    assert left
    await listener.add_listener(CHANNEL, lambda *notice: heard.append(notice[3]))
    back = published("campaign.status_changed.v1", 3, status="running")
    held, left = await chunked(connection, held, [message(10, *back)], 100)
    assert not left
    await listener.execute("SELECT 1")
    assert [decode_notice(each).flush for each in heard] == [True]
    await listener.close()


async def test_a_generation_that_is_dropped_leaves_no_record(connection: asyncpg.Connection) -> None:
    await empty(connection)
    async with connection.transaction():
        name = await generations.next_name(connection)
        await generations.create(connection, name)
    await fan_out.record(connection, name, [fan_out.FanOut(campaign_id(1))])  # type: ignore[arg-type]
    assert await fan_out.count(connection, name) == 1
    assert await generations.drop(connection, name)
    assert await fan_out.count(connection, name) == 0


async def test_an_owner_that_changes_moves_the_counts_of_every_member_with_the_copy(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 4)
    held = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    held = await applied(connection, held, members(9, first=2))
    change = published("campaign.upserted.v1", 2, owner_id=owner_id(2))
    held, left = await chunked(connection, held, [message(50, *change)], 4)
    while left:
        assert await counted_right(connection)
        left = (await fan_out_in_all(connection, [held])).fanning_out
    found = await connection.fetch("SELECT DISTINCT owner_id::text FROM g1.customer_summary")
    assert [row["owner_id"] for row in found] == [owner_id(2)]
