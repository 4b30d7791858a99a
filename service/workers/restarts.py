"""Limits how often workers that end are replaced."""

import time
from collections import deque
from typing import Final

import structlog

PAUSE_FIRST_S: Final = 0.25
PAUSE_MAX_S: Final = 5.0
"""The pause before a replacement: none after the first death in a minute, then doubling up to the maximum."""
RESTARTS_MAX: Final = 10
RESTARTS_WINDOW_S: Final = 60.0
"""At most so many replacements in any such time; further ones wait, and the log says so."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RestartLimit:
    """The pauses before replacements, of all slots together."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=RESTARTS_MAX)

    def next_pause_s(self) -> float:
        """Return how long to wait before a worker that has ended, or could not be started, is replaced."""
        now = time.monotonic()
        recent = [death for death in self._deaths if now - death < RESTARTS_WINDOW_S]
        self._deaths.append(now)
        if len(recent) == RESTARTS_MAX:
            pause_s = max(recent[0] + RESTARTS_WINDOW_S - now, PAUSE_MAX_S)
            log.error("restarts_limited", restarts=len(recent), within_s=RESTARTS_WINDOW_S, pause_s=round(pause_s, 1))
            return pause_s
        return min(PAUSE_FIRST_S * 2 ** (len(recent) - 1), PAUSE_MAX_S) if recent else 0.0
