"""Plots are well-formed XML, with every point at the position of its value."""

import re
from xml.etree import ElementTree as ET

import pytest

from benchmarks.plots import SCALE_CURVES, scale_plot
from benchmarks.svg import LEFT, RIGHT, WIDTH, Axis, Curve, bars, curves, decades

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def test_a_logarithmic_axis_spans_decades_and_places_by_logarithm() -> None:
    axis = decades("ms", [0.4, 25.0])

    assert (axis.low, axis.high) == (0.1, 100.0)
    assert axis.ticks == [0.1, 1.0, 10.0, 100.0]
    assert axis.share(1.0) == pytest.approx(1 / 3)
    assert axis.share(0.0001 + 0.0999) == pytest.approx(0.0)
    assert axis.share(1_000) == 1.0


def test_an_axis_of_one_value_still_has_a_length() -> None:
    assert decades("ms", [10.0]).share(10.0) == 0.0
    assert Axis("%", 0, 100, [0, 100]).share(25) == 0.25


def test_curves_span_the_plot_and_are_named_in_the_legend() -> None:
    flat = Axis("x & y", 0, 10, [0, 10])

    drawn = ET.fromstring(curves("A < B", flat, flat, [Curve("ours <1>", "ours", [(0, 0), (10, 10)])]))  # noqa: S314

    texts = [text.text for text in drawn.findall("svg:text", NAMESPACE)]
    assert {"A < B", "ours <1>", "x & y"} <= set(texts)
    path = drawn.findall("svg:polyline", NAMESPACE)[0].attrib["points"]
    assert [float(x) for x in re.findall(r"([\d.]+),", path)] == [LEFT, WIDTH - RIGHT]


def test_bar_lengths_are_proportional_within_each_panel() -> None:
    panels = {"reads": {"bound": 200.0, "ours": 100.0}, "events": {"ours": 7.0}}

    drawn = ET.fromstring(bars("A second", panels, {"ours": "ours"}))  # noqa: S314

    rectangles = [rect.attrib for rect in drawn.findall("svg:rect", NAMESPACE) if "bar" in rect.attrib["class"]]
    assert [rect["class"] for rect in rectangles] == ["bar bound", "bar ours", "bar ours"]
    lengths = [float(rect["width"]) for rect in rectangles]
    assert lengths == [lengths[0], lengths[0] / 2, lengths[0]]


def test_the_plot_of_sizes_draws_the_cost_of_one_unit() -> None:
    small: dict[str, float | str] = dict.fromkeys(SCALE_CURVES, 4.0)
    large = small | {"cold reads/s": 2.0, "page 1, ms": 6.0}

    drawn = ET.fromstring(scale_plot({"100000": small, "1000000": large}))  # noqa: S314 - made here

    heights = [
        float(polyline.attrib["points"].split()[-1].split(",")[1])
        for polyline in drawn.findall("svg:polyline", NAMESPACE)[::2]  # every other line is in the legend
    ]
    page, unchanged, reads = heights[:3]
    assert reads < page < unchanged  # half the rate is twice the cost, which is higher up
