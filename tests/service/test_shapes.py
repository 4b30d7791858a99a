"""Every way to read a page gives the same one: by copied keys or the campaigns' own, from either end, alone or not."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.store import database, fan_out
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_to_all, fan_out_in_all
from projections.store.queries import Generation
from service.parameters import ListRequest
from service.read_model import reads
from service.read_model.query_batcher import BATCH_REQUESTS_MAX, QueryBatcher
from service.read_model.reads import SORT_KEYS, After, Page, read_page, shape_of
from tests.support.builders import campaign_id, customer_id, message, owner_id, published
from tests.support.read_model import CREATED, applied, empty
from tests.support.strategies import History, histories

G1 = Generation("g1")
DIRECTIONS = ("asc", "desc")
SCOPES = (None, owner_id(1), owner_id(1))
NARROWED: tuple[dict[str, Any], ...] = (
    {},
    {"q": "campaign"},
    {"q": "1"},
    {"q": "100%_\\"},
    {"date_from": datetime(2026, 1, 1, 0, 3, tzinfo=UTC)},
    {"only_deleted": True},
    {"include_deleted": True, "date_to": datetime(2026, 1, 1, 0, 20, tzinfo=UTC)},
)


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[QueryBatcher]:
    pools = [
        await database.open_pool(
            database_url, connections_max=2, statement_timeout_s=15, name="test-reads", planner=planner
        )
        for planner in (database.CUSTOM_PLANS, database.GENERIC_PLANS)
    ]
    yield QueryBatcher(*pools)
    for pool in pools:
        await pool.close()


def seen(page: Page) -> tuple[object, ...]:
    """Return what a caller sees of a page."""
    counts = {deleted: page.matching(deleted=deleted) for deleted in (False, True, None)}
    return page.known, page.items, counts, page.has_next, page.last_key, page.last_campaign_id


async def pages(reader: QueryBatcher, scope: str | None = None) -> list[tuple[object, ...]]:
    """Return pages of several customers in all orders, first and second, narrowed and not."""
    found = []
    for number, (field, direction, narrowed) in enumerate(itertools.product(SORT_KEYS, DIRECTIONS, NARROWED)):
        request = ListRequest(customer_id(1 + number % 3), limit=2, sort_field=field, sort_dir=direction, **narrowed)
        first = await read_page(reader, G1, request, scope, None)
        found.append(seen(first))
        if first.has_next and first.last_campaign_id is not None:
            after = After(first.last_key, first.last_campaign_id)
            found.append(seen(await read_page(reader, G1, request, scope, after)))
    return found


@given(history=histories(), data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_an_answer_is_the_same_while_a_fan_out_is_under_way_and_after_it(
    connection: asyncpg.Connection,
    reader: QueryBatcher,
    history: History,
    data: st.DataObject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 2)
    held = await empty(connection)
    for batch in history.batches:
        done = await apply_to_all(connection, [held], batch, CREATED, data.draw(st.integers(0, 2)))
        held = done.checkpoints[0]
    scope = data.draw(st.sampled_from([None, owner_id(1)]))
    under_way = await pages(reader, scope)
    while (await fan_out_in_all(connection, [held])).fanning_out:
        pass
    assert await pages(reader, scope) == under_way


@pytest.mark.parametrize("fan_outs", [1, 100, 101, 500])
async def test_only_who_is_concerned_by_a_fan_out_is_answered_the_exact_way(
    connection: asyncpg.Connection, reader: QueryBatcher, fan_outs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_list(connection, 3)
    exact: list[str] = []
    alone = reader.fetch_one

    async def noted(statement: str, values: tuple[Any, ...], *, steady: bool) -> list[asyncpg.Record]:
        exact.append(values[0])
        return await alone(statement, values, steady=steady)

    monkeypatch.setattr(reader, "alone", noted)
    others = [fan_out.FanOut(UUID(campaign_id(1_000 + n))) for n in range(fan_outs)]
    await fan_out.record(connection, G1, others)
    await read_page(reader, G1, ListRequest(customer_id(1)), None, None)
    assert exact == []
    await fan_out.record(connection, G1, [fan_out.FanOut(UUID(campaign_id(2)))])
    await read_page(reader, G1, ListRequest(customer_id(1)), None, None)
    await read_page(reader, G1, ListRequest(customer_id(2)), None, None)
    assert exact == [customer_id(1)]


async def a_list(connection: asyncpg.Connection, length: int) -> None:
    """Enrol customer 1 in campaigns with keys that tie now and then, some of them deleted, some removed."""
    events = [("customer.upserted.v1", {})]
    for n in range(1, length + 1):
        status = ("draft", "running", "paused", "done")[n % 4]
        created = None if n % 5 == 0 else f"2025-0{1 + n % 3}-01T00:00:00Z"
        names = {"name": f"Campaign {n % 7}", "status": status, "owner_id": owner_id(1 + n % 2)}
        events.append(
            ("campaign.upserted.v1", {"campaign": n, **names, **({"created_at": created} if created else {})})
        )
        at = f"2026-01-01T00:{n // 3 % 60:02}:00Z"
        events.append(("target.enrolled.v1", {"campaign": n, "enrolled_at": at}))
        if n % 6 == 0:
            events.append(("target.removed.v1", {"campaign": n}))
        if n % 3:
            events.append(("campaign.counters_changed.v1", {"campaign": n, "contacts_total": n % 4, "progress": 0.5}))
    told = [message(n, *published(kind, n, **fields)) for n, (kind, fields) in enumerate(events, start=1)]
    await applied(connection, await empty(connection), told)


@pytest.mark.parametrize("field", SORT_KEYS)
async def test_a_large_offset_finds_what_skipping_would(
    connection: asyncpg.Connection, reader: QueryBatcher, field: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_list(connection, 40)
    for direction, narrowed, limit in itertools.product(DIRECTIONS, NARROWED, (1, 7)):
        for offset in (*range(0, 44, 3), 39, 40, 41, 10**6, 2**63 - 1):
            found = []
            request = ListRequest(
                customer_id(1), limit=limit, offset=offset, sort_field=field, sort_dir=direction, **narrowed
            )
            for near in (2**63, -1):
                monkeypatch.setattr(reads, "NEAR_ROWS", near)
                assert shape_of(request, after=False).deep_offset == (near == -1)
                found.append(seen(await read_page(reader, G1, request, None, None)))
            assert found[0] == found[1], request


async def test_requests_that_wait_at_the_same_moment_each_get_their_own_answer(
    connection: asyncpg.Connection, reader: QueryBatcher
) -> None:
    await a_list(connection, 30)
    more = [
        message(10**6 + n, *published("target.enrolled.v1", 10**6, customer=1 + n, campaign=1 + n % 30))
        for n in range(1, 100)
    ]
    more += [message(2 * 10**6 + n, *published("customer.upserted.v1", 1, customer=n)) for n in range(2, 101)]
    held = await connection.fetchrow("SELECT position, message_time_ns, epoch FROM control.checkpoint")
    assert held is not None
    await applied(connection, Checkpoint(G1, held["position"], held["message_time_ns"], CREATED, held["epoch"]), more)
    requests = [
        (ListRequest(customer_id(1 + n % 120), limit=1 + n % 3, sort_dir=("asc", "desc")[n % 2]), SCOPES[n % 3])
        for n in range(4 * BATCH_REQUESTS_MAX)
    ]
    one_by_one = [seen(await read_page(reader, G1, request, scope, None)) for request, scope in requests]
    together = await asyncio.gather(*(read_page(reader, G1, request, scope, None) for request, scope in requests))
    assert list(map(seen, together)) == one_by_one
    assert len(set(map(str, one_by_one))) > 20, "answers that differ are what could be mixed up"


async def test_who_hangs_up_takes_nobody_along(connection: asyncpg.Connection, reader: QueryBatcher) -> None:
    await a_list(connection, 5)
    request = ListRequest(customer_id(1))
    asked = [asyncio.create_task(read_page(reader, G1, request, None, None)) for _ in range(9)]
    await asyncio.sleep(0)
    for task in asked[::2]:
        task.cancel()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False] * 4 + [True]
    assert all(each.known for each in found if isinstance(each, Page))


async def test_all_who_share_a_statement_hear_that_it_failed_and_the_next_is_answered(
    connection: asyncpg.Connection, reader: QueryBatcher
) -> None:
    await a_list(connection, 5)
    request = ListRequest(customer_id(1))
    gone = Generation("g9")
    found = await asyncio.gather(
        *(read_page(reader, gone, request, None, None) for _ in range(5)), return_exceptions=True
    )
    assert [type(each) for each in found] == [asyncpg.UndefinedTableError] * 5
    assert (await read_page(reader, G1, request, None, None)).known


async def test_a_campaign_id_is_what_breaks_ties(connection: asyncpg.Connection, reader: QueryBatcher) -> None:
    await a_list(connection, 40)
    page = await read_page(reader, G1, ListRequest(customer_id(1), limit=200, sort_field="progress"), None, None)
    assert page.last_campaign_id is None
    assert page.items.count(b'"id"') == 34
    assert campaign_id(1).encode() in page.items
