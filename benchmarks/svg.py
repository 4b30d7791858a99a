"""Draws plots as SVG without a library: text, bars and curves, legible in light and dark mode, self-contained."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

WIDTH: Final = 760
LEFT: Final = 70
RIGHT: Final = 42
TOP: Final = 100
PLOT_HEIGHT: Final = 320
BOTTOM: Final = 56
LABELS: Final = 190
"""The left edge of bars, right of their names."""
VALUES: Final = 110
"""Space for the figure after the longest bar."""
BAR: Final = 22
PANEL_HEAD: Final = 40
LEGEND_STEP: Final = 22
DOTTED: Final = 10
"""Curves with at most this many points show them as dots, because nothing was measured in between."""
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.note { fill: #57606a }
.ground { fill: #ffffff }
.grid { stroke: #d0d7de; stroke-width: 1 }
.curve { fill: none; stroke-width: 2.5 }
.dashed { stroke-dasharray: 6 4 }
.ours { stroke: #0969da } .bar.ours { fill: #0969da; stroke: none }
.peer { stroke: #bc4c00 } .bar.peer { fill: #bc4c00; stroke: none }
.bound { stroke: #8c959f } .bar.bound { fill: #8c959f; stroke: none }
.thin { stroke-width: 1.5 }
.dot { fill: #ffffff; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .ground, .dot { fill: #0d1117 }
  .grid { stroke: #30363d }
  .ours { stroke: #58a6ff } .bar.ours { fill: #58a6ff }
  .peer { stroke: #f0883e } .bar.peer { fill: #f0883e }
  .bound { stroke: #6e7681 } .bar.bound { fill: #6e7681 }
}
"""


class Curve(NamedTuple):
    """A line through points, named in the legend; `look` is a list of CSS classes."""

    name: str
    look: str
    points: Sequence[tuple[float, float]]


class Axis(NamedTuple):
    """The range of an axis and the values with a grid line; powers of ten on a logarithmic axis."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 to 1; values out of range are clamped."""
        low, high, at = (math.log10(number) if self.logarithmic else number for number in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))


def decades(name: str, values: Iterable[float]) -> Axis:
    """Return a logarithmic axis from the power of ten below all values to the one above."""
    numbers = list(values)
    low, high = math.floor(math.log10(min(numbers))), math.ceil(math.log10(max(numbers)))
    high = max(high, low + 1)
    return Axis(name, 10.0**low, 10.0**high, [10.0**power for power in range(low, high + 1)], logarithmic=True)


def curves(title: str, x: Axis, y: Axis, drawn: Sequence[Curve]) -> str:
    """Return a plot of curves with its legend between title and plot."""
    rows = math.ceil(len(drawn) / 3)
    top = TOP + (rows - 1) * LEGEND_STEP
    right, bottom = WIDTH - RIGHT, top + PLOT_HEIGHT
    parts = []
    for tick in x.ticks:
        at = LEFT + (right - LEFT) * x.share(tick)
        parts += [_line(at, top, at, bottom), _text(at, bottom + 20, _number(tick), anchor="middle")]
    for tick in y.ticks:
        at = bottom - PLOT_HEIGHT * y.share(tick)
        parts += [_line(LEFT, at, right, at), _text(LEFT - 8, at + 4, _number(tick), anchor="end")]
    parts += [
        _text((LEFT + right) / 2, bottom + 44, x.name, anchor="middle", look="note"),
        _text(LEFT, top - 12, y.name, look="note"),
    ]
    for index, curve in enumerate(drawn):
        at_x, at_y = LEFT + (index % 3) * 220, 58 + index // 3 * LEGEND_STEP
        path = " ".join(
            f"{LEFT + (right - LEFT) * x.share(across):.1f},{bottom - PLOT_HEIGHT * y.share(up):.1f}"
            for across, up in curve.points
        )
        parts += [
            f'<polyline class="curve {curve.look}" points="{path}"/>',
            f'<polyline class="curve {curve.look}" points="{at_x},{at_y - 4} {at_x + 28},{at_y - 4}"/>',
            _text(at_x + 36, at_y, curve.name),
        ]
        if len(curve.points) <= DOTTED:
            colour = curve.look.split(" ")[0]
            spots = (spot.split(",") for spot in path.split(" "))
            parts += [f'<circle class="dot {colour}" r="4" cx="{across}" cy="{up}"/>' for across, up in spots]
    return _document(title, bottom + BOTTOM, parts)


def bars(title: str, panels: dict[str, dict[str, float]], looks: dict[str, str]) -> str:
    """Return horizontal bars in stacked panels, each with its own scale; a system not in `looks` is a bound."""
    parts: list[str] = []
    at = 44
    for name, figures in panels.items():
        at += PANEL_HEAD
        parts.append(_text(LEFT - 40, at - 12, name, look="note"))
        longest = max(figures.values())
        for system, figure in figures.items():
            length = (WIDTH - LABELS - VALUES) * figure / longest
            look = looks.get(system, "bound")
            parts += [
                _text(LABELS - 10, at + 16, system, anchor="end"),
                f'<rect class="bar {look}" x="{LABELS}" y="{at}" width="{length:.1f}" height="{BAR}" rx="2"/>',
                _text(LABELS + length + 8, at + 16, f"{figure:,.0f}"),
            ]
            at += BAR + 8
    return _document(title, at + 20, parts)


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
    )
    ground = '<rect class="ground" width="100%" height="100%"/>'
    return "\n".join(
        [head, f"<style>\n{_STYLE}</style>", ground, _text(30, 28, title, look="title"), *parts, "</svg>\n"]
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", look: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{look}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
