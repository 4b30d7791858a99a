"""Loads the named blocks of a `.sql` file, so that every statement lives in SQL with its why beside it."""

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
_WHY: Final = re.compile(r"^--.*\n", re.MULTILINE)


def generation(name: str) -> Generation:
    """Check a generation's name, the only text that is ever put into a statement; raises ValueError."""
    if not _GENERATION.match(name):
        raise ValueError(f"{name!r} is not the name of a generation; expected g1, g2, …")
    return Generation(name)


def blocks(package: str, file_name: str) -> Mapping[str, str]:
    """Return the blocks of a file by name, comments removed and inclusions resolved, `{generation}` still open."""
    source = files(package).joinpath(file_name).read_text(encoding="utf-8")
    raw = {match["name"]: _WHY.sub("", match["text"]).strip() for match in _BLOCK.finditer(source)}
    return {name: _included(text, raw) for name, text in raw.items()}


def for_generation(text: str, name: Generation) -> str:
    """Return the statement for one generation: its own text, so a prepared statement never outlives its tables."""
    return text.replace("{generation}", name)


@cache
def writes(name: Generation) -> Mapping[str, str]:
    """Return the statements of writes.sql for one generation."""
    return {
        block: for_generation(text, name).rstrip(";") for block, text in blocks("projections", "writes.sql").items()
    }


def _included(text: str, raw: Mapping[str, str]) -> str:
    return _INCLUDE.sub(lambda found: _included(raw[found[1]], raw) if found[1] in raw else found[0], text)
