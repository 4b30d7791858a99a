"""How large the next batch may be: smaller after a transaction that the database failed, larger after a success."""

from typing import Final

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of bodies and of the texts made of them. Bounds memory, of which a batch takes a small multiple of this while it is
written and the next one as much again, and the time of one transaction; a batch may exceed it by one slice."""

GROW_AFTER: Final = 8
"""Batches in a row that succeed before the limits grow: growing at once would make every other batch fail again."""


class BatchLimits:
    """The limits of one process, kept over its terms: a batch that takes too long would take too long again."""

    def __init__(self, events_max: int, bytes_max: int = BATCH_BYTES_MAX) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self._events_most = events_max
        self._bytes_most = bytes_max
        self._succeeded = 0

    def halve(self, events: int, size_bytes: int) -> None:
        """Allow half of what a failed batch had."""
        self._succeeded = 0
        self.events_max = max(1, min(self.events_max, events) // 2)
        self.bytes_max = max(1, min(self.bytes_max, size_bytes) // 2)

    def succeed(self) -> None:
        """Note a batch that was applied; after `GROW_AFTER` in a row allow twice as much, up to the first limits."""
        self._succeeded += 1
        if self._succeeded >= GROW_AFTER:
            self._succeeded = 0
            self.events_max = min(2 * self.events_max, self._events_most)
            self.bytes_max = min(2 * self.bytes_max, self._bytes_most)
