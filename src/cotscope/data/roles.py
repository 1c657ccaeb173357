"""What each token of a solution is: an operator, an equals sign, a result, or elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

ROLES = ("operator", "equals", "result", "elsewhere")
ARITHMETIC = ROLES[:3]
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_RESULT = re.compile(rf"(?:=\s*[$€£]?|[Tt]he answer is\s*[$€£]?)({_NUMBER})")
_EQUALS = re.compile(r"(?<=\d)\s*(=)")
_OPERATOR = re.compile(r"(?<=\d)\s*([+\-−*×x/÷])\s*(?=[$€£(]?\d)")


def roles(text: str, ends: Sequence[int]) -> tuple[str, ...]:
    """The role of each token of a text; one that reaches into an operator, equals sign or result has its role.

    "operator": between numbers; "equals": after a number; "result": a number after an equals sign, or the answer;
    "elsewhere": all else.

    Args:
        ends: where each token ends in the text.
    """
    spans = [(*m.span(1), "result") for m in _RESULT.finditer(text)]
    spans += [(*m.span(1), "operator") for m in _OPERATOR.finditer(text)]
    spans += [(*m.span(1), "equals") for m in _EQUALS.finditer(text)]
    found, at = [], 0
    for end in ends:
        found.append(next((role for first, last, role in spans if first < end and at < last), "elsewhere"))
        at = max(at, end)
    return tuple(found)


class Decoder(Protocol):
    """A tokenizer and what it makes of single tokens (`LoadedModel`)."""

    tokenizer: Any

    def piece(self, token: int) -> str:
        """One token decoded by itself."""


def token_roles(decoder: Decoder, tokens: Sequence[int]) -> tuple[str, ...]:
    """The role of each token id."""
    decode = decoder.tokenizer.decode
    text, pieces = decode(tokens), [decoder.piece(token) for token in tokens]
    if "".join(pieces) == text:
        return roles(text, list(accumulate(map(len, pieces))))
    # Tokens decoded one by one can lose their blanks, or halves of characters; what the first n come to does not.
    return roles(text, [len(decode(tokens[: n + 1])) for n in range(len(tokens))])
