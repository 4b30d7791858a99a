"""Remembers answers with their entity tags, so that an unchanged page is sent as a 304 without a body.

Invariants: the remembered targets and bodies never exceed the limit; the least recently used one is forgotten first.
One reader has one caller, so a target identifies an answer.
"""

from collections import OrderedDict
from threading import Lock
from typing import Final, NamedTuple

ENTRY_BYTES: Final = 400
"""What an entry costs besides its target, tag and body."""


class Remembered(NamedTuple):
    """An answer: its entity tag and its body."""

    etag: str
    body: bytes


class Memory:
    """Answers by target, up to a number of bytes; may be used by several threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, Remembered] = OrderedDict()
        self._lock = Lock()
        self.size = 0
        """Bytes in use."""

    def get(self, target: str) -> Remembered | None:
        """Return the answer to a target, and keep it longer than those used less recently."""
        with self._lock:
            if target in self._entries:
                self._entries.move_to_end(target)
            return self._entries.get(target)

    def put(self, target: str, answer: Remembered) -> None:
        """Remember an answer unless it alone exceeds the limit; forget the least recently used ones."""
        with self._lock:
            self._forget(target)
            if _size(target, answer) > self._bytes_max:
                return
            self._entries[target] = answer
            self.size += _size(target, answer)
            while self.size > self._bytes_max:
                self._forget(next(iter(self._entries)))

    def _forget(self, target: str) -> None:
        answer = self._entries.pop(target, None)
        if answer is not None:
            self.size -= _size(target, answer)


def _size(target: str, answer: Remembered) -> int:
    return ENTRY_BYTES + len(target) + len(answer.etag) + len(answer.body)
