"""A row that is not as the stream would have it is named to the column, and mended to the byte, and nothing else is."""

from collections.abc import AsyncGenerator
from random import Random

import asyncpg
import pytest

from projections.maintenance import repair
from projections.maintenance.differences import KEYS, Comparison, Difference, Part
from projections.maintenance.repair import Entity
from projections.model.events import Message, Position
from projections.store.queries import Generation
from tests.support.builders import campaign_id, customer_id, message, owner_id, published
from tests.support.corruption import damage
from tests.support.read_model import applied, empty, rows

G1 = Generation("g1")
CUSTOMERS, CAMPAIGNS = 6, 4


def told() -> list[Message]:
    """Return the events of a few customers who are all in a few campaigns, with everything that can have happened."""
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
    """Return what the broker's subject filter would decide."""
    wanted, given = pattern.split("."), subject.split(".")
    return len(wanted) == len(given) and all(one in ("*", other) for one, other in zip(wanted, given, strict=True))


async def differences(connection: asyncpg.Connection, entity: Entity, *, write: bool) -> list[Difference]:
    async def source(subject: str, after: Position, through: Position) -> AsyncGenerator[list[Message], None]:
        wanted = [each for each in told() if matches(subject, each.subject) and after < each.position <= through]
        for part in (wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]):
            if part:
                yield part

    found = await repair.repair(connection, entity, source, actor="test", dry_run=not write)
    return found.differences


@pytest.fixture
async def whole(connection: asyncpg.Connection) -> asyncpg.Connection:
    await applied(connection, await empty(connection), told())
    return connection


EVERYONE = [Entity("customer", customer_id(n)) for n in range(1, CUSTOMERS + 1)]
EVERYTHING = [Entity("campaign", campaign_id(n)) for n in (*range(1, CAMPAIGNS + 1), 98, 99)]


@pytest.mark.parametrize("entity", [*EVERYONE, *EVERYTHING], ids=lambda entity: f"{entity.kind}-{entity.id[-3:]}")
async def test_nothing_differs_where_nothing_is_wrong(whole: asyncpg.Connection, entity: Entity) -> None:
    assert await differences(whole, entity, write=False) == []


@pytest.mark.parametrize("seed", range(40))
async def test_a_repair_mends_what_it_shows_and_a_second_one_finds_nothing(
    whole: asyncpg.Connection, seed: int
) -> None:
    wanted = await rows(whole)
    (hurt,) = await damage(whole, "g1", Random(seed), 1)
    kind = "campaign" if hurt.table == "campaign" else "customer"
    entity = Entity(kind, str(hurt.key[f"{kind}_id"]))
    damaged = await rows(whole)
    assert damaged != wanted
    shown = await differences(whole, entity, write=False)
    assert await rows(whole) == damaged
    assert [(each.table, each.key) for each in shown] == [(hurt.table, hurt.key)]
    assert await differences(whole, entity, write=True) == shown
    assert await rows(whole) == wanted
    assert await differences(whole, entity, write=True) == []


async def test_a_campaign_repair_mends_its_members_and_their_summaries(whole: asyncpg.Connection) -> None:
    wanted = await rows(whole)
    await whole.execute("DELETE FROM g1.membership WHERE campaign_id = $1", campaign_id(1))
    await whole.execute("UPDATE g1.customer_summary SET memberships = memberships + 3")
    await whole.execute("UPDATE g1.campaign SET name_key = 'x' WHERE campaign_id = $1", campaign_id(1))
    await differences(whole, Entity("campaign", campaign_id(1)), write=True)
    assert await rows(whole) == wanted


async def test_every_column_that_is_written_is_compared(whole: asyncpg.Connection) -> None:
    await whole.execute("CREATE SCHEMA copy")
    for table in KEYS:
        await whole.execute(f"CREATE TABLE copy.{table} (LIKE g1.{table} INCLUDING ALL)")
        written = await whole.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = '' AND NOT attnotnull",
            f"g1.{table}",
        )
        names = await whole.fetchval(
            "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''",
            f"g1.{table}",
        )
        await whole.execute(f"INSERT INTO copy.{table} ({names}) SELECT {names} FROM g1.{table}")  # noqa: S608
        comparison = Comparison(whole, "g1", "copy")
        assert await comparison.count(Part(table)) == 0
        for column in {row["attname"] for row in written} - {"headers"}:
            async with rolled_back(whole):
                for check in await whole.fetch(
                    "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", f"g1.{table}"
                ):
                    await whole.execute(f"ALTER TABLE g1.{table} DROP CONSTRAINT {check['conname']}")
                ended = await whole.execute(f"UPDATE g1.{table} SET {column} = NULL WHERE {column} IS NOT NULL")  # noqa: S608
                changed = int(ended.rpartition(" ")[2])
                assert await comparison.count(Part(table)) == changed, (table, column)


class rolled_back:  # noqa: N801 - reads as what it does
    def __init__(self, connection: asyncpg.Connection) -> None:
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()
