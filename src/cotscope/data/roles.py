"""What each token of a solution is: an operator, an equals sign, a result, or elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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


def token_roles(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> tuple[str, ...]:
    """The role of each token id.

    Args:
        decode: the tokenizer's: token ids → text.
    """
    # Tokens decoded one by one can lose their blanks; what the first n come to does not.
    ends = [len(decode(tokens[: n + 1])) for n in range(len(tokens))]
    return roles(decode(tokens), ends)
