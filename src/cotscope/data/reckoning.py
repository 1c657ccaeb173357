"""What became of the formulas of a text: a result is right, wrong, or no number stands after the equals sign.

It tells a model that goes on to write numbers, wrong ones, from one that no longer writes any; neither says whether it
still reckons behind what it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from unicodedata import numeric

from .numbers import OPERATORS

RIGHT, WRONG, MISSING = OUTCOMES = ("right", "wrong", "missing")

_NUMBER = r"(?:\d{1,30}+(?:,\d{3}){0,9}+(?:\.\d{1,30}+)?+|\.\d{1,30}+)(?!\d)"
_MONEY = r"(?:\\?[$€£¥])?"
_OPERATOR = f"[{OPERATORS}]"
_REST = rf"(?:[ \t]*+{_OPERATOR}[ \t]*+{_MONEY}{_NUMBER})"
_EQUALS = re.compile(r"[ \t]*+==?(?!=)")
_FORMULA = re.compile(rf"(?<![\w.,√])([-−]?{_MONEY}{_NUMBER}{_REST}{{1,30}}+){_EQUALS.pattern}")
# On its line an operator stands before it, or a number: then it is the end of a longer one, or of a mixed number.
_NOT_ITS_BEGINNING = re.compile(
    r"(?:\S[ \t]*+(?:\*\*|//|[+\-−–—*×·⋅∙/÷^%])|[\d)\]%€][ \t]*+[xX]|\d[ \t]++:|\d"
    r"|\b(?:times|plus|minus|(?:divided|multiplied) by))[ \t]*+\**+[ \t]*+\Z"
)
_BOLD = re.compile(r"(?<!\S)\*{1,3}\Z")
_BEFORE = 40
_RESULT = re.compile(
    rf"(?:[ \t$€£¥*_`\[({{~≈+\\]|boxed|mathbf|text|<b>)*+([-−–]?[ \t]*+{_MONEY}{_NUMBER}{_REST}{{0,30}}+)"
    r"(?:[ \t]*+([¼-¾⅐-⅞])|[ \t]++(\d{1,9}+/(?=0*+[1-9])\d{1,9}+)(?![\d/-]|[ \t]*+=))?[ \t]*+(\\?%)?"
)
_PART = re.compile(rf"({_OPERATOR})?[ \t]*+{_MONEY}({_NUMBER})")
_MINUS, _TIMES = "-−–", "*×·⋅∙xX"
_WRITTEN_OTHERWISE = (  # GSM8K's calculator, which says the result where none follows; LaTeX
    (re.compile(r"<<[^<>]*>>(?=[ \t]*[$€£]?\d)"), ""),
    (re.compile(r"<<[^<>]*=([^<>=]*)>>"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\d?frac\{(\d+)\}\{(\d+)\}"), r"\1/\2"),
)


def first_result(text: str) -> str | None:
    """The first of `results`; None: there is no such formula."""
    return next(_results(text), None)


def results(text: str) -> list[str]:
    """What stands after each formula of numbers alone that an equals sign follows on its line ("3 + 4 * 2 ="), in order.

    "right": its value, a decimal or percentage rounded to as many places as it has; "wrong": another number; "missing": none
    right there, be it that the text or line ends, the formula itself is written again, or something else stands there. One with
    units or brackets in it is not looked at.
    """
    return list(_results(text))


def _results(text: str) -> Iterator[str]:
    for pattern, plain in _WRITTEN_OTHERWISE:
        text = pattern.sub(plain, text)
    for found in _FORMULA.finditer(text):
        before = _BOLD.sub("", text[max(0, found.start() - _BEFORE) : found.start()])
        if not _NOT_ITS_BEGINNING.search(before):
            yield _what_stands(text, found)


def _what_stands(text: str, formula: re.Match[str]) -> str:
    value, at = _value(formula[1]), formula.end()
    while result := _RESULT.match(text, at):
        side, goes_on = result[1], _EQUALS.match(text, result.end())
        alone = _PART.match(side.lstrip(_MINUS).lstrip())
        assert alone is not None
        part = Fraction(numeric(result[2])).limit_denominator(10) if result[2] else Fraction(result[3] or 0)  # 3½, 3 1/2
        number = (_number(alone[2]) + part) * (-1 if side[0] in _MINUS else 1)
        places, percent = len(alone[2].partition(".")[2]), result[4] is not None
        right = value is not None and _is(value * 100 if percent else value, number, places, percent)
        if not _operators(side):
            return RIGHT if right else WRONG
        if _plain(side) != _plain(formula[1]):  # "5 + 4 = 6 + 3", or "5 + 4 = 9 - 3 = 6"
            return RIGHT if value is not None and (value == _value(side) or (right and goes_on)) else WRONG
        if not goes_on:
            return MISSING
        at = goes_on.end()  # it was only said again
    return MISSING


def _is(value: Fraction, number: Fraction, places: int, rounded: bool) -> bool:
    """Whether a number is a value, or, of decimals and percentages, it rounded to as many places."""
    return number == value or ((places > 0 or rounded) and number != 0 and abs(number - value) * 2 * 10**places <= 1)


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _plain(side: str) -> str:
    return "".join(re.findall(rf"{_NUMBER}|{_OPERATOR}", side))


def _operators(side: str) -> bool:
    return len(_PART.findall(side.lstrip(_MINUS))) > 1


def _value(side: str) -> Fraction | None:
    """Of numbers with operators between them, products first; None where it divides by 0."""
    negative = side[0] in _MINUS
    terms: list[Fraction] = []
    for operator, digits in _PART.findall(side[1:] if negative else side):
        number = _number(digits)
        if operator and operator in _TIMES:
            terms[-1] *= number
        elif operator in ("/", "÷"):
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(-number if operator and operator in _MINUS else number)
        if negative:
            terms[0], negative = -terms[0], False
    return sum(terms, Fraction())
