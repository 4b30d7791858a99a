"""What the live streams of a worker show: read once for all of them, and how many streams there are.

Invariants: at most `STREAMS_MAX` streams; all of them share one reading of the database.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

STREAMS_MAX: Final = 32
"""Streams of one worker; further ones are 503."""
STREAMS_PER_OPERATOR_MAX: Final = 8
"""Of one user, so that a browser with many tabs leaves room for others."""
SHARED_S: Final = 1.0
"""How old a reading may be that several streams share."""


class Update(Struct, frozen=True):
    """What one reading found."""

    overview: bytes
    """As JSON."""
    fingerprints: dict[str, str | None]


class LiveFeed:
    """Reads for all streams of a worker, and counts them."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._update: Update | None = None
        self._read_at = 0.0
        self._streams: Counter[str] = Counter()

    def admit(self, user_id: str) -> bool:
        """Count a stream of a user; return False, without counting it, if there are too many."""
        if self._streams.total() >= STREAMS_MAX or self._streams[user_id] >= STREAMS_PER_OPERATOR_MAX:
            return False
        self._streams[user_id] += 1
        return True

    def leave(self, user_id: str) -> None:
        """Count a stream of a user as ended."""
        self._streams[user_id] -= 1
        if not self._streams[user_id]:
            del self._streams[user_id]

    async def latest(self, read: Callable[[], Awaitable[Update]]) -> Update:
        """Return a reading that is at most `SHARED_S` old, by `read` if there is none."""
        async with self._reading:
            if self._update is None or time.monotonic() - self._read_at >= SHARED_S:
                self._update = None
                self._update = await read()
                self._read_at = time.monotonic()
            return self._update
