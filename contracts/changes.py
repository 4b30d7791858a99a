"""What a comparison yields: a change, and whether yesterday's clients survive it."""

from typing import Literal

from msgspec import Struct

Direction = Literal["sent", "received"]
"""From the client's side: a request's parameter or an event is sent, a response is received."""


class Change(Struct, frozen=True):
    """One difference between a recorded contract and the code's."""

    breaking: bool
    sentence: str


def breaking(sentence: str) -> Change:
    """Return a change that fails yesterday's clients."""
    return Change(breaking=True, sentence=sentence)


def additive(sentence: str) -> Change:
    """Return a change that yesterday's clients do not notice."""
    return Change(breaking=False, sentence=sentence)
