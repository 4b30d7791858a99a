"""Customers are drawn by Zipf's law, and the same ones on every call."""

from collections import Counter

import pytest

from benchmarks.zipf import drawn

CUSTOMERS = [f"customer-{number}" for number in range(1_000)]


def test_a_draw_is_reproducible() -> None:
    assert drawn(CUSTOMERS, 500) == drawn(CUSTOMERS, 500)
    assert drawn(CUSTOMERS, 500) != drawn(CUSTOMERS, 500, seed=12)


@pytest.mark.parametrize("exponent", [0.8, 1.1, 1.5])
def test_the_exponent_sets_the_ratio_of_first_to_tenth(exponent: float) -> None:
    counts = [times for _, times in Counter(drawn(CUSTOMERS, 400_000, exponent=exponent)).most_common(10)]

    assert counts[0] / counts[9] == pytest.approx(10**exponent, rel=0.1)


def test_popularity_does_not_follow_the_order_of_customers() -> None:
    draws = drawn(CUSTOMERS, 5_000)

    assert set(draws) <= set(CUSTOMERS)
    assert Counter(draws).most_common(1)[0][0] != CUSTOMERS[0]
