"""Lets operators' requests read the stream, a few at a time, and never beyond their deadline.

Fails: `Refused`, with the reason as a sentence.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from projections.store.membership_history import HistoryUnavailable, StreamReader
from service.operations.refusals import Refused

READS_MAX: Final = 2
"""Requests of a worker that read the stream at the same time: each may hold some 10 MB of large events."""
WAIT_MAX_S: Final = 1.0
"""How long a request waits until it may read."""


class StreamAccess:
    """The stream, as far as this process reads it."""

    def __init__(self, reader: StreamReader | None) -> None:
        self._reader = reader
        self._places = asyncio.Semaphore(READS_MAX)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[StreamReader]:
        """Yield the reader; raises `Refused` if there is none, if others use it, or if the broker does not answer."""
        if self._reader is None:
            raise Refused("broker_not_configured")
        try:
            async with asyncio.timeout(WAIT_MAX_S):
                await self._places.acquire()
        except TimeoutError:
            raise Refused("history_busy") from None
        try:
            yield self._reader
        except HistoryUnavailable as problem:
            raise Refused("stream_unavailable", str(problem)) from problem
        finally:
            self._places.release()
