"""Bounds the memory that large pages take in one process: a page is fetched only after its bytes are reserved.

Small pages need no reservation: PostgreSQL reports the size of a page, and leaves its items out when they exceed
`reads.UNRESERVED_BYTES_MAX`. The cache shrinks while pages hold memory, and may grow again afterwards.

Invariants: all reservations together never exceed `PAGES_BYTES_MAX`. A caller holds at most half of it, or one page
that is larger than half. Callers take turns. A request overtakes another only if both fit beside all others that
overtook it, so a large page waits only for the pages that were being sent when its turn came.
"""

import asyncio
from typing import Final

from service import metrics
from service.cache import BYTES_MAX, Cache

PAGES_BYTES_MAX: Final = 80 * 1024 * 1024
"""Limit of all large pages together: one page of 200 items of the largest size, 256 KiB, and some more."""
SHARED_BYTES_MAX: Final = 180 * 1024 * 1024
"""Limit of pages and cache together; with the 90 MB of the process itself, below 300 MB."""
OVERHEAD: Final = 1.25
"""Memory per byte of a page, including the buffers towards PostgreSQL and the caller. Measured."""


class PageTooLarge(Exception):
    """The page never fits into the memory for pages."""


class PageMemoryBusy(Exception):
    """The memory for pages was in use by others for as long as the request could wait."""


class Reservation:
    """Reserved bytes; releasing them twice is harmless."""

    def __init__(self, budget: "PageBudget", caller: str, size: int) -> None:
        self._budget = budget
        self.caller = caller
        self.size = size
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.overtaken_bytes = 0
        """Bytes held by reservations that were granted while this one, requested earlier, had to wait."""
        self.overtook: list[Reservation] = []
        self._released = False

    def release(self) -> None:
        """Return the bytes to the budget."""
        if not self._released:
            self._released = True
            self._budget.give_back(self)


class PageBudget:
    """The memory for large pages of one process."""

    def __init__(self, cache: Cache, bytes_max: int = PAGES_BYTES_MAX) -> None:
        self._cache = cache
        self._bytes_max = bytes_max
        self._queue: list[Reservation] = []
        self._held: dict[str, int] = {}
        self.bytes_reserved = 0

    async def reserve(self, items_bytes: int, wait_s: float, caller: str = "") -> Reservation:
        """Reserve memory for a page of this size, waiting until others have been sent.

        Raises `PageTooLarge`, or `PageMemoryBusy` after `wait_s`.
        """
        size = int(items_bytes * OVERHEAD)
        if size > self._bytes_max:
            raise PageTooLarge
        reservation = Reservation(self, caller, size)
        self._queue.append(reservation)
        self._grant()
        try:
            await asyncio.wait({reservation.granted}, timeout=max(wait_s, 0))
        except asyncio.CancelledError:
            if reservation.granted.done():
                reservation.release()
            raise
        finally:
            self._dequeue(reservation)
        if not reservation.granted.done():
            metrics.shed("page_memory")
            raise PageMemoryBusy
        return reservation

    def give_back(self, reservation: Reservation) -> None:
        """Return bytes, and grant waiting reservations; called by `Reservation.release`."""
        self.bytes_reserved -= reservation.size
        self._held[reservation.caller] -= reservation.size
        if not self._held[reservation.caller]:
            del self._held[reservation.caller]
        for overtaken in reservation.overtook:
            overtaken.overtaken_bytes -= reservation.size
        reservation.overtook.clear()
        self._grant()

    def _grant(self) -> None:
        """Grant waiting reservations, one at a time because each changes the order of the others."""
        while (granted := self._next()) is not None:
            self._take(granted)
        self._cache.limit(min(BYTES_MAX, SHARED_BYTES_MAX - self.bytes_reserved))

    def _next(self) -> Reservation | None:
        """Return the first waiting reservation that fits without delaying an earlier one; record those overtaken."""
        free = self._bytes_max - self.bytes_reserved
        earlier: list[Reservation] = []
        over_share: set[str] = set()
        for waiting in self._queue:
            if waiting.caller in over_share or not self._within_share(waiting):
                over_share.add(waiting.caller)  # its later requests must not keep this one waiting for its share
                continue
            if waiting.size <= free:
                waiting.overtook = earlier
                return waiting
            earlier.append(waiting)
            free = min(free, self._bytes_max - waiting.size - waiting.overtaken_bytes)
        return None

    def _within_share(self, waiting: Reservation) -> bool:
        held = self._held.get(waiting.caller, 0)
        return not held or held + waiting.size <= self._bytes_max // 2

    def _take(self, granted: Reservation) -> None:
        self.bytes_reserved += granted.size
        self._held[granted.caller] = self._held.get(granted.caller, 0) + granted.size
        for overtaken in granted.overtook:
            overtaken.overtaken_bytes += granted.size
        self._queue.remove(granted)
        self._queue.sort(key=lambda waiting: waiting.caller == granted.caller)  # stable: the caller's others go last
        granted.granted.set_result(None)

    def _dequeue(self, reservation: Reservation) -> None:
        if reservation in self._queue:
            self._queue.remove(reservation)
            self._grant()
