"""Permuted labels by enumeration, and that their ranks are p-values where chance gave the labels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cotscope.stats import expected_jaccard, sign_flip_p
from cotscope.stats.labels import as_high_p, beyond_p, permuted_sums, strata
from cotscope.stats.random_sets import STRATUM
from cotscope.stats.verdicts import TOGETHER, ActivityChange, verdict


def test_strata_are_layers_and_cells_of_each_trait() -> None:
    steps = np.exp(STRATUM * np.array([0.1, 0.9, 1.1, 0.1, 0.1]))
    sizes = np.exp(STRATUM * np.array([-0.5, -0.5, -0.5, -0.5, 0.5]))
    found = strata(np.array([3, 3, 3, 4, 3]), steps, sizes)
    assert found[0] == found[1]
    assert len({*found.tolist()}) == 4
    assert len({*strata(np.array([3, 3, 3, 4, 3]), steps).tolist()}) == 3
    assert len(strata(np.array([1]), np.array([0.0]))) == 1


def test_permuted_sums_are_those_of_all_sets_with_as_many_of_each_group() -> None:
    groups = np.array([0, 1, 0, 0, 1, 2, 0, 3])
    labelled = np.array([True, True, False, True, False, True, False, False])
    values = np.random.default_rng(0).normal(size=(8, 2))
    every = [
        values[[*a, b, 5]].sum(axis=0) for a in combinations([0, 2, 3, 6], 2) for b in (1, 4)
    ]  # two of four, one of two, the only one of group 2, none of group 3
    found = permuted_sums(values, labelled, groups, seed=1, permutations=6000)
    shares = [np.isclose(found, sums).all(axis=1).mean() for sums in every]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 12] * 12, abs=0.02)
    assert np.array_equal(found, permuted_sums(values, labelled, groups, seed=1, permutations=6000))


def test_nothing_labelled_and_everything_labelled() -> None:
    values, groups = np.arange(6.0).reshape(3, 2), np.zeros(3, int)
    assert (permuted_sums(values, np.zeros(3, bool), groups) == 0).all()
    assert (permuted_sums(values, np.ones(3, bool), groups) == values.sum(axis=0)).all()


def test_ranks() -> None:
    assert as_high_p(0.5, [0.1, 0.5, 0.7]) == 3 / 4
    assert as_high_p(0.1 + 0.2, [0.3]) == 1, "a tie, though floats differ"
    assert beyond_p(-0.5, [-0.6, -0.1, 0.4, 0.9]) == 2 * 2 / 5
    assert beyond_p(-0.1, [-0.6, -0.5, -0.4]) == 1, "it lags behind"
    assert beyond_p(0.0, [0.1, 0.2]) == 1
    assert beyond_p(3.0, [0.0] * 999) == 2 / 1000


def random_labels(rng: np.random.Generator, groups: np.ndarray, each: int) -> np.ndarray:
    """So many of every group, by chance."""
    labelled = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        labelled[rng.choice(np.flatnonzero(groups == group), each, replace=False)] = True
    return labelled


def said_of(labelled: np.ndarray, changes: np.ndarray, groups: np.ndarray, seed: int, rank: bool = True) -> str:
    """The verdict on a set whose prompt lowers accuracy; `changes` of each pole on each problem (poles, problems)."""
    own = changes[labelled].sum(axis=0)
    permuted = permuted_sums(changes.mean(axis=1, keepdims=True), labelled, groups, seed, permutations=199)[:, 0]
    beyond = beyond_p(own.mean(), permuted) if rank else 0.0
    return verdict((-0.3, 0.01), ActivityChange(own.mean(), sign_flip_p(own), beyond, False), 0.1)


def test_sets_labelled_by_chance_are_seldom_explained() -> None:
    """A prompt under which all poles are less active moves any set; without the rank nearly any would be “explained”."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 40)
    changes = rng.normal(-0.01, 0.02, (320, 1)) + rng.normal(0, 0.05, (320, 24))
    sets = [random_labels(rng, groups, 5) for _ in range(200)]
    assert np.mean([said_of(s, changes, groups, i, rank=False) == TOGETHER for i, s in enumerate(sets[:40])]) > 0.5
    said = [said_of(s, changes, groups, i) for i, s in enumerate(sets)]
    assert np.mean([s == TOGETHER for s in said]) <= 0.05
    assert said.count("activity moves as any neurons' does") > 100


def test_a_set_that_moves_more_than_others_is_explained() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(8), 40)
    changes = rng.normal(-0.01, 0.02, (320, 1)) + rng.normal(0, 0.05, (320, 24))
    labelled = random_labels(rng, groups, 5)
    changes[labelled] -= 0.02
    assert said_of(labelled, changes, groups, 0) == TOGETHER


def test_halves_agree_for_any_labels_but_not_beyond_permuted_ones() -> None:
    """Poles that are active often are in both halves, whatever they stand for: the hypergeometric mean is no null."""
    rng, ps, overlaps, chances = np.random.default_rng(4), [], [], []
    steps = np.exp(rng.normal(1, 1.5, 2000))
    groups = strata(rng.integers(0, 4, 2000), steps)
    present = rng.random((2, 2000)) < 1 - np.exp(-steps / 4)
    values = np.column_stack([present.all(axis=0), present.any(axis=0)]).astype(float)
    for i in range(200):
        labelled = rng.random(2000) < 0.1
        both, either = values[labelled].sum(axis=0)
        permuted = permuted_sums(values, labelled, groups, seed=i, permutations=99)
        ps.append(as_high_p(both / either, permuted[:, 0] / permuted[:, 1]))
        overlaps.append(both / either)
        chances.append(expected_jaccard(*(int(p[labelled].sum()) for p in present), 2000))
    assert np.mean(ps) == pytest.approx(0.5, abs=0.07)
    assert 0 < np.mean(np.array(ps) <= 0.05) <= 0.1
    assert min(overlaps) > 5 * max(chances)
