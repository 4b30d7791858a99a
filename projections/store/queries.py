"""Loads named blocks of `.sql` files. Except for migrations, this project reads SQL from files in no other way.

Every longer statement on a generation's tables is such a block, with its reason as a comment. A statement of a few
lines may be in the function that runs it.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NewType

Generation = NewType("Generation", str)
"""The name of a generation's schema: `g1`, `g2`, …"""

_GENERATION: Final = re.compile(r"\Ag[1-9][0-9]*\Z")
_BLOCK: Final = re.compile(r"^-- name: (?P<name>\w+)\n(?P<text>.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_INCLUDE: Final = re.compile(r"\{(\w+)\}")
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)


def generation(name: str) -> Generation:
    """Validate a generation's name, because it becomes part of statements; raises ValueError."""
    if not _GENERATION.match(name):
        raise ValueError(f"{name!r} is not the name of a generation; expected g1, g2, …")
    return Generation(name)


def blocks(package: str, file_name: str) -> Mapping[str, str]:
    """Return the blocks of a file by name: comments removed, inclusions resolved, other tokens unreplaced."""
    source = files(package).joinpath(file_name).read_text(encoding="utf-8")
    raw = {match["name"]: _COMMENT.sub("", match["text"]).strip() for match in _BLOCK.finditer(source)}
    return {name: _resolve_includes(text, raw) for name, text in raw.items()}


def for_generation(text: str, name: Generation) -> str:
    """Return the statement for one generation; no other has the same text, so none uses its prepared statement."""
    return text.replace("{generation}", name)


@cache
def statements(package: str, file_name: str, **tokens: str) -> Mapping[str, str]:
    """Return the blocks of a file by name, each `{token}` replaced by its value. Cached for each set of values."""
    found = blocks(package, file_name)
    return {name: _replace_tokens(text, tokens).rstrip(";") for name, text in found.items()}


def writes(name: Generation) -> Mapping[str, str]:
    """Return the statements of writes.sql for one generation."""
    return statements("projections.store", "writes.sql", generation=name)


def _replace_tokens(text: str, tokens: Mapping[str, str]) -> str:
    for token, value in tokens.items():
        text = text.replace(f"{{{token}}}", value)
    return text


def _resolve_includes(text: str, raw: Mapping[str, str]) -> str:
    return _INCLUDE.sub(lambda found: _resolve_includes(raw[found[1]], raw) if found[1] in raw else found[0], text)
