"""The plots of docs/benchmarks: throughput, latency, and how cost grows with a customer and with the data set."""

import math
from collections.abc import Mapping
from typing import Final

from benchmarks.deep_pages import Growth
from benchmarks.findings import Findings
from benchmarks.load import Load
from benchmarks.svg import Axis, Curve, bars, curves, decades

LOOKS: Final = {"ours": "ours", "FastAPI": "peer", "FastStream": "peer"}
GROWTH_LOOKS: Final = {
    "ours, page 1": "ours",
    "ours, last page": "ours dashed",
    "ours, by cursor": "ours thin",
    "FastAPI, page 1": "peer",
    "FastAPI, last page": "peer dashed",
}
# What is drawn of scale.json: the look of the curve, and whether the figure is a rate, whose inverse is the cost.
SCALE_CURVES: Final = {
    "page 1, ms": ("ours", False),
    "last page, ms": ("ours dashed", False),
    "cold reads/s": ("peer", True),
    "mixed events applied/s": ("bound", True),
    "rebuild, events/s": ("bound dashed", True),
    "disk, bytes a membership": ("peer dashed", False),
}


def plots(findings: Findings) -> dict[str, str]:
    """Return the plots as SVG by file name."""
    return {
        "throughput.svg": bars("What is done in a second", findings.rates, LOOKS),
        "latency.svg": _latency(findings.loads),
        "growth.svg": _growth(findings.growth),
    }


def _latency(loads: Mapping[str, Mapping[str, Load]]) -> str:
    drawn = [
        Curve(
            f"{system}, {kind} reads",
            LOOKS[system] + ("" if kind == "hot" else " dashed"),
            [(ms, share) for share, ms in enumerate(load.percentiles_ms, start=1)],
        )
        for kind, by_system in loads.items()
        for system, load in by_system.items()
        if system in LOOKS
    ]
    across = decades("milliseconds until the answer, logarithmic", (ms for curve in drawn for ms, _ in curve.points))
    up = Axis("% of answers", 0, 100, range(0, 101, 20))
    return curves("How long readers wait at full load", across, up, drawn)


def _growth(growth: list[Growth]) -> str:
    drawn = [Curve(series.what, GROWTH_LOOKS[series.what], list(series.points.items())) for series in growth]
    memberships = (count for series in growth for count in series.points)
    across = decades("memberships of the customer, logarithmic", memberships)
    up = decades("milliseconds, logarithmic", (ms for series in growth for ms in series.points.values()))
    return curves("What a page costs as its customer grows", across, up, drawn)


def scale_plot(kept: Mapping[str, Mapping[str, float | str]]) -> str:
    """Return the plot of the figures kept for each size: the cost of each, divided by that at the smallest size."""
    sizes = sorted(map(int, kept))
    drawn = []
    for name, (look, is_rate) in SCALE_CURVES.items():
        figures = [float(kept[str(size)][name]) for size in sizes]
        costs = [1 / figure if is_rate else figure for figure in figures]
        drawn.append(Curve(name, look, [(size, cost / costs[0]) for size, cost in zip(sizes, costs, strict=True)]))
    highest = math.ceil(max(cost for curve in drawn for _, cost in curve.points))
    across = decades("memberships, logarithmic", sizes)
    up = Axis("cost, times that of the smallest size", 0, highest, range(highest + 1))
    return curves("What one unit costs as the data set grows", across, up, drawn)
