"""The statistics against scipy and statsmodels, on ordinary and degenerate data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from cotscope.stats import (
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    permutation_p,
    sign_flip_p,
    spearman,
    wilson,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(case: tuple[int, int]) -> None:
    successes, n = case
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


def test_wilson_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@settings(deadline=None)
@given(outcomes)
def test_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
    before, after = zip(*pairs)
    table = [[sum(b == x and a == y for b, a in pairs) for y in (True, False)] for x in (True, False)]
    expected = mcnemar(table, exact=True).pvalue if table[0][1] + table[1][0] else 1.0
    assert mcnemar_exact(before, after) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_of_nothing() -> None:
    assert holm([]) == []


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
    assert -1 - 1e-9 <= low <= high <= 1 + 1e-9


def test_spearman_p_is_the_permutation_p() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=9)
    y = x + rng.normal(size=9)
    exact = scipy_stats.permutation_test(
        (y,), lambda v: scipy_stats.spearmanr(x, v).statistic, permutation_type="pairings", n_resamples=5000, rng=1
    ).pvalue
    assert spearman(x, y)[3] == pytest.approx(exact, abs=0.01)


def test_spearman_needs_three_points() -> None:
    assert all(map(math.isnan, spearman([1, 2], [1, 2])))


def test_bootstrap_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 80)
    mean, low, high = paired_bootstrap(values)
    expected = scipy_stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)


@pytest.mark.parametrize(("values", "expected"), [([2.0], (2, 2, 2)), ([1.0, 1.0], (1, 1, 1))])
def test_bootstrap_of_degenerate_data(values: list[float], expected: tuple[float, ...]) -> None:
    assert paired_bootstrap(values) == expected


def test_bootstrap_of_nothing() -> None:
    assert all(map(math.isnan, paired_bootstrap([])))


def test_sign_flip_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 25)
    expected = scipy_stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=2
    ).pvalue
    assert sign_flip_p(values) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0]) == 1.0


def test_permutation_p_counts_ties_against_the_target() -> None:
    assert permutation_p(0.1, [0.2, 0.3, 0.4]) == 0.25
    assert permutation_p(0.2, [0.2, 0.3, 0.4]) == 0.5
    assert permutation_p(0.9, [0.2, 0.3, 0.4]) == 1.0


@pytest.mark.parametrize(("n", "discordant"), [(48, 0.0), (48, 0.1), (96, 0.04), (400, 0.3)])
def test_detectable_difference_is_what_a_simulation_detects(n: int, discordant: float) -> None:
    rng = np.random.default_rng(0)
    difference = detectable_difference(discordant, n, tests=4)

    def power(change: float) -> float:
        share = max(discordant, change)
        chances = [(share - change) / 2, 1 - share, (share + change) / 2]
        draws = rng.choice([-1, 0, 1], (400, n), p=chances)
        return float(np.mean([mcnemar_exact(row < 0, row > 0) < 0.05 / 4 for row in draws]))

    assert power(difference) > 0.72
    assert power(difference - 1 / n) < 0.88


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_problems_detect_nothing(n: int) -> None:
    assert detectable_difference(0.0, n) == 1.0


def test_holm_within_bonferroni() -> None:
    assert detectable_difference(0.1, 96, tests=4) >= detectable_difference(0.1, 96)
