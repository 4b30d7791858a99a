"""Reads ahead: gathers, decodes and folds the next batch while the last one is being written.

Python has nothing to do while PostgreSQL works, and PostgreSQL nothing while Python does; together they take as long as
the slower of them. One batch is gathered ahead, no more: when it is full, reading stands still until it is taken.

Reads: JetStream, through `intake.Reading`.
Invariants: batches follow one upon another without a gap, each once and in order. What was gathered and not taken
when the reading ends is forgotten, for nothing but the checkpoint says what was applied. What was certain before a
doubt is handed out; then the doubt is raised.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from consumers.batch_limits import BatchLimits
from consumers.intake import OrderedSubscription
from projections.model.batch import BatchBuilder
from projections.model.events import Message

SLICE_EVENTS: Final = 128
"""Decoded in one go, less than a millisecond: PostgreSQL's answers and the broker's messages come in between."""
SLICE_BYTES: Final = 64 * 1024
"""A slice of large bodies ends here: unfolding their texts takes some milliseconds, of the largest body up to 50."""
IDLE_S: Final = 1.0
GATHER_S: Final = 1.0
"""How long a batch that has begun may grow; PostgreSQL ends the session of a leader that is silent for longer."""


class Prefetcher:
    """Hands out the batches of one reading. An async context manager, to be left before the reading is."""

    def __init__(self, reading: OrderedSubscription, limits: BatchLimits) -> None:
        self._subscription = reading
        self._limits = limits
        self._batch = BatchBuilder(reading.position)
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._closed = True  # should a library in between swallow the cancellation, this ends it a moment later
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])  # raises nothing of the task's, only a cancellation of our own

    async def next_batch(self, wait_s: float) -> BatchBuilder | None:
        """Return what has been gathered, and what is at hand to gather; None if nothing came within `wait_s`.

        Nobody waits for a batch to fill. Raises what ended the reading once all that is certain was handed out.
        """
        if self._task is None:
            self._batch = BatchBuilder(self._subscription.position)
            self._task = asyncio.create_task(self._fill())
            self._task.add_done_callback(self._on_task_done)
        began = time.monotonic()
        while self._can_grow():
            left_s = began + (GATHER_S if self._batch.events else wait_s) - time.monotonic()
            if left_s <= 0:
                break
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                break
        if self._batch.events == 0:
            if self._task.done():
                self._task.result()
            return None
        gathered, self._batch = self._batch, BatchBuilder(self._batch.position)
        self._room.set()
        return gathered

    def _can_grow(self) -> bool:
        if self._full or self._task is None or self._task.done():
            return False
        return self._batch.events == 0 or self._subscription.has_buffered

    @property
    def _full(self) -> bool:
        return self._batch.events >= self._limits.events_max or self._batch.bytes >= self._limits.bytes_max

    async def _fill(self) -> None:
        while not self._closed:
            await self._room.wait()
            slice_max = min(SLICE_EVENTS, max(1, self._limits.events_max - self._batch.events))
            for piece in _slices(await self._subscription.next_batch(slice_max, IDLE_S)):
                await self._room.wait()
                self._batch.add(piece)
                self._changed.set()
                if self._full:
                    self._room.clear()
                await asyncio.sleep(0)  # lets the one who writes, and the connection to the broker, have their turn

    def _on_task_done(self, gathering: asyncio.Task[None]) -> None:
        if not gathering.cancelled():
            gathering.exception()  # raised to who asks for the next batch; where nobody does, no news
        self._changed.set()


def _slices(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Cut messages where their bodies reach `SLICE_BYTES`."""
    begins = size = 0
    for at, message in enumerate(messages):
        size += len(message.body)
        if size >= SLICE_BYTES:
            yield messages[begins : at + 1]
            begins, size = at + 1, 0
    if begins < len(messages):
        yield messages[begins:]
