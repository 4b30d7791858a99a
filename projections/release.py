"""The release of the fold: a digest of everything that decides which rows follow from which events."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

DECIDING: Final = (
    "events.py",
    "membership.py",
    "rows.py",
    "search_key.py",
    "projector.py",
    "fan_out.py",
    "queries.py",
    "generation.sql",
    "rebuild.sql",
    "writes.sql",
)


@cache
def release() -> str:
    """Return the digest of this release's fold; releases that fold alike share it."""
    found = hashlib.blake2b(digest_size=8)
    for name in DECIDING:
        found.update(files("projections").joinpath(name).read_bytes())
    return found.hexdigest()
