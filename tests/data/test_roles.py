"""Roles of the pieces of a solution."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cotscope.data.roles import roles, token_roles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7.", {"+": "operator", "7": "result", "3": "elsewhere", "=": "equals", ".": "elsewhere"}),
        ("So 12*2=24 now", {"*": "operator", "4": "result", "S": "elsewhere"}),
        ("The answer is $1,250.50.", {"1": "result", "0": "result", "$": "elsewhere"}),
        ("8 ÷ 2 = 4", {"÷": "operator", "4": "result"}),
        ("a well-known x-ray", {"-": "elsewhere", "x": "elsewhere"}),
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

    def __init__(self, blank: str) -> None:
        self.pieces, self.blank, self.tokenizer, self.calls = ["1", "+", "12", "=", "13"], blank, self, 0

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
