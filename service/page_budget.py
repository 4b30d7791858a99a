"""Bounds the memory that large pages take in one process: a page is fetched only once its bytes are reserved.

Small pages need no reservation: PostgreSQL says how large a page is, and leaves its items out when they exceed
`reads.UNRESERVED_BYTES_MAX`. Answers kept in memory give way to pages, and come back afterwards.

Invariants: reservations are served in the order they were asked for, and never exceed `PAGES_BYTES_MAX` together.
"""

import asyncio
from collections import deque
from typing import Final

from service.cache import BYTES_MAX, Cache

PAGES_BYTES_MAX: Final = 80 * 1024 * 1024
"""What the large pages of a process may take together: one of 200 items of the largest size, 256 KiB, and some."""
SHARED_BYTES_MAX: Final = 180 * 1024 * 1024
"""What pages and remembered answers may take together; with the process itself, 90 MB, below 300 MB."""
OVERHEAD: Final = 1.25
"""A byte of a page takes this much: itself, and what is on its way from PostgreSQL and to the caller. Measured."""


class PageTooLarge(Exception):
    """The page does not fit into the memory set aside for pages: ever, or not in time."""


class Reservation:
    """Bytes that are set aside; releasing them twice is harmless."""

    def __init__(self, budget: "PageBudget", size: int) -> None:
        self._budget = budget
        self._size = size

    def release(self) -> None:
        """Give the bytes back."""
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
        """Set memory aside for a page of this size, waiting for others to be sent; raises `PageTooLarge`."""
        size = int(items_bytes * OVERHEAD)
        if size > self._bytes_max:
            raise PageTooLarge
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._serve()
        try:
            await asyncio.wait({turn}, timeout=max(wait_s, 0))
        except asyncio.CancelledError:
            if turn.done():
                self.give_back(size)
            raise
        finally:
            self._leave(size, turn)
        if not turn.done():
            raise PageTooLarge
        return Reservation(self, size)

    def give_back(self, size: int) -> None:
        """Take bytes back, for those that wait; `Reservation.release` calls it."""
        self.bytes_reserved -= size
        self._serve()

    def _serve(self) -> None:
        while self._queue and self.bytes_reserved + self._queue[0][0] <= self._bytes_max:
            size, turn = self._queue.popleft()
            self.bytes_reserved += size
            turn.set_result(None)
        self._cache.limit(min(BYTES_MAX, SHARED_BYTES_MAX - self.bytes_reserved))

    def _leave(self, size: int, turn: asyncio.Future[None]) -> None:
        if (size, turn) in self._queue:
            self._queue.remove((size, turn))
            self._serve()
