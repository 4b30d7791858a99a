"""A campaign's changed keys reach all its memberships, however small the chunks and whatever happens between them."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.errors import Fenced
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations
from projections.store.checkpoint import Checkpoint
from projections.store.notices import CHANNEL, Notice, decode_notice
from projections.store.projector import apply_to_all, fan_out_in_all
from projections.store.queries import Generation
from tests.support.builders import campaign_id, customer_id, message, owner_id, published
from tests.support.read_model import COUNTED, CREATED, applied, empty, rows
from tests.support.strategies import History, histories

G1 = Generation("g1")
CHUNKS_MAX = 1_000
"""A fan-out that needs more chunks in these tests is considered endless."""


async def apply_with_limit(
    connection: asyncpg.Connection, checkpoint: Checkpoint, messages: list[Message], members_max: int
) -> tuple[Checkpoint, bool]:
    result = await apply_to_all(connection, [checkpoint], messages, CREATED, members_max)
    assert not result.failures
    return result.checkpoints[0], result.fanning_out


async def complete_fan_outs(connection: asyncpg.Connection, checkpoint: Checkpoint) -> int:
    """Complete the fan-outs; return the number of chunks."""
    for number in range(1, CHUNKS_MAX):
        if not (await fan_out_in_all(connection, [checkpoint])).fanning_out:
            return number
    raise AssertionError("the fan-out does not end")


async def recorded_campaigns(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT campaign_id::text FROM control.fan_out ORDER BY turn")
    return [row["campaign_id"] for row in rows]


async def summaries_are_correct(connection: asyncpg.Connection) -> bool:
    summaries = await connection.fetch("SELECT * FROM g1.customer_summary ORDER BY 1, 2, 3, 4")
    return bool(summaries == await connection.fetch(COUNTED))


def members(number: int, first: int = 1) -> list[Message]:
    return [message(n, *published("target.enrolled.v1", 1, customer=n)) for n in range(first, first + number)]


@given(history=histories(), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_chunking_gives_the_rows_of_a_single_fan_out(
    connection: asyncpg.Connection, history: History, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order = [message(position, *event) for position, event in enumerate(history.events, start=1)]
    await applied(connection, await empty(connection), in_order)
    expected = await rows(connection)

    checkpoint = await empty(connection)
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", data.draw(st.integers(2, 5)))
    monkeypatch.setattr(fan_out, "CAMPAIGNS_MAX", data.draw(st.integers(1, 3)))
    for batch in history.batches:
        checkpoint, _ = await apply_with_limit(connection, checkpoint, batch, data.draw(st.integers(0, 3)))
        # Unrecorded campaigns are fully copied: a reader that finds no record may use the copies.
        mismatches = await connection.fetchval(
            "SELECT count(*) FROM g1.membership m JOIN g1.campaign c ON c.campaign_id = m.campaign_id "
            "AND c.definition_version > 0 "
            "WHERE (m.owner_id, m.status, m.campaign_deleted) IS DISTINCT FROM (c.owner_id, c.status, c.deleted) "
            "AND m.campaign_id NOT IN (SELECT campaign_id FROM control.fan_out WHERE generation = 'g1')"
        )
        assert mismatches == 0
        assert await summaries_are_correct(connection)
        if data.draw(st.booleans()):
            await fan_out_in_all(connection, [checkpoint])
            assert await summaries_are_correct(connection)
    await complete_fan_outs(connection, checkpoint)
    assert await recorded_campaigns(connection) == []
    assert await rows(connection) == expected


async def test_a_large_campaign_is_copied_in_chunks_and_resumes(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 10)
    checkpoint = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    checkpoint = await applied(connection, checkpoint, members(95, first=2))
    change = published("campaign.status_changed.v1", 2, status="done")
    checkpoint, unfinished = await apply_with_limit(connection, checkpoint, [message(200, *change)], 10)
    assert unfinished
    assert await recorded_campaigns(connection) == [campaign_id(1)]
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 10
    # The record alone is enough to resume, as after a crash.
    assert (await fan_out_in_all(connection, [checkpoint])).fanning_out
    # The member at which the fan-out resumes is read again, so a chunk of ten changes nine.
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 19
    assert await complete_fan_outs(connection, checkpoint) > 5
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE status = 3") == 95
    assert await recorded_campaigns(connection) == []


async def test_a_newer_change_supersedes_a_fan_out_in_progress(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 10)
    checkpoint = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    checkpoint = await applied(connection, checkpoint, members(40, first=2))
    for position, status in ((200, "done"), (201, "paused")):
        change = published("campaign.status_changed.v1", position, status=status)
        checkpoint, _ = await apply_with_limit(connection, checkpoint, [message(position, *change)], 10)
    await complete_fan_outs(connection, checkpoint)
    groups = await connection.fetch("SELECT status, count(*) AS members FROM g1.membership GROUP BY status")
    assert [tuple(row) for row in groups] == [(2, 40)]
    assert await summaries_are_correct(connection)


async def test_with_a_member_limit_of_zero_the_fan_out_is_only_recorded(connection: asyncpg.Connection) -> None:
    checkpoint = await applied(connection, await empty(connection), members(3))
    events = [published("campaign.upserted.v1", 1, campaign=n) for n in (1, 2)]
    checkpoint, unfinished = await apply_with_limit(
        connection, checkpoint, [message(9 + n, *event) for n, event in enumerate(events)], 0
    )
    assert unfinished
    assert await recorded_campaigns(connection) == [campaign_id(1)], "the other one has no members"
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 0
    await complete_fan_outs(connection, checkpoint)
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 3


async def test_a_chunk_of_a_former_leader_is_fenced(connection: asyncpg.Connection) -> None:
    checkpoint = await applied(connection, await empty(connection), members(3))
    checkpoint, _ = await apply_with_limit(
        connection, checkpoint, [message(9, *published("campaign.upserted.v1", 1))], 0
    )
    await checkpoints.take_over(connection, G1)
    with pytest.raises(Fenced):
        await fan_out_in_all(connection, [checkpoint])
    assert await connection.fetchval("SELECT count(*) FROM g1.membership WHERE owner_id IS NOT NULL") == 0


def decoded(payloads: list[str]) -> list[Notice]:
    """Return the notices; each must be one of ours."""
    notices = [notice for payload in payloads if (notice := decode_notice(payload)) is not None]
    assert len(notices) == len(payloads)
    return notices


async def test_a_flush_is_sent_while_a_fan_out_is_incomplete(connection: asyncpg.Connection, database_url: str) -> None:
    listener = await asyncpg.connect(database_url)
    payloads: list[str] = []
    await listener.add_listener(CHANNEL, lambda *notice: payloads.append(notice[3]))
    checkpoint = await applied(connection, await empty(connection), members(3))
    checkpoint, _ = await apply_with_limit(
        connection, checkpoint, [message(9, *published("campaign.upserted.v1", 1))], 0
    )
    await fan_out_in_all(connection, [checkpoint])
    change = published("campaign.status_changed.v1", 2, status="done")
    await apply_with_limit(connection, checkpoint, [message(10, *change)], 100)
    await listener.execute("SELECT 1")
    received = decoded(payloads)
    assert [notice.flush for notice in received] == [False, True, False]
    tags = set(received[2].tags)
    assert {f"c{customer_id(n)[-12:]}" for n in (1, 2, 3)} <= tags, "all changed members are named"
    await listener.close()


async def test_a_flush_is_sent_when_an_incomplete_change_is_reverted(
    connection: asyncpg.Connection, database_url: str
) -> None:
    """The copies never changed, but answers did, twice: meanwhile readers took the keys from the campaign."""
    listener = await asyncpg.connect(database_url)
    payloads: list[str] = []
    checkpoint = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    checkpoint = await applied(connection, checkpoint, members(3, first=2))
    checkpoint, unfinished = await apply_with_limit(
        connection, checkpoint, [message(9, *published("campaign.status_changed.v1", 2, status="done"))], 0
    )
    assert unfinished
    await listener.add_listener(CHANNEL, lambda *notice: payloads.append(notice[3]))
    back = published("campaign.status_changed.v1", 3, status="running")
    checkpoint, unfinished = await apply_with_limit(connection, checkpoint, [message(10, *back)], 100)
    assert not unfinished
    await listener.execute("SELECT 1")
    assert [notice.flush for notice in decoded(payloads)] == [True]
    await listener.close()


async def test_dropping_a_generation_deletes_its_fan_outs(connection: asyncpg.Connection) -> None:
    await empty(connection)
    async with connection.transaction():
        name = await generations.next_name(connection)
        await generations.create(connection, name)
    await fan_out.record(connection, name, [fan_out.FanOut(campaign_id(1))])  # type: ignore[arg-type]
    assert await fan_out.count(connection, name) == 1
    assert await generations.drop(connection, name)
    assert await fan_out.count(connection, name) == 0


async def test_a_changed_owner_moves_the_counts_together_with_the_keys(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 4)
    checkpoint = await applied(connection, await empty(connection), [message(1, *published("campaign.upserted.v1", 1))])
    checkpoint = await applied(connection, checkpoint, members(9, first=2))
    change = published("campaign.upserted.v1", 2, owner_id=owner_id(2))
    checkpoint, unfinished = await apply_with_limit(connection, checkpoint, [message(50, *change)], 4)
    while unfinished:
        assert await summaries_are_correct(connection)
        unfinished = (await fan_out_in_all(connection, [checkpoint])).fanning_out
    groups = await connection.fetch("SELECT DISTINCT owner_id::text FROM g1.customer_summary")
    assert [row["owner_id"] for row in groups] == [owner_id(2)]
