"""Spaces refusals of one worker when it refuses very many, so that they leave the CPU to the requests that it accepts.

A caller who ignores `Retry-After` repeats a refused request at once. A thousand such connections repeat five thousand
requests a second, and refusing those takes more CPU time than the answers. A held refusal costs nothing, and its
connection cannot send another request meanwhile.
"""

import asyncio
from typing import Final

AT_ONCE_PER_S: Final = 2_000
"""Refusals sent at once: at 57 µs each, a tenth of a core's time. Further ones wait for their turn."""
BURST: Final = 200
"""Refusals that may be sent together after a pause."""
HELD_MAX_S: Final = 0.8
"""How long a refusal is held at most; the API promises its 503 within a second."""


class RefusalPace:
    """The pace of one worker's refusals."""

    def __init__(self) -> None:
        self._next_s = 0.0

    async def turn(self) -> None:
        """Return when the next refusal may be sent."""
        delay_s = self.delay_s(asyncio.get_running_loop().time())
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def delay_s(self, now_s: float) -> float:
        """Assign the next turn, and return how far ahead it is."""
        earliest_s = now_s - BURST / AT_ONCE_PER_S
        self._next_s = min(max(self._next_s, earliest_s) + 1 / AT_ONCE_PER_S, now_s + HELD_MAX_S)
        return self._next_s - now_s
