"""Sums: right results, the difficulty that the level says, nothing shown that is asked."""

from __future__ import annotations

import pytest

from cotscope.data.sums import LEVELS, carries, load_sums


@pytest.mark.parametrize(
    ("a", "b", "symbol", "count"),
    [
        (23, 45, "+", 0),
        (38, 45, "+", 1),
        (961, 898, "+", 2),
        (999, 1, "+", 3),
        (64, 50, "-", 0),
        (70, 18, "-", 1),
        (910, 636, "-", 2),
        (1000, 1, "-", 3),
    ],
)
def test_carries_and_borrows_are_counted(a: int, b: int, symbol: str, count: int) -> None:
    assert carries(a, b, symbol) == count


def test_sums_are_right_and_of_their_level() -> None:
    for level, sums in zip(LEVELS, load_sums(24), strict=True):
        assert sums.name == level.name and len(sums.items) == 24 and len({*sums.items, *sums.shots}) == 28
        for formula, result in (*sums.shots, *sums.items):
            a, symbol, b, _ = formula.split()
            assert eval(f"{a} {symbol} {b}") == int(result) >= 0 and symbol == level.symbol
            assert (len(a), len(b)) == level.digits
            if level.carries == 0:
                assert carries(int(a), int(b), symbol) == 0
            elif level.carries:
                assert carries(int(a), int(b), symbol) >= level.carries


@pytest.mark.slow
def test_a_seed_draws_the_same_sums_and_more_items_begin_alike() -> None:
    assert load_sums(8) == load_sums(8) != load_sums(8, seed=1)


def test_a_prompt_ends_where_the_result_begins() -> None:
    sums = load_sums(2)[0]
    prompt = sums.prompt(sums.items[0])
    assert prompt.endswith("=") and prompt.count("\n") == len(sums.shots)
    assert sums.continuation(sums.items[0]) == f" {sums.items[0][1]}\n"
