"""Sums: right results, the difficulty that the level says, nothing shown that is asked."""

from __future__ import annotations

import numpy as np
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
    assert carries(np.array([a]), np.array([b]), symbol) == [count]


def test_sums_are_right_and_of_their_level() -> None:
    for level, sums in zip(LEVELS, load_sums(24), strict=True):
        assert sums.name == level.name and len(sums.items) == 24 and len({*sums.items, *sums.shots}) == 28
        for formula, result in (*sums.shots, *sums.items):
            a, symbol, b, _ = formula.split()
            assert eval(f"{a} {symbol} {b}") == int(result) >= 0 and symbol == level.symbol
            assert (len(a), len(b)) == level.digits
            [found] = carries(np.array([int(a)]), np.array([int(b)]), symbol)
            assert level.carries is None or (found == 0 if level.carries == 0 else found >= level.carries)


def test_a_seed_draws_the_same_sums_and_more_items_begin_alike() -> None:
    assert load_sums(8) == load_sums(8) != load_sums(8, seed=1)
    assert [s.items[:8] for s in load_sums(24)] == [s.items for s in load_sums(8)]


def test_every_sum_of_a_level_can_be_drawn() -> None:
    """Counted one by one: two digits without a carry, larger first without a borrow, all of one digit."""
    two, one = range(10, 100), range(2, 10)
    many = {s.name: len({*s.items, *s.shots}) for s in load_sums(10_000)}
    assert many["add, 2 digits"] == sum(a % 10 + b % 10 < 10 and a // 10 + b // 10 < 10 for a in two for b in two)
    assert many["subtract, 2 digits"] == sum(a > b and a % 10 >= b % 10 for a in two for b in two)
    assert many["multiply, 1 digit"] == len(one) ** 2


def test_a_prompt_ends_where_the_result_begins() -> None:
    sums = load_sums(2)[0]
    prompt = sums.prompt(sums.items[0])
    assert prompt.endswith("=") and prompt.count("\n") == len(sums.shots)
    assert sums.continuation(sums.items[0]) == f" {sums.items[0][1]}\n"
