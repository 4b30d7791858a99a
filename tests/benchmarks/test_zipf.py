"""Readers are drawn as Zipf's law has it, and the same ones every time."""

from collections import Counter

import pytest

from benchmarks.zipf import drawn

CUSTOMERS = [f"customer-{number}" for number in range(1_000)]


def test_the_same_draw_comes_out_every_time() -> None:
    assert drawn(CUSTOMERS, 500) == drawn(CUSTOMERS, 500)
    assert drawn(CUSTOMERS, 500) != drawn(CUSTOMERS, 500, seed=12)


@pytest.mark.parametrize("exponent", [0.8, 1.1, 1.5])
def test_the_first_is_drawn_as_much_more_often_than_the_tenth_as_the_exponent_says(exponent: float) -> None:
    often = [times for _, times in Counter(drawn(CUSTOMERS, 400_000, exponent=exponent)).most_common(10)]

    assert often[0] / often[9] == pytest.approx(10**exponent, rel=0.1)


def test_only_customers_are_drawn_and_popularity_is_not_their_order() -> None:
    draws = drawn(CUSTOMERS, 5_000)

    assert set(draws) <= set(CUSTOMERS)
    assert Counter(draws).most_common(1)[0][0] != CUSTOMERS[0]
