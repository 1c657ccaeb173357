"""A picture with what stands under it: how to read it, the command that made it, its figures as a CSV file.

`intervals` draws the picture that most parts of the report have: dots with their intervals, in rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from ..data.spreadsheets import harmless_row
from .svg import WIDTH, fill, round_range, scale, short, svg, text_at, text_width, whisker, x_axis
from .text import is_number, with_interval

_LANE = 11.0  # between two dots of a row that have intervals
_LEFT, _LONGEST = 380.0, 49  # room for labels at the left, and the characters that fit into it
_BOLD = 1.12  # of the width of plain letters
PAPER = ("ablation", "paths", "selected", "evaluations", "areas", "prompts", "phenomena")
"""Pictures (names of `Chart`s, to the first hyphen) that a paper on a study would show, in this form: what is solved without
the neurons, what is lost on which path, what results rest on, what edits do, which answers are told, what prompts change."""


class Chart(NamedTuple):
    """A picture and what stands under it.

    Attributes:
        figure: the SVG, or several.
        read: how to read it, in a sentence.
        stage: the stage whose command made what it shows.
        name: of the CSV file, without its suffix.
        rows: what is drawn, for that file.
        n: of how many problems (or whatever) it is.
    """

    figure: Markup
    read: str
    stage: str
    name: str
    rows: Sequence[Mapping[str, Any]]
    n: str = ""

    @property
    def paper(self) -> bool:
        """Whether a paper would show it."""
        return self.name.partition("-")[0] in PAPER

    @property
    def csv(self) -> str:
        """The rows as a `data:` URI, which needs no script and no network."""
        to = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(to, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(harmless_row, self.rows))
        return "data:text/csv;charset=utf-8," + quote(to.getvalue().encode("utf-8", "replace"), safe=",")


class Mark(NamedTuple):
    """A figure in a row: a dot and, where it has one, its interval. `small`: one of many, behind the others, its interval only
    said."""

    kind: str
    value: float
    low: float | None = None
    high: float | None = None
    tip: str = ""
    small: bool = False


class Row(NamedTuple):
    """A row of dots; the first mark's figures stand at its right."""

    label: str
    marks: Sequence[Mark]


class Look(NamedTuple):
    """How `intervals` draws.

    Attributes:
        limits: that the axis does not leave; None: none.
        whole: the axis spans the limits.
        digits, sign: of the figures.
        width: of the picture; one narrower than `WIDTH` has its labels above the rows.
    """

    limits: tuple[float, float] | None = None
    whole: bool = False
    digits: int = 2
    sign: bool = True
    width: int = WIDTH


CHANGE = Look()
SHARE = Look(limits=(0.0, 1.0), whole=True, sign=False)


def intervals(
    name: str,
    title: str,
    rows: Sequence[Row],
    axis: str,
    look: Look = CHANGE,
    legend: Mapping[str, str] | None = None,
) -> Markup:
    """Rows of dots with their intervals over one axis; nothing where there is nothing to draw.

    Args:
        name: of the figure, unique on the page.
        axis: what is measured, and its unit.
        legend: kind of mark → what it is called, where a row has several.
    """
    ends = [v for row in rows for m in row.marks for v in (m.value, m.low, m.high) if is_number(v)]
    if not ends:
        return Markup("")
    low, high, step = round_range([*ends, 0.0], look.limits)
    if look.whole and look.limits:
        (low, high), step = look.limits, 0.2
    above = look.width < WIDTH
    value = max(text_width(_figures(row.marks[0], look)) for row in rows if row.marks) + 14
    left = 14.0 if above else min(_LEFT, 16 + _BOLD * max(text_width(row.label) for row in rows))
    right = look.width - (14.0 if above else value)
    parts, y = legend_of(legend or {}, left), 22.0 if legend else 6.0
    for row in rows:
        lanes = max(1, sum(not m.small for m in row.marks))
        height = _LANE * lanes + 13
        at = y + (18 if above else 0)
        middle = at + height / 2
        baseline = y + 13 if above else middle + 4
        label = short(row.label, 48 if above else _LONGEST)
        parts.append(text_at(0 if above else left - 12, baseline, label, "start" if above else "end", "strong"))
        if row.marks:
            figures = _figures(row.marks[0], look)
            parts.append(text_at(look.width - (2 if above else 0), baseline, figures, "end", "muted"))
        parts.append(fill('<line class="track" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, right, middle, middle))
        lane = middle - _LANE * (lanes - 1) / 2
        for mark in sorted(row.marks, key=lambda m: not m.small):
            parts.append(drawn(mark, middle if mark.small else lane, (low, high, left, right), row.label, look))
            lane += 0 if mark.small else _LANE
        y = at + height
    if low < 0 <= high and not above:
        x = scale(0.0, low, high, left, right)
        parts.insert(0, fill('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, 20 if legend else 4, y))
    parts.append(x_axis(low, high, left, right, y, axis, step))
    about = "; ".join(f"{row.label}: {', '.join(_said(m, look) for m in row.marks)}" for row in rows)
    return svg(name, y + 42, title, about, parts, look.width)


def _figures(mark: Mark, look: Look) -> str:
    return with_interval(mark.value, mark.low, mark.high, look.digits, look.sign)


def _said(mark: Mark, look: Look) -> str:
    return f"{mark.tip + ' ' if mark.tip else ''}{_figures(mark, look)}"


def drawn(mark: Mark, y: float, axis: tuple[float, float, float, float], label: str, look: Look) -> Markup:
    """A dot with its interval and, on hovering, its figures.

    Args:
        axis: the values at its ends, and where these are.
    """
    x = scale(mark.value, *axis)
    between = Markup("")
    if is_number(mark.low) and is_number(mark.high) and not mark.small:
        between = whisker(scale(mark.low, *axis), scale(mark.high, *axis), y)
    return fill(
        '<g class="kind {}">{}<circle cx="{}" cy="{}" r="{}"{}/><title>{}</title></g>',
        mark.kind if mark.kind.isidentifier() else "other", between, x, y, 3 if mark.small else 4.5,
        Markup(' class="small"') if mark.small else "", f"{label}: {_said(mark, look)}",
    )  # fmt: skip


def legend_of(legend: Mapping[str, str], left: float) -> list[Markup]:
    """A dot of each kind and what it is called, in a line."""
    parts, x = [], left
    for kind, label in legend.items():
        parts.append(fill('<g class="kind {}"><circle cx="{}" cy="10" r="4.5"/></g>', kind, x + 5))
        parts.append(text_at(x + 15, 14, label, "start", "muted"))
        x += 15 + text_width(label) + 22
    return parts
