"""The effort of a run: QUICK=1 for a trial, the full run for published figures."""

import os
from typing import Final

from msgspec import Struct


class Effort(Struct, frozen=True, kw_only=True):
    """The size of each measurement; seconds are per round and system."""

    name: str
    share: float
    """Of the standard data set."""
    rounds: int
    """Rounds per system; the median counts."""
    read_s: float
    warm_up_s: float
    flood_s: float
    """How long distinct requests are sent to fill the API's cache."""
    latency_samples: int
    freshness_samples: int
    same_answers: int
    """Requests whose answers are compared before anything is timed."""
    live_events: int
    peer_events: int
    """How many live events the peer applies; only its rate is compared."""
    counter_events: int
    status_changes: int
    select_s: float
    idle_s: float


FULL: Final = Effort(
    name="full",
    share=1.0,
    rounds=3,
    read_s=8.0,
    warm_up_s=20.0,
    flood_s=20.0,
    latency_samples=30,
    freshness_samples=200,
    same_answers=200,
    live_events=300_000,
    peer_events=20_000,
    counter_events=200_000,
    status_changes=3,
    select_s=30.0,
    idle_s=20.0,
)
QUICK: Final = Effort(
    name="quick",
    share=0.05,
    rounds=1,
    read_s=2.0,
    warm_up_s=2.0,
    flood_s=3.0,
    latency_samples=15,
    freshness_samples=30,
    same_answers=60,
    live_events=30_000,
    peer_events=3_000,
    counter_events=20_000,
    status_changes=1,
    select_s=3.0,
    idle_s=4.0,
)


def chosen() -> Effort:
    """Return the effort that the environment selects."""
    return QUICK if os.environ.get("QUICK") else FULL
