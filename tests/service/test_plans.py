"""Pages are read by index for customers of any size, by PostgreSQL's executed plans on 126,000 memberships."""

import itertools
import re
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from benchmarks.plans import plan_of
from projections.store.queries import Generation
from service.parameters import ListRequest
from service.read_model.reads import SORT_KEYS
from tests.support.builders import customer_id, owner_id

G1 = Generation("g1")
MANY = 30_000
OTHERS = 8_000
FEW = 12
FEW_PAGES = 8
"""Buffers needed to read the customer's own row."""
EXPLAIN_BUFFERS = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS)"
NEVER = ("Seq Scan on membership", "Seq Scan on campaign ", "Seq Scan on customer")


@pytest.fixture
async def large(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A customer in 30,000 campaigns and 8,000 customers in twelve each, vacuumed and analyzed."""
    # VACUUM marks only pages as visible to all whose rows are known to be committed, on disk.
    await connection.execute("SET synchronous_commit = on")
    await connection.execute(
        f"""
        INSERT INTO g1.campaign (
            campaign_id, definition_version, owner_id, created_at, name_key, goal_key, display_json,
            status_version, status
        )
        SELECT ('ca000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, '{owner_id(1)}',
            timestamptz '2025-01-01' + n * interval '7 min', 'campaign ' || md5(n::text),
            'goal ' || md5((n + 1)::text), '"name":"x"', 1, n % 4
        FROM generate_series(1, {MANY}) AS n;
        INSERT INTO g1.campaign_counters
        SELECT campaign_id, 1, n, n / 3, n - n / 3, n / 15, n / 21, n / 6, (n % 1000) / 1000.0
        FROM (SELECT campaign_id, abs(uuid_hash(campaign_id)) % 100000 AS n FROM g1.campaign) AS counted;
        INSERT INTO g1.membership (
            customer_id, campaign_id, enrolment_version, enrolled_at, presence_version, present, owner_id, status,
            campaign_deleted
        )
        SELECT customer_id, ('ca000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1,
            timestamptz '2025-01-01' + n * interval '1 min', 1, true, '{owner_id(1)}', n % 4, false
        FROM (
            SELECT '{customer_id(1)}'::uuid AS customer_id, n FROM generate_series(1, {MANY}) AS n
            UNION ALL
            SELECT ('c0000000-0000-4000-8000-' || lpad(to_hex(1 + c), 12, '0'))::uuid, 1 + (c * 17 + n * 613) % {MANY}
            FROM generate_series(1, {OTHERS}) AS c, generate_series(1, {FEW}) AS n
        ) AS enrolled;
        INSERT INTO g1.customer_summary (customer_id, owner_id, status, deleted, memberships)
        SELECT customer_id, owner_id, status, deleted, count(*) FROM g1.membership GROUP BY 1, 2, 3, 4;
        INSERT INTO g1.customer (customer_id, version, owner_id)
        SELECT DISTINCT customer_id, 1, '{owner_id(1)}'::uuid FROM g1.membership;
        """  # noqa: S608
    )
    for table in ("campaign", "campaign_counters", "membership", "customer_summary", "customer"):
        await connection.execute(f"VACUUM ANALYZE g1.{table}")
    return connection


PLANNED: dict[str, tuple[dict[str, Any], str]] = {
    "the default order": ({}, "membership_by_enrolled_at"),
    "the default order, backwards": ({"sort_dir": "asc"}, "membership_by_enrolled_at"),
    "a large offset": ({"offset": MANY - 5}, "membership_by_enrolled_at"),
    "an offset in the middle": ({"offset": MANY // 2}, "membership_by_enrolled_at"),
    "by name": ({"sort_field": "name", "sort_dir": "asc"}, "campaign_by_name_prefix"),
    "by name, backwards": ({"sort_field": "name"}, "campaign_by_name_prefix"),
    "by name, the last page": ({"sort_field": "name", "offset": MANY - 5}, "campaign_by_name_prefix"),
    "by creation": ({"sort_field": "created_at", "sort_dir": "asc"}, "campaign_by_created_at"),
    "by creation, backwards": ({"sort_field": "created_at"}, "campaign_by_created_at_desc"),
    "a search": ({"q": "0123"}, "campaign_by_text"),
}


async def test_a_customer_in_very_many_campaigns_is_read_by_an_index(large: asyncpg.Connection) -> None:
    for what, (params, index) in PLANNED.items():
        plan = await plan_of(large, G1, ListRequest(customer_id(1), **params))
        assert f" using {index} " in plan or f" on {index} " in plan, f"{what}\n{plan}"
        executed = [line for line in plan.splitlines() if "(never executed)" not in line]
        assert not [line for line in executed if any(scan in line for scan in NEVER)], f"{what}\n{plan}"
        assert max(map(int, actual_rows(plan))) <= MANY / 2 + 20, f"{what}\n{plan}"


HASHED: dict[str, dict[str, Any]] = {
    "by a counter": {"sort_field": "contacts_total"},
    "by a counter, backwards": {"sort_field": "progress", "sort_dir": "asc"},
    "by a counter, a large offset": {"sort_field": "contacts_failed", "offset": MANY // 2},
    "by a counter, the last page": {"sort_field": "contacts_failed", "offset": MANY - 5},
    "by name, an offset in the middle": {"sort_field": "name", "offset": MANY // 2},
    "a search for a letter": {"q": "a"},
    "a search for two letters, by a counter": {"q": "go", "sort_field": "contacts_total"},
    "a search that every campaign matches": {"q": "campaign"},
    "a search, by name": {"q": "goal", "sort_field": "name"},
    "a search, by status": {"q": "goal", "sort_field": "status", "offset": MANY // 2},
    "a search in a range of dates": {"q": "goal", "date_from": datetime(2025, 1, 2, tzinfo=UTC)},
}


async def test_what_reads_every_membership_joins_by_hash(large: asyncpg.Connection) -> None:
    for what, params in HASHED.items():
        plan = await plan_of(large, G1, ListRequest(customer_id(1), **params))
        assert re.search(r"Hash (Left |Right )?Join", plan), f"{what}\n{plan}"
        assert "Seq Scan on membership" not in plan, f"{what}\n{plan}"
        assert max(map(int, re.findall(r"loops=(\d+)", plan))) <= FEW, (
            f"nothing is looked up row by row: {what}\n{plan}"
        )


async def test_a_counter_order_reads_neither_texts_nor_membership_rows(large: asyncpg.Connection) -> None:
    plan = await plan_of(large, G1, ListRequest(customer_id(1), sort_field="contacts_total"))
    assert "Index Only Scan using membership_by_enrolled_at" in plan
    assert not re.search(r"Scan on campaign ", plan)


async def test_the_batched_statement_scans_the_index_for_any_customer(large: asyncpg.Connection) -> None:
    for customer in (1, 2):
        plan = await plan_of(large, G1, ListRequest(customer_id(customer)))
        assert max(map(int, actual_rows(plan))) <= 50, plan


async def test_a_customer_in_few_campaigns_reads_few_rows_in_any_order(large: asyncpg.Connection) -> None:
    for field in SORT_KEYS:
        plan = await plan_of(large, G1, ListRequest(customer_id(2), sort_field=field))
        assert max(map(int, actual_rows(plan))) <= 50, plan


SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"offset": MANY - 5},
    {"sort_field": "name"},
    {"sort_field": "created_at", "sort_dir": "asc"},
    {"sort_field": "progress"},
    {"q": "0123"},
    {"date_from": datetime(2025, 1, 2, tzinfo=UTC)},
    {"include_deleted": True, "include_aggregations": True},
)


async def test_a_foreign_customer_costs_as_much_as_an_unknown_one(large: asyncpg.Connection) -> None:
    for params, exact in itertools.product(SHAPES, (False, True)):
        unknown = await pages_of(large, 999_999, owner_id(2), exact, params)
        assert await pages_of(large, 1, owner_id(2), exact, params) <= unknown + FEW_PAGES, (params, exact)
        assert await pages_of(large, 1, owner_id(1), exact, params) > unknown + FEW_PAGES, (
            "for its owner, memberships are read"
        )


async def test_a_deleted_customer_costs_as_much_as_an_unknown_one(large: asyncpg.Connection) -> None:
    await large.execute("UPDATE g1.customer SET deleted = true WHERE customer_id = $1", customer_id(1))
    for params, exact in itertools.product(SHAPES[:-1], (False, True)):
        unknown = await pages_of(large, 999_999, None, exact, params)
        assert await pages_of(large, 1, None, exact, params) <= unknown + FEW_PAGES, (params, exact)


async def test_a_fan_out_does_not_make_a_foreign_customer_cost_more(large: asyncpg.Connection) -> None:
    await large.execute(
        "INSERT INTO control.fan_out (generation, campaign_id, resumes_at) "
        "SELECT 'g1', campaign_id, gen_random_uuid() FROM g1.campaign LIMIT 500"
    )
    unknown = await pages_of(large, 999_999, owner_id(2), False, {})
    assert await pages_of(large, 1, owner_id(2), False, {}) <= unknown + FEW_PAGES


async def pages_of(
    connection: asyncpg.Connection, customer: int, scope: str | None, exact: bool, params: dict[str, Any]
) -> int:
    """Return how many table and index pages a request touches; the catalog's are read by the first of two runs."""
    request = ListRequest(customer_id(customer), **params)
    for _ in range(2):
        plan = await plan_of(connection, G1, request, scope, exact=exact, explain=EXPLAIN_BUFFERS)
    match = re.search(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", plan)
    assert match is not None, plan
    return sum(int(number or 0) for number in match.groups())


def actual_rows(plan: str) -> list[str]:
    """Return how many rows each node of a plan has returned."""
    return [part.split(".")[0].split()[0] for part in plan.split("(actual rows=")[1:]]


async def test_an_offset_beyond_all_rows_reads_no_membership(large: asyncpg.Connection) -> None:
    plan = await plan_of(large, G1, ListRequest(customer_id(1), offset=2**63 - 1))
    assert max(map(int, actual_rows(plan))) <= 20, plan
