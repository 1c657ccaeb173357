"""Errors: one short printable line, whatever stood in the file."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cotscope.errors import LONGEST_PART, DataError, UserError, shown


def test_the_parts_make_one_line() -> None:
    error = DataError("wrong", expected="this", got="that", remedy="Mend it.")
    assert str(error) == "wrong; expected this; got that. Mend it."
    assert (error.meaning, error.expected, error.got, error.remedy) == ("wrong", "this", "that", "Mend it.")
    assert str(UserError("a\n b\t\r\n", got="c\u2028d\x85")) == "a b; got c d"


def test_a_long_part_keeps_its_beginning_and_end() -> None:
    error = UserError("prompt file " + "x" * 5000 + " is empty", expected="e" * 10**7, got="g" * 241, remedy="r" * 240)
    assert error.meaning.startswith("prompt file xxx") and error.meaning.endswith("x is empty")
    for part in (error.meaning, error.expected, error.got):
        assert len(part) == LONGEST_PART and part.count("…") == 1
    assert error.remedy == "r" * 240
    assert len(str(error)) < 1000


def test_what_does_not_print_is_shown() -> None:
    text = str(UserError("name a\x1b[31mb\0", got="\udcff \u202e", remedy="caf\u00e9 × ’ …"))
    assert text == "name a\\x1b[31mb\\x00; got \\udcff \\u202e. café × ’ …"


@given(*[st.text(st.characters(exclude_categories=()), max_size=400) for _ in range(4)])
def test_any_error_is_a_short_printable_line(meaning: str, expected: str, got: str, remedy: str) -> None:
    error = UserError(meaning, expected=expected, got=got, remedy=remedy)
    text = str(error)
    assert text.isprintable() and len(text) <= 1000
    text.encode()


def test_an_error_is_the_same_after_pickling() -> None:
    error = DataError("m" * 500, expected="e" * 200, got="g" * 200, remedy="r" * 200)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is DataError
        assert (str(again), again.got) == (str(error), error.got)
        assert len(str(again)) > 800


def test_any_value_can_be_shown() -> None:
    assert shown("a\n") == "'a\\n'"
    assert shown(None) == "None"
    assert shown(10**5000) == "a whole number of about 5000 digits"
    assert shown(Fraction(1, 3**10000)) == "a Fraction too large to show"
    assert shown([10**5000]) == "a list too large to show"
    assert shown([[]] * 200) == str([[]] * 200)[:53] + "…" + str([[]] * 200)[-26:]
    assert len(shown("x" * 10**6)) == 80 and shown("x" * 10**6).endswith("x'")


def test_a_list_nested_too_deeply_is_shown() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list too large to show"
    while deep:  # freed level by level
        deep = deep[0]
