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


def test_tokens_that_lose_their_blanks_alone_keep_their_place() -> None:
    pieces = ["1", "+", "12", "=", "13"]

    def decode(tokens: Sequence[int]) -> str:  # as SentencePiece: no blank before the first
        return " ".join(pieces[t] for t in tokens)

    assert token_roles(decode, range(5)) == ("elsewhere", "operator", "elsewhere", "equals", "result")
    assert token_roles(decode, ()) == ()
