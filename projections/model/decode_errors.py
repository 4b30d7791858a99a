"""Completes msgspec's messages: the values that a field allows, and what the pattern of an id means."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from msgspec import inspect


def describe_decode_error(problem: str, kind: Any) -> str:  # noqa: ANN401 - a type
    """Add to a decoder's message what it leaves out: the values a field allows, and what the pattern of an id means."""
    problem = _ID_PATTERN_TEXT.sub("a lower-case hyphenated UUID", problem)
    if not problem.startswith("Invalid enum value"):
        return problem
    path = problem.rpartition(" - at ")[2].strip("`")  # for an unknown type, the caller names those of the subject
    allowed = allowed_values(kind).get(_INDEX.sub("[]", path))
    return f"{problem}; allowed: {allowed}" if allowed and path != "$.type" else problem


_ID_PATTERN_TEXT: Final = re.compile(r"`str` matching regex '[^']*'")
"""How msgspec describes an ill-formed id; no field of the contract has another pattern."""
_INDEX: Final = re.compile(r"\[[0-9]+\]")


@cache
def allowed_values(kind: Any) -> Mapping[str, str]:  # noqa: ANN401 - a type
    """Return, by path, the values of every field of a type that allows only some; found once, when first needed."""
    return dict(_walk("$", inspect.type_info(kind)))


def _walk(path: str, node: inspect.Type) -> Iterator[tuple[str, str]]:
    match node:
        case inspect.LiteralType(values=values):
            yield path, ", ".join(map(str, values))
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from _walk(f"{path}.{field.encode_name}", field.type)
        case inspect.ListType(item_type=item):
            yield from _walk(f"{path}[]", item)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _walk(path, each)
