"""Intervals of proportions and differences against statsmodels and scipy, on ordinary and degenerate data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from cotscope.stats import equivalence, paired_bootstrap, wilson


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(case: tuple[int, int]) -> None:
    successes, n = case
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize("n", [1, 48, 1319])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_of_all_and_none(n: int, level: float) -> None:
    for successes in (0, n):
        expected = proportion_confint(successes, n, alpha=1 - level, method="wilson")
        assert wilson(successes, n, level) == pytest.approx(expected, abs=1e-12)
        scipys = scipy_stats.binomtest(successes, n).proportion_ci(level, method="wilson")
        assert wilson(successes, n, level) == pytest.approx(tuple(scipys), abs=1e-12)
    assert wilson(0, n, level)[0] == 0.0 and wilson(n, n, level)[1] == 1.0


def test_wilson_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(0.3, 1, 80),
        np.random.default_rng(1).choice([-1, 0, 1], 96, p=[0.1, 0.7, 0.2]),  # solved before and after
        np.random.default_rng(2).choice([-0.75, -0.25, 0, 0.25], 48),
        np.array([0.0] * 95 + [1.0]),
    ],
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bootstrap_interval_agrees_with_scipy(values: np.ndarray, level: float) -> None:
    mean, low, high = paired_bootstrap(values, level=level)
    expected = scipy_stats.bootstrap((values,), np.mean, confidence_level=level, method="percentile", rng=1)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.022)


@pytest.mark.parametrize(("values", "expected"), [([2.0], (2, 2, 2)), ([1.0, 1.0], (1, 1, 1)), ([0.0] * 9, (0, 0, 0))])
def test_bootstrap_of_degenerate_data(values: list[float], expected: tuple[float, ...]) -> None:
    assert paired_bootstrap(values) == expected


def test_bootstrap_of_nothing() -> None:
    assert all(map(math.isnan, paired_bootstrap([])))


def test_equivalence_is_the_90_percent_interval_within_the_bound() -> None:
    values = np.random.default_rng(3).normal(0.02, 0.1, 40)
    low, high, _ = equivalence(values, 0.0)
    assert (low, high) == paired_bootstrap(values, level=0.9)[1:]
    edge = max(-low, high)
    assert [equivalence(values, bound)[2] for bound in (0.99 * edge, edge, 1.01 * edge)] == [False, True, True]
    assert not equivalence(values + 0.2, edge)[2] and not equivalence(values - 0.2, edge)[2]


def test_equivalence_needs_five_pairs() -> None:
    assert equivalence([0.0] * 5, 0.1) == (0, 0, True)
    assert equivalence([0.0] * 4, 0.1) == (0, 0, False)
    assert not equivalence([], 0.1)[2]


def test_equivalence_is_said_of_a_change_at_the_bound_one_time_in_twenty() -> None:
    rng = np.random.default_rng(0)
    said = [equivalence(rng.normal(0.5, 1, 48), 0.5)[2] for _ in range(400)]
    assert 0 < np.mean(said) < 0.08
    assert np.mean([equivalence(rng.normal(0, 1, 48), 0.5)[2] for _ in range(50)]) > 0.9
