"""How fast a job may work: as fast as it can, at a rate, or yielding to readers.

Invariants: while no API process reads, nothing is held back; while one does, the share of time that is worked falls
with every read that is slower than at rest and rises slowly with every other, so that it settles where one read in a
hundred is slowed down. The reads are those of probe.py.
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
"""A unit of work under a rate takes about so long, its rest included: progress stays smooth, and a cancel is heard."""
SLOWER_MAX: Final = 1.5
"""A read is slowed down if it takes longer than this multiple of what all but a twentieth take at rest."""
SLOWED_SHARE: Final = 0.01
"""How many reads may be slowed down."""
FALL: Final = 0.7
RISE: Final = FALL ** (-SLOWED_SHARE / (1 - SLOWED_SHARE))
"""What a slowed read and any other one do to the share of time that is worked; they balance at `SLOWED_SHARE`."""
SHARE_FIRST: Final = 0.05
SHARE_MIN: Final = 0.005
"""A job always goes on, however slowly; it is told to hurry if events come faster than it replays them."""
SHOWN_READS: Final = 300
"""Probes of the last half minute: what the displayed percentile is taken of."""
NICENESS: Final = 19
"""What this process asks of the scheduler: where it shares a machine with the API, the API goes first."""


class Pace:
    """As fast as it goes, or at most so many events a second. Use as an async context manager around the work."""

    def __init__(self, max_rate: int | None = None) -> None:
        self._max_rate = max_rate

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    async def pause_after(self, took_s: float, events: int = 0) -> None:
        """Rest after a unit of work that took so long, of so many events."""
        if self._max_rate is not None and events:
            await asyncio.sleep(max(0.0, events / self._max_rate - took_s))

    def events_at_once(self, events: int) -> int:
        """Return how many events a unit of work may have: no more than a fraction of a second's worth."""
        return events if self._max_rate is None else max(1, min(events, int(self._max_rate * UNIT_S)))

    def raise_minimum_share(self) -> None:
        """Be told that the work is not gaining on what it follows."""

    @property
    def small_batches(self) -> bool:
        """Whether units of work should be short."""
        return False

    @property
    def reads_p99_ms(self) -> float | None:
        """What the dearest hundredth of reads cost lately; None when nobody watches."""
        return None


class Throttle(Pace):
    """A pace that yields to readers."""

    def __init__(self, database_url: str, max_rate: int | None = None) -> None:
        super().__init__(max_rate)
        self._database_url = database_url
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
            start_new_session=True,  # Ctrl-C is for the job, which ends it
        )
        os.nice(NICENESS)  # behind the probe's start: it must not be nicer than readers are
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
        """Rest after a unit of work, as long as readers need and the rate allows."""
        rest_s = took_s * (1 - self._share) / self._share if self._busy else 0.0
        await asyncio.sleep(rest_s)
        await super().pause_after(took_s + rest_s, events)

    def raise_minimum_share(self) -> None:
        """Rest less from now on, whatever readers feel: a job that never ends spares nobody."""
        self._share_min = min(1.0, max(self._share_min, self._share) * 2)
        self._share = max(self._share, self._share_min)

    @property
    def small_batches(self) -> bool:
        return self._busy

    @property
    def reads_p99_ms(self) -> float | None:
        return _percentile(self._read_times_ms, 0.99) if self._read_times_ms else None

    async def _read_probe(self, probe: asyncio.subprocess.Process) -> None:
        assert probe.stdout is not None  # noqa: S101 - a pipe was asked for
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
