"""Measures how far a replica is behind the primary, in positions and in seconds.

The age of the last replayed transaction would be wrong for an idle stream. So the seconds are those since the primary
had no position that the replica lacks: at each observation the primary's position is noted, and once the replica has
reached it, it was level when that was noted. They are exact to the time between two observations.
"""

import time
from collections.abc import Callable

from projections.settings import LagMax


class Lag:
    """The lag of one replica."""

    def __init__(self, limit: LagMax, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._goal: int | None = None
        self._goal_noted_at = 0.0
        self._level_at: float | None = None
        self.events = 0
        """Positions that the primary has applied and the replica has not, as last observed."""
        self.seconds = 0.0
        """For how long the replica has lacked some of them."""

    def observe(self, replica: int, primary: int, *, primary_is_heard: bool) -> None:
        """Record both positions. While the primary is not heard, its position is unknown, and the lag keeps its value.

        A replica must have been level with the primary once before it counts as near.
        """
        if not primary_is_heard:
            self._goal_noted_at = self._now()
            if self._level_at is not None:
                self._level_at = self._goal_noted_at
            return
        if self._goal is not None and replica >= self._goal:
            self._level_at = self._goal_noted_at
        if self._goal is None or replica >= self._goal:
            self._goal, self._goal_noted_at = primary, self._now()
        if replica >= primary:
            self._level_at = self._now()
        self.events = max(0, primary - replica)
        level_at = self._goal_noted_at if self._level_at is None else self._level_at
        self.seconds = 0.0 if not self.events else self._now() - level_at

    @property
    def is_near(self) -> bool:
        """Whether the lag is within the limit."""
        if self._limit.positions is not None:
            return self.events <= self._limit.positions
        return self._level_at is not None and self.seconds <= (self._limit.seconds or 0.0)
