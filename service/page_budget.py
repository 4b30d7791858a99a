"""Bounds the memory that large pages take in one process: a page is fetched only after its bytes are reserved.

Small pages need no reservation: PostgreSQL reports the size of a page, and leaves its items out when they exceed
`reads.UNRESERVED_BYTES_MAX`. The cache shrinks while pages hold memory, and may grow again afterwards.

Invariants: reservations are granted in the order of the requests, and never exceed `PAGES_BYTES_MAX` together.
"""

import asyncio
from collections import deque
from typing import Final

from service.cache import BYTES_MAX, Cache

PAGES_BYTES_MAX: Final = 80 * 1024 * 1024
"""Limit of all large pages together: one page of 200 items of the largest size, 256 KiB, and some more."""
SHARED_BYTES_MAX: Final = 180 * 1024 * 1024
"""Limit of pages and cache together; with the 90 MB of the process itself, below 300 MB."""
OVERHEAD: Final = 1.25
"""Memory per byte of a page, including the buffers towards PostgreSQL and the caller. Measured."""


class PageTooLarge(Exception):
    """The page never fits into the memory for pages, or did not fit in time."""


class Reservation:
    """Reserved bytes; releasing them twice is harmless."""

    def __init__(self, budget: "PageBudget", size: int) -> None:
        self._budget = budget
        self._size = size

    def release(self) -> None:
        """Return the bytes to the budget."""
        size, self._size = self._size, 0
        self._budget.give_back(size)


class PageBudget:
    """The memory for large pages of one process."""

    def __init__(self, cache: Cache, bytes_max: int = PAGES_BYTES_MAX) -> None:
        self._cache = cache
        self._bytes_max = bytes_max
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.bytes_reserved = 0

    async def reserve(self, items_bytes: int, wait_s: float) -> Reservation:
        """Reserve memory for a page of this size, waiting until others have been sent; raises `PageTooLarge`."""
        size = int(items_bytes * OVERHEAD)
        if size > self._bytes_max:
            raise PageTooLarge
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._grant()
        try:
            await asyncio.wait({turn}, timeout=max(wait_s, 0))
        except asyncio.CancelledError:
            if turn.done():
                self.give_back(size)
            raise
        finally:
            self._dequeue(size, turn)
        if not turn.done():
            raise PageTooLarge
        return Reservation(self, size)

    def give_back(self, size: int) -> None:
        """Return bytes, and grant waiting reservations; called by `Reservation.release`."""
        self.bytes_reserved -= size
        self._grant()

    def _grant(self) -> None:
        while self._queue and self.bytes_reserved + self._queue[0][0] <= self._bytes_max:
            size, turn = self._queue.popleft()
            self.bytes_reserved += size
            turn.set_result(None)
        self._cache.limit(min(BYTES_MAX, SHARED_BYTES_MAX - self.bytes_reserved))

    def _dequeue(self, size: int, turn: asyncio.Future[None]) -> None:
        if (size, turn) in self._queue:
            self._queue.remove((size, turn))
            self._grant()
