"""Percentiles, verdicts and the page: the table must follow from the figures."""

from benchmarks.findings import Findings
from benchmarks.load import Load, median
from benchmarks.report import page
from benchmarks.rows import Row, Target, figure, judged, percentile


def test_a_percentile_is_one_of_the_measured_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 100
    assert percentile([5.0], 1.0) == 5.0


def test_a_target_is_met_at_its_bound_and_missed_beyond_it() -> None:
    assert Target(at_least=0.6).met(0.6)
    assert not Target(at_least=0.6).met(0.59)
    assert Target(at_most=100, unit="ms").met(100)
    assert not Target(at_most=100, unit="ms").met(101)
    assert str(Target(at_least=60_000, unit="events/s")) == "≥ 60,000 events/s"


def test_the_exact_figure_is_judged_not_the_rounded_one() -> None:
    row = judged("R1", "hot reads", "ours", "bound", ratio=0.5999, target=Target(at_least=0.6))

    assert (row.ratio, row.verdict) == ("0.60 ×", "missed")
    assert figure("M1", "memory", 300.4, target=Target(at_most=300, unit="MB")).verdict == "missed"
    assert Row("", "no target", "1").verdict == ""


def test_the_median_round_counts_and_of_two_the_slower() -> None:
    loads = [Load(rate, [1.0]) for rate in (30.0, 10.0, 20.0)]

    assert median(loads).rate == 20.0
    assert median(loads[:2]).rate == 10.0


def test_rows_are_sorted_by_number_and_unnumbered_rows_come_last() -> None:
    rows = [Row(number, "what", "ours") for number in ("", "M1", "W2", "R1", "W1", "R4")]

    assert [row.number for row in Findings(rows).in_order()] == ["R1", "R4", "W1", "W2", "M1", ""]


def test_the_page_has_every_row_and_no_placeholder_left() -> None:
    rows = [judged("R1", "hot | reads", "ours", "bound", ratio=1, target=Target(at_least=0.6)), Row("", "more", "1 s")]

    text = page(rows, ["a machine"], [])

    assert "| R1 | hot \\| reads | ours | bound | 1.00 × | ≥ 0.6 × | met |" in text
    assert "Of 1 targets 1 were met." in text
    assert "- a machine" in text
    assert "{" not in text
