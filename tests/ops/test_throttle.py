"""The throttle yields to slow reads, recovers after fast ones, and keeps the share of time worked within bounds."""

import asyncio
import math
import time

import pytest

from ops.rebuild.probe import AT_REST_READS
from ops.rebuild.throttle import (
    FALL,
    RISE,
    SHARE_FIRST,
    SHARE_MIN,
    SLOWED_SHARE,
    SLOWER_MAX,
    UNIT_S,
    Pace,
    Throttle,
)

FAST_MS = 1.0
SLOW_MS = SLOWER_MAX * FAST_MS + 0.1


class ScriptedThrottle(Throttle):
    """A throttle without a probe process; the test supplies the measured reads."""

    def __init__(self, max_rate: int | None = None, *, calibrated: bool = True) -> None:
        super().__init__("postgresql://unused", max_rate)
        if calibrated:
            self.reads(*[FAST_MS] * AT_REST_READS)

    def reads(self, *took_ms: float) -> None:
        for read_ms in took_ms:
            self._record_read(read_ms)

    def report_readers(self, *, busy: bool) -> None:
        self._busy = busy

    @property
    def share(self) -> float:
        return self._share


class FinishedProbe:
    """The output of a probe process that has ended."""

    def __init__(self, *lines: bytes) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(b"".join(lines))
        self.stdout.feed_eof()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the requested pauses instead of sleeping."""
    requested: list[float] = []

    async def record(delay_s: float) -> None:
        requested.append(delay_s)

    monkeypatch.setattr("asyncio.sleep", record)
    return requested


def test_reads_at_rest_set_the_limit_and_leave_the_share_unchanged() -> None:
    pace = ScriptedThrottle(calibrated=False)
    pace.reads(*[FAST_MS] * AT_REST_READS)
    assert pace.share == SHARE_FIRST
    pace.reads(SLOWER_MAX * FAST_MS)  # exactly at the limit is not slowed down
    assert pace.share == pytest.approx(SHARE_FIRST * RISE)


def test_the_limit_ignores_the_slowest_reads_at_rest() -> None:
    pace = ScriptedThrottle(calibrated=False)
    outliers = AT_REST_READS // 20 - 1
    pace.reads(*[50.0] * outliers, *[FAST_MS] * (AT_REST_READS - outliers))
    pace.reads(SLOW_MS)
    assert pace.share == pytest.approx(SHARE_FIRST * FALL)


def test_the_share_falls_after_a_slow_read_and_rises_after_others() -> None:
    pace = ScriptedThrottle()
    pace.reads(SLOW_MS)
    assert pace.share == pytest.approx(SHARE_FIRST * FALL)
    pace.reads(FAST_MS, FAST_MS)
    assert pace.share == pytest.approx(SHARE_FIRST * FALL * RISE**2)


def test_the_share_settles_at_one_slow_read_in_a_hundred() -> None:
    pace = ScriptedThrottle()
    period = round(1 / SLOWED_SHARE)
    for _ in range(10):
        pace.reads(SLOW_MS, *[FAST_MS] * (period - 1))
    assert pace.share == pytest.approx(SHARE_FIRST)
    pace.reads(*[SLOW_MS, *[FAST_MS] * (period // 2 - 1)] * 2)
    assert pace.share < SHARE_FIRST


def test_the_share_stays_within_its_bounds() -> None:
    pace = ScriptedThrottle()
    pace.reads(*[SLOW_MS] * 100)
    assert pace.share == SHARE_MIN
    to_full = math.ceil(math.log(1 / SHARE_MIN) / math.log(RISE))
    pace.reads(*[FAST_MS] * to_full)
    assert pace.share == 1.0
    pace.reads(*[FAST_MS] * 10)
    assert pace.share == 1.0


def test_raising_the_minimum_doubles_the_share_and_slow_reads_keep_it() -> None:
    pace = ScriptedThrottle()
    pace.raise_minimum_share()
    assert pace.share == pytest.approx(2 * SHARE_FIRST)
    pace.reads(*[SLOW_MS] * 100)
    assert pace.share == pytest.approx(2 * SHARE_FIRST)
    for _ in range(10):
        pace.raise_minimum_share()
    assert pace.share == 1.0
    pace.reads(SLOW_MS)
    assert pace.share == 1.0


async def test_the_pause_is_proportional_to_the_share(pauses: list[float]) -> None:
    pace = ScriptedThrottle()
    await pace.pause_after(0.1)
    assert pace.small_batches
    assert pauses == [pytest.approx(0.1 * (1 - SHARE_FIRST) / SHARE_FIRST)]
    assert 0.1 / (0.1 + pauses[0]) == pytest.approx(SHARE_FIRST)


async def test_without_readers_a_job_is_not_slowed_down(pauses: list[float]) -> None:
    pace = ScriptedThrottle()
    pace.report_readers(busy=False)
    await pace.pause_after(0.1, 1_000)
    assert not pace.small_batches
    assert sum(pauses) == 0


async def test_the_probe_output_sets_reads_and_presence_of_readers() -> None:
    pace = ScriptedThrottle(calibrated=False)
    await pace._read_probe(FinishedProbe(b"2.500 1\n", b"3.500 0\n"))  # type: ignore[arg-type]
    assert not pace.small_batches
    assert pace.reads_p99_ms == 3.5


def test_the_percentile_is_unknown_before_the_first_read() -> None:
    assert ScriptedThrottle(calibrated=False).reads_p99_ms is None
    assert Pace().reads_p99_ms is None


async def test_a_rate_pauses_for_the_remaining_time(pauses: list[float]) -> None:
    pace = Pace(max_rate=100)
    await pace.pause_after(0.04, 10)
    await pace.pause_after(0.5, 10)
    await pace.pause_after(0.5)
    assert pauses == [pytest.approx(0.06), 0.0]


async def test_a_rate_counts_the_pause_for_readers(pauses: list[float]) -> None:
    pace = ScriptedThrottle(max_rate=100)
    await pace.pause_after(0.01, 1_000)
    assert sum(pauses) + 0.01 == pytest.approx(10.0)


async def test_a_rate_limits_real_work() -> None:
    began = time.perf_counter()
    for _ in range(5):
        await Pace(max_rate=1_000).pause_after(0.0, 20)
    assert 0.09 < time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("max_rate", "expected"),
    [(None, 2_000), (100, int(100 * UNIT_S)), (1, 1), (1_000_000, 2_000)],
)
def test_a_rate_limits_the_events_of_a_unit_of_work(max_rate: int | None, expected: int) -> None:
    assert Pace(max_rate).events_at_once(2_000) == expected
