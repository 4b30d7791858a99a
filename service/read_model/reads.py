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

from projections.errors import DatabaseNotMigrated
from projections.model.membership import STATUS_ORDER
from projections.model.search_key import search_key
from projections.store.database import ReadPool
from projections.store.queries import Generation, for_generation, generation, statements
from service.parameters import ListRequest, SortDirection, SortField
from service.read_model.query_batcher import QueryBatcher


class SortKey(NamedTuple):
    """A sort field's expression, the type a cursor's text is read back as, and whether it may be null."""

    expression: str
    type: str
    nullable: bool = False
    indexed_prefix: str = ""
    """The expression that the index holds where it holds a prefix of the key only; rows are ordered by it first."""

    @property
    def is_membership_column(self) -> bool:
        """Whether a page in this order can be found without looking at campaigns."""
        return self.expression.startswith("membership.")


SORT_KEYS: Final[Mapping[SortField, SortKey]] = {
    "enrolled_at": SortKey("membership.enrolled_at", "timestamptz"),
    "name": SortKey("campaign.name_key", 'text COLLATE "C"', indexed_prefix="left(campaign.name_key, 600)"),
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

_COPIED_KEYS: Final[Mapping[str, str]] = {
    "{known}": "membership.owner_id IS NOT NULL",
    "{owner_id}": "membership.owner_id",
    "{status}": "membership.status",
    "{deleted}": "membership.deleted",
}
"""A campaign's keys as its memberships carry them."""

_CAMPAIGN_KEYS: Final[Mapping[str, str]] = {
    "{known}": "campaign.definition_version > 0",
    "{owner_id}": "campaign.owner_id",
    "{status}": "campaign.status",
    "{deleted}": "(NOT membership.present OR campaign.deleted)",
}
"""The same keys where a change of them is still on its way to the memberships: from the campaign itself."""

_PREFIX_BLOCKS: Final[Mapping[str, str]] = {
    "{first_by_prefix}": "prefix_order",
    "{first_by_prefix_backward}": "prefix_order_backward",
    "{bound_by_prefix}": "prefix_bound",
}
"""The tokens for an order whose index holds a prefix of the key, and the blocks they are filled with."""

_BEYOND: Final[Mapping[SortDirection, str]] = {"asc": ">", "desc": "<"}
_OPPOSITE: Final[Mapping[SortDirection, SortDirection]] = {"asc": "desc", "desc": "asc"}

SHALLOW_OFFSET_MAX: Final = 1_000
"""An offset up to here is skipped; a larger one is counted from the nearer end, for which the total must be known."""
UNRESERVED_BYTES_MAX: Final = 256 * 1024
"""Of a page's items: a larger page needs memory set aside for it (page_budget.py), and is read alone. A statement for
32 requests returns 8 MB at most; a page of 200 usual items has 150 KB."""
OFFSET_CAP: Final = 10**15
"""More than any customer has: a larger offset means no more than this one."""


class Shape(NamedTuple):
    """What decides the text of the page statement; there are some dozens of them."""

    sort_field: SortField
    direction: SortDirection
    after: bool = False
    """Whether the page stands after a cursor."""
    dated: bool = False
    """Whether dates narrow the list: totals are then counted among matching rows, not taken from the summaries."""
    searched: bool = False
    """Whether a search does."""
    deep_offset: bool = False
    """Whether the offset is large."""
    exact: bool = False
    """Whether a campaign's keys are taken from the campaign, for not all its memberships carry them yet."""
    positioned: bool = False
    """Whether the caller named a position, which may be that of a parked event."""
    large: bool = False
    """Whether the items come in a row each, for they are very many bytes."""

    @property
    def generic_plan(self) -> bool:
        """Whether one plan is right for every customer: to walk the index of the default order."""
        return self.sort_field == "enrolled_at" and not (self.dated or self.searched or self.exact)

    @property
    def batchable(self) -> bool:
        """Whether many requests can share a statement: each is a few rows' work."""
        return self.generic_plan and not (self.deep_offset or self.large)


class After(NamedTuple):
    """The row a page stands after: its sort key as text, and its campaign."""

    key: str | None
    campaign_id: str


class Page(Struct, frozen=True):
    """What one snapshot of the read model says about a request."""

    number: int
    live_generation: str
    position: int
    known: bool
    """Whether the customer exists at all."""
    owner_id: str | None
    deleted: bool | None
    parked: str | None
    """Why the event at the request's minimum position was parked; None when it was not."""
    stale: bool
    """Whether only the exact shape can answer."""
    counts: list[int] | None
    """Visible matching memberships: 8 * how many + 2 * status + deleted."""
    has_next: bool
    items_bytes: int
    """How large the items are together."""
    items: bytes | list[bytes]
    """The items' JSON objects, as they were encoded when they were written: separated by commas, or, of a large page,
    one by one. Left out if they are larger than was asked for."""
    last_key: str | None
    last_campaign_id: str | None

    def total(self, *, deleted: bool | None) -> int:
        """Return how many memberships match the request: the deleted, the others, or (None) both."""
        return sum(self.matching(deleted=deleted).values())

    def matching(self, *, deleted: bool | None) -> dict[str, int]:
        """Return the counts by status, of the deleted, the others, or (None) both."""
        found: dict[str, int] = dict.fromkeys(STATUS_ORDER, 0)
        for packed in self.counts or ():
            if deleted is None or (packed & 1) == deleted:
                found[STATUS_ORDER[packed >> 1 & 3]] += packed >> 3
        return found


GENERATION_GONE: Final = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
"""What a statement raises when its tables are not there: the generation was dropped, or nothing was migrated yet."""


class LivePosition(NamedTuple):
    """The live generation, its position, and whether it ever reached the end of the stream."""

    generation: Generation
    position: int
    caught_up: bool


def shape_of(request: ListRequest, *, after: bool, exact: bool = False) -> Shape:
    """Return the shape of the statement that answers a request."""
    dated = request.date_from is not None or request.date_to is not None
    far = request.offset > SHALLOW_OFFSET_MAX
    positioned = request.min_position is not None
    return Shape(request.sort_field, request.sort_dir, after, dated, request.q is not None, far, exact, positioned)


async def read_page(
    reader: QueryBatcher,
    name: Generation,
    request: ListRequest,
    scope: str | None,
    after: After | None,
    *,
    items_bytes_max: int = UNRESERVED_BYTES_MAX,
) -> Page:
    """Return the page of `request` in generation `name`, seen by `scope` (an owner; None: everything).

    `live_generation` of the answer may name another one: then the pointer moved, and the caller asks again. A page of
    more than `items_bytes_max` comes without its items: then the caller reserves memory, and asks again with a higher
    limit.
    """
    shape = shape_of(request, after=after is not None)._replace(large=items_bytes_max > UNRESERVED_BYTES_MAX)
    values = values_of(request, scope, after, shape, items_bytes_max)
    if shape.batchable:
        page = Page(*await reader.fetch_batched(page_statement(name, shape), values))
    else:
        page = await _fetch_single(reader, name, shape, values)
    if page.stale:
        shape = shape._replace(exact=True)
        page = await _fetch_single(reader, name, shape, values_of(request, scope, after, shape, items_bytes_max))
    return page


def values_of(
    request: ListRequest,
    scope: str | None,
    after: After | None,
    shape: Shape,
    items_bytes_max: int = UNRESERVED_BYTES_MAX,
) -> tuple[Any, ...]:
    """Return the values of a shape's statement; one that many share takes an array of each."""
    asked = (
        request.customer_id,
        scope,
        request.deletion_filter,
        request.limit,
        min(request.offset, OFFSET_CAP),
        *(after or (None, None)),
        request.min_position,
        items_bytes_max,
    )
    return asked if shape.batchable else (*asked, *_filter_values(request))


async def _fetch_single(reader: QueryBatcher, name: Generation, shape: Shape, values: tuple[Any, ...]) -> Page:
    rows = await reader.fetch_one(page_statement(name, shape), values, steady=shape.generic_plan)
    if not rows:
        raise asyncpg.UndefinedTableError(f"generation {name} has no checkpoint any more")
    return _of_rows(rows) if shape.large else Page(*rows[0])


def _of_rows(rows: list[asyncpg.Record]) -> Page:
    """Put a page together whose items came in a row each; a single row without a place is an empty page."""
    *columns, _ = rows[0]
    page = dict(zip(Page.__struct_fields__, columns, strict=True))
    if page["items_bytes"] is None:
        return Page(**page | {"has_next": False, "items_bytes": 0, "items": []})
    ordered = sorted(rows, key=lambda row: int(row["place"]))
    return Page(**page | {"items": [row["items"] for row in ordered if row["items"] is not None]})


def _filter_values(request: ListRequest) -> tuple[str | datetime | None, ...]:
    """Return what is searched for, as a key and as a pattern of LIKE, and the dates."""
    if request.q is None:
        return None, None, request.date_from, request.date_to
    wanted = search_key(request.q)
    literal = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return wanted, f"%{literal}%", request.date_from, request.date_to


async def name_key_of(reader: QueryBatcher, name: Generation, campaign_id: str, beginning: str) -> str:
    """Return the whole sort key that a cursor holds the beginning of; the beginning itself if it changed since."""
    statement = for_generation(_BLOCKS["name_key_of"], name)
    row = await reader.lookup(statement, (campaign_id, beginning))
    return beginning if row is None else str(row["name_key"])


async def live_position(pool: ReadPool) -> LivePosition | None:
    """Return where the read model stands; None before the first migration made a generation."""
    row = await pool.fetchrow(_BLOCKS["where_we_are"])
    return None if row is None else LivePosition(generation(row["generation"]), row["position"], row["caught_up"])


async def cursor_key(reader: QueryBatcher) -> bytes:
    """Return the key that cursors are signed with, the same in every process."""
    row = await reader.lookup(_BLOCKS["cursor_key"], ())
    if row is None:
        raise DatabaseNotMigrated(["the key that cursors are signed with"])
    return bytes(row["key"])


@cache
def page_statement(name: Generation, shape: Shape) -> str:
    """Return the page statement of a shape; every token filled in comes from the tables of this module."""
    sort = SORT_KEYS[shape.sort_field]
    keys = _CAMPAIGN_KEYS if shape.exact else _COPIED_KEYS
    expression = keys["{status}"] if shape.sort_field == "status" else sort.expression
    # Where the columns of a page come from, and what has been asked of them already: the search, once it was made.
    joined = shape.exact or shape.searched or not sort.is_membership_column
    source = _BLOCKS["membership_and_campaign" if joined else "membership"]
    asked_of_it = ("visible", *(["dated"] if shape.dated else []), *(["searched"] if shape.searched else []))
    matching = "\n".join(_BLOCKS[each] for each in asked_of_it)
    of_found = {"{sort_key}": expression, "{campaign_id}": "membership.campaign_id", **keys}
    first = {
        "{requests}": _BLOCKS["asked_together" if shape.batchable else "asked_alone"],
        "{parked}": _BLOCKS["parked_reason"] if shape.positioned else "NULL::text",
        "{staleness}": "false" if shape.exact else _BLOCKS["stale"],
        "{with}": "",
        "{counting}": _BLOCKS["counts_matching" if shape.dated or shape.exact else "counts_precomputed"],
        "{paging}": _BLOCKS["rows_apart" if shape.large else "rows"],
        "{join}": "LEFT JOIN" if shape.large else "CROSS JOIN",
        "{on}": "ON true" if shape.large else "",
        "{keys}": _BLOCKS["keys_far" if shape.deep_offset else "keys_near"],
        "{after}": _BLOCKS["behind_nullable" if sort.nullable else "behind"] if shape.after else "",
        **_by_prefix(sort, searched=shape.searched),
    }
    if shape.searched:
        first |= {
            "{with}": _filled(_BLOCKS["matched"], {"{source}": source, "{matching}": matching, **of_found}),
            "{counting}": _BLOCKS["counts_matching"],
        }
        source, matching = "matched", "true"
        of_found = {
            token: f"matched.{token[1:-1]}" for token in ("{sort_key}", "{campaign_id}", "{status}", "{deleted}")
        }
    backward = _OPPOSITE[shape.direction]
    return for_generation(
        _filled(
            _BLOCKS["page"],
            first
            | {"{source}": source, "{matching}": matching}
            | of_found
            | {
                "{sort_type}": sort.type,
                "{direction}": shape.direction,
                "{backward}": backward,
                # Said only where it matters: an index that is ordered DESC does not serve DESC NULLS LAST.
                "{nulls}": "NULLS LAST" if sort.nullable else "",
                "{nulls_backward}": "NULLS FIRST" if sort.nullable else "",
                "{at_or_beyond}": _BEYOND[shape.direction] + "=",
                "{beyond}": _BEYOND[shape.direction],
            },
        ),
        name,
    )


def _by_prefix(sort: SortKey, *, searched: bool) -> dict[str, str]:
    """Return what orders and bounds rows by the prefix that the index holds; nothing for what a search has found."""
    used = bool(sort.indexed_prefix) and not searched
    return {
        token: _BLOCKS[block].replace("{sort_prefix}", sort.indexed_prefix) if used else ""
        for token, block in _PREFIX_BLOCKS.items()
    }


def _filled(text: str, tokens: Mapping[str, str]) -> str:
    """Fill in tokens in their order: what is filled in may hold tokens that come later."""
    for token, filling in tokens.items():
        text = text.replace(token, filling)
    return text


_BLOCKS: Final = statements("service.read_model", "reads.sql")
