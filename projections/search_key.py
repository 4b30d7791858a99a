"""The search key of a text: the one definition by which names are compared, sorted and searched."""

import unicodedata


def search_key(text: str) -> str:
    """Return the NFKD form of `text` without combining marks, casefolded.

    A combining mark is a character with a canonical combining class other than zero. The result depends on the
    Unicode version of the Python that runs, so all processes of one deployment should run the same Python.
    """
    if text.isascii():  # most names; NFKD leaves ASCII alone
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()
