"""Roles of the pieces of a solution."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from cotscope.data.roles import formulas, roles, token_reckoning, token_roles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7.", {"+": "operator", "7": "result", "3": "elsewhere", "=": "equals", ".": "elsewhere"}),
        ("So 12*2=24 now", {"*": "operator", "4": "result", "S": "elsewhere"}),
        ("The answer is $1,250.50.", {"1": "result", "0": "result", "$": "elsewhere"}),
        ("8 ÷ 2 = 4", {"÷": "operator", "4": "result"}),
        ("3 + 4 = 7, then", {"7": "result", ",": "elsewhere"}),
        ("5 - 8 = −3 and", {"−": "result", "3": "result", "-": "operator"}),
        ("it is = -$5", {"5": "result", "$": "elsewhere"}),
        ("The answer is: **8**", {"8": "result", "*": "elsewhere"}),
        ("a well-known x-ray", {"-": "elsewhere", "x": "elsewhere"}),
        (r"\(3 \times \$4 = \$12\)", {"t": "operator", "s": "operator", "m": "operator", "2": "result", "=": "equals"}),
        (r"6 \div 2 = \boxed{3}", {"d": "elsewhere", "v": "operator", "3": "result", "{": "elsewhere"}),
        ("(3 + 4) · 2 = ‑5", {"·": "operator", "+": "operator", "=": "equals", "‑": "result", "5": "result"}),
        ("It is 5 – 3 = ¥2", {"–": "operator", "2": "result", "¥": "elsewhere"}),
        ("20% x 50", {"x": "operator"}),
        (r"3\times4 = 12", {"m": "operator", "2": "result"}),
        (r"The answer is $\boxed{8}$", {"8": "result"}),
        (r"3 \times \frac{1}{2}", {"m": "operator"}),
        ("From 2019–2020", {"–": "elsewhere"}),
        ("10% (day 1)\n- 2 apples\n* 3 (blue)", {"-": "elsewhere", "*": "elsewhere"}),
    ],
)
def test_characters(text: str, expected: dict[str, str]) -> None:
    found = roles(text, range(1, len(text) + 1))
    assert len(found) == len(text)
    for character, role in expected.items():
        assert found[text.rindex(character)] == role


def test_a_token_that_reaches_into_a_result_has_its_role() -> None:
    assert roles("1 + 1 = 20.", [1, 3, 5, 7, 9, 10, 11]) == (
        "elsewhere", "operator", "elsewhere", "equals", "result", "result", "elsewhere",
    )  # fmt: skip
    assert roles("", []) == ()


class Words:
    """A decoder whose tokens are words: as SentencePiece, it puts no blank before the first of a text."""

    def __init__(self, blank: str, *pieces: str) -> None:
        self.pieces, self.blank, self.tokenizer, self.calls = pieces or ("1", "+", "12", "=", "13"), blank, self, 0

    def decode(self, tokens: Sequence[int]) -> str:
        self.calls += 1
        return self.blank.join(self.pieces[t] for t in tokens)

    def piece(self, token: int) -> str:
        return self.pieces[token]


def test_tokens_that_lose_their_blanks_alone_keep_their_place() -> None:
    expected = ("elsewhere", "operator", "elsewhere", "equals", "result")
    for blank, calls in ((" ", 6), ("", 1)):  # pieces that come to the text are not decoded again
        words = Words(blank)
        assert token_roles(words, range(5)) == expected
        assert words.calls == calls
    assert token_roles(Words(" "), ()) == ()


def test_what_is_reckoned_is_formulas_and_answers() -> None:
    latex = r"So \(3 \times \$4 = \$12\) it is, 5 – 3."
    assert [latex[a:b] for a, b in formulas(latex)] == [r"3 \times \$4 = \$12", "5 – 3"]
    assert formulas("2019–2020, 5\n- 3") == []
    for blank in (" ", ""):
        words = Words(blank, "So ann has", "1", "+", "12", "=", "13", "pens. The answer is", "13", ".")
        assert token_reckoning(words, range(9)) == (False, *[True] * 5, False, True, False)
    months = Words(" ", "June", "+", "2", "is", "August", ".", "The answer is", "August")
    assert token_reckoning(months, range(8), "August") == tuple(i in (4, 7) for i in range(8))


def test_a_role_is_that_of_the_first_span_that_is_touched() -> None:
    """Against the definition: any overlap with a result, else with an operator, else with an equals sign."""
    draw = random.Random(1)
    pieces = ["= ", "1", "23", " + ", "-", "x", "*", "$", "The answer is ", ",", ".", "=", "\n", "٣", "(", "a"]
    for _ in range(500):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        single = roles(text, range(1, len(text) + 1))
        ends = sorted(draw.choices(range(len(text) + 1), k=5))
        for role, start, end in zip(roles(text, ends), [0, *ends], ends):
            if start < end:
                order = ("result", "operator", "equals", "elsewhere")
                assert role == min(single[start:end], key=order.index)


def test_time_is_linear() -> None:
    text = "1 + 1 = 2. " * 10_000
    start = time.process_time()
    found = roles(text, range(1, len(text) + 1))
    assert time.process_time() - start < 2  # token by span takes minutes
    assert found.count("operator") == found.count("result") == 10_000


def test_an_answer_in_words_is_a_result_wherever_it_stands() -> None:
    text = "Monday, then Tuesday.\nTuesday it is. The answer is: Wednesday, I think.\nTuesdays"
    found = roles(text, range(1, len(text) + 1), "tuesday")
    marked = "".join(c if role == "result" else "_" for c, role in zip(text, found, strict=True))
    assert marked.replace("_", " ").split() == ["Tuesday", "Tuesday", "Wednesday,", "I", "think"]
    assert "result" not in roles(text, range(1, len(text) + 1))
    letters = "A day is a day. The answer is A."
    assert roles(letters, range(1, len(letters) + 1), "A").count("result") == 1
    both = "The answer is Tuesday or Tuesday."
    assert roles(both, [14, 21, 32, 33], "Tuesday") == ("elsewhere", "result", "result", "elsewhere")
