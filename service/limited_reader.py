"""Reads the stream until a deadline, so that a slow broker is not reported as a failure of the database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from projections.model.events import Message, Position
from projections.store.checkpoint import Checkpoint
from projections.store.membership_history import HistoryUnavailable, MessageReader


class LimitedReader:
    """Another reader's messages, as long as there is time. Implements `MessageReader`."""

    def __init__(self, reader: MessageReader, ends: float) -> None:
        self._reader = reader
        self._ends = ends
        """By the event loop's clock. Only waits for the broker are limited: those for PostgreSQL fail by themselves."""

    async def count(self, subjects: Sequence[str], applied: Checkpoint) -> list[int]:
        """Return how many messages each subject has; raises `HistoryUnavailable`."""
        async with self._limit():
            return await self._reader.count(subjects, applied)

    async def messages(
        self, subject: str, count: int, through: Position, slice_events: int
    ) -> AsyncGenerator[list[Message], None]:
        """Yield the messages on a subject up to a position; raises `HistoryUnavailable`."""
        async with aclosing(self._reader.messages(subject, count, through, slice_events)) as slices:
            while True:
                async with self._limit():
                    messages = await anext(slices, None)
                if messages is None:
                    return
                yield messages

    async def close(self) -> None:
        """Disconnect."""
        await self._reader.close()

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        limit = asyncio.timeout_at(self._ends)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise HistoryUnavailable("The broker answers too slowly to read the history in time.") from None
