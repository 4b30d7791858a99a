"""The search key of a text: the one definition by which names are compared, sorted and searched."""

import unicodedata
from typing import Final

COMBINING_BELOW: Final = 0x20000
"""No character from here on is a combining mark; looking at all of Unicode would take 0.1 s of every start."""

_MARKS: Final = frozenset(char for char in map(chr, range(0x80, COMBINING_BELOW)) if unicodedata.combining(char))


def search_key(text: str) -> str:
    """Return the NFKD form of `text` without combining marks, casefolded.

    A combining mark is a character with a canonical combining class other than zero. The result depends on the
    Unicode version of the Python that runs, so all processes of one deployment should run the same Python.
    """
    if text.isascii():  # most names; NFKD leaves ASCII alone
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text)
    # Most texts have no mark to remove, Korean ones for example; the set finds that in half the time of a rewrite.
    if not _MARKS.isdisjoint(decomposed):
        decomposed = "".join([char for char in decomposed if char not in _MARKS])
    return decomposed.casefold()
