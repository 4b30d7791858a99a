"""Limits how many requests each caller may send to this worker within a period; without the setting, none of this runs.

The strategy is the sliding window counter of the library `limits`: the last period counts in proportion to what is left
of it, so that nobody can send two periods' requests around the end of one.

Source: draft-ietf-httpapi-ratelimit-headers-11 for the headers.

Invariants: at most `CALLERS_MAX` callers are remembered; beyond that the one that was silent longest starts anew.
"""

import math
import time
from collections import OrderedDict
from contextvars import ContextVar
from typing import Final

import limits
from limits.storage import SlidingWindowCounterSupport, Storage
from limits.strategies import SlidingWindowCounterRateLimiter
from msgspec import Struct

from projections.settings import RateLimit

CALLERS_MAX: Final = 10_000
"""About 3 MB."""

Header = tuple[bytes, bytes]


class RateLimited(Exception):
    """The caller has used up its requests; carries the seconds until the next one is accepted."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class Quota(Struct, frozen=True):
    """What a caller has left after a request."""

    accepted: bool
    headers: tuple[Header, ...]
    reset_s: int

    @property
    def retry_after(self) -> tuple[Header, ...]:
        """The header of a refusal."""
        return ((b"retry-after", b"%d" % self.reset_s),)


class CallerLimits:
    """Counts the requests of every caller."""

    def __init__(self, rate: RateLimit, callers_max: int = CALLERS_MAX) -> None:
        self._item = limits.RateLimitItemPerSecond(rate.requests, rate.period_s)
        self._strategy = SlidingWindowCounterRateLimiter(_Windows(callers_max))
        self._policy: Header = (b"ratelimit-policy", b'"caller";q=%d;w=%d' % (rate.requests, rate.period_s))
        self.unknown_caller = (self._policy,)
        """The headers of a response to a caller who is not known, such as a 401."""

    def spend(self, caller: str) -> Quota:
        """Count one request of a caller, and return what it has left."""
        accepted = self._strategy.hit(self._item, caller)
        stats = self._strategy.get_window_stats(self._item, caller)
        reset_s = max(1, math.ceil(stats.reset_time - time.time()))
        left = (b"ratelimit", b'"caller";r=%d;t=%d' % (stats.remaining, reset_s))
        return Quota(accepted, (self._policy, left), reset_s)


class Charge:
    """What the current request has been charged; nothing until its caller is known."""

    def __init__(self, callers: CallerLimits, quota: Quota | None) -> None:
        self._callers = callers
        self._quota = quota

    def to(self, caller: str) -> None:
        """Count the request, once; raises `RateLimited`."""
        if self._quota is None:
            self._quota = self._callers.spend(caller)
        if not self._quota.accepted:
            raise RateLimited(self._quota.reset_s)

    @property
    def headers(self) -> tuple[Header, ...]:
        """The headers of the response."""
        return self._callers.unknown_caller if self._quota is None else self._quota.headers


charge: ContextVar[Charge | None] = ContextVar("charge", default=None)
"""The charge of the current request; None if there is no limit."""


class _Window(Struct):
    """The requests of one caller in the current period and in the one before."""

    number: int
    current: int = 0
    previous: int = 0


class _Windows(Storage, SlidingWindowCounterSupport):
    """The storage for `limits`. The library's starts threads, remembers any number of callers and is slower."""

    STORAGE_SCHEME = ["membership"]  # noqa: RUF012 - as the base class declares it

    def __init__(self, callers_max: int) -> None:
        super().__init__()
        self._callers_max = callers_max
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = time.time()
        window = self._window(key, expiry, now)
        if math.floor(window.previous * _left(expiry, now) / expiry + window.current) + amount > limit:
            return False
        window.current += amount
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = time.time()
        window = self._window(key, expiry, now)
        return window.previous, _left(expiry, now), window.current, expiry + _left(expiry, now)

    def clear_sliding_window(self, key: str, expiry: int) -> None:  # noqa: ARG002 - one key holds both periods
        self.clear(key)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._window(key, expiry, time.time())
        window.current += amount
        return window.current

    def get(self, key: str) -> int:
        return self._windows[key].current if key in self._windows else 0

    def get_expiry(self, key: str) -> float:  # noqa: ARG002 - a period ends for all callers at once
        return time.time()

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        number = len(self._windows)
        self._windows.clear()
        return number

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _window(self, key: str, expiry: int, now: float) -> _Window:
        number = int(now // expiry)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(number)
            if len(self._windows) > self._callers_max:
                self._windows.popitem(last=False)
        elif window.number != number:
            window.previous = window.current if window.number == number - 1 else 0
            window.current, window.number = 0, number
        self._windows.move_to_end(key)
        return window


def _left(expiry: int, now: float) -> float:
    """Return how much of the current period is left, in seconds."""
    return expiry - now % expiry
