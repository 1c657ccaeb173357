"""What became of a text's first formula."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotscope.data.numbers import format_number
from cotscope.data.reckoning import MISSING, RIGHT, WRONG, first_result, results


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("They have 3 + 4 = 7 apples.", RIGHT),
        ("3+4=7", RIGHT),
        ("3 + 4 = 8 and 1 + 1 = 2", WRONG),
        ("1 + 1 = 2 and 3 + 4 = 8", RIGHT),
        ("3 + 4 * 2 = 11", RIGHT),
        ("3 + 4 * 2 = 14", WRONG),
        ("20 - 8 / 4 - 3 = 15", RIGHT),
        ("3 × 4 ÷ 2 = 6", RIGHT),
        ("5 x 3 = 15", RIGHT),
        ("5 − 8 = −3", RIGHT),
        ("-3 + 5 = 2", RIGHT),
        ("- 3 + 5 = 8", RIGHT),  # of a list
        ("-3 * 5 = -15", RIGHT),
        ("1,200 + 3 = 1,203", RIGHT),
        ("$5 * 3 = $15", RIGHT),
        ("\\$5 * 3 = \\$15", RIGHT),
        ("**3 + 4 = 7**", RIGHT),
        ("3 + 4 = \\{7\\}", RIGHT),
        ("48/2 = <<48/2=24>>24", RIGHT),
        ("5 + 3 = 4 + 4 = 8", RIGHT),
        ("5 + 4 = 9 - 3 = 6", RIGHT),
        ("5 + 4 = 8 - 3", WRONG),
        ("10 / 3 = 3.33", RIGHT),
        ("10 / 3 = 3.34", WRONG),
        ("10 / 3 = 3", WRONG),
        ("20 / 40 = 50%", RIGHT),
        ("20 / 40 = 50", WRONG),
        ("10 / 0 = 5", WRONG),
        ("3 + 4 =", MISSING),
        ("3 + 4 =  \n", MISSING),
        ("3 + 4 = apples, 3 + 4 = 7", MISSING),
        ("3 + 4 = = 7", MISSING),
        ("", None),
        ("There are 7.", None),
        ("3 apples + 4 apples = 7 apples", None),
        ("x = 7", None),
        ("2x + 3 + 4 = 9", None),  # a sum's end, not its beginning
        ("(1 + 2) * 3 + 4 = 13, so 2 + 2 = 5", WRONG),
        ("3 + 4\n= 7", None),
        # Said again: no result until something else follows.
        ("48 / 8 = 48 / 8 = 48 / 8 =", MISSING),
        ("48/2 = 48/2 = 25", WRONG),
        ("48 / 2 = 48/2 = 24", RIGHT),
        # As models write it.
        ("3 \\times 4 + 5 = 17", RIGHT),
        ("3 · 4 - 2 = 10", RIGHT),
        ("5 – 8 = –3", RIGHT),
        ("6/8 = \\frac{3}{4}", RIGHT),
        ("3 + 4 == 7", RIGHT),
        ("3 + 4 = \\boxed{7}", RIGHT),
        ("3 + 4 = `7`", RIGHT),
        ("So **3 + 4 = 7**", RIGHT),
        ("1/2 = .5", RIGHT),
        ("5 X 3 + 1 = 16", RIGHT),
        ("5 ⋅ 3 = 16", WRONG),
        ("7 / 2 = 3 1/2 apples", RIGHT),
        ("7/2 = 3½", RIGHT),
        ("8 / 3 = 2⅔", RIGHT),
        ("7 / 2 = 3 1/3", WRONG),
        ("6 / 2 = 3 1/2", WRONG),
        ("10 / 2 = 5 1/2-cup measures", RIGHT),
        ("6*2 = 12 12/2=6", RIGHT),
        (r"3\times4 = 12", RIGHT),
        ("(2 + 3) ⋅ 4 + 1 = 21", None),
        ("5*3 = <<5*3=15>> apples", RIGHT),
        ("Step 1: 3 + 4 = 7", RIGHT),
        # The end of a longer one is not judged by itself.
        ("12 : 4 + 1 = 4", None),
        ("2 ** 3 + 1 = 9", None),
        ("**3** + 4 + 5 = 12", None),
        ("20% * 50 + 3 = 13", None),
        ("√16 + 2 = 6", None),
        ("3 times 4 + 5 = 17", None),
        ("3 1/2 + 1 = 4.5", None),
        # Of one line.
        ("He has 12 apples\n- 3 + 4 = 7", RIGHT),
        ("3 + 4 =\n\n7", MISSING),
        ("3 + 4 =\n1. First", MISSING),
        ("3 + 4 = 8\n- 1 apple", WRONG),
        # Rounded.
        ("2/3 = 67%", RIGHT),
        ("3/4 = 0.75%", WRONG),
        ("1 / 1000 = 0.0", WRONG),
        ("3 + 4 = 7/8", WRONG),
        ("1" + ",000" * 2000 + " + 1 = 2", None),
        ("3 + 4 = 1" + ",000" * 1440, WRONG),
        (f"{'9' * 5000} + 1 = 2", None),
    ],
)
def test_the_first_formula(text: str, found: str | None) -> None:
    assert first_result(text) == found


def test_all_of_them_in_order() -> None:
    text = "3 + 4 = 7. 7 - 2 = 4, so 4 apples + 1 = 5; then 2 * 3 =\n(1 + 2) * 3 = 9"
    assert results(text) == [RIGHT, WRONG, MISSING]
    assert results("5 + 3 = 4 + 4 = 9") == [RIGHT, WRONG] and results("None.") == []


numbers = st.integers(0, 10**9)


@given(numbers, st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 10**6)), min_size=1, max_size=5), st.integers(1, 99))
def test_it_is_right_by_python_itself(first: int, rest: list[tuple[str, int]], off: int) -> None:
    side = f"{first} " + " ".join(f"{operator} {number}" for operator, number in rest)
    exact = eval(f"F({first})" + "".join(f"{operator}F({number})" for operator, number in rest), {"F": Fraction})
    shown = format_number(exact)
    if "/" not in shown and sum(map(str.isdigit, shown)) <= 30:
        assert first_result(f"So it is {side} = {shown}.") == RIGHT
        assert first_result(f"So it is {side} = {format_number(exact + off)}.") == WRONG
    assert first_result(f"So it is {side} = so many") == MISSING


@given(st.text(alphabet="0123456789+-*/=.,$ x()\n<>%\\{", max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert first_result(text) in (RIGHT, WRONG, MISSING, None)


@pytest.mark.parametrize("part", ["1+", "1 + ", "1/", "1,000+", "1", "1,000", "(1 + 2) ", "1 + 1 ", "<<", "- ", "=", "1 "])
def test_it_takes_no_long(part: str) -> None:
    before = time.process_time()
    first_result(part * (8000 // len(part)))
    assert time.process_time() - before < 2
