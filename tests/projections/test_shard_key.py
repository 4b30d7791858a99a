"""The read model could be divided by customer id: tables carry it, and hot statements touch one customer's rows.

The plans are those of the real statements, for any values (generic plans), with sequential scans disabled. So a scan of
a customer's table that has no condition on the customer remains only where the statement itself has none.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import pytest

from projections.maintenance.erasure import OWNED
from projections.store.database import CUSTOM_PLANS, GENERIC_PLANS, LOOKUP_PLANS
from projections.store.queries import Generation, for_generation, statements, writes
from service.parameters import SortField
from service.read_model.reads import cards_statement, page_statement
from tests.support.shapes import every_shape

G1 = Generation("g1")
KEY = "customer_id"
REFERENCE = {
    "g1.campaign": "copied to every shard: a page joins the campaigns of its memberships, whoever the customer is",
    "g1.campaign_counters": "copied to every shard, as the campaign that it belongs to",
}
PER_SHARD = {
    "g1.parked_event": "a position; a customer's message is parked in its shard, any other in every shard",
    "control.live": "each shard switches its own generations",
    "control.generation": "each shard rebuilds its own generations",
    "control.checkpoint": "each shard has its own projector, at its own position",
    "control.fan_out": "each shard copies a campaign's keys to its own members",
    "control.job": "a job works on one shard",
    "control.plan": "what operators asked of one shard",
    "control.job_review": "the report and the decision of a job, beside it",
    "control.runner": "each shard has a job runner",
    "control.audit": "what an operator did to one shard",
    "control.discarded_event": "a position, beside parked_event",
    "control.erasure": "counts what the one stream lacks, so every shard records the same counts",
    "control.acknowledged_loss": "counts what the one stream lacks, so every shard records the same counts",
    "control.sample": "what the job runner of a shard measured",
    "control.stream_report": "the same",
    "control.api_key": "small, and the same rows in every shard",
    "control.signing_key": "one row, the same in every shard: a cursor is valid wherever it is read",
    "public.membership_migration": "each shard is migrated by itself",
}
FRAGMENTS = {"before_and_after", "apply_summary_deltas"}
BY_CAMPAIGN = {
    "next_members": "the fan-out visits the members of a campaign; in each shard, its own members",
    "write_campaigns": "asks whether the campaign has any member at all, in each shard for its own members",
}
"""The only hot statements that do not begin with customers."""
CUSTOMERS_OWN = {"customer", "membership", "customer_summary"}
FIELDS: tuple[SortField, ...] = ("enrolled_at", "name", "status", "created_at", "progress")
"""One sort field of each kind: the counters differ only in their column."""


async def test_every_table_has_the_customer_in_its_key_or_a_reason(connection: asyncpg.Connection) -> None:
    keys = {row["name"]: set(row["columns"]) for row in await connection.fetch(_PRIMARY_KEYS)}
    sharded = {name for name, columns in keys.items() if KEY in columns}
    assert sharded == {f"g1.{table}" for table in CUSTOMERS_OWN}
    assert keys.keys() - sharded == REFERENCE.keys() | PER_SHARD.keys()
    assert all(keys.values()), "every table has a primary key"


async def test_a_table_with_a_customer_has_it_in_its_key(connection: asyncpg.Connection) -> None:
    with_customer = await connection.fetch(
        "SELECT table_name::text FROM information_schema.columns WHERE table_schema = 'g1' AND column_name = $1", KEY
    )
    assert {row["table_name"] for row in with_customer} == CUSTOMERS_OWN
    assert set(OWNED) >= CUSTOMERS_OWN, "an erasure removes the customer from each"


@pytest.fixture
async def filled(connection: asyncpg.Connection) -> asyncpg.Connection:
    """8,000 customers in four campaigns each, so that a statement which could read all of them shows it."""
    await connection.execute(_ROWS)
    await connection.execute(
        "ANALYZE g1.customer, g1.campaign, g1.campaign_counters, g1.membership, g1.customer_summary"
    )
    return connection


async def test_every_page_reads_the_rows_of_its_customer_only(filled: asyncpg.Connection) -> None:
    scanned: set[str] = set()
    for planner, generic in ((GENERIC_PLANS, True), (CUSTOM_PLANS, False)):
        await use(filled, planner)
        for shape in every_shape(FIELDS):
            # The direction decides the order of the rows, not whose they are.
            if shape.generic_plan == generic and shape.direction == "desc":
                plan = await plan_of(filled, page_statement(G1, shape))
                assert unbounded(plan) == [], shape
                scanned |= {node["Relation Name"] for node in own_scans(plan)}
    assert scanned == CUSTOMERS_OWN


async def test_other_reads_touch_one_customer_or_reference_tables(filled: asyncpg.Connection) -> None:
    reads = {name: for_generation(text, G1) for name, text in statements("service.read_model", "reads.sql").items()}
    reads = {name: reads[name] for name in ("name_key_of", "live_position", "cursor_key")}
    reads |= {f"cards, {versioned=}": cards_statement(G1, versioned=versioned) for versioned in (False, True)}
    history = statements("projections.store", "membership_history.sql", generation=G1)
    reads |= {name: history[name] for name in ("registers", "set_aside", "customer_exists", "memberships")}
    scanned: set[str] = set()
    await use(filled, CUSTOM_PLANS)
    for name, text in reads.items():
        plan = await plan_of(filled, text)
        assert unbounded(plan) == [], name
        scanned |= {node["Relation Name"] for node in own_scans(plan)}
    assert scanned == {"customer", "membership"}


async def test_a_batch_touches_its_customers_and_its_fan_outs_only(filled: asyncpg.Connection) -> None:
    across: set[str] = set()
    touched: set[str] = set()
    await use(filled, LOOKUP_PLANS)
    for name, text in writes(G1).items():
        if name not in FRAGMENTS:
            plan = await plan_of(filled, text)
            across |= {name} if unbounded(plan) else set()
            touched |= {node["Relation Name"] for node in (*own_scans(plan), *own_inserts(plan))}
    assert across == BY_CAMPAIGN.keys()
    assert touched == CUSTOMERS_OWN


async def use(connection: asyncpg.Connection, planner: Mapping[str, str]) -> None:
    """Plan as a session of the service does, but for any values, and without sequential scans."""
    await connection.execute("RESET ALL")
    for setting, value in {**planner, "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}.items():
        await connection.execute(f"SET {setting} = {value}")


async def plan_of(connection: asyncpg.Connection, text: str) -> dict[str, Any]:
    """Return the plan of a statement."""
    await connection.execute(f"PREPARE planned AS {text}")
    count = await connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'planned'"
    )
    nulls = f"({', '.join(['NULL'] * count)})" if count else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned{nulls}")
    await connection.execute("DEALLOCATE planned")
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def own_scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that read a table whose key has the customer."""
    return [node for node in nodes(plan) if "Scan" in node["Node Type"] and node.get("Relation Name") in CUSTOMERS_OWN]


def own_inserts(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that insert rows into such a table or update the row in their place."""
    return [
        node for node in nodes(plan) if node.get("Operation") == "Insert" and node.get("Relation Name") in CUSTOMERS_OWN
    ]


def unbounded(plan: dict[str, Any]) -> list[str]:
    """Return the scans that do not look up one customer, and the inserts that find an existing row without it."""
    scans = [node for node in own_scans(plan) if not _ONE_CUSTOMER.search(_condition(node))]
    inserts = [
        node for node in own_inserts(plan) if node.get("Conflict Arbiter Indexes") != [f"{node['Relation Name']}_pkey"]
    ]
    return [f"{node['Node Type']} {node['Relation Name']}: {_condition(node)}" for node in (*scans, *inserts)]


def _condition(node: dict[str, Any]) -> str:
    return str(node.get("Index Cond", node.get("Recheck Cond", "")))


_ONE_CUSTOMER = re.compile(r"\bcustomer_id = ")
_PRIMARY_KEYS = """
SELECT
    relnamespace::regnamespace || '.' || relname AS name,
    array(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = pg_class.oid AND attnum = any(conkey)
    ) AS columns
FROM pg_class
LEFT JOIN pg_constraint ON conrelid = pg_class.oid AND contype = 'p'
WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text IN ('g1', 'control', 'public')
"""
_ROWS = """
INSERT INTO g1.campaign (campaign_id, definition_version, status_version, owner_id, status, name_key, display_json)
SELECT uuid_number, 1, 1, uuid_number, n % 4, 'campaign ' || n, '"name":"x"'
FROM (SELECT n, lpad(to_hex(n), 32, '0')::uuid AS uuid_number FROM generate_series(1, 1000) AS n) AS numbered;
INSERT INTO g1.campaign_counters SELECT campaign_id, 1, 9, 3, 6, 1, 1, 1, 0.3 FROM g1.campaign;
INSERT INTO g1.membership (
    customer_id, campaign_id, enrolment_version, enrolled_at, presence_version, present, owner_id, status,
    campaign_deleted
)
SELECT
    lpad(to_hex(customer), 32, 'c')::uuid, lpad(to_hex(1 + (customer * 4 + n) % 1000), 32, '0')::uuid,
    1, timestamptz '2026-01-01' + n * interval '1 hour', 1, true, lpad('1', 32, '0')::uuid, n % 4, false
FROM generate_series(1, 8000) AS customer, generate_series(1, 4) AS n;
INSERT INTO g1.customer_summary
SELECT customer_id, owner_id, status, deleted, count(*) FROM g1.membership GROUP BY 1, 2, 3, 4;
INSERT INTO g1.customer (customer_id) SELECT DISTINCT customer_id FROM g1.membership;
"""
