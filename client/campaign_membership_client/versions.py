"""Recognises versions that were made from a wrong clock or unit: a much too high version blocks later events."""

import time
from typing import Final

AHEAD_MAX_US: Final = 24 * 3600 * 10**6
"""How far a version may be ahead of the clock, in microseconds: a day, more than any clock or time zone is wrong."""
_US_PER_S: Final = 10**6


def now_us() -> int:
    """Return the clock in microseconds since 1970: the version of an entity that changes now."""
    return time.time_ns() // 1_000


def implausible_version(version: int, now: int | None = None) -> str:
    """Return a warning about a version far ahead of the clock in microseconds; empty for a plausible version.

    A row's change counter stays far below the clock, so only a version made from a time can be ahead of it.
    """
    clock = now_us() if now is None else now
    if version <= clock + AHEAD_MAX_US:
        return ""
    unit = "; it looks like nanoseconds" if version // 1_000 <= clock + AHEAD_MAX_US else ""
    ahead_days = (version - clock) // (AHEAD_MAX_US)
    return (
        f"Version {version} is {ahead_days:,} days ahead of the clock in microseconds{unit}. Until an entity's "
        "versions exceed it, all its later events are ignored."
    )
