"""Which questions a prompt shows with their answers."""

from __future__ import annotations

import pytest

from cotscope.prompts.shown import shows
from cotscope.records import Prompt

TEXT = (
    "Solve these.\n\nQuestion: How\nmany trees are 15 + 3?\nSo 15 + 3 = 18.\nThe answer is 18.\n\nQuestion: 15 + 3 =\n18.\n\n"
)


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("How many trees are 15 + 3?", True),
        ("how many TREES are 15 + 3", True),
        ("5 + 3 =", False),
        ("15 + 3 =", True),
        ("How many trees are 15 + 33?", False),
        ("How many tree?", False),
        ("Solve these.", False),
    ],
)
def test_a_question_is_shown_however_it_is_written(question: str, shown: bool) -> None:
    assert shows(Prompt("p", TEXT, "\n"), question) is shown
