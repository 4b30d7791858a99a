"""Finds the newest messages on a subject: JetStream only reads forward, so where to begin is searched first.

The broker says how many messages on a subject follow a position. So the search goes back from the end in growing steps
until enough messages lie between, then narrows the range down by halving.
Memory: at most `BYTES_MAX` of bodies, or one larger message.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from nats.aio.client import Client

from consumers import stream
from projections.model.events import Message

GROWTH: Final = 8
"""How much further each step goes back."""
EXCESS: Final = 4
"""How many times too many messages may be read, so that the search ends sooner."""
STEPS_MAX: Final = 64
BYTES_MAX: Final = 8 * 1024 * 1024
Count = Callable[[int], Awaitable[int]]
"""Returns how many messages lie between a position and the end of the range."""


async def start_of_newest(client: Client, subject: str, before: int | None, limit: int) -> tuple[int, int]:
    """Return from where to read up to which position (exclusive) to find the last `limit` messages before one."""
    state = await stream.fetch_bounds(client)
    if state is None:
        return 0, 0
    first, last = max(state[0], 1), state[1]  # a stream that never held a message begins at 0
    end = last + 1 if before is None else min(before, last + 1)
    if end <= first:
        return 0, 0
    beyond = 0 if end > last else await stream.count_after(client, end - 1, subject)

    async def between(start: int) -> int:
        return await stream.count_after(client, start - 1, subject) - beyond

    step, near = limit, end  # fewer than `limit` messages lie between `near` and `end`
    for _ in range(STEPS_MAX):
        start = max(first, end - step)
        found = await between(start)
        if limit <= found <= EXCESS * limit or (start == first and found <= EXCESS * limit):
            return start, end
        if found > limit:
            return await _narrowed(between, start, near, limit), end
        near, step = start, step * GROWTH
    return first, end


async def _narrowed(between: Count, far: int, near: int, limit: int) -> int:
    """Return a position from which at least `limit` messages follow, and not many more if possible."""
    for _ in range(STEPS_MAX):
        middle = (far + near) // 2
        if middle in (far, near):
            break
        found = await between(middle)
        if limit <= found <= EXCESS * limit:
            return middle
        far, near = (middle, near) if found > limit else (far, middle)
    return far


class Newest:
    """Keeps the last messages of those that are added, as far as they fit."""

    def __init__(self, limit: int) -> None:
        self._messages: deque[Message] = deque(maxlen=limit)
        self._bytes = 0

    def add(self, messages: Iterable[Message]) -> None:
        """Add messages in the order of the stream."""
        for message in messages:
            if len(self._messages) == self._messages.maxlen:
                self._bytes -= len(self._messages[0].body)
            self._messages.append(message)
            self._bytes += len(message.body)
            while self._bytes > BYTES_MAX and len(self._messages) > 1:
                self._bytes -= len(self._messages.popleft().body)

    def messages(self) -> list[Message]:
        """Return them, newest first."""
        return list(reversed(self._messages))
