"""A generation of the last release is read, written, compared and repaired until a rebuild replaces it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from projections.maintenance.differences import KEYS, Comparison, Part
from projections.model.batch import read_batch
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store import database, generations
from projections.store.checkpoint import Checkpoint
from projections.store.migrations import migrate
from projections.store.projector import apply_shared_batch
from projections.store.queries import Generation
from service.parameters import ListRequest
from service.read_model.query_batcher import QueryBatcher
from service.read_model.reads import SORT_KEYS, read_page
from tests.support.builders import message
from tests.support.bulk_fill import rebuild_generation
from tests.support.older_shape import MIGRATION, give_older_shape
from tests.support.random_history import History
from tests.support.read_model import CREATED, applied, empty

G1, G2 = Generation("g1"), Generation("g2")
SEEDS = range(3)
CHUNK = 200
Pages = list[tuple[object, ...]]


@pytest.fixture
async def batcher(database_url: str) -> AsyncIterator[QueryBatcher]:
    pools = [
        await database.open_pool(
            database_url, connections_max=1, statement_timeout_s=15, name="test-reads", planner=planner
        )
        for planner in (database.CUSTOM_PLANS, database.GENERIC_PLANS)
    ]
    yield QueryBatcher(pools[0], pools[1])
    for pool in pools:
        await pool.close()


async def pages(batcher: QueryBatcher, history: History, name: Generation) -> Pages:
    """Return a page of every customer in every order."""
    parts: Pages = []
    for number, customer in enumerate(history.customers):
        for field in SORT_KEYS:
            filters: dict[str, Any] = {"include_deleted": True} if number % 2 else {"q": "a"}
            request = ListRequest(customer, limit=20, sort_field=field, **filters)
            page = await read_page(batcher, name, request, None, None)
            parts.append((page.known, page.items, page.counts and sorted(page.counts), page.has_next, page.last_key))
    return parts


def halves_of(history: History) -> tuple[list[Message], list[Message]]:
    messages = [
        message(position, publication.subject, publication.body)
        for position, publication in enumerate(history.delivery(history.seed), start=1)
    ]
    return messages[: len(messages) // 2], messages[len(messages) // 2 :]


async def upgraded(connection: asyncpg.Connection, messages: Sequence[Message]) -> Checkpoint:
    """Apply messages, give the generation the older shape, and migrate, as an upgrade does."""
    checkpoint = await applied(connection, await empty(connection), list(messages))
    await give_older_shape(connection, G1)
    assert await migrate(connection) == [MIGRATION]
    return checkpoint


async def differences(connection: asyncpg.Connection, held: str, expected: str) -> dict[str, int]:
    comparison = Comparison(connection, held, expected)
    counts = {table: await comparison.count(Part(table)) for table in KEYS}
    return {table: count for table, count in counts.items() if count}


@pytest.mark.parametrize("seed", SEEDS)
async def test_answers_stay_the_same_across_the_upgrade(
    connection: asyncpg.Connection, batcher: QueryBatcher, seed: int
) -> None:
    history = History(seed)
    first, _ = halves_of(history)
    await applied(connection, await empty(connection), first)
    before = await pages(batcher, history, G1)
    await give_older_shape(connection, G1)
    assert await migrate(connection) == [MIGRATION]
    assert await pages(batcher, history, G1) == before


async def test_a_card_is_the_one_that_the_last_release_stored(
    connection: asyncpg.Connection, batcher: QueryBatcher
) -> None:
    history = History(1)
    first, second = halves_of(history)
    await upgraded(connection, [*first, *second])
    rows = await connection.fetch("SELECT campaign_id::text AS id, card FROM g1.campaign WHERE card IS NOT NULL")
    stored = {row["id"]: row["card"] for row in rows}
    seen = 0
    for customer in history.customers:
        request = ListRequest(customer, limit=200, include_deleted=True)
        cards = (await read_page(batcher, G1, request, None, None)).cards
        assert [card.decode() for card in cards] == [stored[msgspec.json.decode(card)["id"]] for card in cards]
        seen += len(cards)
    assert seen > 50


@pytest.mark.parametrize("seed", SEEDS)
async def test_events_after_the_upgrade_give_the_same_rows_in_both_shapes(
    connection: asyncpg.Connection, batcher: QueryBatcher, seed: int
) -> None:
    history = History(seed)
    first, second = halves_of(history)
    checkpoint = await upgraded(connection, first)
    await applied(connection, checkpoint, second)
    chunks = [part[at : at + CHUNK] for part in (first, second) for at in range(0, len(part), CHUNK)]
    assert await rebuild_generation(connection, chunks, killed_after=3) == G2
    assert await differences(connection, G1, G2) == {}
    assert await pages(batcher, history, G2) == await pages(batcher, history, G1)
    await connection.execute("UPDATE g1.campaign SET contacts_total = contacts_total + 1 WHERE counters_version > 0")
    changed = await connection.fetchval("SELECT count(*) FROM g2.campaign_counters")
    assert await differences(connection, G1, G2) == {"campaign_counters": changed}


async def test_both_shapes_follow_and_a_rollback_finds_the_same_answers(
    connection: asyncpg.Connection, batcher: QueryBatcher
) -> None:
    history = History(2)
    first, second = halves_of(history)
    older = await upgraded(connection, first)
    await rebuild_generation(connection, [first], killed_after=1000)
    newer = await checkpoints.take_over(connection, G2)
    await generations.start_following(connection, G2)
    older = await checkpoints.take_over(connection, G1)
    newer = await checkpoints.take_over(connection, G2)
    middle = len(second) // 2
    for part in (second[:middle], second[middle:]):
        outcome = await apply_shared_batch(connection, [older, newer], read_batch(part), CREATED)
        older, newer = outcome.checkpoints
        assert not outcome.failures
        target = G2 if await checkpoints.live_generation(connection) == G1 else G1
        async with connection.transaction():
            await generations.switch(connection, target, old_follows_s=60)
        assert await differences(connection, G1, G2) == {}
    assert await checkpoints.live_generation(connection) == G1
    assert await pages(batcher, history, G1) == await pages(batcher, history, G2)
    assert await generations.has_counters_in_campaign(connection, G1)
    assert not await generations.has_counters_in_campaign(connection, G2)
    assert await generations.drop(connection, G2)


async def test_the_migration_changes_only_generations_that_need_it(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await give_older_shape(connection, G1)
    assert await migrate(connection) == [MIGRATION]
    kinds = await connection.fetch(
        "SELECT relnamespace::regnamespace::text AS schema, relkind::text AS kind FROM pg_class "
        "WHERE relname = 'campaign_counters' ORDER BY 1"
    )
    assert [tuple(row) for row in kinds] == [("g1", "v"), ("g2", "r")]
