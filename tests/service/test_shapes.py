"""Every query shape returns the same page: copied keys or the campaigns' own, from either end, batched or not."""

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
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"q": "campaign"},
    {"q": "1"},
    {"q": "100%_\\"},
    {"date_from": datetime(2026, 1, 1, 0, 3, tzinfo=UTC)},
    {"only_deleted": True},
    {"include_deleted": True, "date_to": datetime(2026, 1, 1, 0, 20, tzinfo=UTC)},
)


@pytest.fixture
async def batcher(database_url: str) -> AsyncIterator[QueryBatcher]:
    pools = [
        await database.open_pool(
            database_url, connections_max=2, statement_timeout_s=15, name="test-reads", planner=planner
        )
        for planner in (database.CUSTOM_PLANS, database.GENERIC_PLANS)
    ]
    yield QueryBatcher(pools[0], pools[1])
    for pool in pools:
        await pool.close()


def visible_parts(page: Page) -> tuple[object, ...]:
    """Return the parts of a page that a caller sees."""
    counts = {deleted: page.matching(deleted=deleted) for deleted in (False, True, None)}
    return page.known, page.items, counts, page.has_next, page.last_key, page.last_campaign_id


async def pages(batcher: QueryBatcher, scope: str | None = None) -> list[tuple[object, ...]]:
    """Return first and second pages of several customers in every order, with and without filters."""
    parts = []
    for number, (field, direction, filters) in enumerate(itertools.product(SORT_KEYS, DIRECTIONS, FILTERS)):
        request = ListRequest(customer_id(1 + number % 3), limit=2, sort_field=field, sort_dir=direction, **filters)
        first = await read_page(batcher, G1, request, scope, None)
        parts.append(visible_parts(first))
        if first.has_next and first.last_campaign_id is not None:
            after = After(first.last_key, first.last_campaign_id)
            parts.append(visible_parts(await read_page(batcher, G1, request, scope, after)))
    return parts


@given(history=histories(), data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_page_is_the_same_during_and_after_a_fan_out(
    connection: asyncpg.Connection,
    batcher: QueryBatcher,
    history: History,
    data: st.DataObject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "MEMBERS_MAX", 2)
    checkpoint = await empty(connection)
    for batch in history.batches:
        outcome = await apply_to_all(connection, [checkpoint], batch, CREATED, data.draw(st.integers(0, 2)))
        checkpoint = outcome.checkpoints[0]
    scope = data.draw(st.sampled_from([None, owner_id(1)]))
    during_fan_out = await pages(batcher, scope)
    while (await fan_out_in_all(connection, [checkpoint])).fanning_out:
        pass
    assert await pages(batcher, scope) == during_fan_out


@pytest.mark.parametrize("fan_outs", [1, 100, 101, 500])
async def test_only_customers_affected_by_a_fan_out_use_the_exact_shape(
    connection: asyncpg.Connection, batcher: QueryBatcher, fan_outs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_list(connection, 3)
    exact: list[str] = []
    fetch_one = batcher.fetch_one

    async def recording(statement: str, values: tuple[Any, ...], *, generic_plan: bool) -> list[asyncpg.Record]:
        exact.append(values[0])
        return await fetch_one(statement, values, generic_plan=generic_plan)

    monkeypatch.setattr(batcher, "fetch_one", recording)
    others = [fan_out.FanOut(UUID(campaign_id(1_000 + n))) for n in range(fan_outs)]
    await fan_out.record(connection, G1, others)
    await read_page(batcher, G1, ListRequest(customer_id(1)), None, None)
    assert exact == []
    await fan_out.record(connection, G1, [fan_out.FanOut(UUID(campaign_id(2)))])
    await read_page(batcher, G1, ListRequest(customer_id(1)), None, None)
    await read_page(batcher, G1, ListRequest(customer_id(2)), None, None)
    assert exact == [customer_id(1)]


async def a_list(connection: asyncpg.Connection, length: int) -> None:
    """Enrol customer 1 in campaigns whose keys sometimes tie; some are deleted, some removed."""
    events: list[tuple[str, dict[str, Any]]] = [("customer.upserted.v1", {})]
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
    messages = [message(n, *published(kind, n, **fields)) for n, (kind, fields) in enumerate(events, start=1)]
    await applied(connection, await empty(connection), messages)


@pytest.mark.parametrize("field", SORT_KEYS)
async def test_a_deep_offset_gives_the_same_page_as_skipping(
    connection: asyncpg.Connection, batcher: QueryBatcher, field: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_list(connection, 40)
    for direction, filters, limit in itertools.product(DIRECTIONS, FILTERS, (1, 7)):
        for offset in (*range(0, 44, 3), 39, 40, 41, 10**6, 2**63 - 1):
            results = []
            request = ListRequest(
                customer_id(1), limit=limit, offset=offset, sort_field=field, sort_dir=direction, **filters
            )
            for shallow_max in (2**63, -1):
                monkeypatch.setattr(reads, "SHALLOW_OFFSET_MAX", shallow_max)
                assert shape_of(request, after=False).deep_offset == (shallow_max == -1)
                results.append(visible_parts(await read_page(batcher, G1, request, None, None)))
            assert results[0] == results[1], request


async def test_batched_requests_each_get_their_own_result(
    connection: asyncpg.Connection, batcher: QueryBatcher
) -> None:
    await a_list(connection, 30)
    more = [
        message(10**6 + n, *published("target.enrolled.v1", 10**6, customer=1 + n, campaign=1 + n % 30))
        for n in range(1, 100)
    ]
    more += [message(2 * 10**6 + n, *published("customer.upserted.v1", 1, customer=n)) for n in range(2, 101)]
    row = await connection.fetchrow("SELECT position, message_time_ns, epoch FROM control.checkpoint")
    assert row is not None
    await applied(connection, Checkpoint(G1, row["position"], row["message_time_ns"], CREATED, row["epoch"]), more)
    requests = [
        (ListRequest(customer_id(1 + n % 120), limit=1 + n % 3, sort_dir=("asc", "desc")[n % 2]), SCOPES[n % 3])
        for n in range(4 * BATCH_REQUESTS_MAX)
    ]
    one_by_one = [visible_parts(await read_page(batcher, G1, request, scope, None)) for request, scope in requests]
    batched = await asyncio.gather(*(read_page(batcher, G1, request, scope, None) for request, scope in requests))
    assert list(map(visible_parts, batched)) == one_by_one
    assert len(set(map(str, one_by_one))) > 20, "results must differ, so that mixing them up would be detected"


async def test_a_cancelled_request_does_not_affect_its_batch(
    connection: asyncpg.Connection, batcher: QueryBatcher
) -> None:
    await a_list(connection, 5)
    request = ListRequest(customer_id(1))
    tasks = [asyncio.create_task(read_page(batcher, G1, request, None, None)) for _ in range(9)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 4 + [True]
    assert all(result.known for result in results if isinstance(result, Page))


async def test_a_failed_batch_fails_all_its_requests_but_not_the_next_one(
    connection: asyncpg.Connection, batcher: QueryBatcher
) -> None:
    await a_list(connection, 5)
    request = ListRequest(customer_id(1))
    gone = Generation("g9")
    results = await asyncio.gather(
        *(read_page(batcher, gone, request, None, None) for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [asyncpg.UndefinedTableError] * 5
    assert (await read_page(batcher, G1, request, None, None)).known


async def test_the_campaign_id_breaks_ties(connection: asyncpg.Connection, batcher: QueryBatcher) -> None:
    await a_list(connection, 40)
    page = await read_page(batcher, G1, ListRequest(customer_id(1), limit=200, sort_field="progress"), None, None)
    assert page.last_campaign_id is None
    assert len(page.cards) == 34
    assert any(campaign_id(1).encode() in card for card in page.cards)
