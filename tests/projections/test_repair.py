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
from projections.store.migrations import migrate
from projections.store.projector import apply_to_all
from projections.store.queries import Generation
from tests.support.builders import batch_of, campaign_id, customer_id, message, owner_id, published
from tests.support.corruption import damage
from tests.support.older_shape import give_older_shape
from tests.support.read_model import CREATED, applied, empty, rows

G1 = Generation("g1")
CUSTOMERS, CAMPAIGNS = 6, 4
NOT_COMPARED = ("first_seen_at", "detail", "headers")


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
        published("campaign.counters_changed.v1", 1, campaign=97),
        published("campaign.status_changed.v1", 1, campaign=96, status="running"),
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
CAMPAIGN_ENTITIES = [Entity("campaign", campaign_id(n)) for n in (*range(1, CAMPAIGNS + 1), 96, 97, 98, 99)]


@pytest.mark.parametrize(
    "entity", [*CUSTOMER_ENTITIES, *CAMPAIGN_ENTITIES], ids=lambda entity: f"{entity.kind}-{entity.id[-3:]}"
)
async def test_undamaged_rows_do_not_differ(intact: asyncpg.Connection, entity: Entity) -> None:
    assert await differences(intact, entity, write=False) == []


@pytest.mark.parametrize("seed", range(40))
async def test_a_repair_fixes_what_it_shows_and_a_second_finds_nothing(intact: asyncpg.Connection, seed: int) -> None:
    expected = await rows(intact)
    (corrupted,) = await damage(intact, "g1", Random(seed), 1)
    kind: Literal["customer", "campaign"] = "campaign" if corrupted.table.startswith("campaign") else "customer"
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


OLDER_DAMAGES = {
    "a text": (1, "UPDATE g1.campaign SET name_key = 'x' WHERE campaign_id = $1"),
    "a counter": (1, "UPDATE g1.campaign SET contacts_total = 9 WHERE campaign_id = $1"),
    "both": (1, "UPDATE g1.campaign SET name_key = 'x', progress = 0.123 WHERE campaign_id = $1"),
    "a missing campaign": (1, "DELETE FROM g1.campaign WHERE campaign_id = $1"),
    "an unexpected status": (98, "INSERT INTO g1.campaign (campaign_id, status_version, status) VALUES ($1, 1, 1)"),
    "unexpected counters": (98, "INSERT INTO g1.campaign (campaign_id, counters_version) VALUES ($1, 1)"),
    "a status beside counters": (97, "UPDATE g1.campaign SET status_version = 1, status = 1 WHERE campaign_id = $1"),
    "counters beside a status": (
        96,
        "UPDATE g1.campaign SET counters_version = 1, progress = 1 WHERE campaign_id = $1",
    ),
}


@pytest.mark.parametrize(("number", "change"), OLDER_DAMAGES.values(), ids=OLDER_DAMAGES)
async def test_a_generation_of_the_last_release_is_repaired(
    intact: asyncpg.Connection, number: int, change: str
) -> None:
    await give_older_shape(intact, G1)
    await migrate(intact)
    expected = await older_rows(intact)
    assert (await intact.execute(change, campaign_id(number))).endswith(" 1")
    damaged = await older_rows(intact)
    assert damaged != expected
    entity = Entity("campaign", campaign_id(number))
    shown = await differences(intact, entity, write=False)
    assert shown
    assert {difference.table for difference in shown} <= {"campaign", "campaign_counters"}
    assert await older_rows(intact) == damaged
    assert await differences(intact, entity, write=True) == shown
    assert await older_rows(intact) == expected
    assert await differences(intact, entity, write=True) == []


async def older_rows(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Return the campaigns of the last release's table, without those of which nothing is known."""
    return await connection.fetch(
        "SELECT * FROM g1.campaign "
        "WHERE greatest(definition_version, status_version, deletion_version, counters_version) > 0 "
        "ORDER BY campaign_id"
    )


async def test_every_written_column_is_compared(intact: asyncpg.Connection) -> None:
    await intact.execute("CREATE SCHEMA copy")
    for table in KEYS:
        await intact.execute(f"CREATE TABLE copy.{table} (LIKE g1.{table} INCLUDING ALL)")
        written = await intact.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = '' AND attname <> ALL ($2::text[])",
            f"g1.{table}",
            [*KEYS[table], *NOT_COMPARED],
        )
        names = await intact.fetchval(
            "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''",
            f"g1.{table}",
        )
        await intact.execute(f"INSERT INTO copy.{table} ({names}) SELECT {names} FROM g1.{table}")  # noqa: S608
        comparison = Comparison(intact, "g1", "copy")
        assert await comparison.count(Part(table)) == 0
        assert written or table == "customer_summary"
        for column in {row["attname"] for row in written}:
            async with rolled_back(intact):
                await intact.execute(f"ALTER TABLE g1.{table} ALTER COLUMN {column} DROP NOT NULL")
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
