"""The report's figures: inline SVG, drawn by the functions here, styled by the page's CSS (class names only).

They are drawn with what `svg.py` has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from .svg import LINE, WIDTH, decimals, fill, round_range, scale, short, svg, text_at, text_width, ticks, whisker, x_axis
from .text import is_number, number, with_interval

LAYERS_PER_STRIP = 32


_BOLD = 1.1  # how much wider than others bold characters are


class Bar(NamedTuple):
    """One set of neurons in the ablation figure."""

    name: str
    kind: str
    accuracy: float
    low: float | None
    high: float | None


class Point(NamedTuple):
    """One prompt in the scatter figure."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None

    @property
    def said(self) -> str:
        """Its figures, as they are shown on hovering."""
        return f"accuracy {with_interval(self.y, self.low, self.high)}, activity {number(self.x)}"


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that two rectangles share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, spot: tuple[float, float]) -> bool:
        """Whether a spot lies inside."""
        return self.left <= spot[0] <= self.right and self.top <= spot[1] <= self.bottom


def ablation_bars(bars: Sequence[Bar], labels: Mapping[str, str]) -> Markup:
    """Accuracy of each kind of set: a bar to the kind's mean, a dot and its interval for every set.

    Args:
        bars: the sets; kinds are drawn in the order in which they come first.
        labels: kind → what it is called.
    """
    kinds = list(dict.fromkeys(bar.kind for bar in bars))
    widest = max((text_width(labels.get(kind, kind)) for kind in kinds), default=0.0)
    left, right = max(178.0, 20 + _BOLD * widest), WIDTH - 96
    # None of the bars is cut: the axis always begins at 0 and ends at a round figure.
    top_value = min(1.0, max(0.1, math.ceil(max([b.accuracy for b in bars] + [b.high or 0 for b in bars]) * 10) / 10))
    parts, y = [], 12.0
    for kind in kinds:
        own = [bar for bar in bars if bar.kind == kind]
        pitch = max(3.0, min(16.0, 260 / len(own)))
        height = max(30.0, pitch * len(own) + 12)
        mean = sum(bar.accuracy for bar in own) / len(own)
        x = scale(mean, 0, top_value, left, right)
        middle = y + height / 2
        parts.append(fill('<g class="kind {}">', kind if kind.isidentifier() else "other"))
        parts.append(fill('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>', left, y, x - left, height))
        parts.append(fill('<line class="mean" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, y, y + height))
        for i, bar in enumerate(own):
            parts.append(_dot_row(bar, middle + (i - (len(own) - 1) / 2) * pitch, top_value, left, right))
        caption = labels.get(kind, kind)
        if len(own) > 1:
            parts.append(text_at(left - 10, middle - 3, caption, "end", "strong"))
            parts.append(text_at(left - 10, middle + 12, f"{len(own)} sets", "end", "muted"))
        else:
            parts.append(text_at(left - 10, middle + 4, caption, "end", "strong"))
        parts.append(text_at(right + 12, middle + 4, number(mean) + (" mean" if len(own) > 1 else ""), "start", "strong"))
        parts.append(Markup("</g>"))
        y += height + 12
    axis = x_axis(0, top_value, left, right, y, "accuracy (share of the test problems solved)", 0.1)
    about = "; ".join(f"{bar.name}: {with_interval(bar.accuracy, bar.low, bar.high)}" for bar in bars)
    return svg("ablation", y + 44, "Accuracy with each set of neurons disrupted", about, [axis, *parts])


def _dot_row(bar: Bar, y: float, top_value: float, left: float, right: float) -> Markup:
    """One set: its interval as a line, its accuracy as a dot, its name and figures on hovering."""
    x = scale(bar.accuracy, 0, top_value, left, right)
    tip = f"{bar.name}: {with_interval(bar.accuracy, bar.low, bar.high)}"
    between = Markup("")
    if is_number(bar.low) and is_number(bar.high):
        low, high = scale(bar.low, 0, top_value, left, right), scale(bar.high, 0, top_value, left, right)
        between = whisker(low, high, y)
    return fill('<g>{}<circle cx="{}" cy="{}" r="4"/><title>{}</title></g>', between, x, y, tip)


class Axes(NamedTuple):
    """Activity to the right, accuracy upwards, in a frame; each range is (low, high, step of the ticks)."""

    frame: Box
    x_range: tuple[float, float, float]
    y_range: tuple[float, float, float]

    @classmethod
    def around(cls, points: Sequence[Point], frame: Box) -> Axes:
        """Axes that hold the points and their intervals."""
        heights = [v for p in points for v in (p.y, p.low, p.high) if is_number(v)]
        return cls(frame, round_range([p.x for p in points]), round_range(heights, (0.0, 1.0)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where an activity and an accuracy stand."""
        (x_low, x_high, _), (y_low, y_high, _), frame = self.x_range, self.y_range, self.frame
        return scale(x, x_low, x_high, frame.left, frame.right), scale(y, y_low, y_high, frame.bottom, frame.top)

    def drawn(self, x_label: str) -> Markup:
        """Grid, ticks and labels."""
        (x_low, x_high, x_step), (y_low, y_high, y_step), frame = self.x_range, self.y_range, self.frame
        parts = []
        for tick in ticks(y_low, y_high, y_step):
            _, y = self.at(x_low, tick)
            parts.append(fill('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', frame.left, frame.right, y, y))
            parts.append(text_at(frame.left - 8, y + 4, number(tick, decimals(y_step)), "end", "muted"))
        parts.append(x_axis(x_low, x_high, frame.left, frame.right, frame.bottom, x_label, x_step))
        parts.append(fill('<text class="muted" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>',
                           (frame.top + frame.bottom) / 2, "accuracy (share of problems solved)"))  # fmt: skip
        return Markup("").join(parts)


def prompt_scatter(points: Sequence[Point], x_label: str) -> Markup:
    """Accuracy against generated activity, one labelled dot per prompt, with the interval of the accuracy.

    Args:
        points: the prompts; all x and y finite.
        x_label: the x axis: what is counted, and its unit.
    """
    frame = Box(56, 14, WIDTH - 20, 424)
    axes = Axes.around(points, frame)
    parts = [axes.drawn(x_label)]
    places = [axes.at(p.x, p.y) for p in points]
    whiskers = []
    for point, (x, _) in zip(points, places):
        if is_number(point.low) and is_number(point.high):
            high, low = (axes.at(point.x, v)[1] for v in (point.high, point.low))
            whiskers.append(Box(x - 3, high, x + 3, low))
            parts.append(fill('<path class="whisker" d="M{0} {1}V{2}M{3} {1}h6M{3} {2}h6"/>', x, high, low, x - 3))
    names = [short(point.name, 34) for point in points]
    boxes = place_labels(places, [text_width(name) for name in names], frame, whiskers)
    for name, (x, y), box in zip(names, places, boxes):
        near = _nearest((x, y), box)
        if math.dist(near, (x, y)) > 12:
            parts.append(fill('<line class="leader" x1="{}" y1="{}" x2="{}" y2="{}"/>', x, y, *near))
    for point, name, (x, y), box in zip(points, names, places, boxes):
        parts.append(fill('<g class="kind reasoning"><circle cx="{}" cy="{}" r="4.5"/><title>{}</title></g>',
                           x, y, f"{point.name}: {point.said}"))  # fmt: skip
        parts.append(text_at((box.left + box.right) / 2, box.bottom - 3.5, name, "middle", "halo"))
    about = "; ".join(f"{p.name}: accuracy {number(p.y)} at activity {number(p.x)}" for p in points)
    return svg("scatter", frame.bottom + 44, "Accuracy and generated activity under each prompt", about, parts)


def place_labels(
    points: Sequence[tuple[float, float]], widths: Sequence[float], frame: Box, whiskers: Sequence[Box] = ()
) -> list[Box]:
    """A rectangle for the label of each point, near it, inside the frame, overlapping nothing where that is possible.

    Labels are placed one by one, those with most neighbours first, each at the cheapest of the rings of places around
    its point; then each is placed again, twice, knowing where the others are. What a label and its leader cover costs:
    labels most, then dots, then whiskers; then comes the distance.

    Args:
        points: where the dots are.
        widths: of the labels.
        frame: what no label may leave.
        whiskers: what labels had better not cover.
    """
    crowd = [sum(abs(x - a) < 110 and abs(y - b) < 24 for a, b in points) for x, y in points]
    order = sorted(range(len(points)), key=lambda i: -crowd[i])
    placed: dict[int, Box] = {}
    for i in order * 3:
        x, y = points[i]
        labels = [box for j, box in placed.items() if j != i]
        dots = [Box(a - 6, b - 6, a + 6, b + 6) for j, (a, b) in enumerate(points) if j != i]
        own = Box(x - 6, y - 6, x + 6, y + 6)
        best: tuple[float, Box] | None = None
        for gap in (8, 14, 22, 32, 44, 58, 74, 92):
            for turn in range(24):
                box, moved = _around((x, y), widths[i], turn * math.pi / 12, gap, frame)
                if box.top < frame.top or box.bottom > frame.bottom or moved > widths[i] / 2:
                    continue
                near = _nearest((x, y), box)
                leader = [((x + (near[0] - x) * t / 12), (y + (near[1] - y) * t / 12)) for t in range(1, 12)]
                cost = gap + 2 * abs(math.sin(turn * math.pi / 12)) + moved / 4 + 8 * box.overlap(own)
                cost += 40 * sum(box.overlap(other) for other in labels) + 8 * sum(box.overlap(dot) for dot in dots)
                cost += 1.2 * sum(box.overlap(whisker) for whisker in whiskers)
                cost += 12 * sum(other.holds(spot) for spot in leader for other in (*labels, *dots))
                if best is None or cost < best[0]:
                    best = (cost, box)
        # A frame too low for any place leaves the label on its point.
        placed[i] = best[1] if best else _around((x, y), widths[i], 0.0, 8, frame)[0]
    return [placed[i] for i in range(len(points))]


def heat_map(rows: Sequence[str], columns: int, counts: Mapping[tuple[str, int], int], what: str) -> Markup:
    """How many poles each row (concept) has in each column (layer), with the counts in the cells.

    Args:
        rows: the concepts, from top to bottom.
        columns: the number of layers; many layers are drawn in several strips of at most 32.
        counts: (concept, layer) → count; absent means 0.
        what: what is counted, for the description.
    """
    strips = max(1, math.ceil(columns / LAYERS_PER_STRIP))
    wide = max(1, math.ceil(columns / strips))
    left = min(190.0, max(70.0, max((text_width(short(row, 26)) for row in rows), default=0.0) + 14))
    cell, height = (WIDTH - left - 6) / max(wide, 12), 24
    most = max(counts.values(), default=0)
    parts, y = [], 8.0
    for strip in range(strips):
        layers = range(strip * wide, min(columns, (strip + 1) * wide))
        for row in rows:
            parts.append(text_at(left - 8, y + 16, short(row, 26), "end"))
            for place, layer in enumerate(layers):
                count = counts.get((row, layer), 0)
                tip = fill("<title>{}</title>", f"{row}, layer {layer}: {count}")
                parts.append(fill("<g>{}{}</g>", _cell(left + place * cell, y, cell, height, count, most), tip))
            y += height + 2
        for place, layer in enumerate(layers):
            parts.append(text_at(left + (place + 0.5) * cell, y + 13, str(layer), "middle", "muted small"))
        parts.append(text_at(left - 8, y + 13, "layer", "end", "muted small"))
        y += 30
    full = [f"{row}, layer {layer}: {count}" for (row, layer), count in sorted(counts.items()) if count]
    return svg("heat", y, what, "; ".join(full) or "no poles", parts)


def _cell(x: float, y: float, width: float, height: float, count: int, most: int) -> Markup:
    """One cell; its strength grows with the square root of the count, so that small counts can be told apart."""
    share = math.sqrt(count / most) if most else 0.0
    size = (width - 2, height)
    if not count:
        return fill('<rect class="cell none" x="{}" y="{}" width="{}" height="{}" rx="2"/>', x, y, *size)
    tone = "over" if share > 0.65 else "mid" if share > 0.5 else ""  # the ink that is legible on it
    text = text_at(x + width / 2 - 1, y + height / 2 + 4, str(count), "middle", f"small {tone}")
    return fill('<rect class="cell" x="{}" y="{}" width="{}" height="{}" rx="2" fill-opacity="{}"/>{}',
                 x, y, *size, 0.1 + 0.9 * share, text)  # fmt: skip


def _around(point: tuple[float, float], width: float, angle: float, gap: float, frame: Box) -> tuple[Box, float]:
    """The label's rectangle in this direction from the point, and how far it was pushed aside to stay in the frame."""
    dx, dy = math.cos(angle), math.sin(angle)
    x = point[0] + dx * gap + (dx * width / 2 if abs(dx) < 0.9 else math.copysign(width / 2, dx))
    y = point[1] + dy * gap + dy * LINE / 2
    shift = max(0.0, frame.left - x + width / 2) - max(0.0, x + width / 2 - frame.right)
    return Box(x + shift - width / 2, y - LINE / 2, x + shift + width / 2, y + LINE / 2), abs(shift)


def _nearest(point: tuple[float, float], box: Box) -> tuple[float, float]:
    """The spot of the rectangle that is nearest to the point: where its leader ends."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)
