"""Pictures of curves and points in a square of shares: ROC, calibration, coverage, early, estimates against what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from .charts import legend_of
from .svg import fill, svg, text_at
from .text import number

_COLUMNS, _STEP, _SIDE, _LEFT, _TOP, _FOOT = 4, 196.0, 150.0, 32.0, 40.0, 44.0


class Curve(NamedTuple):
    """A line through points of shares, or points alone."""

    kind: str
    label: str
    points: Sequence[tuple[float, float]]
    line: bool = True


class Square(NamedTuple):
    """One square: its title, what its axes say, its curves; `even`: the line on which both are the same."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    even: bool = False


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
    said = "; ".join(f"{s.title}: {', '.join(c.label for c in s.curves)}" for s in every)
    return svg(name, start + height * (1 + (len(every) - 1) // _COLUMNS), about, said, parts)


def _square(square: Square, left: float, top: float, side: float) -> Markup:
    parts = [text_at(left, top - 24, square.title, "start", "strong"), text_at(left, top - 8, square.y, "start", "muted")]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * side, top + side - tick * side
        parts.append(fill('<line class="track" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, left + side, y, y))
        parts.append(text_at(left - 6, y + 4, number(tick, 1), "end", "muted"))
        parts.append(text_at(x, top + side + 15, number(tick, 1), "middle", "muted"))
    parts.append(text_at(left + side / 2, top + side + 30, square.x, "middle", "muted"))
    if square.even:
        parts.append(fill('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, left + side, top + side, top))
    for curve in square.curves:
        at = [(left + x * side, top + side - y * side) for x, y in curve.points]
        path = Markup("")
        if curve.line:
            path = fill('<path fill="none" stroke="currentColor" stroke-width="2" d="{}"/>',
                        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at))  # fmt: skip
        dots = Markup("").join(
            fill('<circle class="small" cx="{}" cy="{}" r="3"><title>{}: {}, {}</title></circle>', x, y, curve.label,
                 number(p[0], 2), number(p[1], 2)) for (x, y), p in zip(at, curve.points, strict=True)
        ) if not curve.line or len(at) <= 12 else Markup("")  # fmt: skip
        parts.append(fill('<g class="kind {}"><title>{}</title>{}{}</g>', curve.kind, curve.label, path, dots))
    return Markup("").join(parts)
