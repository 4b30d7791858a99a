"""The search key of a text: the single definition of how names are compared, sorted and searched."""

import unicodedata
from typing import Final

COMBINING_BELOW: Final = 0x20000
"""No combining mark has a code point from here on; checking all of Unicode would add 0.1 s to every start."""

_MARKS: Final = frozenset(char for char in map(chr, range(0x80, COMBINING_BELOW)) if unicodedata.combining(char))


def search_key(text: str) -> str:
    """Return the NFKD form of `text` without combining marks, casefolded.

    A combining mark is a character with a canonical combining class other than zero. The result depends on the
    Unicode version of the running Python, so all processes of one deployment should use the same Python version.
    """
    if text.isascii():  # most names; NFKD does not change ASCII
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text)
    # Most texts, Korean for example, have no marks to remove; checking the set takes half the time of a rewrite.
    if not _MARKS.isdisjoint(decomposed):
        decomposed = "".join([char for char in decomposed if char not in _MARKS])
    return decomposed.casefold()
