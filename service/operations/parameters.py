"""The parameters that several endpoints of the operators' API share."""

from collections.abc import Mapping
from typing import Any, Final

from projections.model.events import INT64_MAX
from service import pydantic_compat
from service.operations.endpoint import Parameter

LIMIT_MAX: Final = 200
TEXT_CHARS_MAX: Final = 1_000
_TEXT: Final[Mapping[str, Any]] = {"type": "string", "maxLength": TEXT_CHARS_MAX}
_UUID: Final[Mapping[str, Any]] = {"type": "string", "format": "uuid"}
_POSITION: Final[Mapping[str, Any]] = {"type": "integer", "minimum": 0, "maximum": INT64_MAX}


def text(value: str) -> str:
    """Read any text that PostgreSQL can store; unlike a search, it may be empty and is not trimmed."""
    pydantic_compat.limit_length(value, TEXT_CHARS_MAX)
    pydantic_compat.search(value)
    return value


def limit(default: int = 50) -> Parameter:
    """Return the parameter for the length of a page."""
    schema = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX}
    return Parameter("limit", pydantic_compat.integer(1, LIMIT_MAX), schema, "Entries per page.", default)


def number(name: str, description: str) -> Parameter:
    """Return the parameter for a position, or for the number of a job or an audit entry."""
    return Parameter(name, pydantic_compat.integer(0, INT64_MAX), dict(_POSITION), description)


def identity(name: str, description: str) -> Parameter:
    """Return the parameter for the id of a customer or campaign."""
    return Parameter(name, pydantic_compat.uuid, dict(_UUID), description)


def words(name: str, description: str) -> Parameter:
    """Return the parameter for a text."""
    return Parameter(name, text, dict(_TEXT), description)


def before(what: str) -> Parameter:
    """Return the parameter that continues a list, newest first: `next_cursor` of the previous page."""
    return number("before", f"`next_cursor` of the previous page: {what} below this number.")
