"""Controls how fast a job works: at full speed, at a fixed rate, or yielding to readers.

Invariants: while no API process reads, the job is not slowed down. While one does, the share of time spent working
falls after every read slower than at rest and rises slightly after every other read, so it settles where one read in a
hundred is slowed down. probe.py measures the reads.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from ops.rebuild.probe import AT_REST_EVERY_S, AT_REST_READS

UNIT_S: Final = 0.25
"""Duration of a unit of work under a rate, pause included: short enough for smooth progress and prompt cancellation."""
SLOWER_MAX: Final = 1.5
"""A read counts as slowed down if it takes longer than this multiple of the 95th percentile at rest."""
SLOWED_SHARE: Final = 0.01
"""The share of reads that may be slowed down."""
FALL: Final = 0.7
RISE: Final = FALL ** (-SLOWED_SHARE / (1 - SLOWED_SHARE))
"""Factors applied to the share of time worked after a slow and after any other read; they balance at `SLOWED_SHARE`."""
SHARE_FIRST: Final = 0.05
SHARE_MIN: Final = 0.005
"""A job never stops entirely; `raise_minimum_share` speeds it up if events arrive faster than it replays them."""
SHOWN_READS: Final = 300
"""Reads of the last half minute, from which the displayed percentile is computed."""
NICENESS: Final = 19
"""Scheduling priority of this process: on a shared machine the API takes precedence."""


class Pace:
    """Full speed, or at most `max_rate` events per second. Use as an async context manager around the work."""

    def __init__(self, max_rate: int | None = None) -> None:
        self._max_rate = max_rate

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    async def pause_after(self, took_s: float, events: int = 0) -> None:
        """Pause after a unit of work of `events` events that took `took_s` seconds."""
        if self._max_rate is not None and events:
            await asyncio.sleep(max(0.0, events / self._max_rate - took_s))

    def events_at_once(self, events: int) -> int:
        """Return how many events a unit of work may have: at most `UNIT_S` worth of the rate."""
        return events if self._max_rate is None else max(1, min(events, int(self._max_rate * UNIT_S)))

    def raise_minimum_share(self) -> None:
        """Allow more work per unit of time: the job is not gaining on the live generation."""

    @property
    def small_batches(self) -> bool:
        """Whether units of work should be short."""
        return False

    @property
    def reads_p99_ms(self) -> float | None:
        """The 99th percentile of recent reads; None without measurements."""
        return None


class Throttle(Pace):
    """A pace that yields to readers."""

    def __init__(self, database_url: str, max_rate: int | None = None, *, niceness: int = NICENESS) -> None:
        super().__init__(max_rate)
        self._database_url = database_url
        self._niceness = niceness
        """Added to this process's niceness, for good: 0 in a process that also does other work."""
        self._share = SHARE_FIRST
        self._share_min = SHARE_MIN
        self._busy = True
        self._limit_ms: float | None = None
        self._read_times_ms: deque[float] = deque(maxlen=SHOWN_READS)
        self._ready = asyncio.Event()
        self._probe: asyncio.subprocess.Process | None = None
        self._reader_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._probe = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ops.rebuild.probe",
            env=os.environ | {"MEMBERSHIP_DATABASE_URL": self._database_url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must reach only the job, which then ends the probe
        )
        os.nice(self._niceness)  # after the probe starts: it must run at the same priority as readers
        self._reader_task = asyncio.create_task(self._read_probe(self._probe), name="throttle")
        with suppress(TimeoutError):
            async with asyncio.timeout(3 * AT_REST_READS * AT_REST_EVERY_S):
                await self._ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader_task is not None and self._probe is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
            with suppress(ProcessLookupError):
                self._probe.kill()
            await self._probe.wait()
        await super().__aexit__(kind, error, trace)

    async def pause_after(self, took_s: float, events: int = 0) -> None:
        """Pause after a unit of work, as long as readers and the rate require."""
        pause_s = took_s * (1 - self._share) / self._share if self._busy else 0.0
        await asyncio.sleep(pause_s)
        await super().pause_after(took_s + pause_s, events)

    def raise_minimum_share(self) -> None:
        """Raise the minimum share of work, even if reads slow down, so that the job outpaces new events."""
        self._share_min = min(1.0, max(self._share_min, self._share) * 2)
        self._share = max(self._share, self._share_min)

    @property
    def small_batches(self) -> bool:
        return self._busy

    @property
    def reads_p99_ms(self) -> float | None:
        return _percentile(self._read_times_ms, 0.99) if self._read_times_ms else None

    async def _read_probe(self, probe: asyncio.subprocess.Process) -> None:
        assert probe.stdout is not None  # noqa: S101 - created with a pipe
        async for line in probe.stdout:
            took_ms, busy = line.split()
            self._busy = busy == b"1"
            self._record_read(float(took_ms))

    def _record_read(self, took_ms: float) -> None:
        self._read_times_ms.append(took_ms)
        if self._limit_ms is not None:
            slowed = took_ms > self._limit_ms
            self._share = max(self._share_min, self._share * FALL) if slowed else min(1.0, self._share * RISE)
        elif len(self._read_times_ms) == AT_REST_READS:
            self._limit_ms = SLOWER_MAX * _percentile(self._read_times_ms, 0.95)
            self._ready.set()


def _percentile(values: Sequence[float] | deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
