"""A repair reports each row that differs from the stream by column, and rewrites exactly those rows."""

from collections.abc import AsyncGenerator
from random import Random
from typing import Literal

import asyncpg
import pytest

from projections.maintenance import repair
from projections.maintenance.differences import KEYS, Comparison, Difference, Part
from projections.maintenance.repair import Entity
from projections.model.batch import BatchBuilder
from projections.model.events import Message, Position
from projections.store.projector import apply_to_all
from projections.store.queries import Generation
from tests.support.builders import batch_of, campaign_id, customer_id, message, owner_id, published
from tests.support.corruption import damage
from tests.support.read_model import CREATED, applied, empty, rows

G1 = Generation("g1")
CUSTOMERS, CAMPAIGNS = 6, 4


def all_messages() -> list[Message]:
    """Return events of a few customers who are all in the same campaigns, covering every event type and edge case."""
    events = [published("customer.upserted.v1", 1, customer=n, owner_id=owner_id(n % 2)) for n in range(1, CUSTOMERS)]
    for campaign in range(1, CAMPAIGNS + 1):
        events.append(published("campaign.upserted.v1", 1, campaign=campaign, owner_id=owner_id(campaign % 2)))
        events.append(published("campaign.counters_changed.v1", campaign, campaign=campaign))
        events += [published("target.enrolled.v1", 1, customer=n, campaign=campaign) for n in range(1, CUSTOMERS + 1)]
    events += [
        published("campaign.status_changed.v1", 2, campaign=2, status="done"),
        published("campaign.deleted.v1", 1, campaign=3),
        published("target.removed.v1", 2, customer=2, campaign=1, reason="moved"),
        published("target.restored.v1", 3, customer=2, campaign=2),
        published("target.removed.v1", 1, customer=3, campaign=99),
        published("target.enrolled.v1", 1, customer=4, campaign=98),
    ]
    return [message(position, *event) for position, event in enumerate(events, start=1)]


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject matches a filter, as the broker decides it."""
    filter_tokens, subject_tokens = pattern.split("."), subject.split(".")
    return len(filter_tokens) == len(subject_tokens) and all(
        token in ("*", other) for token, other in zip(filter_tokens, subject_tokens, strict=True)
    )


async def differences(connection: asyncpg.Connection, entity: Entity, *, write: bool) -> list[Difference]:
    async def source(subject: str, after: Position, through: Position) -> AsyncGenerator[BatchBuilder, None]:
        matching = [
            event for event in all_messages() if matches(subject, event.subject) and after < event.position <= through
        ]
        for part in (matching[: len(matching) // 2], matching[len(matching) // 2 :]):
            if part:
                yield batch_of(part)

    repaired = await repair.repair(connection, entity, source, actor="test", dry_run=not write)
    return repaired.differences


@pytest.fixture
async def intact(connection: asyncpg.Connection) -> asyncpg.Connection:
    await applied(connection, await empty(connection), all_messages())
    return connection


CUSTOMER_ENTITIES = [Entity("customer", customer_id(n)) for n in range(1, CUSTOMERS + 1)]
CAMPAIGN_ENTITIES = [Entity("campaign", campaign_id(n)) for n in (*range(1, CAMPAIGNS + 1), 98, 99)]


@pytest.mark.parametrize(
    "entity", [*CUSTOMER_ENTITIES, *CAMPAIGN_ENTITIES], ids=lambda entity: f"{entity.kind}-{entity.id[-3:]}"
)
async def test_undamaged_rows_do_not_differ(intact: asyncpg.Connection, entity: Entity) -> None:
    assert await differences(intact, entity, write=False) == []


@pytest.mark.parametrize("seed", range(40))
async def test_a_repair_fixes_what_it_shows_and_a_second_finds_nothing(intact: asyncpg.Connection, seed: int) -> None:
    expected = await rows(intact)
    (corrupted,) = await damage(intact, "g1", Random(seed), 1)
    kind: Literal["customer", "campaign"] = "campaign" if corrupted.table == "campaign" else "customer"
    entity = Entity(kind, str(corrupted.key[f"{kind}_id"]))
    damaged = await rows(intact)
    assert damaged != expected
    shown = await differences(intact, entity, write=False)
    assert await rows(intact) == damaged
    assert [(difference.table, difference.key) for difference in shown] == [(corrupted.table, corrupted.key)]
    assert await differences(intact, entity, write=True) == shown
    assert await rows(intact) == expected
    assert await differences(intact, entity, write=True) == []


async def test_a_campaign_repair_fixes_its_members_and_their_summaries(intact: asyncpg.Connection) -> None:
    expected = await rows(intact)
    await intact.execute("DELETE FROM g1.membership WHERE campaign_id = $1", campaign_id(1))
    await intact.execute("UPDATE g1.customer_summary SET memberships = memberships + 3")
    await intact.execute("UPDATE g1.campaign SET name_key = 'x' WHERE campaign_id = $1", campaign_id(1))
    await differences(intact, Entity("campaign", campaign_id(1)), write=True)
    assert await rows(intact) == expected


async def test_a_repair_leaves_out_events_that_the_tables_refused(connection: asyncpg.Connection) -> None:
    checkpoint = await empty(connection)
    await connection.execute(
        "ALTER TABLE g1.campaign ADD CONSTRAINT by_hand "
        f"CHECK (campaign_id <> '{campaign_id(1)}' OR display_json IS NULL)"
    )
    applied_to_all = await apply_to_all(connection, [checkpoint], all_messages(), CREATED)
    (parked,) = applied_to_all.parked
    assert parked.message.subject == f"membership.campaign.{campaign_id(1)}"
    for entity in (Entity("campaign", campaign_id(1)), Entity("customer", customer_id(1))):
        assert await differences(connection, entity, write=True) == []


async def test_every_written_column_is_compared(intact: asyncpg.Connection) -> None:
    await intact.execute("CREATE SCHEMA copy")
    for table in KEYS:
        await intact.execute(f"CREATE TABLE copy.{table} (LIKE g1.{table} INCLUDING ALL)")
        written = await intact.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = '' AND NOT attnotnull",
            f"g1.{table}",
        )
        names = await intact.fetchval(
            "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''",
            f"g1.{table}",
        )
        await intact.execute(f"INSERT INTO copy.{table} ({names}) SELECT {names} FROM g1.{table}")  # noqa: S608
        comparison = Comparison(intact, "g1", "copy")
        assert await comparison.count(Part(table)) == 0
        for column in {row["attname"] for row in written} - {"headers"}:
            async with rolled_back(intact):
                for check in await intact.fetch(
                    "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", f"g1.{table}"
                ):
                    await intact.execute(f"ALTER TABLE g1.{table} DROP CONSTRAINT {check['conname']}")
                command_tag = await intact.execute(f"UPDATE g1.{table} SET {column} = NULL WHERE {column} IS NOT NULL")  # noqa: S608
                changed = int(command_tag.rpartition(" ")[2])
                assert await comparison.count(Part(table)) == changed, (table, column)


class rolled_back:  # noqa: N801 - used as a function
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
