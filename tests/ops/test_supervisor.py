"""The restart pauses of the dev stack's supervisor leave enough time for the start itself."""

from itertools import accumulate, repeat

from ops.devstack.supervisor import FAILED_PAUSE_MAX_S, READY_AGAIN_S, START_ALLOWED_S, next_pause_s


def test_pause_and_start_stay_within_the_limit_after_many_kills() -> None:
    pauses = list(accumulate(repeat(None, 100), lambda pause, _: next_pause_s(pause), initial=0.0))
    assert max(pauses) + START_ALLOWED_S < READY_AGAIN_S


def test_the_first_restart_is_immediate_and_later_ones_wait_longer() -> None:
    first, second, third = list(accumulate(repeat(None, 2), lambda pause, _: next_pause_s(pause), initial=0.0))
    assert first == 0.0 < second < third


def test_a_child_that_fails_by_itself_is_restarted_ever_less_often() -> None:
    pauses = list(accumulate(repeat(None, 20), lambda pause, _: next_pause_s(pause, failed=True), initial=0.0))
    assert pauses == sorted(pauses)
    assert pauses[-1] == FAILED_PAUSE_MAX_S
    assert sum(pauses[:10]) > 10 * READY_AGAIN_S / 2
    assert next_pause_s(FAILED_PAUSE_MAX_S) < 1, "a kill after failures is restarted soon"
