"""Pictures of measurements: panels of lines, as SVG that any browser and any git host shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from streaming.markup import Markup, el

COLOURS = ("#0b66c3", "#d9730d", "#2e8540", "#8a3ffc", "#5c5c5c")
_WIDTH, _HEIGHT = 1000.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 30.0, 40.0
_MOST = 400
"""Points of a line: more than a screen shows."""


@dataclass(frozen=True)
class Line:
    """One line; where `ys` is NaN it is interrupted."""

    label: str
    xs: ArrayLike
    ys: ArrayLike
    colour: str


@dataclass(frozen=True)
class Rule:
    """A straight line right across, with a label."""

    at: float
    label: str
    across: bool = False
    """Horizontal."""


@dataclass(frozen=True)
class Axis:
    """Where numbers lie."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; not beyond them."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @classmethod
    def of(cls, label: str, values: ArrayLike, *, zero: bool = True) -> "Axis":
        """Round ends and a few round ticks for these values."""
        known = np.asarray(values, float)
        known = known[np.isfinite(known)]
        low = 0.0 if zero or not len(known) else float(known.min())
        high = max(float(known.max()) if len(known) else 1.0, low + 1e-9)
        step = 10 ** math.floor(math.log10((high - low) / 4))
        step *= next((many for many in (1, 2, 5) if (high - low) / (many * step) <= 5), 10)
        first, last = math.floor(low / step), math.ceil(high / step)
        return cls(label, first * step, last * step, [n * step for n in range(first, last + 1)])


@dataclass(frozen=True)
class Panel:
    """Lines on two axes."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    rules: Sequence[Rule] = ()

    def draw(self, left: float, top: float, width: float) -> Markup:
        """At a place of the picture."""
        x0, x1, y0, y1 = left + _LEFT, left + width - _RIGHT, top + _HEIGHT - _BOTTOM, top + _TOP

        def at(x: float) -> float:
            return x0 + self.x.place(x) * (x1 - x0)

        def up(y: float) -> float:
            return y0 - self.y.place(y) * (y0 - y1)

        parts = [el("text", self.title, x=left + _LEFT, y=top + 18, font_weight="bold")]
        for tick in self.x.ticks:
            parts.append(el("line", x1=at(tick), x2=at(tick), y1=y0, y2=y1, stroke="#e4e4e4"))
            parts.append(el("text", _short(tick), x=at(tick), y=y0 + 14, text_anchor="middle"))
        for tick in self.y.ticks:
            parts.append(el("line", x1=x0, x2=x1, y1=up(tick), y2=up(tick), stroke="#e4e4e4"))
            parts.append(el("text", _short(tick), x=x0 - 5, y=up(tick) + 4, text_anchor="end"))
        parts.append(el("text", self.x.label, x=(x0 + x1) / 2, y=y0 + 29, text_anchor="middle", fill="#555"))
        middle = (y0 + y1) / 2
        turned = f"rotate(-90 {left + 14:.2f} {middle:.2f})"
        parts.append(
            el("text", self.y.label, x=left + 14, y=middle, text_anchor="middle", fill="#555", transform=turned)
        )
        upright = 0
        for rule in self.rules:
            if rule.across:
                x, y, anchor = x0 + 4, up(rule.at) - 4, "start"
                ends = {"x1": x0, "x2": x1, "y1": up(rule.at), "y2": up(rule.at)}
            else:
                left_of = self.x.place(rule.at) < 0.8
                x, y, anchor = (
                    at(rule.at) + (-4 if left_of else 4),
                    y1 + 12 + 13 * upright,
                    "end" if left_of else "start",
                )
                ends = {"x1": at(rule.at), "x2": at(rule.at), "y1": y0, "y2": y1}
                upright += 1
            parts.append(el("line", **ends, stroke="#b00020", stroke_dasharray="4 3"))
            parts.append(el("text", rule.label, x=x, y=y, fill="#b00020", text_anchor=anchor, font_size=10))
        for line in self.lines:
            for points in _runs(line):
                path = " ".join(f"{at(x):.1f},{up(y):.1f}" for x, y in points)
                parts.append(el("polyline", points=path, fill="none", stroke=line.colour, stroke_width=1.6))
        return el("g", parts)


def write(path: Path, title: str, rows: Sequence[Sequence[Panel]]) -> None:
    """A picture of rows of panels, with one key for all."""
    key = {line.label: line.colour for row in rows for panel in row for line in panel.lines}
    height = 64 + len(rows) * _HEIGHT
    parts = [
        el("rect", width=_WIDTH, height=height, fill="#ffffff"),
        el("text", title, x=12, y=22, font_size=15, font_weight="bold"),
    ]
    across = 12.0
    for label, colour in key.items():
        parts.append(el("line", x1=across, x2=across + 18, y1=42, y2=42, stroke=colour, stroke_width=3))
        parts.append(el("text", label, x=across + 23, y=46))
        across += 45 + 6.2 * len(label)
    for number, row in enumerate(rows):
        width = _WIDTH / len(row)
        parts += [panel.draw(place * width, 60 + number * _HEIGHT, width) for place, panel in enumerate(row)]
    picture = el(
        "svg",
        el("title", title),
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        font_family="system-ui, sans-serif",
        font_size=11,
        fill="#222",
    )
    path.write_text(f"{picture}\n", encoding="utf-8")


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """Points between interruptions, thinned."""
    xs, ys = np.asarray(line.xs, float), np.asarray(line.ys, float)
    if len(xs) > _MOST:
        kept = np.unique(np.linspace(0, len(xs) - 1, _MOST).astype(int))
        xs, ys = xs[kept], ys[kept]
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
