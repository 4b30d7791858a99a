"""Admits a bounded number of expensive reads at a time, and shares the slots among callers.

An expensive read is one that needs a custom plan: a search, dates, or a non-default order. Too many at once delay all
of them, so a read waits for a slot for a bounded time, and is rejected if none becomes free. A read that would wait too
long, as the reads of the last seconds show, is rejected at once. No caller can occupy more than half of the slots or of
the waiting places; free slots go to the waiting callers in turn.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Final

from service import metrics

WAIT_MAX_S: Final = 0.8
"""How long a read waits for a slot; the API promises its 503 within a second."""
WAITING_PER_SLOT_MAX: Final = 32
"""Waiting places per slot: at 25 ms a read, as many as a slot can serve within `WAIT_MAX_S`."""
EXPECTED_WAIT_MAX_S: Final = 0.6
"""How long a read may be expected to wait when it arrives: the rest of `WAIT_MAX_S` is for an expectation too low."""
HELD_WEIGHT: Final = 0.05
"""Weight of a read in the moving average of how long reads hold a slot."""
RESERVED_CONNECTIONS: Final = 2
"""Connections of the pool not used by expensive reads: for API keys, the live generation's position, and cursors."""

caller: ContextVar[str] = ContextVar("caller", default="")
"""The user id of the current request's caller; set after authentication."""


class Overloaded(TimeoutError):
    """No slot became free in time, or the caller has used up its share."""


class Slot:
    """An occupied slot; releasing it twice is harmless."""

    def __init__(self, release: Callable[[float], None]) -> None:
        self._release = release
        self._began_s = time.monotonic()
        self.released = False

    def release(self) -> None:
        """Return the slot."""
        if not self.released:
            self.released = True
            self._release(time.monotonic() - self._began_s)


_request_slot: ContextVar[Slot | None] = ContextVar("request_slot", default=None)
"""The slot with which the request was admitted before its handler ran, if any."""


class Admission:
    """The slots of one process."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free = slots
        self._slots_per_caller = max(1, slots // 2)
        self._waiting_max = slots * WAITING_PER_SLOT_MAX
        self._waiting = 0
        self._held_s = 0.0
        """How long a read holds its slot: a moving average."""
        self._holding: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def busy(self) -> bool:
        """Whether reads wait."""
        return self._waiting > 0

    def is_full_for(self, owner: str) -> bool:
        """Return whether a read of this caller would be rejected at once."""
        if self._may_start(owner):
            return False
        own = len(self._queues.get(owner, ()))
        if self._waiting >= self._waiting_max or own >= self._waiting_max // 2:
            return True
        callers = len(self._queues) + (owner not in self._queues)
        slots = min(self._slots_per_caller, self._slots / callers)
        return own * self._held_s > EXPECTED_WAIT_MAX_S * slots

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot: the one with which the request was admitted, or a new one; raises `Overloaded`."""
        slot = _request_slot.get()
        if slot is None or slot.released:
            slot = await self.admit(owner)
        try:
            yield
        finally:
            slot.release()

    @asynccontextmanager
    async def admitted(self, owner: str) -> AsyncIterator[None]:
        """Admit a request before it is parsed: its first expensive read uses this slot. Raises `Overloaded`."""
        slot = await self.admit(owner)
        token = _request_slot.set(slot)
        try:
            yield
        finally:
            _request_slot.reset(token)
            slot.release()

    async def admit(self, owner: str) -> "Slot":
        """Wait for a slot; raises `Overloaded`."""
        await self._acquire(owner)
        return Slot(partial(self._release, owner))

    async def _acquire(self, owner: str) -> None:
        if self._may_start(owner):
            self._take(owner)
            return
        if self.is_full_for(owner):
            metrics.shed("queue_full")
            raise Overloaded
        queue = self._queues.setdefault(owner, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._waiting += 1
        try:
            await asyncio.wait({turn}, timeout=WAIT_MAX_S)
        except asyncio.CancelledError:
            if turn.done():
                self._release(owner, self._held_s)
            raise
        finally:
            self._waiting -= 1
            self._dequeue(owner, turn)
        if not turn.done():
            metrics.shed("wait_expired")
            raise Overloaded

    def _dequeue(self, owner: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(owner)
        if queue is not None and turn in queue:
            queue.remove(turn)
        if not queue:
            self._queues.pop(owner, None)

    def _may_start(self, owner: str) -> bool:
        return self._free > 0 and self._holding[owner] < self._slots_per_caller

    def _take(self, owner: str) -> None:
        self._free -= 1
        self._holding[owner] += 1

    def _release(self, owner: str, held_s: float) -> None:
        self._held_s += HELD_WEIGHT * (held_s - self._held_s)
        self._free += 1
        self._holding[owner] -= 1
        if not self._holding[owner]:
            del self._holding[owner]
        self._start_next()

    def _start_next(self) -> None:
        """Give the free slot to the first waiting caller within its share, and move that caller to the end."""
        for owner, queue in list(self._queues.items()):
            if queue and self._may_start(owner):
                del self._queues[owner]
                self._queues[owner] = queue
                self._take(owner)
                queue.popleft().set_result(None)
                return
