"""How large the next batch may be: smaller after a transaction that the database failed, larger after a success."""

from typing import Final

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of bodies and of the texts made of them. Bounds memory, of which a batch takes a small multiple of this while it is
written and the next one as much again, and the time of one transaction; a batch may exceed it by one slice."""


class BatchLimits:
    """The limits of one process, kept over its terms: a batch that takes too long would take too long again."""

    def __init__(self, events_max: int, bytes_max: int = BATCH_BYTES_MAX) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self._events_most = events_max
        self._bytes_most = bytes_max

    def halve(self, events: int, size_bytes: int) -> None:
        """Allow half of what a failed batch had."""
        self.events_max = max(1, min(self.events_max, events) // 2)
        self.bytes_max = max(1, min(self.bytes_max, size_bytes) // 2)

    def grow(self) -> None:
        """Allow twice as much, up to the limits given at first."""
        self.events_max = min(2 * self.events_max, self._events_most)
        self.bytes_max = min(2 * self.bytes_max, self._bytes_most)
