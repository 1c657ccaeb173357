"""Exemplars: worked solutions as structured steps, read from TOML and checked.

A file holds `[[mixed]]` tables and, optionally, `[[addition]]`, `[[subtraction]]`, `[[multiplication]]` and
`[[division]]` tables, each with `question`, `steps` (sentences) and `answer`. A formula stands in braces within its
sentence, e.g. "So there must be {21 - 15 = 6} trees left."
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from ..data.numbers import evaluate, format_number
from ..data.reading import read_toml
from ..errors import PromptError, shown
from ..records import OPERATIONS, SYMBOLS, Operation, Problem, Step

GROUPS = ("mixed", *OPERATIONS)
KEYS = ("question", "steps", "answer")
FEWEST_FROM_MIXED = 2
"""Where a file has no group for an operation, so many mixed exemplars of that operation alone make its prompt."""

MOST_DIGITS = 100
"""Of a number in an exemplar."""

MOST_NUMBERS = 100
"""On the left of a formula; with `MOST_DIGITS` it bounds what a formula comes to."""

_OPERATION: dict[str, Operation] = {symbol: operation for operation, symbol in SYMBOLS.items()}
_ASCII = str.maketrans({"×": "*", "x": "*", "÷": "/", "−": "-"})
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_FORMULA = re.compile(rf"\s*({_NUMBER})((?:\s*[-+*/]\s*{_NUMBER})+)\s*=\s*({_NUMBER})\s*")
_TERM = re.compile(rf"\s*([-+*/])\s*({_NUMBER})")
_BRACED = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Exemplars:
    """The exemplars of one file.

    Attributes:
        mixed: the exemplars of the full prompt, and of all prompts but the one-operation ones.
        by_operation: for each operation, exemplars whose every formula uses it; an operation without any is absent.
        source: the file's path, or "built-in".
        sha256: of the file's bytes, in hex.
    """

    mixed: tuple[Problem, ...]
    by_operation: dict[Operation, tuple[Problem, ...]]
    source: str
    sha256: str


def load_exemplars(path: Path | None = None) -> Exemplars:
    """Read and check an exemplar file; without a path, the built-in one.

    Raises:
        PromptError: the file cannot be read, is malformed, or has an exemplar whose arithmetic is wrong; the message
            names the file and the exemplar's group and number (from 1).
    """
    file = files(__package__).joinpath("exemplars.toml") if path is None else path
    source = "built-in" if path is None else str(path)
    table, raw = read_toml(file, "exemplar file", PromptError, parse_float=_decimal)
    if unknown := sorted(set(table) - set(GROUPS)):
        _fail(f"exemplar file {source} has unknown groups", ", ".join(GROUPS), ", ".join(unknown))
    groups = {group: _read_group(table[group], source, group) for group in table}
    mixed = groups.get("mixed", ())
    if not mixed:
        _fail(f"exemplar file {source} has no mixed exemplars", "at least one [[mixed]] table")
    by_operation: dict[Operation, tuple[Problem, ...]] = {}
    for operation in OPERATIONS:
        if operation in groups:
            by_operation[operation] = groups[operation]
        else:
            alone = tuple(problem for problem in mixed if _operations(problem) == {operation})
            if len(alone) >= FEWEST_FROM_MIXED:
                by_operation[operation] = alone
    return Exemplars(mixed, by_operation, source, hashlib.sha256(raw).hexdigest())


def parse_formula(text: str, where: str = "") -> tuple[Operation, tuple[Fraction, ...], Fraction]:
    """Read a formula such as "24 + 16 + 10 = 50" into its operation, operands and result, and check its arithmetic.

    One operator, out of + - * / (or × x ÷ −), stands between two or more numbers.

    Args:
        text: the formula, without braces.
        where: what an error's message begins with.

    Raises:
        PromptError: the formula does not parse, mixes operators, has too many or too long numbers, divides by zero, or its
            result is wrong.
    """
    where = where or "formula"
    match = _FORMULA.fullmatch(text.translate(_ASCII))
    if match is None:
        _fail(f"{where} does not parse", "numbers, one of + - * / between them, = and the result", shown(text))
    first, rest, result = match.groups()
    terms = _TERM.findall(rest)
    if len(symbols := {symbol for symbol, _ in terms}) > 1:
        _fail(f"{where} mixes operators", "one operator in a formula", f"{' '.join(sorted(symbols))} in {text!r}")
    operation = _OPERATION[symbols.pop()]
    if len(terms) >= MOST_NUMBERS:
        _fail(f"{where} has too many numbers", f"at most {MOST_NUMBERS} before the =", str(len(terms) + 1))
    numbers = [first, *(number for _, number in terms)]
    for number in (*numbers, result):
        if len(number) > MOST_DIGITS:
            _fail(f"{where} has too long a number", f"at most {MOST_DIGITS} digits", shown(number))
    operands = tuple(Fraction(number) for number in numbers)
    if operation == "division" and 0 in operands[1:]:
        _fail(f"{where} divides by zero", "divisors other than 0", shown(text))
    value = evaluate(operation, operands)
    if value != Fraction(result):
        _fail(f"{where} is wrong arithmetic", f"{format_number(value)} as the result", shown(text))
    return operation, operands, value


def _read_group(tables: Any, source: str, group: str) -> tuple[Problem, ...]:
    if not isinstance(tables, list) or not tables:
        _fail(f"exemplar file {source}, {group}: no list of exemplars", f"one or more [[{group}]] tables", shown(tables))
    return tuple(_read_exemplar(table, source, group, number) for number, table in enumerate(tables, start=1))


def _read_exemplar(table: Any, source: str, group: str, number: int) -> Problem:
    where = f"exemplar file {source}, {group} exemplar {number}"
    if not isinstance(table, dict) or set(table) != set(KEYS):
        got = ", ".join(sorted(table)) if isinstance(table, dict) else shown(table)
        _fail(f"{where}: wrong keys", ", ".join(KEYS), got or "none")
    question = _line(table["question"], f"{where}: question")
    if not isinstance(table["steps"], list):
        _fail(f"{where}: steps is no list", "a list of sentences", shown(table["steps"]))
    steps = tuple(_read_step(step, f"{where}, step {n}") for n, step in enumerate(table["steps"], start=1))
    results = [step.result for step in steps if step.result is not None]
    if not results:
        _fail(f"{where}: no formula", "at least one step with a formula in braces", "none")
    answer = _number(table["answer"], f"{where}: answer")
    if answer != results[-1]:
        _fail(f"{where}: the answer is not the last formula's result", format_number(results[-1]), format_number(answer))
    problem = Problem(f"exemplar:{group}:{number}", question, answer, steps)
    if group != "mixed" and (other := sorted(_operations(problem) - {group})):
        _fail(f"{where}: a formula of another operation", f"{group} only", ", ".join(other))
    return problem


def _read_step(step: Any, where: str) -> Step:
    sentence = _line(step, where)
    formulas = _BRACED.findall(sentence)
    if len(formulas) > 1:
        _fail(f"{where}: more than one formula", "at most one formula to a step", shown(sentence))
    frame = _BRACED.sub("{}", sentence)
    if "{" in frame.replace("{}", "") or "}" in frame.replace("{}", ""):
        _fail(f"{where}: a brace without its partner", "a formula as in {2 + 3 = 5}", shown(sentence))
    if not formulas:
        return Step(frame)
    return Step(frame, *parse_formula(formulas[0], f"{where}: formula"))


def _line(value: Any, where: str) -> str:
    """A text as one line: a line break inside would read as another step, a blank line as another exemplar."""
    if not isinstance(value, str) or not value.strip():
        _fail(f"{where} is empty or no text", "a sentence", shown(value))
    return " ".join(value.split())


def _number(value: Any, where: str) -> Fraction:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, Decimal) and value.is_finite()):
        _fail(f"{where} is no number", "a number without quotes, e.g. 6 or 2.5", shown(value))
    # Before anything is computed: 1e999999999 would be a number of a thousand million digits.
    if isinstance(value, int):
        is_long = abs(value) >= 10**MOST_DIGITS
    else:
        is_long = len(value.as_tuple().digits) > MOST_DIGITS or abs(value.adjusted()) > MOST_DIGITS
    if is_long:
        _fail(f"{where} is too long a number", f"at most {MOST_DIGITS} digits", shown(value))
    return Fraction(value)


def _decimal(text: str) -> Decimal:
    """A TOML number with a point or an exponent, exactly. Raises: ValueError if its exponent has twenty digits."""
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error


def _operations(problem: Problem) -> set[Operation]:
    return {step.operation for step in problem.steps if step.operation is not None}


def _fail(meaning: str, expected: str, got: str = "") -> NoReturn:
    raise PromptError(meaning, expected=expected, got=got)
