"""What became of the first formula of a text: its result is right, wrong, or no number stands after its equals sign.

It tells a model that goes on to write numbers, wrong ones, from one that no longer writes any; neither says whether it
still reckons behind what it writes.
"""

from __future__ import annotations

import re
from fractions import Fraction

RIGHT, WRONG, MISSING = OUTCOMES = ("right", "wrong", "missing")

_MOST = 30
"""Digits of a number; a text with longer ones is none of formulas."""
_NUMBER = rf"(?<![\d.])\d{{1,{_MOST}}}+(?:,\d{{3}})*+(?:\.\d{{1,{_MOST}}}+)?+(?!\d)"
_MONEY = r"\\?[$€£]?"
_OPERATOR = r"[+\-−*×x/÷]"
_SIDE = rf"[-−]?{_MONEY}{_NUMBER}(?:\s*+{_OPERATOR}\s*+{_MONEY}{_NUMBER})"
_FORMULA = re.compile(rf"(?<![\w.,])({_SIDE}++)[ \t]*+=")
_NOT_ITS_BEGINNING = re.compile(r"[\w)}\]]\s*+[+\-−*×/÷^]\s*+\Z")  # an operand that is no number stands before it
_RESULT = re.compile(rf"[\s$€£*\\({{]*+([-−]?\s*+{_MONEY}{_NUMBER}(?:\s*+{_OPERATOR}\s*+{_MONEY}{_NUMBER})*+)\s*+(\\?%)?")
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's
_PART = re.compile(rf"({_OPERATOR})?\s*+{_MONEY}({_NUMBER})")


def first_result(text: str) -> str | None:
    """What stands after the first formula of numbers alone that an equals sign follows ("3 + 4 * 2 =").

    Returns: "right": its value, a decimal rounded to as many places as it has; "wrong": another number; "missing": none, be
    it that the text ends there or that something else stands there; None: there is no such formula.
    """
    text = _CALCULATOR.sub("", text)
    for found in _FORMULA.finditer(text):
        if _NOT_ITS_BEGINNING.search(text[max(0, found.start() - _MOST) : found.start()]):
            continue
        value = _value(found[1])
        stands = _RESULT.match(text, found.end())
        if stands is None:
            return MISSING
        written = stands[1]
        first = _PART.match(written.lstrip("-−").lstrip())
        assert first is not None
        number = _number(first[2]) * (-1 if written[0] in "-−" else 1)
        places = len(first[2].partition(".")[2])
        scales = (1, 100) if stands[2] else (1,)
        right = value is not None and any(_rounded(value * scale, number, places) for scale in scales)
        return RIGHT if right or (value is not None and value == _value(written)) else WRONG
    return None


def _rounded(value: Fraction, number: Fraction, places: int) -> bool:
    """Whether a number is a value, or it rounded to as many decimal places, of which there are some."""
    return number == value or (places > 0 and abs(number - value) * 2 * 10**places <= 1)


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _value(side: str) -> Fraction | None:
    """Of numbers with operators between them, products first; None where it divides by 0."""
    negative = side[0] in "-−"
    terms: list[Fraction] = []
    for operator, digits in _PART.findall(side[1:] if negative else side):
        number = _number(digits)
        if operator in ("*", "×", "x"):
            terms[-1] *= number
        elif operator in ("/", "÷"):
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(-number if operator in ("-", "−") else number)
        if negative:
            terms[0], negative = -terms[0], False
    return sum(terms, Fraction())
