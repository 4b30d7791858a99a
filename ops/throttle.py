"""Keeps a job from slowing readers down: watches what a read costs in PostgreSQL, and rests as much as that asks for.

Reads: the live generation, the very statement the API asks, a few times a second, for customers picked at random.
Invariants: while no API process reads, nothing is held back; while one does, the share of time that is worked falls
whenever a read costs more than at rest, and rises again when it does not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import asyncpg

from projections import database
from projections.queries import Generation, for_generation
from service.parameters import ListRequest
from service.reads import Shape, page_statement

UNIT_S: Final = 0.25
"""A unit of work under a rate takes about so long, its rest included: progress stays smooth, and a cancel is heard."""
PROBE_EVERY_S: Final = 0.025
BASELINE_S: Final = 1.5
"""How long reads are watched at rest before the work begins."""
BASELINE_AGAIN_EVERY_S: Final = 20.0
BASELINE_AGAIN_S: Final = 0.5
READERS_ASKED_EVERY_S: Final = 1.0
READERS_IDLE_S: Final = 5.0
"""No read of any API process for so long: nobody is there to be slowed down."""
DEARER_MAX: Final = 1.25
"""What a read may cost at the 90th percentile, as a multiple of rest, before the job rests more."""
SHARE_MIN: Final = 0.02
"""A job always goes on, however slowly."""
WINDOW_READS: Final = 40
SHOWN_READS: Final = 1_200
"""Probes of the last half minute: what the displayed percentile is taken of."""
SAMPLE: Final = 64


class Pace:
    """How fast a job may work. Use as an async context manager around the work."""

    def __init__(self, max_rate: int | None = None) -> None:
        self._max_rate = max_rate

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        pass

    async def worked(self, took_s: float, events: int = 0) -> None:
        """Rest after a unit of work that took so long, of so many events."""
        if self._max_rate is not None and events:
            await asyncio.sleep(max(0.0, events / self._max_rate - took_s))

    def events_at_once(self, events: int) -> int:
        """Return how many events a unit of work may have: no more than a fraction of a second's worth."""
        return events if self._max_rate is None else max(1, min(events, int(self._max_rate * UNIT_S)))

    @property
    def gentle(self) -> bool:
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
        self._share = 0.1
        self._busy = True
        self._resting = True
        self._rest_ms: float | None = None
        self._window: deque[float] = deque(maxlen=WINDOW_READS)
        self._shown: deque[float] = deque(maxlen=SHOWN_READS)
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._measured_at = time.monotonic()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch_for_ever(), name="throttle")
        with suppress(TimeoutError):
            async with asyncio.timeout(BASELINE_S):
                await self._ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await super().__aexit__(kind, error, trace)

    async def worked(self, took_s: float, events: int = 0) -> None:
        """Rest after a unit of work, as long as readers need and the rate allows."""
        rest_s = took_s * (1 - self._share) / self._share if self._busy else 0.0
        if self._busy and time.monotonic() - self._measured_at > BASELINE_AGAIN_EVERY_S:
            await self._measure_rest(BASELINE_AGAIN_S)
        self._resting = rest_s > 0
        await asyncio.sleep(rest_s)
        self._resting = False
        await super().worked(took_s + rest_s, events)

    @property
    def gentle(self) -> bool:
        return self._busy

    @property
    def reads_p99_ms(self) -> float | None:
        return _percentile(self._shown, 0.99) if self._shown else None

    async def _measure_rest(self, seconds: float) -> None:
        self._measured_at = time.monotonic()
        before = self._rest_ms
        self._window.clear()
        await asyncio.sleep(seconds)
        if self._window:
            found = _percentile(self._window, 0.9)
            self._rest_ms = found if before is None else (before + found) / 2
        self._window.clear()

    async def _watch_for_ever(self) -> None:
        while True:
            with suppress(*database.UNAVAILABLE, asyncpg.PostgresError):
                connection = await database.connect(self._database_url, "membership-throttle")
                try:
                    with database.closed_is_unavailable(connection):
                        await self._watch(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(1)

    async def _watch(self, connection: asyncpg.Connection) -> None:
        asked_at = 0.0
        began = time.monotonic()
        while True:
            name = Generation(await connection.fetchval("SELECT generation FROM control.live"))
            customers = await _sample(connection, name)
            statement = page_statement(name, Shape("enrolled_at", "desc", after=False, counted=False))
            for customer in customers or ["00000000-0000-0000-0000-000000000000"]:
                if time.monotonic() - asked_at > READERS_ASKED_EVERY_S:
                    asked_at = time.monotonic()
                    self._busy = await _anyone_reads(connection)
                request = ListRequest(customer)
                arguments = (customer, None, False, request.limit, 0, None, None, None)
                asked = time.perf_counter()
                await connection.fetchrow(statement, *arguments)
                self._learn((time.perf_counter() - asked) * 1000)
                if self._rest_ms is None and time.monotonic() - began > BASELINE_S * 0.8:
                    self._rest_ms = _percentile(self._window, 0.9)
                    self._window.clear()
                    self._ready.set()
                await asyncio.sleep(PROBE_EVERY_S)

    def _learn(self, took_ms: float) -> None:
        self._window.append(took_ms)
        self._shown.append(took_ms)
        if self._rest_ms is None or len(self._window) < WINDOW_READS // 2:
            return
        if _percentile(self._window, 0.9) > self._rest_ms * DEARER_MAX:
            self._share = max(SHARE_MIN, self._share * 0.8)
            self._window.clear()
        else:
            self._share = min(1.0, self._share * 1.05)


async def _anyone_reads(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'membership-api' "
            "AND datname = current_database() AND state_change > clock_timestamp() - make_interval(secs => $1))",
            READERS_IDLE_S,
        )
    )


async def _sample(connection: asyncpg.Connection, name: Generation) -> list[str]:
    """Return customers from all over the table; cheap, whatever its size."""
    rows = await connection.fetch(
        for_generation(
            "SELECT customer_id::text FROM {generation}.customer WHERE customer_id >= gen_random_uuid() "
            "ORDER BY customer_id LIMIT $1",
            name,
        ),
        SAMPLE,
    )
    return [row["customer_id"] for row in rows]


def _percentile(values: Sequence[float] | deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
