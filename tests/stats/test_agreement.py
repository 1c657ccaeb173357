"""Overlap of sets by counting, and kappa against statsmodels."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.inter_rater import cohens_kappa

from cotscope.stats import cohen_kappa, expected_jaccard, jaccard


def test_jaccard() -> None:
    assert jaccard([1, 2, 3], {2, 3, 4, 5}) == pytest.approx(2 / 5)
    assert jaccard(["a"], ["a", "a"]) == 1.0
    assert jaccard([(0, 1)], [(1, 0)]) == 0.0
    assert jaccard([], [1]) == 0.0
    assert math.isnan(jaccard([], []))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_expected_jaccard_is_the_mean_over_all_sets(case: tuple[int, int, int]) -> None:
    size_a, size_b, universe = case
    if not size_a and not size_b:
        assert math.isnan(expected_jaccard(*case))
        return
    one = set(range(size_a))
    mean = np.mean([jaccard(one, other) for other in combinations(range(universe), size_b)])
    assert expected_jaccard(*case) == pytest.approx(mean)
    assert expected_jaccard(size_b, size_a, universe) == pytest.approx(mean)


def test_expected_jaccard_of_a_model() -> None:
    """Of sets that are small beside the universe it is near the index of the mean intersection."""
    shared = 300 * 500 / 43_000
    assert expected_jaccard(300, 500, 43_000) == pytest.approx(shared / (800 - shared), rel=0.01)
    assert expected_jaccard(20, 20, 20) == 1.0
    assert expected_jaccard(0, 5, 10) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_cohen_kappa(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs)
    if len({*a, *b}) == 1:
        assert all(map(math.isnan, cohen_kappa(a, b)))
        return
    table = np.zeros((4, 4))
    np.add.at(table, (a, b), 1)
    with np.errstate(invalid="ignore"):
        expected = cohens_kappa(table)
    kappa, low, high = cohen_kappa([f"word {i}" for i in a], [f"word {i}" for i in b])
    assert kappa == pytest.approx(expected.kappa)
    # Where the variance is 0, rounding leaves statsmodels a little of either sign.
    half = 1.959964 * np.sqrt(max(0.0, expected.var_kappa))
    if half < 1e-5:
        assert math.isnan(low) and math.isnan(high)
        return
    assert (low, high) == pytest.approx((max(-1, kappa - half), min(1, kappa + half)), abs=1e-6)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_cohen_kappa_of_two_annotators(level: float) -> None:
    """Most candidates refused by both, as annotators do."""
    rng = np.random.default_rng(12)
    a = rng.random(400) < 0.15
    b = a ^ (rng.random(400) < 0.08)
    expected = cohens_kappa(np.array([[np.sum((a == x) & (b == y)) for y in (0, 1)] for x in (0, 1)]))
    low, high = scipy_stats.norm(expected.kappa, expected.std_kappa).interval(level)
    assert cohen_kappa(a.tolist(), b.tolist(), level) == pytest.approx((expected.kappa, low, high))


@pytest.mark.parametrize(
    ("a", "b", "kappa"),
    [([1, 0, 1, 0], [1, 0, 1, 0], 1.0), ([1, 0], [0, 1], -1.0), ([1] * 6, [0] * 6, 0.0), ([1, 1, 0], [1, 1, 1], 0.0)],
)
def test_cohen_kappa_of_degenerate_data(a: list[int], b: list[int], kappa: float) -> None:
    value, low, high = cohen_kappa(a, b)
    assert value == pytest.approx(kappa)
    assert math.isnan(low) and math.isnan(high)  # a variance of 0 says nothing


@pytest.mark.parametrize("words", [[], [1], [0, 0, 0]])
def test_cohen_kappa_of_one_word_is_undefined(words: list[int]) -> None:
    assert all(map(math.isnan, cohen_kappa(words, words)))
