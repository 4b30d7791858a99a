"""Admits expensive reads, a bounded number at a time, and shares the places among callers.

An expensive read is one that PostgreSQL plans for its own values: a search, dates, an unusual order. Too many at once
make all of them late, so a read waits for a slot, for a bounded time, and is refused when none came free. No caller can
occupy more than half of the slots or of the waiting places; free slots go to the waiting callers in turn.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Final

WAIT_MAX_S: Final = 0.8
"""How long a read waits for a slot; the API promises its 503 within a second."""
WAITING_PER_SLOT_MAX: Final = 32
"""Waiting places: as many as slots of 25 ms a read could serve within the wait; beyond, waiting would be in vain."""
RESERVED_CONNECTIONS: Final = 2
"""Connections of the pool that no expensive read takes: for API keys, the pointer and the exact form of a page."""

caller: ContextVar[str] = ContextVar("caller", default="")
"""Whose request this is; set once the credentials are known."""


class Overloaded(TimeoutError):
    """No slot came free in time, or the caller has used up its share."""


class Slot:
    """A slot that is held; releasing it twice is harmless."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self.released = False

    def release(self) -> None:
        """Give the slot back."""
        if not self.released:
            self.released = True
            self._release()


_held: ContextVar[Slot | None] = ContextVar("held_slot", default=None)
"""The slot that the request was admitted with, if it was before its handler ran."""


class Admission:
    """The slots of one process."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._slots_per_caller = max(1, slots // 2)
        self._waiting_max = slots * WAITING_PER_SLOT_MAX
        self._waiting = 0
        self._holding: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot meanwhile: the one that the request was admitted with, or another; raises `Overloaded`."""
        held = _held.get()
        if held is None or held.released:
            held = await self.admit(owner)
        try:
            yield
        finally:
            held.release()

    @asynccontextmanager
    async def admitted(self, owner: str) -> AsyncIterator[None]:
        """Admit a request before it is parsed: its first expensive read uses the slot up. Raises `Overloaded`."""
        held = await self.admit(owner)
        token = _held.set(held)
        try:
            yield
        finally:
            _held.reset(token)
            held.release()

    async def admit(self, owner: str) -> "Slot":
        """Wait for a slot; raises `Overloaded`."""
        await self._acquire(owner)
        return Slot(partial(self._release, owner))

    async def _acquire(self, owner: str) -> None:
        if self._may_start(owner):
            self._take(owner)
            return
        queue = self._queues.setdefault(owner, deque())
        if self._waiting >= self._waiting_max or len(queue) >= self._waiting_max // 2:
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._waiting += 1
        try:
            await asyncio.wait({turn}, timeout=WAIT_MAX_S)
        except asyncio.CancelledError:
            if turn.done():
                self._release(owner)
            raise
        finally:
            self._waiting -= 1
            self._leave(owner, turn)
        if not turn.done():
            raise Overloaded

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
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

    def _release(self, owner: str) -> None:
        self._free += 1
        self._holding[owner] -= 1
        if not self._holding[owner]:
            del self._holding[owner]
        self._start_next()

    def _start_next(self) -> None:
        """Give the free slot to the first caller in turn that may have it, and put that caller last."""
        for owner, queue in list(self._queues.items()):
            if queue and self._may_start(owner):
                del self._queues[owner]
                self._queues[owner] = queue
                self._take(owner)
                queue.popleft().set_result(None)
                return
