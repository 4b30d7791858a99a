"""Quotes text of events inside a sentence: bounded, and harmless on a terminal."""

from typing import Final

QUOTED_CHARS_MAX: Final = 100
"""A campaign's name may have 256 KB; a sentence shows its beginning."""


def quoted(text: str) -> str:
    """Return the text in double quotes, cut if it is long, with unprintable characters escaped."""
    ending = "…" if len(text) > QUOTED_CHARS_MAX else ""
    return f'"{printable(text[:QUOTED_CHARS_MAX])}{ending}"'


def printable(text: str) -> str:
    """Return the text with unprintable characters escaped, so that a terminal does not interpret them."""
    return "".join([char if char.isprintable() else _escaped(char) for char in text])


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
