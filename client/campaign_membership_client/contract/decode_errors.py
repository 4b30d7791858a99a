# Copied from projections/model/decode_errors.py by client/copy_contract.py. Change the source, then copy.
"""Completes msgspec's messages with the values that a field allows and the meaning of the id pattern."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from msgspec import inspect


def describe_decode_error(problem: str, kind: Any) -> str:  # noqa: ANN401 - a type
    """Add to a decoder's message the values that the field allows, and name the id format instead of its pattern."""
    problem = _ID_PATTERN_TEXT.sub("a lower-case hyphenated UUID", problem)
    if not problem.startswith("Invalid enum value"):
        return problem
    path = problem.rpartition(" - at ")[2].strip("`")  # for an unknown type, the caller lists the types of the subject
    allowed = allowed_values(kind).get(_INDEX.sub("[]", path))
    return f"{problem}; allowed: {allowed}" if allowed and path != "$.type" else problem


_ID_PATTERN_TEXT: Final = re.compile(r"`str` matching regex '[^']*'")
"""How msgspec describes an ill-formed id; no field of the contract has another pattern."""
_INDEX: Final = re.compile(r"\[[0-9]+\]")


@cache
def allowed_values(kind: Any) -> Mapping[str, str]:  # noqa: ANN401 - a type
    """Return, by path, the allowed values of every enumerated field of a type; computed on first use."""
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
            for member in types:
                yield from _walk(path, member)
