"""Verdicts and percentiles: what the table says has to follow from the figures."""

from benchmarks.findings import Findings
from benchmarks.load import Load, median
from benchmarks.report import page
from benchmarks.rows import Row, Target, figure, judged, percentile


def test_a_percentile_is_a_value_that_was_measured_and_the_last_one_at_most() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 100
    assert percentile([5.0], 1.0) == 5.0


def test_a_target_is_met_at_its_bound_and_missed_just_beyond_it() -> None:
    assert Target(at_least=0.6).met(0.6)
    assert not Target(at_least=0.6).met(0.59)
    assert Target(at_most=100, unit="ms").met(100)
    assert not Target(at_most=100, unit="ms").met(101)
    assert str(Target(at_least=60_000, unit="events/s")) == "≥ 60,000 events/s"


def test_the_unrounded_figure_is_judged_not_the_one_that_is_shown() -> None:
    row = judged("R1", "hot reads", "ours", "bound", ratio=0.5999, target=Target(at_least=0.6))

    assert (row.ratio, row.verdict) == ("0.60 ×", "missed")
    assert figure("M1", "memory", 300.4, target=Target(at_most=300, unit="MB")).verdict == "missed"
    assert Row("", "no target", "1").verdict == ""


def test_of_several_rounds_the_middle_one_counts_and_of_two_the_slower() -> None:
    loads = [Load(rate, [1.0]) for rate in (30.0, 10.0, 20.0)]

    assert median(loads).rate == 20.0
    assert median(loads[:2]).rate == 10.0


def test_rows_stand_in_the_order_of_their_numbers_and_those_without_one_last() -> None:
    rows = [Row(number, "what", "ours") for number in ("", "M1", "W2", "R1", "W1", "R4")]

    assert [row.number for row in Findings(rows).in_order()] == ["R1", "R4", "W1", "W2", "M1", ""]


def test_the_page_has_every_row_and_nothing_left_to_fill_in() -> None:
    rows = [judged("R1", "hot | reads", "ours", "bound", ratio=1, target=Target(at_least=0.6)), Row("", "more", "1 s")]

    text = page(rows, ["a machine"])

    assert "| R1 | hot \\| reads | ours | bound | 1.00 × | ≥ 0.6 × | met |" in text
    assert "Of 1 targets 1 were met." in text
    assert "- a machine" in text
    assert "{" not in text
