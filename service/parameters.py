"""Parses the parameters of a list request: all of them, typed, or every violation in the form of the contract's 422.

Invariants: `parse` accepts any bytes; it returns all violations of a request together, in the contract's order.
Fails: never; violations are a return value.
Source: contract/openapi.json for names, order and bounds; pydantic_compat.py for the accepted forms of each value.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl

from msgspec import Struct

from projections.model.events import INT64_MAX
from service import pydantic_compat
from service.pydantic_compat import InvalidValue

SortField = Literal[
    "enrolled_at",
    "name",
    "status",
    "created_at",
    "progress",
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
]
SortDirection = Literal["asc", "desc"]

SORT_FIELDS: Final[tuple[SortField, ...]] = get_args(SortField)
SORT_DIRECTIONS: Final[tuple[SortDirection, ...]] = get_args(SortDirection)

LIMIT_MAX: Final = 200
POSITION_HEADER: Final = "Membership-Min-Position"


class Violation(NamedTuple):
    """One entry of the contract's 422."""

    loc: tuple[str, ...]
    msg: str
    type: str


class ListRequest(Struct, frozen=True):
    """The parsed parameters, defaults filled in. Times are aware and in UTC."""

    customer_id: str
    include_deleted: bool = False
    only_deleted: bool = False
    limit: int = 10
    offset: int = 0
    q: str | None = None
    """Trimmed; None when absent or blank."""
    sort_field: SortField = "enrolled_at"
    sort_dir: SortDirection = "desc"
    include_aggregations: bool = False
    date_from: datetime | None = None
    date_to: datetime | None = None
    """Inclusive; a bare date has become the last microsecond of that day."""
    cursor: str | None = None
    """As sent; paging.py decodes it."""
    min_position: int | None = None

    @property
    def deletion_filter(self) -> bool | None:
        """Which memberships are listed: the deleted, the others, or (None) both; `only_deleted` wins."""
        return True if self.only_deleted else None if self.include_deleted else False


Pair = tuple[str, str]
"""A name and value of the query string, percent-decoded, one character per byte."""


def query_pairs(query: bytes) -> list[Pair]:
    """Split a query string. Each byte becomes one character; `utf8_text` decodes UTF-8 later."""
    if not query:
        return []
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True, encoding="latin-1")
    # Most queries contain nothing to decode, and parse_qsl would take half of the parsing time.
    return [(name, value) for name, _, value in (pair.partition("=") for pair in text.split("&") if pair)]


def parse(
    customer_id: str, pairs: list[Pair], min_position: str | None, search_length_max: int | None = None
) -> ListRequest | list[Violation]:
    """Parse path, query and header; the last of a repeated parameter counts, unknown ones are ignored."""
    violations: list[Violation] = []
    values: dict[str, Any] = {}
    for (location, name), read, text in _present(customer_id, dict(pairs), min_position):
        try:
            values[_FIELDS.get(name, name)] = value = read(text)
            if name == "q" and search_length_max is not None:
                pydantic_compat.limit_length(value, search_length_max)
        except InvalidValue as problem:
            violations.append(Violation((location, name), str(problem), problem.type))
    return violations or ListRequest(**values)


Reader = Callable[[str], Any]


def _present(
    customer_id: str, query: Mapping[str, str], min_position: str | None
) -> Iterator[tuple[tuple[str, str], Reader, str]]:
    """Yield location, reader and text of each parameter that was sent, in the contract's order."""
    yield ("path", "customer_id"), pydantic_compat.uuid, customer_id
    if query:
        for name, read in (_READERS_WITH_CURSOR if "cursor" in query else _READERS).items():
            if name in query:
                yield ("query", name), read, utf8_text(query[name])
    if min_position is not None:
        yield ("header", POSITION_HEADER), position, min_position


def utf8_text(raw: str) -> str:
    """Decode UTF-8; ill-formed bytes become lone surrogates, which no reader accepts."""
    return raw if raw.isascii() else raw.encode("latin-1").decode(errors="surrogateescape")


_FIELDS: Final = {POSITION_HEADER: "min_position"}
position: Final = pydantic_compat.integer(0, INT64_MAX)
_offset: Final = pydantic_compat.integer(0, INT64_MAX)


def _offset_with_cursor(text: str) -> int:
    if _offset(text):
        raise InvalidValue("value_error", "Value error, with a cursor the offset must be absent or 0")
    return 0


_READERS: Final[Mapping[str, Reader]] = {
    "include_deleted": pydantic_compat.boolean,
    "only_deleted": pydantic_compat.boolean,
    "limit": pydantic_compat.integer(1, LIMIT_MAX),
    "offset": _offset,
    "q": pydantic_compat.search,
    "sort_field": pydantic_compat.one_of(SORT_FIELDS),
    "sort_dir": pydantic_compat.one_of(SORT_DIRECTIONS),
    "include_aggregations": pydantic_compat.boolean,
    "date_from": pydantic_compat.first_instant,
    "date_to": pydantic_compat.last_instant,
    "cursor": pydantic_compat.cursor,
}
_READERS_WITH_CURSOR: Final[Mapping[str, Reader]] = {**_READERS, "offset": _offset_with_cursor}
