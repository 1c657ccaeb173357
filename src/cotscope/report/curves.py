"""Pictures of curves and points in a square of shares: ROC, calibration, coverage, early, estimates against what is true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from .charts import legend_of
from .svg import fill, short, svg, text_at
from .text import is_number, number, with_interval

_COLUMNS, _STEP, _SIDE, _LEFT, _TOP, _FOOT = 4, 196.0, 150.0, 32.0, 40.0, 44.0
_DOTS, _APART = 12, 9.0  # points of a line that are drawn, at most; how far apart those of a longer one stand that have a tip


class Spot(NamedTuple):
    """A point; `low` and `high`: the interval of its y, where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """A line through points of shares, or points alone."""

    kind: str
    label: str
    points: Sequence[Spot]
    line: bool = True


class Square(NamedTuple):
    """One square.

    Attributes:
        title: what it shows.
        x, y: what its axes say.
        even: with the line on which both are the same.
        data: that it is of, where there are several.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    even: bool = False
    data: str = ""


def all_points(every: Sequence[Square]) -> list[dict[str, Any]]:
    """All points of some squares, for the picture's file: a row each, a column for each kind of axis."""
    return [
        {"data": s.data, "picture": s.title, "curve": c.label, s.x: round(p.x, 6), s.y: round(p.y, 6), "low": p.low,
         "high": p.high} for s in every for c in s.curves for p in c.points
    ]  # fmt: skip


def squares(name: str, about: str, every: Sequence[Square], legend: Mapping[str, str] | None = None) -> Markup:
    """Squares beside each other, four in a row; nothing where there are none.

    Args:
        legend: kind of curve → what it is called.
    """
    if not every:
        return Markup("")
    height, start = _TOP + _SIDE + _FOOT, 22.0 if legend else 0.0
    parts = legend_of(legend or {}, _LEFT)
    for i, square in enumerate(every):
        row, column = divmod(i, _COLUMNS)
        parts.append(_square(square, column * _STEP + _LEFT, start + row * height + _TOP, _SIDE))
    said = "; ".join(f"{f'{s.data} ' if s.data else ''}{s.title}: {', '.join(c.label for c in s.curves)}" for s in every)
    return svg(name, start + height * (1 + (len(every) - 1) // _COLUMNS), about, said, parts)


def _square(square: Square, left: float, top: float, side: float) -> Markup:
    title = f"{short(square.data, 14)}: {square.title}" if square.data else short(square.title, 24)
    parts = [text_at(left, top - 24, title, "start", "strong"), text_at(left, top - 8, square.y, "start", "muted")]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * side, top + side - tick * side
        parts.append(fill('<line class="track" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, left + side, y, y))
        parts.append(text_at(left - 6, y + 4, number(tick, 1), "end", "muted"))
        parts.append(text_at(x, top + side + 15, number(tick, 1), "middle", "muted"))
    parts.append(text_at(left + side / 2, top + side + 30, square.x, "middle", "muted"))
    if square.even:
        parts.append(fill('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, left + side, top + side, top))
    for curve in square.curves:
        at = [(left + p.x * side, top + side - p.y * side) for p in curve.points]
        drawn = [fill("<title>{}</title>", curve.label)]
        if curve.line:
            drawn.append(fill('<path fill="none" stroke="currentColor" stroke-width="2" d="{}"/>',
                              "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)))  # fmt: skip
        whole, last = not curve.line or len(at) <= _DOTS, (-_APART, -_APART)
        for (x, y), p in zip(at, curve.points, strict=True):
            if is_number(p.low) and is_number(p.high):
                ends = (top + side - p.high * side, top + side - p.low * side)
                drawn.append(fill('<path class="whisker faint" d="M{} {}V{}"/>', x, *ends))
            if whole or math.dist((x, y), last) >= _APART:
                tip = f"{curve.label}: {square.x} {number(p.x)}, {square.y} {with_interval(p.y, p.low, p.high)}"
                drawn.append(fill('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>',
                                  "small" if whole else "tip", x, y, 3 if whole else 5, tip))  # fmt: skip
                last = (x, y)
        parts.append(fill('<g class="kind {}">{}</g>', curve.kind, Markup("").join(drawn)))
    return Markup("").join(parts)
