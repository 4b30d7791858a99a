"""How many lists are read, how quickly, and how many of them are answered from memory: of all workers together.

Reads: the metrics that the supervisor merges. Invariants: a rate is over at least `WINDOW_S_MIN`; what cannot be
measured yet, or because the supervisor does not answer, is None.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from msgspec import Struct

from service import metrics
from service.workers.link import SupervisorLink, SupervisorSilent
from service.workers.messages import Snapshot

WINDOW_S: Final = 10.0
"""Rates are of about this time."""
WINDOW_S_MIN: Final = 1.0
EVERY_S: Final = 1.0
"""How often the metrics are merged at most, however many operators look."""
_BUCKET: Final = f"{metrics.DURATION}_bucket"
_CACHE: Final = "membership_cache_requests_total"


class Reads(Struct, frozen=True, omit_defaults=True):
    """The lists of customers' campaigns that readers were sent in the last ten seconds."""

    per_s: float | None = None
    p50_ms: float | None = None
    """Half of them took no longer; absent if nothing was read. Like `p99_ms`, interpolated between measured bounds."""
    p99_ms: float | None = None
    hit_ratio: float | None = None
    """The share that was answered from memory, 0 to 1; absent if nothing was read."""


class Counts(NamedTuple):
    """The counters at one moment."""

    at_s: float
    """By the monotonic clock."""
    buckets: tuple[tuple[float, float], ...]
    """Upper bound in seconds, and how many reads took at most as long."""
    hits: float
    misses: float

    @property
    def reads(self) -> float:
        """All reads."""
        return self.buckets[-1][1] if self.buckets else 0.0


class ReadStatistics:
    """Remembers the counters of the last seconds; several operators share one look at them."""

    def __init__(self, link: SupervisorLink | None) -> None:
        self._link = link
        self._seen: deque[Counts] = deque()
        self._looking = asyncio.Lock()

    async def current(self) -> Reads:
        """Return the statistics."""
        async with self._looking:
            now = time.monotonic()
            if not self._seen or now - self._seen[-1].at_s >= EVERY_S:
                await self._look(now)
        if not self._seen:
            return Reads()
        return reads_between(self._seen[0], self._seen[-1])

    async def _look(self, now: float) -> None:
        try:
            counts = counts_of(await self._link.scrape() if self._link else metrics.snapshot(), now)
        except SupervisorSilent:
            self._seen.clear()
            return
        if self._seen and counts.reads < self._seen[-1].reads:  # the supervisor was started again
            self._seen.clear()
        self._seen.append(counts)
        while len(self._seen) > 1 and now - self._seen[1].at_s >= WINDOW_S:
            self._seen.popleft()


def counts_of(snapshot: Snapshot, at_s: float) -> Counts:
    """Return the counters of a snapshot."""
    samples = [sample for family in snapshot for sample in family.samples]
    buckets = sorted(
        (float(sample.labels["le"]), sample.value)
        for sample in samples
        if sample.name == _BUCKET and sample.labels["route"] == metrics.LISTING
    )
    answers = {
        sample.labels["outcome"]: sample.value
        for sample in samples
        if sample.name == _CACHE and sample.labels["kind"] == "answer"
    }
    return Counts(at_s, tuple(buckets), answers.get("hit", 0.0), answers.get("miss", 0.0))


def reads_between(first: Counts, last: Counts) -> Reads:
    """Return the statistics of the time between two moments."""
    took_s = last.at_s - first.at_s
    if took_s < WINDOW_S_MIN:
        return Reads()
    before = dict(first.buckets)
    buckets = [(bound, count - before.get(bound, 0.0)) for bound, count in last.buckets]
    reads = last.reads - first.reads
    hits, misses = last.hits - first.hits, last.misses - first.misses
    return Reads(
        per_s=round(reads / took_s, 1),
        p50_ms=_quantile_ms(buckets, 0.5) if reads else None,
        p99_ms=_quantile_ms(buckets, 0.99) if reads else None,
        hit_ratio=round(hits / (hits + misses), 4) if hits + misses else None,
    )


def _quantile_ms(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """Return the value that a share of the reads does not exceed, as Prometheus interpolates it."""
    wanted = share * buckets[-1][1]
    for (low, below), (bound, count) in _with_start(buckets):
        if count >= wanted:
            upper = low if bound == float("inf") else bound
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return round((low + (upper - low) * inside) * 1000, 2)
    return round(buckets[-1][0] * 1000, 2)


def _with_start(
    buckets: Sequence[tuple[float, float]],
) -> Iterable[tuple[tuple[float, float], tuple[float, float]]]:
    return pairwise([(0.0, 0.0), *buckets])
