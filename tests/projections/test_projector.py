"""One transaction per batch: the rows do not depend on the delivery, the checkpoint fences, nothing is lost."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.errors import Fenced
from projections.store import checkpoint as checkpoints
from projections.store import database
from tests.support.builders import ALL_TYPES, message, owner_id, published
from tests.support.read_model import COUNTED, CREATED, G1, applied, empty, rows
from tests.support.strategies import History, histories

FIRST_INSTANT = "0001-01-01T00:00:00Z"
LARGEST = 1.7976931348623157e308


@given(history=histories())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_delivery_gives_the_rows_of_a_single_ordered_batch(
    connection: asyncpg.Connection, history: History
) -> None:
    in_order = [message(position, *event) for position, event in enumerate(history.events, start=1)]
    await applied(connection, await empty(connection), in_order)
    expected = await rows(connection)

    checkpoint = await empty(connection)
    for batch in history.batches:
        checkpoint = await applied(connection, checkpoint, batch)
        summaries = await connection.fetch("SELECT * FROM g1.customer_summary ORDER BY 1, 2, 3, 4")
        assert summaries == await connection.fetch(COUNTED)
    assert await rows(connection) == expected


@given(history=histories(), data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_memberships_always_have_the_keys_of_their_campaign(
    connection: asyncpg.Connection, history: History, data: st.DataObject
) -> None:
    checkpoint = await empty(connection)
    for batch in history.batches[: data.draw(st.integers(1, len(history.batches)))]:
        checkpoint = await applied(connection, checkpoint, batch)
    mismatches = await connection.fetch(
        "SELECT m.* FROM g1.membership m LEFT JOIN g1.campaign c ON c.campaign_id = m.campaign_id "
        "AND c.definition_version > 0 "
        "WHERE (m.owner_id, m.status, m.campaign_deleted) IS DISTINCT FROM (c.owner_id, c.status, c.deleted)"
    )
    assert mismatches == []


async def test_the_checkpoint_moves_with_the_rows_and_records_the_stream(connection: asyncpg.Connection) -> None:
    checkpoint = await empty(connection)
    reached = await applied(connection, checkpoint, [message(7, *published("customer.upserted.v1", 1))])
    row = await connection.fetchrow("SELECT * FROM control.checkpoint")
    assert row is not None
    assert (row["position"], row["stream_created"], row["message_time_ns"]) == (7, CREATED, reached.message_time_ns)
    assert row["epoch"] == checkpoint.epoch


async def test_a_projector_with_an_old_epoch_commits_nothing(connection: asyncpg.Connection) -> None:
    former = await empty(connection)
    await checkpoints.take_over(connection, G1)
    with pytest.raises(Fenced):
        await applied(connection, former, [message(1, *published("customer.upserted.v1", 1))])
    assert (await rows(connection))["customer"] == []


async def test_a_batch_that_was_already_applied_is_fenced(connection: asyncpg.Connection) -> None:
    checkpoint = await empty(connection)
    batch = [message(1, *published("customer.upserted.v1", 1))]
    await applied(connection, checkpoint, batch)
    with pytest.raises(Fenced):
        await applied(connection, checkpoint, batch)


async def test_an_unreadable_message_is_parked_and_the_rest_applied(
    connection: asyncpg.Connection,
) -> None:
    body = b"\xff\x00 not json"
    bad = message(2, "membership.customer.\ud800\0", body)
    batch = [message(1, *published("customer.upserted.v1", 1)), bad, message(3, *published("customer.upserted.v1", 2))]
    reached = await applied(connection, await empty(connection), batch)
    assert reached.position == 3
    (parked,) = await connection.fetch("SELECT * FROM g1.parked_event")
    assert (parked["position"], bytes(parked["body"]), parked["reason"]) == (2, body, "invalid_subject")
    assert parked["subject"] == r"membership.customer.\ud800\0"
    (customer,) = (await rows(connection))["customer"]
    assert customer["version"] == 2


async def test_every_extreme_value_of_the_contract_can_be_stored(connection: asyncpg.Connection) -> None:
    most = 2**63 - 1
    batch = [
        message(
            1, *published("campaign.upserted.v1", most, name="\U0001f600" * 50_000, created_at="0001-01-01T00:00:00Z")
        ),
        message(
            2, *published("campaign.counters_changed.v1", most, contacts_total=most, progress=1.7976931348623157e308)
        ),
        message(3, *published("target.enrolled.v1", most, enrolled_at="9999-12-31T23:59:59.999999Z")),
        message(4, *published("campaign.counters_changed.v1", 1, campaign=2, progress=-5e-324)),
    ]
    await applied(connection, await empty(connection), batch)
    stored = await rows(connection)
    assert stored["parked_event"] == []
    assert [row["enrolled_at"].year for row in stored["membership"]] == [9999]


async def test_a_thousand_counter_events_on_a_campaign_are_one_row_write(connection: asyncpg.Connection) -> None:
    first, *counters = [message(n, *published("campaign.counters_changed.v1", n)) for n in range(1, 1002)]
    checkpoint = await applied(connection, await empty(connection), [first])
    # Counted in the session itself, where the statistics of a transaction are exact.
    before = await connection.fetchval("SELECT pg_stat_get_xact_tuples_updated('g1.campaign_counters'::regclass)")
    async with connection.transaction():
        await applied(connection, checkpoint, counters)
        after = await connection.fetchval("SELECT pg_stat_get_xact_tuples_updated('g1.campaign_counters'::regclass)")
    assert (before, after) == (0, 1)
    assert await connection.fetchval("SELECT contacts_total FROM g1.campaign_counters") == 1001


async def test_changed_keys_reach_all_members_in_the_same_transaction(
    connection: asyncpg.Connection,
) -> None:
    members = [message(n, *published("target.enrolled.v1", 1, customer=n)) for n in range(1, 101)]
    checkpoint = await applied(connection, await empty(connection), members)
    assert await connection.fetchval("SELECT count(*) FROM g1.customer_summary") == 0
    checkpoint = await applied(connection, checkpoint, [message(200, *published("campaign.upserted.v1", 1))])
    assert await connection.fetchval("SELECT count(*) FROM g1.customer_summary WHERE memberships = 1") == 100
    change = published("campaign.upserted.v1", 2, owner_id=owner_id(2), status="done")
    checkpoint = await applied(connection, checkpoint, [message(201, *change)])
    stored = await connection.fetch("SELECT DISTINCT owner_id::text, status FROM g1.membership")
    assert [tuple(row) for row in stored] == [(owner_id(2), 3)]
    assert await connection.fetchval("SELECT count(*) FROM g1.customer_summary") == 100


@pytest.mark.parametrize("event_type", ALL_TYPES)
async def test_applying_an_event_twice_equals_applying_it_once(connection: asyncpg.Connection, event_type: str) -> None:
    checkpoint = await applied(connection, await empty(connection), [message(1, *published(event_type, 5))])
    once = await rows(connection)
    await applied(connection, checkpoint, [message(2, *published(event_type, 5))])
    assert await rows(connection) == once


async def test_a_session_lost_during_a_batch_leaves_no_changes(
    database_url: str, connection: asyncpg.Connection
) -> None:
    leader = await database.connect_leader(database_url)
    checkpoint = await empty(leader)

    async def lose_the_session_before_commit() -> None:
        async with leader.transaction():
            await applied(leader, checkpoint, [message(1, *published("campaign.upserted.v1", 1))])
            await connection.execute("SELECT pg_terminate_backend($1)", leader.get_server_pid())
            await leader.execute("SELECT 1")

    with pytest.raises(database.UNAVAILABLE), database.closed_is_unavailable(leader):
        await lose_the_session_before_commit()
    assert (await rows(connection))["campaign"] == []
    assert await connection.fetchval("SELECT position FROM control.checkpoint") == 0
