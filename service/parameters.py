"""Reads the parameters of a request for campaigns: typed and whole, or every violation in the contract's 422 words.

Invariants: `parse` is total, whatever the bytes; all violations of a request come together, in the contract's order.
Fails: never; what is wrong with a request is a value, for the caller to send.
Source: contract/openapi.json for names, order and bounds; spellings.py for what each value may look like.
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
    """What a caller asks for, defaults filled in. Times are aware and in UTC."""

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
    """As it came; paging.py knows what it means."""
    min_position: int | None = None

    @property
    def deletion_filter(self) -> bool | None:
        """Which memberships are listed: the deleted, the others, or (None) both; `only_deleted` wins."""
        return True if self.only_deleted else None if self.include_deleted else False


Pair = tuple[str, str]
"""A name and value of the query string, percent-decoded, a character for each byte."""


def query_pairs(query: bytes) -> list[Pair]:
    """Split a query string. Bytes stay apart until somebody says that they are text."""
    if not query:
        return []
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True, encoding="latin-1")
    # Most queries hold nothing to decode, and parse_qsl takes half of the time of reading them.
    return [(name, value) for name, _, value in (pair.partition("=") for pair in text.split("&") if pair)]


def parse(customer_id: str, pairs: list[Pair], min_position: str | None) -> ListRequest | list[Violation]:
    """Read path, query and header; of a repeated parameter the last counts, unknown ones are ignored."""
    violations: list[Violation] = []
    values: dict[str, Any] = {}
    for (place, name), read, text in _given(customer_id, dict(pairs), min_position):
        try:
            values[_FIELDS.get(name, name)] = read(text)
        except InvalidValue as refused:
            violations.append(Violation((place, name), str(refused), refused.type))
    return violations or ListRequest(**values)


Reader = Callable[[str], Any]


def _given(
    customer_id: str, given: Mapping[str, str], min_position: str | None
) -> Iterator[tuple[tuple[str, str], Reader, str]]:
    """Yield what was given, in the contract's order: where it stood, who reads it, and its text."""
    yield ("path", "customer_id"), pydantic_compat.uuid, customer_id
    if given:
        for name, read in (_READERS_WITH_CURSOR if "cursor" in given else _READERS).items():
            if name in given:
                yield ("query", name), read, _text(given[name])
    if min_position is not None:
        yield ("header", POSITION_HEADER), _position, min_position


def _text(raw: str) -> str:
    """Read bytes as UTF-8; what is ill-formed becomes lone surrogates, which no reader takes."""
    return raw if raw.isascii() else raw.encode("latin-1").decode(errors="surrogateescape")


_FIELDS: Final = {POSITION_HEADER: "min_position"}
_position: Final = pydantic_compat.integer(0, INT64_MAX)
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
