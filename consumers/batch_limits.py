"""The size limit of the next batch: halved after a failed transaction, doubled after a run of successes."""

from typing import Final

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""Size of a batch's bodies, headers and the texts derived from bodies; a batch may exceed this limit by one slice. The
limit bounds the time of one transaction, and memory: the batch being written takes a small multiple of this, and so
does the prefetched one."""

GROW_AFTER: Final = 8
"""Consecutive successes before the limits grow: growing at once would make every second batch fail again."""


class BatchLimits:
    """The limits of one process. They outlive its terms: a batch that took too long would take too long again."""

    def __init__(self, events_max: int, bytes_max: int = BATCH_BYTES_MAX) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self._initial_events_max = events_max
        self._initial_bytes_max = bytes_max
        self._successes = 0

    def halve(self, events: int, size_bytes: int) -> None:
        """Lower the limits to half the size of a failed batch."""
        self._successes = 0
        self.events_max = max(1, min(self.events_max, events) // 2)
        self.bytes_max = max(1, min(self.bytes_max, size_bytes) // 2)

    def succeed(self) -> None:
        """Count an applied batch; double the limits after `GROW_AFTER` in a row, up to the initial ones."""
        self._successes += 1
        if self._successes >= GROW_AFTER:
            self._successes = 0
            self.events_max = min(2 * self.events_max, self._initial_events_max)
            self.bytes_max = min(2 * self.bytes_max, self._initial_bytes_max)
