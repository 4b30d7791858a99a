"""Parses the parameters of a history request, in the manner of parameters.py: typed, or every violation at once.

Fails: never; violations are a return value.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from service import pydantic_compat
from service.parameters import LIMIT_MAX, POSITION_HEADER, Pair, Reader, Violation, position, utf8_text
from service.pydantic_compat import InvalidValue

LIMIT_DEFAULT: Final = 50


class HistoryRequest(Struct, frozen=True):
    """The parsed parameters, defaults filled in."""

    customer_id: str
    campaign_id: str
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None
    """As sent; paging.py decodes it."""
    include: str | None = None
    """`counters`: also the events of the campaign's counters."""
    min_position: int | None = None


def parse(
    customer_id: str, campaign_id: str, pairs: list[Pair], min_position: str | None
) -> HistoryRequest | list[Violation]:
    """Parse path, query and header; the last of a repeated parameter counts, unknown ones are ignored."""
    violations: list[Violation] = []
    values: dict[str, Any] = {}
    for (location, name), field, read, text in _present(customer_id, campaign_id, dict(pairs), min_position):
        try:
            values[field] = read(text)
        except InvalidValue as problem:
            violations.append(Violation((location, name), str(problem), problem.type))
    return violations or HistoryRequest(**values)


def _present(
    customer_id: str, campaign_id: str, query: Mapping[str, str], min_position: str | None
) -> Iterator[tuple[tuple[str, str], str, Reader, str]]:
    """Yield location, field, reader and text of each parameter that was sent."""
    yield ("path", "customer_id"), "customer_id", pydantic_compat.uuid, customer_id
    yield ("path", "campaign_id"), "campaign_id", pydantic_compat.uuid, campaign_id
    for name, read in _READERS.items():
        if name in query:
            yield ("query", name), name, read, utf8_text(query[name])
    if min_position is not None:
        yield ("header", POSITION_HEADER), "min_position", position, min_position


_READERS: Final[Mapping[str, Reader]] = {
    "limit": pydantic_compat.integer(1, LIMIT_MAX),
    "cursor": pydantic_compat.cursor,
    "include": pydantic_compat.one_of(("counters",)),
}
