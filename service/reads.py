"""Asks PostgreSQL for a page of a customer's campaigns: one statement, one round trip, one snapshot.

Reads: the live generation and control tables. Statements: reads.sql, put together here from closed tables.
Fails: `database.UNAVAILABLE` and `QueryCanceledError` when PostgreSQL is away or too slow.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

import asyncpg
from msgspec import Struct

from projections.database import ReadPool
from projections.errors import DatabaseNotMigrated
from projections.membership import STATUS_ORDER
from projections.queries import Generation, blocks, for_generation, generation
from projections.search_key import search_key
from service.parameters import ListRequest, SortDirection, SortField


class SortKey(NamedTuple):
    """A sort field's expression, the type a cursor's text is read back as, and whether it may be null."""

    expression: str
    type: str
    nullable: bool = False


SORT_KEYS: Final[Mapping[SortField, SortKey]] = {
    "enrolled_at": SortKey("membership.enrolled_at", "timestamptz"),
    "name": SortKey("campaign.name_key", 'text COLLATE "C"'),
    "status": SortKey("membership.status", "smallint"),
    "created_at": SortKey("campaign.created_at", "timestamptz", nullable=True),
    "progress": SortKey("campaign.progress", "double precision"),
    "contacts_total": SortKey("campaign.contacts_total", "bigint"),
    "contacts_contacted": SortKey("campaign.contacts_contacted", "bigint"),
    "contacts_remaining": SortKey("campaign.contacts_remaining", "bigint"),
    "contacts_to_recall": SortKey("campaign.contacts_to_recall", "bigint"),
    "contacts_failed": SortKey("campaign.contacts_failed", "bigint"),
    "contacts_succeeded": SortKey("campaign.contacts_succeeded", "bigint"),
}

_BEYOND: Final[Mapping[SortDirection, str]] = {"asc": ">", "desc": "<"}


class Shape(NamedTuple):
    """What decides the text of the page statement; there are a few dozen of them."""

    sort_field: SortField
    direction: SortDirection
    after: bool
    """Whether the page stands after a cursor."""
    counted: bool
    """Whether totals are counted among matching rows, or taken from the summaries."""


class After(NamedTuple):
    """The row a page stands after: its sort key as text, and its campaign."""

    key: str | None
    campaign_id: str


class Page(Struct, frozen=True):
    """What one snapshot of the read model says about a request."""

    live_generation: str
    position: int
    known: bool
    """Whether the customer exists at all."""
    owner_id: str | None
    deleted: bool | None
    counts: list[int]
    """Visible matching memberships at 2 * status + deleted."""
    has_next: bool
    items: bytes
    """The items' JSON objects, separated by commas, as they were encoded when they were written."""
    last_key: str | None
    last_campaign_id: str | None

    def matching(self, *, deleted: bool | None) -> dict[str, int]:
        """Return the counts by status, of the deleted, the others, or (None) both."""
        wanted = (False, True) if deleted is None else (deleted,)
        return {
            status: sum(self.counts[2 * rank + state] for state in wanted) for rank, status in enumerate(STATUS_ORDER)
        }


GENERATION_GONE: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
"""What a statement raises when its tables are not there: the generation was dropped, or nothing was migrated yet."""


class Whereabouts(NamedTuple):
    """The live generation, its position, and whether it ever reached the end of the stream."""

    generation: Generation
    position: int
    caught_up: bool


def deletion_wanted(request: ListRequest) -> bool | None:
    """Return which memberships are listed: the deleted, the others, or (None) both; `only_deleted` wins."""
    return True if request.only_deleted else None if request.include_deleted else False


async def read_page(
    pool: ReadPool, name: Generation, request: ListRequest, scope: str | None, after: After | None
) -> Page:
    """Return the page of `request` in generation `name`, seen by `scope` (an owner; None: everything).

    `live_generation` of the answer may name another one: then the pointer moved, and the caller asks again.
    """
    narrowed = (request.q, request.date_from, request.date_to)
    counted = any(bound is not None for bound in narrowed)
    shape = Shape(request.sort_field, request.sort_dir, after is not None, counted)
    row = await pool.fetchrow(page_statement(name, shape), *_arguments(request, scope), *(after or ()))
    if row is None:
        raise asyncpg.UndefinedTableError(f"generation {name} has no checkpoint any more")
    return Page(*row.values())


async def name_key_of(pool: ReadPool, name: Generation, campaign_id: str, beginning: str) -> str:
    """Return the whole sort key that a cursor holds the beginning of; the beginning itself if it changed since."""
    statement = for_generation(_BLOCKS["name_key_of"], name)
    row = await pool.fetchrow(statement, campaign_id, beginning)
    return beginning if row is None else str(row["name_key"])


async def whereabouts(pool: ReadPool) -> Whereabouts | None:
    """Return where the read model stands; None before the first migration made a generation."""
    row = await pool.fetchrow(_BLOCKS["where_we_are"])
    return None if row is None else Whereabouts(generation(row["generation"]), row["position"], row["caught_up"])


async def cursor_key(pool: ReadPool) -> bytes:
    """Return the key that cursors are signed with, the same in every process."""
    row = await pool.fetchrow(_BLOCKS["cursor_key"])
    if row is None:
        raise DatabaseNotMigrated(["the key that cursors are signed with"])
    return bytes(row["key"])


@cache
def page_statement(name: Generation, shape: Shape) -> str:
    """Return the page statement of a shape; every token filled in comes from the tables of this module."""
    sort = SORT_KEYS[shape.sort_field]
    beyond = _BEYOND[shape.direction]
    after = _BLOCKS["behind_nullable" if sort.nullable else "behind"] if shape.after else ""
    text = _BLOCKS["page"]
    for token, filling in {
        "{counts}": _BLOCKS["counts_matching" if shape.counted else "counts_precomputed"],
        "{after}": after,
        "{sort_key}": sort.expression,
        "{sort_type}": sort.type,
        "{direction}": shape.direction,
        # Said only where it matters: an index that is ordered DESC does not serve DESC NULLS LAST.
        "{nulls}": "NULLS LAST" if sort.nullable else "",
        "{at_or_beyond}": beyond + "=",
        "{beyond}": beyond,
    }.items():
        text = text.replace(token, filling)
    return for_generation(text, name)


_BLOCKS: Final = {name: text.rstrip(";") for name, text in blocks("service", "reads.sql").items()}


def _arguments(request: ListRequest, scope: str | None) -> tuple[Any, ...]:
    wanted: str | None = None if request.q is None else search_key(request.q)
    dates: tuple[datetime | None, ...] = (request.date_from, request.date_to)
    return request.customer_id, scope, deletion_wanted(request), request.limit, request.offset, wanted, *dates
