"""Exact numbers: how cotscope writes them and computes with them, for prompts, problems and reports alike."""

from __future__ import annotations

from fractions import Fraction

from ..records import Operation

PLACES = 6


def format_number(value: Fraction) -> str:
    """Write a number exactly: "3", "-2.5" or "1/3".

    A decimal is used only where it ends within 6 places; any other fraction is written as p/q in lowest terms.
    """
    scaled = value * 10**PLACES
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    # The two parts apart: together they could have more digits than str() writes.
    whole, decimals = divmod(abs(scaled.numerator), 10**PLACES)
    tail = f"{decimals:0{PLACES}d}".rstrip("0")
    return ("-" if value < 0 else "") + str(whole) + (f".{tail}" if tail else "")


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
