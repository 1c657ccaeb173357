"""Rank correlations, plain, partial and within groups, against scipy and statsmodels, on ordinary and degenerate data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.api import OLS, add_constant

from cotscope.stages.correlate import over_prompts
from cotscope.stats import partial_spearman, spearman, within_rank_correlation, within_spearman
from cotscope.stats.ranks import LEAST_POINTS


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=8))
def test_spearman_with_ties(points: list[tuple[int, int]]) -> None:
    x, y = zip(*points)
    rho, low, high, p = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert all(map(math.isnan, (rho, low, high, p)))
        return
    assert rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert 0 < p <= 1
    if len(x) < LEAST_POINTS:  # five in order have only resamples in order
        assert math.isnan(low) and math.isnan(high)
    else:
        assert -1 - 1e-9 <= low <= high <= 1 + 1e-9


def test_spearman_p_is_the_permutation_p() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=9)
    y = x + rng.normal(size=9)
    exact = scipy_stats.permutation_test(
        (y,), lambda v: scipy_stats.spearmanr(x, v).statistic, permutation_type="pairings", n_resamples=5000, rng=1
    ).pvalue
    assert spearman(x, y)[3] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("points", [4, 6])
def test_spearman_p_of_few_points_with_ties(points: int) -> None:
    rng = np.random.default_rng(points)
    x, y = rng.integers(0, 3, points), rng.integers(0, 4, points)

    def size(shuffled: np.ndarray) -> float:  # not scipy's two-sided p, which doubles the smaller tail
        return abs(scipy_stats.spearmanr(x, shuffled).statistic)

    exact = scipy_stats.permutation_test(
        (y,), size, permutation_type="pairings", n_resamples=np.inf, alternative="greater"
    ).pvalue
    assert spearman(x, y)[3] == pytest.approx(exact, abs=0.02)


@pytest.mark.slow
def test_spearman_interval_agrees_with_scipy() -> None:
    """Points like a study's: accuracies that are multiples of 1/96, with ties, and activities."""
    rng = np.random.default_rng(8)
    activity = rng.gamma(4, 1, 40)
    accuracy = np.clip(np.round((0.3 + 0.1 * activity + rng.normal(0, 0.1, 40)) * 96) / 96, 0, 1)
    expected = scipy_stats.bootstrap(
        (activity, accuracy), lambda a, b, axis=-1: _spearman_rows(a, b), paired=True, method="percentile", rng=1
    ).confidence_interval
    assert spearman(activity, accuracy)[1:3] == pytest.approx(tuple(expected), abs=0.02)


def _spearman_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows = np.atleast_2d(a), np.atleast_2d(b)
    return np.array([scipy_stats.spearmanr(x, y).statistic for x, y in zip(*rows)])


def test_spearman_sees_ranks_only() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=20), rng.normal(size=20)
    assert spearman(np.exp(3 * x), y**3) == spearman(x, y)
    assert spearman(-x, y)[0] == pytest.approx(-spearman(x, y)[0])


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1], [1]),
        ([1, 2], [1, 2]),
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [0, 0, 0, 0]),
        ([1, 2, math.nan, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [1, math.nan, 3, 4]),
    ],
)
def test_spearman_of_degenerate_data(x: list[float], y: list[float]) -> None:
    assert all(map(math.isnan, spearman(x, y)))
    assert all(map(math.isnan, partial_spearman(x, y, [float(i * i % 3) for i in range(len(x))])))


def residual_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """The reference: statsmodels' residuals of ranks on ranks."""
    ranks = add_constant(scipy_stats.rankdata(np.reshape(z, (len(x), -1)), axis=0), has_constant="add")
    left = [OLS(scipy_stats.rankdata(v), ranks).fit().resid for v in (x, y)]
    return float(scipy_stats.pearsonr(*left).statistic)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("points", [12, 48])
@pytest.mark.parametrize("ties", [False, True])
def test_partial_spearman_is_that_of_residuals_and_of_the_inverse(columns: int, points: int, ties: bool) -> None:
    rng = np.random.default_rng(columns + points)
    z = rng.normal(size=(points, columns))
    x, y = z.sum(axis=1) + rng.normal(size=(2, points))
    if ties:
        x, y, z = np.round(x), np.round(2 * y), np.round(z)
    rho, low, high = partial_spearman(x, y, z)
    assert rho == pytest.approx(residual_correlation(x, y, z))
    ranks = scipy_stats.rankdata(np.column_stack([x, y, z]), axis=0)
    inverse = np.linalg.inv(np.corrcoef(ranks, rowvar=False))
    assert rho == pytest.approx(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert -1 - 1e-9 <= low <= rho <= high <= 1 + 1e-9


def test_few_points_have_no_interval() -> None:
    x, y, z = np.random.default_rng(5).normal(size=(3, 8))
    assert np.isfinite(spearman(x[:6], y[:6])[1:]).all() and np.isnan(spearman(x[:5], y[:5])[1:3]).all()
    assert spearman(x[:5], y[:5])[3] > 0, "its p is exact"
    two = np.column_stack([z, z**2])
    assert np.isfinite(partial_spearman(x, y, two)).all()
    rho, low, high = partial_spearman(x[:7], y[:7], two[:7])
    assert math.isfinite(rho) and math.isnan(low) and math.isnan(high)
    found = {"spearman": 0.9, "ci": [None, None], "p_value": 0.08, "prompts": 5}  # as the summary has them
    assert over_prompts(found) == "activity and accuracy over 5 prompts: Spearman +0.90, of too few to tell"
    assert over_prompts(found | {"ci": [0.1, 1.0]}).endswith("Spearman +0.90 [+0.10, +1.00]")


def test_partial_spearman_of_one_column_is_the_textbook_formula() -> None:
    x, y, z = np.random.default_rng(4).normal(size=(3, 25))
    a, b, c = (scipy_stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (a - b * c) / np.sqrt((1 - b * b) * (1 - c * c))
    assert partial_spearman(x, y, z)[0] == pytest.approx(expected)
    assert partial_spearman(x, y, z) == partial_spearman(x, y, z[:, None])


@pytest.mark.slow
def test_partial_spearman_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(size=40)
    x, y = z + rng.normal(size=(2, 40))
    expected = scipy_stats.bootstrap(
        (x, y, z), residual_correlation, paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    assert partial_spearman(x, y, z)[1:] == pytest.approx(tuple(expected), abs=0.03)


def test_partial_spearman_takes_a_common_cause_away() -> None:
    rng = np.random.default_rng(7)
    z = rng.normal(size=200)
    x, y = z + 0.3 * rng.normal(size=(2, 200))
    assert spearman(x, y)[1] > 0.8
    _, low, high = partial_spearman(x, y, z)
    assert low < 0.1 < 0.3 > high


def test_columns_that_say_nothing_are_harmless() -> None:
    rng = np.random.default_rng(9)
    x, y, z = rng.normal(size=(3, 15))
    assert partial_spearman(x, y, np.ones(15))[0] == pytest.approx(spearman(x, y)[0])
    twice = np.column_stack([z, np.exp(z), np.ones(15)])
    assert partial_spearman(x, y, twice) == pytest.approx(partial_spearman(x, y, z))


def test_columns_that_are_almost_the_same_are_both_held_fixed() -> None:
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(2, 100))
    z = np.arange(100.0)
    other = z.copy()
    other[[40, 41]] = other[[41, 40]]
    x[40], y[40] = 9, 9
    both = np.column_stack([z, other])
    assert partial_spearman(x, y, both)[0] == pytest.approx(residual_correlation(x, y, both))
    assert partial_spearman(x, y, both)[0] != pytest.approx(partial_spearman(x, y, z)[0], abs=0.001)


def test_what_z_determines_has_no_partial_correlation() -> None:
    x, y = np.random.default_rng(10).normal(size=(2, 30))
    assert all(map(math.isnan, partial_spearman(x, y, np.exp(x))))
    assert all(map(math.isnan, partial_spearman(x, y, np.column_stack([y, -x]))))


def test_partial_spearman_needs_three_points_more_than_columns() -> None:
    rng = np.random.default_rng(11)
    x, y, z = rng.normal(size=5), rng.normal(size=5), rng.normal(size=(5, 3))
    assert all(map(math.isnan, partial_spearman(x, y, z)))
    assert math.isfinite(partial_spearman(x, y, z[:, :2])[0])


def pooled_within(x: np.ndarray, y: np.ndarray, groups: list[str]) -> float:
    """The reference: group by group with scipy's ranks, weighted by hand, correlated by numpy."""
    kept: list[tuple[float, float]] = []
    for name in set(groups):
        own = [i for i, g in enumerate(groups) if g == name]
        a, b = (scipy_stats.rankdata([v[i] for i in own]) for v in (x, y))
        kept += [((r - (len(own) + 1) / 2) / (len(own) + 1), (q - (len(own) + 1) / 2) / (len(own) + 1)) for r, q in zip(a, b)]
    left, right = np.array(kept).T
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", [(4, 4, 4, 4), (7, 5, 5, 1), (2, 3)])
def test_within_spearman_by_definition(sizes: tuple[int, ...], ties: bool) -> None:
    rng = np.random.default_rng(sum(sizes))
    groups = [f"kind {g}" for g, size in enumerate(sizes) for _ in range(size)]
    x = rng.normal(size=len(groups)) + 10 * np.array([int(g[-1]) for g in groups])
    y = x + rng.normal(size=len(groups))
    if ties:
        x, y = np.round(x), np.round(2 * y) / 2
    order = rng.permutation(len(groups))
    x, y, groups = x[order], y[order], [groups[i] for i in order]
    rho, low, high, p = within_spearman(x, y, groups)
    assert rho == pytest.approx(pooled_within(x, y, groups)) == pytest.approx(within_rank_correlation(x, y, groups))
    assert -1 - 1e-9 <= low <= rho + 1e-9 and rho - 1e-9 <= high <= 1 + 1e-9
    assert 0 < p <= 1


def test_within_spearman_of_one_group_is_spearman() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=15), rng.integers(0, 6, 15)
    assert within_spearman(x, y, ["a"] * 15)[0] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert within_spearman(x, y, [None] * 15)[1:] == pytest.approx(spearman(x, y)[1:], abs=0.02)


def test_within_spearman_p_is_the_exact_one_over_permutations_within_groups() -> None:
    groups = ["a"] * 3 + ["b"] * 4
    x = np.array([0.3, 0.1, 0.2, 5.0, 7.0, 6.0, 8.0])
    y = np.array([0.5, 0.25, 0.75, 0.1, 0.2, 0.2, 0.4])
    observed = abs(pooled_within(x, y, groups))
    sizes = [
        abs(pooled_within(x, np.array([*first, *second]), groups))
        for first in itertools.permutations(y[:3])
        for second in itertools.permutations(y[3:])
    ]
    assert within_spearman(x, y, groups)[3] == pytest.approx(np.mean([s >= observed - 1e-12 for s in sizes]), abs=0.015)


@pytest.mark.slow
def test_within_spearman_interval_is_the_stratified_bootstrap() -> None:
    rng = np.random.default_rng(9)
    groups = [g for g in "abcde" for _ in range(8)]
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    found = []
    for _ in range(2000):
        draw = np.concatenate([8 * g + rng.integers(0, 8, 8) for g in range(5)])
        found.append(pooled_within(x[draw], y[draw], groups))
    assert within_spearman(x, y, groups)[1:3] == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), abs=0.03)


def test_within_spearman_takes_away_what_groups_differ_in() -> None:
    """Between groups the two rise together, within them one falls as the other rises."""
    groups = [g for g in range(6) for _ in range(5)]
    within = np.tile(np.arange(5.0), 6)
    x, y = 100 * np.array(groups) + within, 100 * np.array(groups) - within
    assert spearman(x, y)[0] > 0.9
    rho, low, high, p = within_spearman(x, y, groups)
    assert (rho, low, high) == pytest.approx((-1, -1, -1))
    assert p < 0.001


@pytest.mark.parametrize(
    ("x", "y", "groups"),
    [
        ([], [], []),
        ([1, 2, 3], [1, 2, 3], "abc"),
        ([1, 2, 3, 4], [5, 5, 6, 6], "aabb"),
        ([1, 1, 2, 2], [1, 2, 3, 4], "aabb"),
        ([1, math.nan, 3, 4], [1, 2, 3, 5], "aabb"),
        ([1, 2, 3, 4], [1, 2, math.nan, 5], "aabb"),
    ],
)
def test_within_spearman_of_degenerate_data(x: list[float], y: list[float], groups: str) -> None:
    assert all(map(math.isnan, within_spearman(x, y, list(groups))))
