"""Exact numbers: how cotscope writes them and computes with them, for prompts, problems and reports alike."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from ..records import Operation

PLACES = 6
DASHES = "\\-\u2010\u2011\u2212\u2013\u2014\uff0d"
"""What is written for a minus, for use inside [ ]: hyphens, the minus sign, dashes, the wide one of Chinese."""
OPERATORS = "+\\-\u2212\u2013*×·⋅∙xX/÷"
"""What is written between two numbers, likewise."""


def format_number(value: Fraction, places: int = PLACES) -> str:
    """Write a number exactly: "3", "-2.5" or "1/3".

    A decimal is used only where it ends within so many places; any other fraction is written as p/q in lowest terms.
    """
    scaled = value * 10**places
    if scaled.denominator != 1:
        return f"{_digits(value.numerator)}/{_digits(value.denominator)}"
    whole, decimals = divmod(abs(scaled.numerator), 10**places)
    tail = f"{decimals:0{places}d}".rstrip("0")
    return ("-" if value < 0 else "") + _digits(whole) + (f".{tail}" if tail else "")


def _digits(number: int) -> str:
    """A whole number's digits, however many: `str` of an int refuses more than some thousands, that of a Decimal not."""
    return str(Decimal(number))


def evaluate(operation: Operation, operands: tuple[Fraction, ...]) -> Fraction:
    """The exact value of one operation over its operands, from left to right.

    Raises:
        ZeroDivisionError: an operand of a division, other than the first, is 0.
    """
    value = operands[0]
    for operand in operands[1:]:
        match operation:
            case "addition":
                value += operand
            case "subtraction":
                value -= operand
            case "multiplication":
                value *= operand
            case "division":
                value /= operand
    return value
