"""Prefetches: collects, decodes and folds the next batch while the previous one is being written.

Without this, Python is idle while PostgreSQL works, and PostgreSQL while Python works; overlapped, both take as long
as the slower of the two. At most one batch is prefetched: when it is full, reading pauses until it is taken.

Reads: JetStream, through `intake.OrderedSubscription`.
Invariants: batches are contiguous, each returned once and in order. A prefetched batch that was not taken is discarded
on exit, because only the checkpoint records what was applied. Messages that arrived in order before an interruption
are returned first; then the interruption is raised.
"""

import asyncio
import time
from types import TracebackType
from typing import Final, Self

from consumers.batch_limits import BatchLimits
from consumers.intake import OrderedSubscription
from projections.model.batch import BatchBuilder

SLICE_EVENTS: Final = 128
"""Messages decoded without a pause, in under a millisecond; between slices, the event loop handles the data from
PostgreSQL and the broker."""
IDLE_S: Final = 1.0
GATHER_S: Final = 1.0
"""How long a non-empty batch may grow; PostgreSQL ends the session of a leader that is silent for longer."""


class Prefetcher:
    """Returns the batches of one subscription. An async context manager; exit it before the subscription's."""

    def __init__(self, subscription: OrderedSubscription, limits: BatchLimits) -> None:
        self._subscription = subscription
        self._limits = limits
        self._batch = BatchBuilder(subscription.position)
        self._changed = asyncio.Event()
        self._not_full = asyncio.Event()
        self._not_full.set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._closed = True  # ends the task at its next iteration if a library swallows the cancellation
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])  # does not re-raise the task's exception, only our own cancellation

    async def next_batch(self, wait_s: float) -> BatchBuilder | None:
        """Return the prefetched batch plus all buffered messages that fit; None if nothing arrived within `wait_s`.

        Never waits for a batch to fill. Raises the error that ended the subscription, but first returns all that
        arrived before it.
        """
        if self._task is None:
            self._batch = BatchBuilder(self._subscription.position)
            self._task = asyncio.create_task(self._fill())
            self._task.add_done_callback(self._on_task_done)
        if not self._full:
            self._not_full.set()  # the limits have grown since the batch was full
        started = time.monotonic()
        while self._can_grow():
            remaining_s = started + (GATHER_S if self._batch.events else wait_s) - time.monotonic()
            if remaining_s <= 0:
                break
            self._changed.clear()
            try:
                async with asyncio.timeout(remaining_s):
                    await self._changed.wait()
            except TimeoutError:
                break
        if self._batch.events == 0:
            if self._task.done():
                self._task.result()
            return None
        batch, self._batch = self._batch, BatchBuilder(self._batch.position)
        self._not_full.set()
        return batch

    def _can_grow(self) -> bool:
        if self._full or self._task is None or self._task.done():
            return False
        return self._batch.events == 0 or self._subscription.has_buffered

    @property
    def _full(self) -> bool:
        return self._batch.events >= self._limits.events_max or self._batch.bytes >= self._limits.bytes_max

    async def _fill(self) -> None:
        while not self._closed:
            await self._not_full.wait()
            slice_max = min(SLICE_EVENTS, max(1, self._limits.events_max - self._batch.events))
            messages = await self._subscription.next_batch(slice_max, IDLE_S)
            if messages:
                self._batch.add(messages)
                self._changed.set()
                if self._full:
                    self._batch.batch()  # its columns are made now, while PostgreSQL writes the previous batch
                    self._not_full.clear()
                await asyncio.sleep(0)  # yields to the writer and to the broker connection

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; next_batch() re-raises it
        self._changed.set()
