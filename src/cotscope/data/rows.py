"""One problem of a file or of the hub: reading its JSON, checking its fields, and the number or words that are its answer."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from ..errors import DataError, shown
from ..records import Problem
from .answers import MAX_DIGITS, OTHERWISE, numbers_in, parse_number, unmarked
from .numbers import DASHES, OPERATORS

FORM = 'an object with "question" and "answer" (a number, a solution that ends in "#### N", or in every row a few words)'
LONGEST_WORDS = 80
"""Characters of an answer in words. A longer one is no answer that a model can be expected to give as it stands."""
LONGEST = {"question": 100_000, "answer": 100_000, "solution": 100_000, "id": 1_000}
"""Characters of a text field. A longer question fits no model, and to find that out by tokenising it takes long."""

_BOUND = 10**MAX_DIGITS
_MARKER = "####"
_CALCULATOR = re.compile(r"<<[^<>]*>>")
LEADING = " \"'“”‘’¿¡"
_TRAILING = " .,;:!?\"'-…“”‘’"
# What makes another number of the one in digits. "2.5 million" is read in a model's text, where such a word may be the unit
# that was asked for.
_OTHERWISE = re.compile(
    "|".join(
        (
            rf"\A\s*+[{DASHES}][\s(]|\A\s*+\([$€£]?[0-9.,]++\)\s*+\Z",  # - 5, -(5), an accountant's (5)
            r"[√π]|\\(?:sqrt|pi)\b|\^(?!\{?(?:\\circ|st|nd|rd|th)\b)|[0-9]!",  # √5, 5^2 (not 5^{th}), 5!
            rf"\b[a-z]\s?[{OPERATORS}]\s?[0-9]|[0-9]\s?[+*]\s?[a-z]\b|(?<![a-z\\])[a-z](?=[0-9])",  # x + 5, 5 * y, B5
            r"\b(?:half|twice|double)\s(?:of\s)?[0-9]|[0-9]\sand\s(?:a|one)\s",  # half of 5, 5 and a half
            rf"[0-9](?:{OTHERWISE.pattern}|\s?(?:k|bn|hundreds?|thousands?|millions?|billions?|trillions?|dozens?)\b)",
        )
    ),
    re.IGNORECASE,
)


class _RepeatedKey(ValueError):
    """A key stands twice in an object, of which `json` would take the last in silence."""


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; a number that no float can hold is a Decimal.

    Args:
        text: the whole text.
        place: what an error's message begins with.

    Raises:
        DataError: it is not JSON, an object has a key twice, a number has too many digits, or it is nested too deeply.
    """
    try:
        return json.loads(text, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise DataError(f"{place}: not JSON", expected=FORM, got=f"{error.msg} at {where}") from error
    except _RepeatedKey as error:
        raise DataError(f"{place}: the key {error} stands twice in one object", expected="each key once") from error
    except RecursionError as error:
        raise DataError(f"{place}: can't read this JSON", expected=FORM, got="lists or objects nested too deeply") from error
    except ValueError as error:
        got = f"a number of more than {MAX_DIGITS} digits"
        raise DataError(f"{place}: can't read this JSON", expected=FORM, got=got) from error


def read_problems(rows: Iterable[tuple[int, str, Any]], stem: str, labelled: bool = True) -> Iterator[Problem]:
    """The problem of each row.

    Args:
        rows: (index, place for messages, parsed JSON) of each.
        stem: what the id of a problem without one begins with, before its index.
        labelled: False: questions are enough; answers are not read, and 0 stands in their place.

    Raises:
        DataError: a row is malformed, its answer is neither a number nor a few words, or is a number where those before it
            are words or the reverse, or two rows have one id.
    """
    places: dict[str, str] = {}
    kind = ""
    waiting = list[tuple[Problem, str]]()  # whose answer is a number in words ("one"), and words where the others' are
    for index, place, row in rows:
        problem = _problem(row, place, f"{stem}-{index}", labelled)
        either = "" if problem.words or not labelled else _number_words(row["answer"])
        if not either:
            here = "words" if problem.words else "a number"
            if (kind := kind or here) != here:
                raise DataError(f"{place}: the answer is {here}", expected=f"{kind}, as before it", got=shown(row["answer"]))
        if problem.id in places:
            raise DataError(
                f"{place}: the id {shown(problem.id)} is used twice",
                expected="each id once",
                got=f"the same id at {places[problem.id]}",
                remedy="Give each problem its own id, or none: it is then named after its line.",
            )
        places[problem.id] = place
        waiting.append((problem, either))
        if kind:
            yield from (replace(p, answer=words) if words and kind == "words" else p for p, words in waiting)
            waiting.clear()
    yield from (problem for problem, _ in waiting)


def _problem(row: Any, place: str, default_id: str, labelled: bool) -> Problem:
    if not isinstance(row, dict):
        raise DataError(f"{place}: not an object", expected=FORM, got=shown(row))
    if missing := [name for name in ("question", "answer")[: 1 + labelled] if name not in row]:
        found = ", ".join(str(key) for key in row) or "no field"
        raise DataError(f"{place}: no field {' or '.join(missing)}", expected=FORM, got=found)
    question = _text(row, "question", place).strip()
    if not question_key(question):
        raise DataError(f"{place}: the question is empty", expected="a question", got=shown(row["question"]))
    problem_id = default_id
    if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
        problem_id = str(row["id"])
    elif row.get("id") is not None:
        problem_id = _text(row, "id", place).strip()
        if not problem_id:
            raise DataError(f"{place}: the id is empty", expected="a text or a whole number, or no id")
    if not labelled:
        return Problem(problem_id, question, Fraction(0))
    if isinstance(row["answer"], str):
        _check_length(row["answer"], "answer", place)
    number = _number(row["answer"])
    answer = _words(row["answer"]) if number is None else number
    if answer is None:
        expected = f"one number, `#### N`, or at most {LONGEST_WORDS} characters without a digit"
        raise DataError(f"{place}: the answer is no number, nor a few words", expected=expected, got=shown(row["answer"]))
    solution = _text(row, "solution", place).strip() if row.get("solution") is not None else ""
    if not solution and isinstance(row["answer"], str) and _MARKER in row["answer"]:
        solution = _text(row, "answer", place).rpartition(_MARKER)[0]
    return Problem(problem_id, question, answer, solution=_CALCULATOR.sub("", solution).strip())


def question_key(question: str) -> str:
    """What two questions share that count as the same: case folded, blanks collapsed, quotes around it and punctuation at its
    end stripped, but for a factorial's. (At its beginning a dash or point may be a number's.)"""
    whole = " ".join(question.casefold().split()).lstrip(LEADING)
    key = whole.rstrip(_TRAILING)
    return key + "!" if key[-1:].isdigit() and whole[len(key) : len(key) + 1] == "!" else key


def _text(row: dict[str, Any], field: str, place: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise DataError(f"{place}: {field} is no text", expected="a string", got=shown(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which no tokenizer takes
        raise DataError(f"{place}: {field} is not valid Unicode", got=shown(value)) from error
    _check_length(value, field, place)
    return value


def _check_length(value: str, field: str, place: str) -> None:
    if len(value) > LONGEST[field]:
        raise DataError(
            f"{place}: the {field} is too long",
            expected=f"at most {LONGEST[field]:,} characters",
            got=f"{len(value):,}, {shown(value, 40)}",
        )


def _number(value: Any) -> Fraction | None:
    """The answer that a file's value stands for: a finite number, or a text with exactly one number, and nothing beside it
    that makes another one of it ("- 5", "2.5 million", "3½"); else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value) if abs(value) < _BOUND else None
    if isinstance(value, float):
        # Through its decimal form, so that 0.1 is one tenth.
        return Fraction(repr(value)) if value - value == 0 else None
    if not isinstance(value, str):
        return None
    value = value.rpartition(_MARKER)[2]
    numbers = numbers_in(value)
    if numbers and (_OTHERWISE.search(value) or any(unicodedata.category(c) == "No" for c in value)):  # No: ½, ²
        return None
    return parse_number(value) if not numbers else numbers[0] if len(numbers) == 1 else None


def _words(value: Any) -> str | None:
    """The answer in words that a file's value is; None if it is none: too long, with digits, without a letter."""
    words = " ".join(unmarked(value.rpartition(_MARKER)[2]).split()) if isinstance(value, str) else ""
    fits = len(words) <= LONGEST_WORDS and any(map(str.isalpha, words)) and not any(map(str.isdigit, words))
    return words if fits and words.isprintable() else None


def _number_words(value: Any) -> str:
    """A number's text if it is words as well: no digit is in it; else ""."""
    return "" if not isinstance(value, str) or _MARKER in value else _words(value) or ""


def _float(text: str) -> Any:
    """A JSON number's value; where a float would be infinite, or 0 by rounding, a Decimal, which is no answer."""
    value = float(text)
    if value - value != 0 or (value == 0 and re.match(r"-?[0.]*[1-9]", text)):
        try:
            return Decimal(text)
        except InvalidOperation:  # an exponent of twenty digits
            return Decimal("NaN")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which each key is different."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _RepeatedKey(shown(key))
        made[key] = value
    return made
