"""What figures are drawn with: inline SVG, styled by the page's CSS (class names only).

Every text goes through `fill`, which makes hidden characters visible and escapes the rest. Figures are `WIDTH` units
wide, so that a unit is about a pixel and the 12-unit text stays readable from 720 pixels on; those of the first screen are
narrower, and stay readable on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from .text import number, visible

WIDTH = 800
LINE = 14.0  # height of a line of 12-unit text
_CHAR, _WIDE = 6.6, 12.2  # estimated widths of 12-unit text, on the safe side


def round_range(values: Sequence[float], limits: tuple[float, float] | None = None) -> tuple[float, float, float]:
    """Low end, high end and a round step of an axis that holds the values with a margin; never beyond `limits`."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.05 * max(1.0, abs(low)), high + 0.05 * max(1.0, abs(high))
    margin = 0.08 * (high - low)
    low, high = low - margin, high + margin
    if limits:
        low, high = max(low, limits[0]), min(high, limits[1])
    rough = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(rough))
    return low, high, next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of the step from low to high."""
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)]


def decimals(step: float) -> int:
    """How many decimals the ticks of this step need."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def x_axis(low: float, high: float, left: float, right: float, y: float, label: str, step: float) -> Markup:
    parts = [fill('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, right, y, y)]
    for tick in ticks(low, high, step):
        x = scale(tick, low, high, left, right)
        parts.append(fill('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, y, y + 4))
        parts.append(text_at(x, y + 17, number(tick, decimals(step)), "middle", "muted"))
    parts.append(text_at((left + right) / 2, y + 36, label, "middle", "muted"))
    return Markup("").join(parts)


def whisker(start: float, end: float, y: float) -> Markup:
    """A horizontal interval with its ends."""
    return fill('<path class="whisker" d="M{0} {2}H{1}M{0} {3}v6M{1} {3}v6"/>', start, end, y, y - 3)


def scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)


def text_at(x: float, y: float, text: str, anchor: str, classes: str = "") -> Markup:
    return fill('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>', x, y, anchor, classes, text)


def text_width(text: str) -> float:
    return sum(_WIDE if ord(char) > 0x2E7F else _CHAR for char in visible(text))


def short(text: str, length: int) -> str:
    text = visible(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def fill(template: str, *values: Any) -> Markup:
    """The template with the values in it: numbers rounded, texts made visible and escaped, Markup as it is."""
    ready = [round(v, 2) if isinstance(v, float) else v for v in values]
    return Markup(template).format(*(visible(v) if type(v) is str else v for v in ready))


def svg(name: str, height: float, title: str, about: str, parts: Sequence[Markup], width: int = WIDTH) -> Markup:
    return fill(
        '<svg class="figure{}" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>',
        "" if width == WIDTH else " narrow", width, round(height), name, name, name, title, name, about,
        Markup("").join(parts),
    )  # fmt: skip
