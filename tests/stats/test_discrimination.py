"""The area under the ROC curve against scikit-learn, its interval and its paired test against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from cotscope.stats import auroc, auroc_difference


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=50))
def test_value(pairs: list[tuple[bool, int]]) -> None:
    right, scores = zip(*pairs)
    found = auroc(right, scores)
    if len(set(right)) == 1:
        assert all(map(math.isnan, found))
    else:
        assert found.value == pytest.approx(roc_auc_score(right, scores))
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_coverage_and_type_one_error() -> None:
    rng = np.random.default_rng(0)
    true, covered, rejected, runs = float(scipy_stats.norm.cdf(1 / math.sqrt(2))), 0, 0, 500
    for _ in range(runs):
        right = rng.random(80) < 0.6
        shared = rng.normal(size=80)
        first, second = (right + 0.8 * shared + 0.6 * rng.normal(size=80) for _ in range(2))
        area = auroc(right, first)
        covered += area.low <= true <= area.high
        rejected += auroc_difference(right, first, second)[1] < 0.05
    assert 0.92 <= covered / runs <= 0.98
    assert 0.02 <= rejected / runs <= 0.08


def test_a_difference_that_is_there_is_seen() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(300) < 0.5
    good, noise = right + rng.normal(size=300), rng.normal(size=300)
    difference, p = auroc_difference(right, good, noise)
    assert difference.value == pytest.approx(roc_auc_score(right, good) - roc_auc_score(right, noise))
    assert difference.low > 0 and p < 1e-4
    assert auroc_difference(right, good, 2 * good + 1) == ((0.0, 0.0, 0.0), 1.0)


def test_perfect_scores_have_an_interval_of_some_width() -> None:
    area = auroc([True] * 10 + [False] * 10, [1.0] * 10 + [0.0] * 10)
    assert area.value == 1 and area.low < 0.95


def test_answers_of_a_cluster_that_go_together() -> None:
    """With the clusters the interval covers what it should; without them it is too narrow."""
    rng, of = np.random.default_rng(2), np.repeat(np.arange(20), 8)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        skill, ease = rng.normal(size=(2, 20))
        right = rng.random(len(of)) < 1 / (1 + np.exp(-2 * skill[of]))
        return right, skill[of] + 1.5 * ease[of] + rng.normal(size=len(of))

    true = float(np.mean([auroc(*draw()).value for _ in range(1500)]))
    covered, runs = {True: 0, False: 0}, 400
    for _ in range(runs):
        right, scores = draw()
        for known in covered:
            area = auroc(right, scores, of if known else None)
            covered[known] += area.low <= true <= area.high
    assert covered[True] / runs >= 0.9
    assert covered[False] / runs <= 0.83


@pytest.mark.slow
def test_few_clusters_of_one_class() -> None:
    """Wrong answers of four templates: the interval is wide enough. Of one: nothing can be said."""
    rng, of = np.random.default_rng(4), np.repeat(np.arange(30), 4)
    right = of >= 4

    def draw() -> np.ndarray:
        return right + rng.normal(size=30)[of] + rng.normal(size=120)

    true = float(np.mean([auroc(right, draw()).value for _ in range(3000)]))
    found = [auroc(right, draw(), of) for _ in range(400)]
    assert np.mean([a.low <= true <= a.high for a in found]) >= 0.9
    assert np.mean([auroc_difference(right, draw(), draw(), of)[1] < 0.05 for _ in range(400)]) <= 0.08
    area = auroc(of >= 1, draw(), of)
    assert (area.low, area.high) == (0, 1)
    difference, p = auroc_difference(of >= 1, draw(), draw(), of)
    assert (difference.low, difference.high, p) == (-1, 1, 1)


def test_what_never_varies_is_as_sure_as_its_clusters_are_many() -> None:
    """Thirty wrong answers of two templates that are told perfectly are two observations, not thirty."""
    right, scores, templates = [True] * 30 + [False] * 30, [1.0] * 30 + [0.0] * 30, [*range(30), *([30] * 15), *([31] * 15)]
    assert auroc(right, scores, templates) == (1, 0, 1) and auroc(right, scores)[1] == pytest.approx(0.9)
    difference, p = auroc_difference(right, scores, [-s for s in scores], templates)
    assert difference == (1, -0.5, 1) and p == 0.5
    assert auroc_difference(right, scores, [-s for s in scores])[1] == pytest.approx(2.0**-29)
    assert auroc_difference(right, scores, scores, templates) == ((0, 0, 0), 1)
