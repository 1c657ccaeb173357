"""Which questions a prompt shows with their answers, and blank lines at which answers like its own would end."""

from __future__ import annotations

import pytest

from cotscope.prompts.shown import broken, shows
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


def test_blank_lines_within_an_example() -> None:
    assert broken(Prompt("p", TEXT, "\n")) == 0
    assert broken(Prompt("p", TEXT.replace("\nSo", "\n\nSo"), "\n")) == 1
    assert broken(Prompt("p", "", "\n")) == 0
