"""A replica's lag in positions and seconds, by a clock of the test."""

import pytest

from projections.settings import LagMax
from service.replicas.lag import Lag


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def observed(lag: Lag, clock: Clock, replica: int, primary: int, *, after_s: float = 0.0, heard: bool = True) -> Lag:
    clock.s += after_s
    lag.observe(replica, primary, primary_is_heard=heard)
    return lag


def test_a_level_replica_has_no_lag(clock: Clock) -> None:
    lag = observed(Lag(LagMax(None, 1.0), clock), clock, 7, 7)
    assert (lag.events, lag.seconds, lag.is_near) == (0, 0.0, True)


def test_a_replica_counts_as_near_only_once_it_was_level(clock: Clock) -> None:
    lag = observed(Lag(LagMax(None, 60.0), clock), clock, 1, 9)
    assert not lag.is_near
    observed(lag, clock, 9, 12, after_s=1)
    assert (lag.events, lag.seconds, lag.is_near) == (3, 1.0, True)


def test_the_seconds_count_from_when_the_replica_was_last_level(clock: Clock) -> None:
    lag = observed(Lag(LagMax(None, 2.0), clock), clock, 5, 5)
    for _ in range(4):
        observed(lag, clock, 5, 6, after_s=0.5)
    assert (lag.seconds, lag.is_near) == (2.0, True)
    observed(lag, clock, 5, 6, after_s=0.5)
    assert not lag.is_near
    observed(lag, clock, 6, 6, after_s=0.5)
    assert (lag.seconds, lag.is_near) == (0.0, True)


def test_a_replica_that_follows_a_growing_stream_stays_near(clock: Clock) -> None:
    lag = observed(Lag(LagMax(None, 1.0), clock), clock, 0, 0)
    for primary in range(1_000, 100_000, 1_000):
        observed(lag, clock, primary - 500, primary, after_s=0.3)
        assert lag.is_near
    assert lag.events == 500


def test_positions_are_limited_if_positions_are_configured(clock: Clock) -> None:
    lag = Lag(LagMax(10, None), clock)
    assert observed(lag, clock, 90, 100).is_near
    assert not observed(lag, clock, 89, 100, after_s=0.1).is_near


def test_the_lag_is_not_judged_while_the_primary_is_not_heard(clock: Clock) -> None:
    lag = observed(Lag(LagMax(None, 1.0), clock), clock, 5, 6)
    observed(lag, clock, 6, 7, after_s=0.1)
    for _ in range(50):
        assert observed(lag, clock, 6, 7, after_s=1, heard=False).is_near
    assert observed(lag, clock, 6, 7, after_s=0.5).is_near
    assert not observed(lag, clock, 6, 7, after_s=1).is_near
