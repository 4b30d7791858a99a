"""Parses the text of one parameter as pydantic 2 does, because the contract's clients are written against pydantic.

Fails: raises only `InvalidValue`, for any text, with pydantic's type and message where pydantic has one.
Source: pydantic's lax mode from strings, its quirks included, in the release that requirements-dev.lock pins;
tests/service/test_parameters.py compares every reader with pydantic. See docs/decisions/0007-parameters.md.
"""

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Final
from uuid import UUID


class InvalidValue(Exception):
    """The text is not a valid value; carries the violation's type and message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.type = kind


NOT_UNICODE: Final = ("string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string")


_TRUE: Final = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "off", "f", "n"})


def boolean(text: str) -> bool:
    """Read a boolean; unlike a number, it may not be surrounded by white space."""
    word = text.lower() if text.isascii() else ""  # e.g. the Kelvin sign has an ASCII lower case
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidValue("bool_parsing", "Input should be a valid boolean, unable to interpret input")


def one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    """Return the reader of a closed set of words, which must match exactly."""
    *others, last = (f"'{word}'" for word in words)
    message = f"Input should be {', '.join(others)} or {last}" if others else f"Input should be {last}"

    def read(text: str) -> str:
        if text not in words:
            raise InvalidValue("literal_error", message)
        return text

    return read


def search(text: str) -> str | None:
    """Read free text, trimmed; blank is None. Rejects text that PostgreSQL cannot store."""
    if not _is_unicode(text):
        raise InvalidValue(*NOT_UNICODE)
    if "\0" in text:
        raise InvalidValue("value_error", "Value error, the text must not contain NUL")
    return text.strip() or None


def limit_length(text: str | None, length_max: int) -> None:
    """Reject a text of more characters."""
    if text is not None and len(text) > length_max:
        raise InvalidValue("string_too_long", f"String should have at most {length_max} characters")


def cursor(text: str) -> str:
    """Read text that can be a cursor; paging.py decodes it."""
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidValue("value_error", "Value error, this is not a cursor of this service; start without one")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which represents ill-formed UTF-8
        return False
    return True


_WHITE_SPACE: Final = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
"""White space as Unicode defines it. Python's strip() removes four more control characters."""
_INTEGER: Final = re.compile(
    r"""(?: [+-]? 0[0_]*(?<=0)                              # any zeros
          | [+-]? (?:0[0_]*)? [1-9](?:_?[0-9])*             # any underscores among leading zeros, single ones elsewhere
          | \+?   0[0_]* -_? (?:0 | [1-9](?:_?[0-9])*)      # pydantic's quirk: a minus sign after leading zeros
        ) (?:\.0+)?""",
    re.VERBOSE,
)
INTEGER_DIGITS_MAX: Final = 4300
"""Neither pydantic nor Python parses longer integers."""
_OVERSIZE: Final = re.compile(rf"-?[1-9][0-9]{{{INTEGER_DIGITS_MAX}}}")
_DIGITS_COMPARED: Final = 20
"""This many significant digits are beyond int64, whatever follows: enough to compare, and cheap at any length."""


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
    """Return the integer; for one outside int64, a number outside int64 with the same sign."""
    if len(text) < _DIGITS_COMPARED and text.isascii() and text.isdecimal():
        return int(text)
    trimmed = text.strip(_WHITE_SPACE)
    _, minus, unsigned = trimmed.partition(".")[0].rpartition("-")
    digits = unsigned.replace("_", "").lstrip("+0")
    if len(digits) <= INTEGER_DIGITS_MAX and _INTEGER.fullmatch(trimmed):
        return int(minus + (digits[:_DIGITS_COMPARED] or "0"))
    if _OVERSIZE.match(text):  # untrimmed: pydantic reports the size only if the text starts with the number
        raise InvalidValue("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
    raise InvalidValue("int_parsing", "Input should be a valid integer, unable to parse string as an integer")


_HEX: Final = frozenset("0123456789abcdefABCDEF")
_HYPHENATED: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_OTHER_FORMS: Final = re.compile(
    rf"[0-9a-fA-F]{{32}}|\{{{_HYPHENATED.pattern}\}}|urn:uuid:{_HYPHENATED.pattern}",
)
_URN: Final = "urn:uuid:"
_GROUPS: Final = (8, 4, 4, 4, 12)
_HYPHENATED_BYTES: Final = 36
_UUID_BYTES_MAX: Final = len(_URN) + _HYPHENATED_BYTES


def uuid(text: str) -> str:
    """Return the canonical form of a UUID that is hyphenated, simple, in braces, or a URN."""
    if _HYPHENATED.fullmatch(text):
        return text.lower()
    if _OTHER_FORMS.fullmatch(text):
        return str(UUID(text))
    if not _is_unicode(text):
        raise InvalidValue(*NOT_UNICODE)
    raise InvalidValue("uuid_parsing", f"Input should be a valid UUID, {_uuid_fault(text)}")


def _uuid_fault(text: str) -> str:
    """Describe the fault; checks in the order of the Rust parser that pydantic uses."""
    size = len(text.encode())
    if size > _UUID_BYTES_MAX:
        return f"invalid length: found {size}"
    inner, start = _unwrapped(text, size)
    has_full_length = len(inner.encode()) == _HYPHENATED_BYTES  # then that parser ignores the wrapping in its count
    for index, char in enumerate(inner, 0 if has_full_length else start):
        if char != "-" and char not in _HEX:
            return f"invalid character: found `{char}` at {index}"
    if "-" not in inner and not start and not has_full_length:
        return f"invalid length: found {size}"
    return _group_fault(inner.split("-"), size - len(inner))


def _unwrapped(text: str, size: int) -> tuple[str, int]:
    """Return the text inside braces or after the URN prefix, and the index where it starts."""
    if size != _HYPHENATED_BYTES:
        if text.startswith("{") and text.endswith("}") and size > 1:
            return text[1:-1], 1
        if text.startswith(_URN):
            return text[len(_URN) :], len(_URN)
    return text, 0


def _group_fault(groups: list[str], wrapping: int) -> str:
    if len(groups) != len(_GROUPS):
        return f"invalid group count: expected {len(_GROUPS)}, found {len(groups)}"
    lengths = [len(group) for group in groups]
    lengths[-1] += wrapping  # that parser counts the last group up to the end of the whole text, wrapping included
    number = next(n for n, expected in enumerate(_GROUPS) if lengths[n] != expected)
    return f"invalid group length in group {number}: expected {_GROUPS[number]}, found {lengths[number]}"


_DATE: Final = re.compile(r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d-\d|\d{4}W\d{3})", re.ASCII)
_MOMENT: Final = re.compile(
    rf"""(?P<kept> {_DATE.pattern} [Tt ] (?:[01]\d|2[0-3])
             (?: :?[0-5]\d | (?: :[0-5]\d:[0-5]\d | [0-5]\d[0-5]\d ) (?:[.,]\d{{1,6}})? )? )
         (?: (?<=[.,]\d{{6}}) \d+ )?                        # digits beyond the microsecond are ignored
         (?P<offset> [Zz] | [+-](?:[01]\d|2[0-3])(?: :?[0-5]\d )? )?""",
    re.ASCII | re.VERBOSE,
)
"""Stricter than fromisoformat, whose separators and ranges are wider and differ between Python releases."""
_LOST_PLUS: Final = re.compile(r"[Tt ]\d\d(?::?\d\d){1,2}(?:[.,]\d+)? (?=\d\d(?::?\d\d)?\Z)", re.ASCII)
PLUS_HINT: Final = "; write the + of an offset as %2B, because + means a space in a query"
"""Added to pydantic's message when a time is followed by a space and a possible offset."""
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


def _instant(text: str, time_of_bare_date: time) -> datetime:
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(datetime.fromisoformat(text), time_of_bare_date, UTC)
        if match := _MOMENT.fullmatch(text):
            normalized = f"{match['kept']}{match['offset'] or 'Z'}"
            return datetime.fromisoformat(normalized.upper()).astimezone(UTC)
        fault = _date_fault(text)
    except OverflowError:
        fault = "year is out of range in UTC"
    except ValueError:  # no such day
        fault = _date_fault(text)
    hint = PLUS_HINT if _LOST_PLUS.search(text) else ""
    raise InvalidValue("datetime_from_date_parsing", f"Input should be a valid datetime or date, {fault}{hint}")


def _date_fault(text: str) -> str:
    """Describe the fault as pydantic's date parser does, which expects YYYY-MM-DD and counts bytes."""
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
