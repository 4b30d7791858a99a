"""Reads the parameters of a request for campaigns: typed and whole, or every violation in the contract's 422 words.

Invariants: `parse` is total, whatever the bytes; all violations of a request come together, in the contract's order.
Source: the contract's clients know pydantic 2, so accepted spellings, types and messages are its own;
tests/service/test_parameters.py holds them against the real one. See docs/decisions/0007-parameters.md.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl

from msgspec import Struct

from projections.events import INT64_MAX

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

LIMIT_MAX: Final = 200
INTEGER_CHARS_MAX: Final = 4300
"""Beyond, pydantic does not even try, and neither does Python."""
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


Pair = tuple[str, str]
"""A name and value of the query string, percent-decoded, a character for each byte."""


def query_pairs(query: bytes) -> list[Pair]:
    """Split a query string. Bytes stay apart until somebody says that they are text."""
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1") if query else []


def parse(customer_id: str, pairs: list[Pair], min_position: str | None) -> ListRequest | list[Violation]:
    """Read path, query and header; of a repeated parameter the last counts, unknown ones are ignored."""
    violations: list[Violation] = []
    values: dict[str, Any] = {}
    given = dict(pairs)
    for (place, name), parser, raw in _given(customer_id, given, min_position):
        try:
            values[_FIELDS.get(name, name)] = parser(raw)
        except _Refused as refused:
            violations.append(Violation((place, name), str(refused), refused.kind))
    if values.get("offset") and "cursor" in given:
        violations.append(Violation(("query", "offset"), *_OFFSET_WITH_CURSOR))
    return violations or ListRequest(**values)


def _given(
    customer_id: str, given: Mapping[str, str], min_position: str | None
) -> Iterator[tuple[tuple[str, str], Callable[[str], Any], str]]:
    """Yield what was given, in the contract's order: where it stood, who reads it, and the raw value."""
    yield ("path", "customer_id"), _uuid, customer_id
    if given:
        for name, parser in _QUERY.items():
            if name in given:
                yield ("query", name), parser, given[name]
    if min_position is not None:
        yield ("header", POSITION_HEADER), _position, min_position


class _Refused(Exception):
    """A parser's way to say which violation."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_FIELDS: Final = {POSITION_HEADER: "min_position"}
_OFFSET_WITH_CURSOR: Final = ("Value error, with a cursor the offset must be absent or 0", "value_error")


# --- One parser a kind of value --------------------------------------------------------------------------------------

_WHITE_SPACE: Final = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
"""What Unicode calls white space. Python's strip() takes four control characters more."""
_INTEGER: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0+)?", re.ASCII)
_TRUE: Final = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "off", "f", "n"})


def _text(raw: str) -> str:
    """Read bytes as text, as forgiving as the contract's first server was: for what is then held against a grammar."""
    return raw if raw.isascii() else raw.encode("latin-1").decode(errors="replace")


def _boolean(raw: str) -> bool:
    word = raw.lower() if raw.isascii() else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise _Refused("bool_parsing", "Input should be a valid boolean, unable to interpret input")


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parser(raw: str) -> int:
        text = _text(raw).strip(_WHITE_SPACE)
        if len(text) > INTEGER_CHARS_MAX:
            raise _Refused("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
        if not _INTEGER.fullmatch(text):
            raise _Refused("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        value = int(text.partition(".")[0])
        if value < low:
            raise _Refused("greater_than_equal", f"Input should be greater than or equal to {low}")
        if value > high:
            raise _Refused("less_than_equal", f"Input should be less than or equal to {high}")
        return value

    return parser


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    *others, last = (f"'{word}'" for word in words)
    message = f"Input should be {', '.join(others)} or {last}"

    def parser(raw: str) -> str:
        if raw not in words:
            raise _Refused("literal_error", message)
        return raw

    return parser


def _search(raw: str) -> str | None:
    try:
        text = raw.encode("latin-1").decode()
    except UnicodeDecodeError:  # lone surrogates are no UTF-8 either
        raise _Refused(
            "string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string"
        ) from None
    if "\0" in text:
        raise _Refused("value_error", "Value error, the text must not hold NUL")
    return text.strip() or None


def _cursor(raw: str) -> str:
    if not raw or not raw.isascii() or not raw.isprintable():
        raise _Refused("value_error", "Value error, this is not a cursor of this service; start without one")
    return raw


# --- UUIDs, refused in the words of the parser that pydantic uses -----------------------------------------------------

_HEX: Final = frozenset("0123456789abcdefABCDEF")
_SIMPLE: Final = re.compile(r"[0-9a-fA-F]{32}")
_HYPHENATED: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_GROUPS: Final = (8, 4, 4, 4, 12)
_URN: Final = "urn:uuid:"
_UUID_BYTES_MAX: Final = len(_URN) + 36


def _uuid(raw: str) -> str:
    """Return the canonical form of any spelling: hyphenated, simple, in braces, or as a URN."""
    inner, start = raw, 0
    if raw.startswith("{") and raw.endswith("}"):
        inner, start = raw[1:-1], 1
    elif raw.startswith(_URN):
        inner, start = raw[len(_URN) :], len(_URN)
    if _HYPHENATED.fullmatch(inner):
        return inner.lower()
    if start == 0 and _SIMPLE.fullmatch(inner):
        whole = inner.lower()
        return f"{whole[:8]}-{whole[8:12]}-{whole[12:16]}-{whole[16:20]}-{whole[20:]}"
    length = len(raw.encode(errors="surrogatepass"))
    fault = f"invalid length: found {length}" if length > _UUID_BYTES_MAX else _uuid_fault(inner, start)
    raise _Refused("uuid_parsing", f"Input should be a valid UUID, {fault}")


def _uuid_fault(inner: str, start: int) -> str:
    for place, char in enumerate(inner):
        if char != "-" and char not in _HEX:
            shown = char.encode(errors="replace").decode()  # a lone surrogate cannot be sent back
            return f"invalid character: found `{shown}` at {place + start}"
    groups = inner.split("-")
    if len(groups) == 1 and start == 0:
        return f"invalid length: found {len(inner)}"
    if len(groups) != len(_GROUPS):
        return f"invalid group count: expected 5, found {len(groups)}"
    number, wanted = next((n, w) for n, (g, w) in enumerate(zip(groups, _GROUPS, strict=True)) if len(g) != w)
    # That parser counts the last group to the end of all that was given, brackets and prefix included.
    extra = 2 * (start == 1) + start * (start > 1) if number == len(_GROUPS) - 1 else 0
    return f"invalid group length in group {number}: expected {wanted}, found {len(groups[number]) + extra}"


# --- Dates -----------------------------------------------------------------------------------------------------------

_DATE: Final = re.compile(r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d-\d|\d{4}W\d{3})", re.ASCII)
_TIME: Final = re.compile(
    r"(?P<clock>(?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d)?|[0-5]\d(?:[0-5]\d)?)?)"
    r"(?:[.,](?P<fraction>\d+))?(?P<offset>[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?",
    re.ASCII,
)
_END_OF_DAY: Final = time(23, 59, 59, 999_999)


def _date(at_end: bool) -> Callable[[str], datetime]:
    def parser(raw: str) -> datetime:
        text = _text(raw)
        try:
            return _instant(text, at_end)
        except (ValueError, OverflowError):
            fault = _date_fault(text)
            raise _Refused("datetime_from_date_parsing", f"Input should be a valid datetime or date, {fault}") from None

    return parser


def _instant(text: str, at_end: bool) -> datetime:
    """Read an ISO 8601 date or date-time; raises ValueError, or OverflowError outside the years 1 to 9999 in UTC."""
    date = _DATE.match(text)
    if date is None:
        raise ValueError(text)
    day = datetime.fromisoformat(date[0])
    if date.end() == len(text):
        return datetime.combine(day, _END_OF_DAY if at_end else time(), UTC)
    clock = _TIME.fullmatch(text, date.end() + 1)
    if clock is None or text[date.end()] not in "Tt ":
        raise ValueError(text)
    fraction = (clock["fraction"] or "")[:6].ljust(6, "0")
    if clock["fraction"] and len(clock["clock"].replace(":", "")) != len("hhmmss"):
        raise ValueError(text)  # fractions of seconds only
    moment = time.fromisoformat(clock["clock"]).replace(microsecond=int(fraction))
    offset = (clock["offset"] or "Z").upper().replace("Z", "+00:00")
    zone = datetime.fromisoformat(f"2000-01-01T00:00:00{offset}").tzinfo
    return datetime.combine(day, moment, zone).astimezone(UTC)


def _date_fault(text: str) -> str:
    """Say what is wrong with a date, in pydantic's words where it has some."""
    if len(text) < len("YYYY-MM-DD"):
        return "input is too short"
    year, month, day = text[:4], text[5:7], text[8:10]
    for name, part in (("year", year), ("month", month), ("day", day)):
        if not (part.isascii() and part.isdigit()):
            return f"invalid character in {name}"
        if name != "day" and text[4 if name == "year" else 7] != "-":
            return "invalid date separator, expected `-`"
    if not 1 <= int(month) <= 12:  # noqa: PLR2004 - months
        return "month value is outside expected range of 1-12"
    try:
        datetime.fromisoformat(text[:10])
    except ValueError:
        return "day value is outside expected range"
    return "unexpected extra characters at the end of the input"


_position: Final = _integer(0, INT64_MAX)

_QUERY: Final[Mapping[str, Callable[[str], Any]]] = {
    "include_deleted": _boolean,
    "only_deleted": _boolean,
    "limit": _integer(1, LIMIT_MAX),
    "offset": _integer(0, INT64_MAX),
    "q": _search,
    "sort_field": _one_of(get_args(SortField)),
    "sort_dir": _one_of(get_args(SortDirection)),
    "include_aggregations": _boolean,
    "date_from": _date(at_end=False),
    "date_to": _date(at_end=True),
    "cursor": _cursor,
}
