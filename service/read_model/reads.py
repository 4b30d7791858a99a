"""Queries a page of a customer's campaigns: one statement, one round trip, one snapshot.

Reads: the live generation and control tables. Statements: composed here from the blocks of reads.sql; every token is
filled from the fixed tables below.
Fails: `database.UNAVAILABLE` and `QueryCanceledError` when PostgreSQL is unavailable or too slow.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import asyncpg
from msgspec import Struct

from projections.errors import DatabaseNotMigrated
from projections.model.membership import STATUS_ORDER
from projections.model.search_key import search_key
from projections.store.database import ReadPool
from projections.store.queries import Generation, for_generation, generation, statements
from service.parameters import ListRequest, SortDirection, SortField
from service.read_model.query_batcher import QueryBatcher


class SortKey(NamedTuple):
    """A sort field: its table and expression, the type to which a cursor's text is cast, and whether it may be null."""

    table: Literal["membership", "campaign", "campaign_counters"]
    expression: str
    type: str
    nullable: bool = False
    indexed_prefix: str = ""
    """The indexed expression, if the index holds only a prefix of the key; rows are ordered by it first."""


def _counter(column: str, type_name: str = "bigint") -> SortKey:
    """Return the sort key of a counter; one that was never received is 0."""
    return SortKey("campaign_counters", f"coalesce(campaign_counters.{column}, 0)", type_name)


SORT_KEYS: Final[Mapping[SortField, SortKey]] = {
    "enrolled_at": SortKey("membership", "membership.enrolled_at", "timestamptz"),
    "name": SortKey("campaign", "campaign.name_key", 'text COLLATE "C"', indexed_prefix="left(campaign.name_key, 600)"),
    "status": SortKey("membership", "membership.status", "smallint"),
    "created_at": SortKey("campaign", "campaign.created_at", "timestamptz", nullable=True),
    "progress": _counter("progress", "double precision"),
    "contacts_total": _counter("contacts_total"),
    "contacts_contacted": _counter("contacts_contacted"),
    "contacts_remaining": _counter("contacts_remaining"),
    "contacts_to_recall": _counter("contacts_to_recall"),
    "contacts_failed": _counter("contacts_failed"),
    "contacts_succeeded": _counter("contacts_succeeded"),
}

_COPIED_KEYS: Final[Mapping[str, str]] = {
    "{known}": "membership.owner_id IS NOT NULL",
    "{owner_id}": "membership.owner_id",
    "{status}": "membership.status",
    "{deleted}": "membership.deleted",
}
"""A campaign's keys as copied to its memberships."""

_SEARCHED_KEYS: Final[Mapping[str, str]] = {**_COPIED_KEYS, "{status}": "campaign.status"}
"""The same keys for a search, which reads the campaigns anyway: all but the status are in the memberships' index."""

_CAMPAIGN_KEYS: Final[Mapping[str, str]] = {
    "{known}": "campaign.definition_version > 0",
    "{owner_id}": "campaign.owner_id",
    "{status}": "campaign.status",
    "{deleted}": "(NOT membership.present OR campaign.deleted)",
}
"""The same keys, read from the campaign itself while a change of them is still being propagated to memberships."""

_PREFIX_BLOCKS: Final[Mapping[str, str]] = {
    "{first_by_prefix}": "prefix_order",
    "{first_by_prefix_backward}": "prefix_order_backward",
    "{bound_by_prefix}": "prefix_bound",
}
"""The tokens for an order whose index holds a prefix of the key, and the block for each."""

_BEYOND: Final[Mapping[SortDirection, str]] = {"asc": ">", "desc": "<"}
_OPPOSITE: Final[Mapping[SortDirection, SortDirection]] = {"asc": "desc", "desc": "asc"}

SHALLOW_OFFSET_MAX: Final = 1_000
"""Rows up to this offset are skipped; a larger one is counted from the nearer end, which requires the total."""
UNRESERVED_BYTES_MAX: Final = 256 * 1024
"""Size of a page's items that needs no reserved memory (page_budget.py); a larger page is also fetched by itself. A
statement for 32 requests returns 8 MB at most; a page of 200 typical items has 150 KB."""
OFFSET_CAP: Final = 10**15
"""More memberships than any customer has, so a larger offset gives the same empty page."""


class Shape(NamedTuple):
    """The properties that determine the text of the page statement; there are 3,520, all prepared by a test."""

    sort_field: SortField
    direction: SortDirection
    after: bool = False
    """Whether the page follows a cursor."""
    dated: bool = False
    """Whether dates filter the list: totals are then counted among matching rows, not taken from the summaries."""
    searched: bool = False
    """Whether a search filters the list."""
    deep_offset: bool = False
    """Whether the offset exceeds `SHALLOW_OFFSET_MAX`."""
    exact: bool = False
    """Whether a campaign's keys are read from the campaign, because not all of its memberships have them yet."""
    positioned: bool = False
    """Whether the caller requested a position, which may be that of a parked event."""
    large: bool = False
    """Whether each item is returned in its own row, because the page is large."""
    keys_only: bool = False
    """Whether only the page's campaigns are returned, without their cards; never for a large or positioned page."""

    @property
    def generic_plan(self) -> bool:
        """Whether one plan suits every customer: an index scan in the default order."""
        return self.sort_field == "enrolled_at" and not (self.dated or self.searched or self.exact)

    @property
    def batchable(self) -> bool:
        """Whether many requests can share a statement, because each reads only a few rows."""
        return self.generic_plan and not (self.deep_offset or self.large)


class After(NamedTuple):
    """The row after which a page starts: its sort key as text, and its campaign."""

    key: str | None
    campaign_id: str


class Page(Struct, frozen=True):
    """The result of a request in one snapshot of the read model."""

    number: int
    live_generation: str
    """The pointer; a replica's also states the version of its row, as `LivePosition.versioned_pointer` does."""
    position: int
    known: bool
    """Whether the customer exists at all."""
    owner_id: str | None
    deleted: bool | None
    parked: str | None
    """Why the event at the request's minimum position was parked; None when it was not."""
    stale: bool
    """Whether this result is outdated and the exact shape must be used."""
    counts: list[int] | None
    """Numbers of visible matching memberships, each packed as 8 * number + 2 * status + deleted."""
    has_next: bool
    items_bytes: int
    """Size of all items together."""
    items: list[bytes] | str | None
    """The items' JSON objects, left out if they are larger than the requested limit; or, if only keys were requested,
    the campaigns' ids, separated by commas."""
    last_key: str | None
    last_campaign_id: str | None

    @property
    def cards(self) -> list[bytes]:
        """The items' JSON objects."""
        return self.items if isinstance(self.items, list) else []

    @property
    def campaign_ids(self) -> list[str]:
        """The campaigns of a page of which only keys were requested."""
        return self.items.split(",") if isinstance(self.items, str) else []

    def matching(self, *, deleted: bool | None) -> dict[str, int]:
        """Return the counts by status, of the deleted, the others, or (None) both."""
        by_status: dict[str, int] = dict.fromkeys(STATUS_ORDER, 0)
        for packed in self.counts or ():
            if deleted is None or (packed & 1) == deleted:
                by_status[STATUS_ORDER[packed >> 1 & 3]] += packed >> 3
        return by_status


GENERATION_GONE: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
"""Raised when a statement's tables do not exist: the generation was dropped, or the database was never migrated."""


class LivePosition(NamedTuple):
    """The live generation, its position, and whether it ever reached the end of the stream."""

    generation: Generation
    position: int
    caught_up: bool
    versioned_pointer: str
    """The generation and the version of the pointer's row, as a replica's answers state them."""


def shape_of(request: ListRequest, *, after: bool, exact: bool = False, keys_only: bool = False) -> Shape:
    """Return the shape of the statement for a request."""
    dated = request.date_from is not None or request.date_to is not None
    searched = request.q is not None
    deep_offset = request.offset > SHALLOW_OFFSET_MAX
    positioned = request.min_position is not None
    return Shape(
        request.sort_field,
        request.sort_dir,
        after,
        dated,
        searched,
        deep_offset,
        exact,
        positioned,
        keys_only=keys_only,
    )


def is_cheap(request: ListRequest) -> bool:
    """Return whether the page statement of a request reads a few rows of an index only, so that it may be repeated."""
    return shape_of(request, after=request.cursor is not None).batchable


async def read_page(
    batcher: QueryBatcher,
    name: Generation,
    request: ListRequest,
    scope: str | None,
    after: After | None,
    *,
    items_bytes_max: int = UNRESERVED_BYTES_MAX,
    keys_only: bool = False,
    versioned: bool = False,
) -> Page:
    """Return the page of `request` in generation `name`, as visible to `scope` (an owner; None: everything).

    If the result's `live_generation` is another one, the pointer moved and the caller reads again. A page of more than
    `items_bytes_max` has no items: then the caller reserves memory and reads again with a higher limit. `versioned` is
    for a replica: then the pointer also states the version of its row.
    """
    large = items_bytes_max > UNRESERVED_BYTES_MAX
    shape = shape_of(request, after=after is not None, keys_only=keys_only)
    if large:
        shape = shape._replace(large=True)
    values = values_of(request, scope, after, shape, items_bytes_max)
    if shape.batchable:
        page = Page(*await batcher.fetch_batched(page_statement(name, shape, versioned=versioned), values))
    else:
        page = await _fetch_single(batcher, name, shape, values, versioned=versioned)
    if page.stale:
        shape = shape._replace(exact=True)
        values = values_of(request, scope, after, shape, items_bytes_max)
        page = await _fetch_single(batcher, name, shape, values, versioned=versioned)
    return page


def values_of(
    request: ListRequest,
    scope: str | None,
    after: After | None,
    shape: Shape,
    items_bytes_max: int = UNRESERVED_BYTES_MAX,
) -> tuple[Any, ...]:
    """Return the values of a shape's statement; a batched statement takes an array of each."""
    values = (
        request.customer_id,
        scope,
        request.deletion_filter,
        request.limit,
        min(request.offset, OFFSET_CAP),
        *(after or (None, None)),
        request.min_position,
        items_bytes_max,
    )
    return values if shape.batchable else (*values, *_filter_values(request))


async def _fetch_single(
    batcher: QueryBatcher, name: Generation, shape: Shape, values: tuple[Any, ...], *, versioned: bool
) -> Page:
    statement = page_statement(name, shape, versioned=versioned)
    rows = await batcher.fetch_one(statement, values, generic_plan=shape.generic_plan)
    if not rows:
        raise asyncpg.UndefinedTableError(f"generation {name} no longer has a checkpoint")
    return _page_of_rows(rows) if shape.large else Page(*rows[0])


def _page_of_rows(rows: list[asyncpg.Record]) -> Page:
    """Build a page whose items are in one row each; a single row without `place` is an empty page."""
    *columns, _ = rows[0]
    page = dict(zip(Page.__struct_fields__, columns, strict=True))
    if page["items_bytes"] is None:
        return Page(**page | {"has_next": False, "items_bytes": 0, "items": []})
    ordered = sorted(rows, key=lambda row: int(row["place"]))
    return Page(**page | {"items": [row["items"] for row in ordered if row["items"] is not None]})


def _filter_values(request: ListRequest) -> tuple[str | datetime | None, ...]:
    """Return the search text as a key and as a LIKE pattern, and the dates."""
    if request.q is None:
        return None, None, request.date_from, request.date_to
    key = search_key(request.q)
    escaped = key.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return key, f"%{escaped}%", request.date_from, request.date_to


class Cards(NamedTuple):
    """Cards of one snapshot: by campaign, None where there is none or it is too large."""

    live_generation: str
    position: int
    by_campaign: list[tuple[str, bytes | None]]


async def read_cards(
    batcher: QueryBatcher, name: Generation, campaign_ids: list[str], card_bytes_max: int, *, versioned: bool = False
) -> Cards:
    """Return the cards of campaigns, at least one, in generation `name`; `versioned` as in `read_page`."""
    statement = cards_statement(name, versioned=versioned)
    rows = await batcher.fetch_one(statement, (campaign_ids, card_bytes_max), generic_plan=True)
    if not rows:
        raise asyncpg.UndefinedTableError(f"generation {name} no longer has a checkpoint")
    by_campaign = [(row["campaign_id"], row["card"]) for row in rows]
    return Cards(rows[0]["live_generation"], rows[0]["position"], by_campaign)


@cache
def cards_statement(name: Generation, *, versioned: bool = False) -> str:
    """Return the statement of `read_cards`, for a connection of its own."""
    pointer = _BLOCKS["versioned_pointer" if versioned else "pointer"]
    return for_generation(_BLOCKS["cards"].replace("{live_generation}", pointer), name)


async def name_key_of(batcher: QueryBatcher, name: Generation, campaign_id: str, beginning: str) -> str:
    """Return the whole sort key whose beginning a cursor holds; the beginning itself if the key has changed since."""
    statement = for_generation(_BLOCKS["name_key_of"], name)
    row = await batcher.lookup(statement, (campaign_id, beginning))
    return beginning if row is None else str(row["name_key"])


async def live_position(pool: ReadPool) -> LivePosition | None:
    """Return the live generation and its position; None before the first migration created a generation."""
    row = await pool.fetchrow(_BLOCKS["live_position"])
    return None if row is None else LivePosition(generation(row["generation"]), *list(row.values())[1:])


async def cursor_key(batcher: QueryBatcher) -> bytes:
    """Return the key for signing cursors, the same in every process."""
    row = await batcher.lookup(_BLOCKS["cursor_key"], ())
    if row is None:
        raise DatabaseNotMigrated(["the key for signing cursors"])
    return bytes(row["key"])


@cache
def page_statement(name: Generation, shape: Shape, *, versioned: bool = False) -> str:
    """Return the page statement of a shape; every token filled in comes from the tables of this module.

    `versioned` as in `read_page`.
    """
    sort = SORT_KEYS[shape.sort_field]
    keys = _CAMPAIGN_KEYS if shape.exact else _SEARCHED_KEYS if shape.searched else _COPIED_KEYS
    expression = keys["{status}"] if shape.sort_field == "status" else sort.expression
    source = _BLOCKS[_source(shape, sort)]
    conditions = ("visible", *(["dated"] if shape.dated else []), *(["searched"] if shape.searched else []))
    matching = "\n".join(_BLOCKS[condition] for condition in conditions)
    columns = {"{sort_key}": expression, "{campaign_id}": "membership.campaign_id", **keys}
    outer_blocks = {
        "{live_generation}": _BLOCKS["versioned_pointer" if versioned else "pointer"],
        "{requests}": _BLOCKS["request_batch" if shape.batchable else "request_single"],
        "{parked}": _BLOCKS["parked_reason"] if shape.positioned else "NULL::text",
        "{staleness}": "false" if shape.exact else _BLOCKS["stale"],
        "{with}": "",
        "{counting}": _BLOCKS["counts_matching" if shape.dated or shape.exact else "counts_precomputed"],
        "{paging}": _BLOCKS["rows_of_keys" if shape.keys_only else "rows_separate" if shape.large else "rows"],
        "{join}": "LEFT JOIN" if shape.large else "CROSS JOIN",
        "{on}": "ON true" if shape.large else "",
        "{keys}": _BLOCKS[_keys(shape)],
        "{after}": _BLOCKS["after_cursor_nullable" if sort.nullable else "after_cursor"] if shape.after else "",
        **_prefix_blocks(sort, searched=shape.searched),
    }
    if shape.searched:
        # The search has filtered the rows already: read the page from its result.
        outer_blocks |= {
            "{with}": _filled(_BLOCKS["matched"], {"{source}": source, "{matching}": matching, **columns}),
            "{counting}": _BLOCKS["counts_matching"],
        }
        source, matching = "matched", "true"
        columns = {
            token: f"matched.{token[1:-1]}" for token in ("{sort_key}", "{campaign_id}", "{status}", "{deleted}")
        }
    backward = _OPPOSITE[shape.direction]
    return for_generation(
        _filled(
            _BLOCKS["page"],
            outer_blocks
            | {"{source}": source, "{matching}": matching}
            | columns
            | {
                "{sort_type}": sort.type,
                "{direction}": shape.direction,
                "{backward}": backward,
                # Only for nullable keys: an index in DESC order cannot serve DESC NULLS LAST.
                "{nulls}": "NULLS LAST" if sort.nullable else "",
                "{nulls_backward}": "NULLS FIRST" if sort.nullable else "",
                "{at_or_beyond}": _BEYOND[shape.direction] + "=",
                "{beyond}": _BEYOND[shape.direction],
            },
        ),
        name,
    )


def _source(shape: Shape, sort: SortKey) -> str:
    """Return the block of the tables that filter and order the rows: no more than the shape needs."""
    with_campaign = shape.exact or shape.searched or sort.table == "campaign"
    if sort.table == "campaign_counters":
        return "membership_campaign_and_counters" if with_campaign else "membership_and_counters"
    return "membership_and_campaign" if with_campaign else "membership"


def _keys(shape: Shape) -> str:
    """Return the block that finds the page's rows."""
    if not shape.deep_offset:
        return "keys_shallow"
    in_index_order = shape.sort_field == "enrolled_at" and not (shape.searched or shape.exact)
    return "keys_deep" if in_index_order else "keys_deep_sorted"


def _prefix_blocks(sort: SortKey, *, searched: bool) -> dict[str, str]:
    """Return the blocks that order and bound rows by the indexed prefix; empty for the result of a search."""
    applies = bool(sort.indexed_prefix) and not searched
    return {
        token: _BLOCKS[block].replace("{sort_prefix}", sort.indexed_prefix) if applies else ""
        for token, block in _PREFIX_BLOCKS.items()
    }


def _filled(text: str, tokens: Mapping[str, str]) -> str:
    """Replace the tokens in their order; a replacement may contain later tokens."""
    for token, replacement in tokens.items():
        text = text.replace(token, replacement)
    return text


_BLOCKS: Final = statements("service.read_model", "reads.sql")
