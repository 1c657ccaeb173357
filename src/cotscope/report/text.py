"""How a number, a name and a token are written in the report.

Whatever comes from a run folder may hold any character. HTML escaping is Jinja's and markupsafe's work; here the
characters that would be invisible, or would rearrange the text around them, are made visible.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard

MISSING = "–"
LONGEST_TOKEN = 40
# Cc control, Cf format (bidirectional marks, zero width), Cs lone surrogate, Co private use, Cn unassigned
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Few fonts have Unicode's pictures of the other control characters (␛ and the like): they are spelled out instead.
_SIGNS = {"\n": "⏎", "\t": "⇥"}


KINDS = {
    "none": "nothing disrupted",
    "reasoning": "reasoning neurons",
    "comparable": "reasoning with counterparts",
    "matched": "matched random",
    "unmatched": "unmatched random",
    "lexicon": "all candidates (lexicon only)",
    "rejected": "rejected candidates",
}
"""What the report calls each kind of set, in the order in which it shows them."""


class Piece(NamedTuple):
    """A stretch of a token: as it is, or (`sign`) characters that stand for invisible ones."""

    text: str
    sign: bool


class Chip(NamedTuple):
    """A token as the report shows it; `title` spells it out in ASCII where the chip alone does not tell."""

    pieces: tuple[Piece, ...]
    title: str
    seed: bool


def visible(text: str) -> str:
    """The text with every control, format and unpaired character replaced by a sign that can be seen."""
    return "".join(_sign(char) or char for char in text)


def shortened(text: str, longest: int) -> str:
    """A text without the middle where it is longer than so many characters."""
    if len(text) <= longest:
        return text
    end = longest // 8
    return text[: longest - end] + " … " + text[3 - end :]


def chip(token: str, seed: bool = False) -> Chip:
    """One token; spaces at its ends (and a token of spaces) are shown as ␣, the middle of a long one is left out."""
    shown = token
    if len(token) > LONGEST_TOKEN:
        shown = token[: LONGEST_TOKEN - 8] + "…" + token[-7:]
    start, end = len(shown) - len(shown.lstrip(" ")), len(shown.rstrip(" "))
    pieces: list[Piece] = []
    for place, char in enumerate(shown):
        sign = "␣" if char == " " and not start <= place < end else _sign(char)
        if place == 0 and not sign and unicodedata.category(char) in ("Mn", "Mc", "Me"):
            char = "◌" + char  # a combining mark needs something to stand on
        piece = Piece(sign or char, bool(sign))
        if pieces and pieces[-1].sign == piece.sign:
            piece = Piece(pieces.pop().text + piece.text, piece.sign)
        pieces.append(piece)
    if not pieces:
        pieces = [Piece("∅", True)]
    plain = "".join(piece.text for piece in pieces if not piece.sign)
    unclear = shown != token or "\ufffd" in token or any(piece.sign and piece.text.strip("␣") for piece in pieces)
    return Chip(tuple(pieces), ascii(token) if unclear or not plain else "", seed)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number (a missing figure is None or NaN)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """A figure with so many decimals, commas between thousands, and a true minus; `sign` shows the plus too."""
    if not is_number(value):
        return MISSING
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("+-")  # neither +0.00 nor -0.00
    return text.replace("-", "−")


def p_value(value: Any) -> str:
    """A p-value: three decimals, or "< 0.001"."""
    return "< 0.001" if is_number(value) and 0 <= value < 0.001 else number(value, 3)


def interval(low: Any, high: Any, digits: int = 2, sign: bool = False) -> str:
    """An interval in brackets, or "" where it was not computed."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def with_interval(value: Any, low: Any, high: Any, digits: int = 2, sign: bool = False) -> str:
    """A figure and, where it has one, its interval."""
    return f"{number(value, digits, sign)} {interval(low, high, digits, sign)}".rstrip()


def counted(values: Iterable[Any], what: str) -> str:
    """Of how many problems (or whatever) figures are: "96 problems", "24 to 96 problems"; "" where no table says it."""
    found = sorted(value for value in values if is_number(value))
    if not found:
        return ""
    ends = dict.fromkeys((number(found[0], 0), number(found[-1], 0)))
    return f"{' to '.join(ends)} {what}"


def seconds(value: Any) -> str:
    """A duration: seconds, or minutes and seconds from two minutes on."""
    if not is_number(value):
        return MISSING
    if value < 120:
        return f"{number(value, 1)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _sign(char: str) -> str:
    """What stands for an invisible character; "" for one that is visible (a plain space included)."""
    if char in _SIGNS:
        return _SIGNS[char]
    category = unicodedata.category(char)
    if category == "Cc":
        return ascii(char)[1:-1]
    if category in _HIDDEN or (category == "Zs" and char != " "):
        return f"U+{ord(char):04X}"
    return ""
