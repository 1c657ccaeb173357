"""What each token of a solution is: an operator, an equals sign, a result (of a formula, or the answer), or elsewhere."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, Protocol

from .numbers import DASHES, OPERATORS

ROLES = ("operator", "equals", "result", "elsewhere")
ARITHMETIC = ROLES[:3]
_NUMBER = rf"[{DASHES}]?\d+(?:,\d{{3}})*(?:\.\d+)?"
_MONEY = r"\\?[$€£¥]"
# LaTeX, which models write unasked; of "2019–2020" the dash is none.
_OPERATOR = rf"(?:(?!–)[{OPERATORS}]|(?<=[ \t])–(?=[ \t])|\\(?:times|cdot|div)(?![a-zA-Z]))"
RULE = 2
"""Of what has which role: goes up when that changes, so that what was found by another is not taken up."""
# A token that touches several has the role of the first.
_PATTERNS = {
    "result": re.compile(rf"(?:=\s*|[Tt]he answer is[\s:*]*)(?:(?:\$|\\\()?\\boxed{{)?(?:[{DASHES}]?{_MONEY})?({_NUMBER})"),
    "operator": re.compile(rf"(?<=[\d)%}}])[ \t]*({_OPERATOR})[ \t]*(?={_MONEY}?\(?{_MONEY}?\d|\\[dt]?frac{{\d)"),
    "equals": re.compile(r"(?<=[\d)%}])\s*(=)"),
}

_SAID = re.compile(r"\b[Tt]he answer is\W*(\w[^\n.!?]*)")

_TERM = r"-?\d+(?:,\d{3})*(?:\.\d+)?"
# 3 + 4 = 7, or 3 + 4
_FORMULA = re.compile(rf"{_TERM}(?:[ \t]*{_OPERATOR}[ \t]*[\\$€£¥(]*{_TERM}\)?)+(?:\s*=\s*(?:{_MONEY})?{_TERM})?")


def formulas(text: str) -> list[tuple[int, int]]:
    """Where the formulas of a solution begin and end: numbers with operators between them, and the result if it is there."""
    return [m.span() for m in _FORMULA.finditer(text)]


def roles(text: str, ends: Sequence[int], words: str = "") -> tuple[str, ...]:
    """The role of each token of a text; one that reaches into an operator, equals sign or result has its role.

    "operator": between numbers; "equals": after a number; "result": a number after an equals sign, or the answer;
    "elsewhere": all else.

    Args:
        ends: where each token ends in the text.
        words: the answer, if that is words: results are then these, wherever they stand (but for a single letter), and what is
            said to be the answer.
    """
    # Per role the spans are in order and apart, so that one look finds whether any of them is touched.
    spans = [(role, [m.span(1) for m in pattern.finditer(text)]) for role, pattern in _PATTERNS.items()]
    if words:
        stands = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
        everywhere = [m.span() for m in stands.finditer(text)] if len(words) > 1 else []  # "A" is mostly an article
        spans[0] = ("result", _joined(everywhere + [m.span(1) for m in _SAID.finditer(text)]))
    found, at = [], 0
    for end in ends:
        found.append(next((role for role, places in spans if _touches(places, at, end)), "elsewhere"))
        at = max(at, end)
    return tuple(found)


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order and apart."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if found and start < found[-1][1]:
            start, last = found.pop()
            end = max(end, last)
        found.append((start, end))
    return found


def _touches(places: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether one of the places overlaps a token that reaches from `start` to `end`."""
    index = bisect_right(places, start, key=itemgetter(1))  # the first that ends after the start
    return index < len(places) and places[index][0] < end


class Decoder(Protocol):
    """A tokenizer and what it makes of single tokens (`LoadedModel`)."""

    tokenizer: Any

    def piece(self, token: int) -> str:
        """One token decoded by itself."""


def token_roles(decoder: Decoder, tokens: Sequence[int], words: str = "") -> tuple[str, ...]:
    """The role of each token id; words: as of `roles`."""
    text, ends = _decoded(decoder, tokens)
    return roles(text, ends, words)


def token_reckoning(decoder: Decoder, tokens: Sequence[int], words: str = "") -> tuple[bool, ...]:
    """Whether each token id reaches into a formula, its numbers among them, or into an answer; words: as of `roles`."""
    text, ends = _decoded(decoder, tokens)
    spans = [] if words else formulas(text)
    named = roles(text, ends, words)
    starts = [0, *accumulate(ends, max)]
    return tuple(role != "elsewhere" or _touches(spans, *place) for role, place in zip(named, zip(starts, ends), strict=True))


def _decoded(decoder: Decoder, tokens: Sequence[int]) -> tuple[str, list[int]]:
    """The text of token ids, and where each ends in it."""
    decode = decoder.tokenizer.decode
    text, pieces = decode(tokens), [decoder.piece(token) for token in tokens]
    if "".join(pieces) == text:
        return text, list(accumulate(map(len, pieces)))
    # Tokens decoded one by one can lose their blanks, or halves of characters; what the first n come to does not.
    return text, [len(decode(tokens[: n + 1])) for n in range(len(tokens))]
