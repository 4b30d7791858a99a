"""Reads the text of one parameter as pydantic 2 reads it, since the contract's clients know no other reader.

Fails: raises `Refused`, with pydantic's own type and message wherever it has one, and nothing else, whatever the text.
Source: pydantic's lax mode from strings, its quirks included, in the release that requirements-dev.lock pins;
tests/service/test_parameters.py holds every reader against the real one. See docs/decisions/0007-parameters.md.
"""

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Final
from uuid import UUID


class InvalidValue(Exception):
    """A reader's way to say which violation it found."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.type = kind


NOT_UNICODE: Final = ("string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string")


# --- Words and free text ---------------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "off", "f", "n"})


def boolean(text: str) -> bool:
    """Read a truth value; unlike numbers, it may not stand between white space."""
    word = text.lower() if text.isascii() else ""  # the Kelvin sign and its like have ASCII lower cases
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidValue("bool_parsing", "Input should be a valid boolean, unable to interpret input")


def one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    """Return the reader of a closed set of words, exact to the letter."""
    *others, last = (f"'{word}'" for word in words)
    message = f"Input should be {', '.join(others)} or {last}"

    def read(text: str) -> str:
        if text not in words:
            raise InvalidValue("literal_error", message)
        return text

    return read


def search(text: str) -> str | None:
    """Read free text, trimmed; blank is None. What PostgreSQL cannot hold is refused."""
    if not _is_unicode(text):
        raise InvalidValue(*NOT_UNICODE)
    if "\0" in text:
        raise InvalidValue("value_error", "Value error, the text must not hold NUL")
    return text.strip() or None


def cursor(text: str) -> str:
    """Read what may be a cursor; paging.py knows what it means."""
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidValue("value_error", "Value error, this is not a cursor of this service; start without one")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: it came as ill-formed UTF-8
        return False
    return True


# --- Integers --------------------------------------------------------------------------------------------------------

_WHITE_SPACE: Final = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
"""What Unicode calls white space. Python's strip() takes four control characters more."""
_INTEGER: Final = re.compile(
    r"""(?: [+-]? 0[0_]*(?<=0)                              # any zeros
          | [+-]? (?:0[0_]*)? [1-9](?:_?[0-9])*             # underscores are free among leading zeros only
          | \+?   0[0_]* -_? (?:0 | [1-9](?:_?[0-9])*)      # pydantic's quirk: a minus sign behind leading zeros
        ) (?:\.0+)?""",
    re.VERBOSE,
)
INTEGER_DIGITS_MAX: Final = 4300
"""Beyond, pydantic does not even try, and neither does Python."""
_OVERSIZE: Final = re.compile(rf"-?[1-9][0-9]{{{INTEGER_DIGITS_MAX}}}")
_TELLING_DIGITS: Final = 20
"""So many significant digits are beyond int64, whatever follows: enough to compare, and cheap at any length."""


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return the reader of integers from `low` to `high`, both within int64."""

    def read(text: str) -> int:
        value = _integer(text)
        if value < low:
            raise InvalidValue("greater_than_equal", f"Input should be greater than or equal to {low}")
        if value > high:
            raise InvalidValue("less_than_equal", f"Input should be less than or equal to {high}")
        return value

    return read


def _integer(text: str) -> int:
    """Return the integer, or one as far outside int64 as the text's."""
    if len(text) < _TELLING_DIGITS and text.isascii() and text.isdecimal():
        return int(text)
    trimmed = text.strip(_WHITE_SPACE)
    _, minus, unsigned = trimmed.partition(".")[0].rpartition("-")
    digits = unsigned.replace("_", "").lstrip("+0")
    if len(digits) <= INTEGER_DIGITS_MAX and _INTEGER.fullmatch(trimmed):
        return int(minus + (digits[:_TELLING_DIGITS] or "0"))
    if _OVERSIZE.match(text):  # untrimmed: only a number that opens the text is measured
        raise InvalidValue("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
    raise InvalidValue("int_parsing", "Input should be a valid integer, unable to parse string as an integer")


# --- UUIDs -----------------------------------------------------------------------------------------------------------

_HEX: Final = frozenset("0123456789abcdefABCDEF")
_HYPHENATED: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_OTHERWISE: Final = re.compile(
    rf"[0-9a-fA-F]{{32}}|\{{{_HYPHENATED.pattern}\}}|urn:uuid:{_HYPHENATED.pattern}",
)
_URN: Final = "urn:uuid:"
_GROUPS: Final = (8, 4, 4, 4, 12)
_HYPHENATED_BYTES: Final = 36
_UUID_BYTES_MAX: Final = len(_URN) + _HYPHENATED_BYTES


def uuid(text: str) -> str:
    """Return the canonical form of any spelling: hyphenated, simple, in braces, or as a URN."""
    if _HYPHENATED.fullmatch(text):
        return text.lower()
    if _OTHERWISE.fullmatch(text):
        return str(UUID(text))
    if not _is_unicode(text):
        raise InvalidValue(*NOT_UNICODE)
    raise InvalidValue("uuid_parsing", f"Input should be a valid UUID, {_uuid_fault(text)}")


def _uuid_fault(text: str) -> str:
    """Say what is wrong, in the order in which the parser behind pydantic looks."""
    size = len(text.encode())
    if size > _UUID_BYTES_MAX:
        return f"invalid length: found {size}"
    inner, start = _unwrapped(text, size)
    whole = len(inner.encode()) == _HYPHENATED_BYTES  # that parser forgets the wrapping of what has the right length
    for place, char in enumerate(inner, 0 if whole else start):
        if char != "-" and char not in _HEX:
            return f"invalid character: found `{char}` at {place}"
    if "-" not in inner and not start and not whole:
        return f"invalid length: found {size}"
    return _group_fault(inner.split("-"), size - len(inner))


def _unwrapped(text: str, size: int) -> tuple[str, int]:
    """Return what stands in braces or behind the URN's prefix, and where it starts."""
    if size != _HYPHENATED_BYTES:
        if text.startswith("{") and text.endswith("}") and size > 1:
            return text[1:-1], 1
        if text.startswith(_URN):
            return text[len(_URN) :], len(_URN)
    return text, 0


def _group_fault(groups: list[str], wrapping: int) -> str:
    if len(groups) != len(_GROUPS):
        return f"invalid group count: expected {len(_GROUPS)}, found {len(groups)}"
    found = [len(group) for group in groups]
    found[-1] += wrapping  # that parser counts the last group to the end of all that was given, wrapping included
    number = next(n for n, wanted in enumerate(_GROUPS) if found[n] != wanted)
    return f"invalid group length in group {number}: expected {_GROUPS[number]}, found {found[number]}"


# --- Dates -----------------------------------------------------------------------------------------------------------

_DATE: Final = re.compile(r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d-\d|\d{4}W\d{3})", re.ASCII)
_MOMENT: Final = re.compile(
    rf"""(?P<kept> {_DATE.pattern} [Tt ] (?:[01]\d|2[0-3])
             (?: :?[0-5]\d | (?: :[0-5]\d:[0-5]\d | [0-5]\d[0-5]\d ) (?:[.,]\d{{1,6}})? )? )
         (?: (?<=[.,]\d{{6}}) \d+ )?                        # beyond the microsecond
         (?P<offset> [Zz] | [+-](?:[01]\d|2[0-3])(?: :?[0-5]\d )? )?""",
    re.ASCII | re.VERBOSE,
)
"""Narrower than fromisoformat, whose separators and ranges are wider and differ between releases of Python."""
_LOST_PLUS: Final = re.compile(r"[Tt ]\d\d(?::?\d\d){1,2}(?:[.,]\d+)? (?=\d\d(?::?\d\d)?\Z)", re.ASCII)
PLUS_HINT: Final = "; write the + of an offset as %2B, for in a query a plain + is a space"
"""Added to pydantic's words where a time is followed by a space and what would be an offset."""
_MONTHS: Final = 12
_DATE_BYTES: Final = len("YYYY-MM-DD")
_START_OF_DAY: Final = time()
_END_OF_DAY: Final = time.max


def first_instant(text: str) -> datetime:
    """Read an ISO 8601 date or date-time; a date is its first microsecond, in UTC."""
    return _instant(text, _START_OF_DAY)


def last_instant(text: str) -> datetime:
    """Read an ISO 8601 date or date-time; a date is its last microsecond, in UTC."""
    return _instant(text, _END_OF_DAY)


def _instant(text: str, bare: time) -> datetime:
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(datetime.fromisoformat(text), bare, UTC)
        if found := _MOMENT.fullmatch(text):
            spelled = f"{found['kept']}{found['offset'] or 'Z'}"
            return datetime.fromisoformat(spelled.upper()).astimezone(UTC)
        fault = _date_fault(text)
    except OverflowError:
        fault = "year is out of range in UTC"
    except ValueError:  # no such day
        fault = _date_fault(text)
    hint = PLUS_HINT if _LOST_PLUS.search(text) else ""
    raise InvalidValue("datetime_from_date_parsing", f"Input should be a valid datetime or date, {fault}{hint}")


def _date_fault(text: str) -> str:
    """Say what is wrong in the words of pydantic's dates, which begin YYYY-MM-DD and are measured in bytes."""
    raw = text.encode(errors="replace")
    if len(raw) < _DATE_BYTES:
        return "input is too short"
    parts = (("year", raw[:4], raw[4:5]), ("month", raw[5:7], raw[7:8]), ("day", raw[8:10], b"-"))
    for name, digits, separator in parts:
        if not digits.isdigit():
            return f"invalid character in {name}"
        if separator != b"-":
            return "invalid date separator, expected `-`"
    return _calendar_fault(int(raw[:4]), int(raw[5:7]), int(raw[8:10]), len(raw) - _DATE_BYTES)


def _calendar_fault(year: int, month: int, day: int, extra: int) -> str:
    if not 1 <= month <= _MONTHS:
        return f"month value is outside expected range of 1-{_MONTHS}"
    if not 1 <= day <= monthrange(year, month)[1]:
        return "day value is outside expected range"
    return "unexpected extra characters at the end of the input" if extra else f"year {year} is out of range"
