"""Refusals are sent at once up to a rate; further ones are spaced, none for longer than the API promises."""

from service.refusal_pace import AT_ONCE_PER_S, BURST, HELD_MAX_S, RefusalPace


def test_refusals_up_to_the_rate_are_sent_at_once() -> None:
    pace = RefusalPace()
    delays = [pace.delay_s(now_s=100 + number / AT_ONCE_PER_S) for number in range(10 * AT_ONCE_PER_S)]
    assert max(delays) <= 0


def test_a_burst_is_sent_at_once_and_the_rest_at_the_rate() -> None:
    pace = RefusalPace()
    delays = [pace.delay_s(now_s=100) for _ in range(BURST + 300)]
    assert sum(delay > 1e-9 for delay in delays) == 300
    assert abs(max(delays) - 300 / AT_ONCE_PER_S) < 1e-6


def test_no_refusal_is_held_longer_than_the_limit() -> None:
    pace = RefusalPace()
    delays = [pace.delay_s(now_s=100) for _ in range(10 * AT_ONCE_PER_S)]
    assert max(delays) <= HELD_MAX_S
