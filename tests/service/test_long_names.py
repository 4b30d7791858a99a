"""Pages ordered by name are correct for names longer than an index entry, in both directions."""

from random import Random

import asyncpg
import pytest

from projections.model.search_key import search_key
from projections.store.queries import Generation
from service.parameters import ListRequest, SortDirection
from service.read_model.reads import After, Page, page_statement, shape_of, values_of
from tests.support.builders import campaign_id, customer_id, message, published
from tests.support.bulk_fill import rebuild_generation
from tests.support.read_model import applied, empty, rows

G1 = Generation("g1")
PREFIX_CHARS = 600


def names() -> list[str]:
    """Return names that differ before, at and after the prefix's end, equal ones, and ones of 4-byte characters."""
    rng = Random(9)
    incompressible = ["".join(chr(rng.randint(0x20000, 0x2A6DF)) for _ in range(1_500)) for _ in range(3)]
    shared = "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(PREFIX_CHARS))
    sharing = [shared + suffix for suffix in ("", "a", "b", "b", "\U0001f600" * 700, "\U0001f600" * 700 + "z")]
    return [*incompressible, *sharing, shared[:-1], shared[:-1] + "~", "short", "Short", "\ue000", "\U00010000"]


async def enrol_in_all(connection: asyncpg.Connection, named: list[str]) -> None:
    checkpoint = await empty(connection)
    events = []
    for number, name in enumerate(named, start=1):
        events.append(published("campaign.upserted.v1", 1, campaign=number, name=name))
        events.append(published("target.enrolled.v1", 1, campaign=number))
    await applied(connection, checkpoint, [message(at, *event) for at, event in enumerate(events, start=1)])
    assert await connection.fetch("SELECT * FROM g1.parked_event") == []


async def page_of(connection: asyncpg.Connection, request: ListRequest, after: After | None = None) -> Page:
    shape = shape_of(request, after=after is not None)
    row = await connection.fetchrow(page_statement(G1, shape), *values_of(request, None, after, shape))
    assert row is not None
    return Page(*row)


async def walked(connection: asyncpg.Connection, direction: SortDirection) -> list[str]:
    """Return the campaign ids of all pages, following the cursors to the end."""
    walked_ids: list[str] = []
    after = None
    while True:
        request = ListRequest(customer_id(1), limit=1, sort_field="name", sort_dir=direction)
        page = await page_of(connection, request, after)
        assert page.last_campaign_id is not None
        walked_ids.append(page.last_campaign_id)
        if not page.has_next:
            return walked_ids
        after = After(page.last_key, page.last_campaign_id)


@pytest.mark.parametrize("shallow_max", [2, 1_000], ids=["counted from the nearer end", "skipped"])
async def test_pages_by_name_follow_the_order_of_the_whole_key(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, shallow_max: int
) -> None:
    monkeypatch.setattr("service.read_model.reads.SHALLOW_OFFSET_MAX", shallow_max)
    named = names()
    await enrol_in_all(connection, named)
    numbered = [(search_key(name), campaign_id(number)) for number, name in enumerate(named, start=1)]
    ascending = [campaign for _, campaign in sorted(numbered)]
    # Equal names stay in id order, even in descending order: Python's sort is stable.
    descending = [campaign for _, campaign in sorted(sorted(numbered), key=lambda pair: pair[0], reverse=True)]
    assert await walked(connection, "asc") == ascending
    assert await walked(connection, "desc") == descending
    for offset in range(len(named)):
        page = await page_of(connection, ListRequest(customer_id(1), limit=1, offset=offset, sort_field="name"))
        assert page.last_campaign_id == descending[offset]


async def test_a_rebuild_accepts_the_same_long_names(connection: asyncpg.Connection) -> None:
    named = names()
    await enrol_in_all(connection, named)
    events = [published("campaign.upserted.v1", 1, campaign=number, name=name) for number, name in enumerate(named, 1)]
    events += [published("target.enrolled.v1", 1, campaign=number) for number in range(1, len(named) + 1)]
    chunk = [message(at, *event) for at, event in enumerate(events, start=1)]
    assert await rows(connection, await rebuild_generation(connection, [chunk], killed_after=1_000)) == await rows(
        connection
    )
