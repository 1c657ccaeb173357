"""Tests of paired outcomes and of permutations, their multiplicity and power, against scipy and statsmodels."""

from __future__ import annotations

import itertools
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from cotscope.stats import (
    detectable_difference,
    diagonal_contrast,
    holm,
    mcnemar_exact,
    permutation_p,
    problems_needed,
    sign_flip_p,
    unlike_p,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None)
@given(outcomes)
def test_mcnemar(pairs: list[tuple[bool, bool]]) -> None:
    before, after = zip(*pairs)
    table = [[sum(b == x and a == y for b, a in pairs) for y in (True, False)] for x in (True, False)]
    expected = mcnemar(table, exact=True).pvalue if table[0][1] + table[1][0] else 1.0
    assert mcnemar_exact(before, after) == pytest.approx(expected)


def test_mcnemar_on_a_whole_test_set() -> None:
    rng = np.random.default_rng(5)
    before = rng.random(1319) < 0.6
    for flips in (0.0, 0.02, 0.3):
        after = before ^ (rng.random(1319) < flips)
        table = [[np.sum((before == x) & (after == y)) for y in (True, False)] for x in (True, False)]
        assert mcnemar_exact(before, after) == pytest.approx(mcnemar(table, exact=True).pvalue if flips else 1.0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], 1.0),
        ([True], [True], 1.0),
        ([True], [False], 1.0),  # one discordant pair shows nothing
        ([False] * 9, [False] * 9, 1.0),
        ([True] * 9, [False] * 9, 2 / 2**9),
        ([True, False] * 5, [False, True] * 5, 1.0),
    ],
)
def test_mcnemar_of_degenerate_data(before: list[bool], after: list[bool], expected: float) -> None:
    assert mcnemar_exact(before, after) == pytest.approx(expected)
    assert mcnemar_exact(after, before) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_by_bonferroni(p_values: list[float]) -> None:
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(range(len(p_values)), size)]
    p_of = {s: min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets}
    assert holm(p_values) == pytest.approx([max(p for s, p in p_of.items() if i in s) for i in range(len(p_values))])


@pytest.mark.parametrize("p_values", [[0.04], [0.01] * 4, [1.0] * 3, [0.0, 0.0, 1.0], [0.05, 0.001, 0.05, 0.001]])
def test_holm_with_ties_and_extremes(p_values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels does at every call: half a second where torch is loaded
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_of_nothing() -> None:
    assert holm([]) == []


def test_sign_flip_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 25)
    expected = scipy_stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=2).pvalue
    assert sign_flip_p(values) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0]) == 1.0
    assert sign_flip_p([]) == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.sampled_from([1e-14, 1 / 3, 1.0, 1234.567, 1e9 / 7]))
def test_sign_flip_is_the_exact_test_at_any_scale(differences: list[int], scale: float) -> None:
    flips = np.array(list(product([-1, 1], repeat=len(differences))))
    exact = np.mean(np.abs(flips @ differences) >= abs(sum(differences)))  # whole numbers: ties are exact
    assert sign_flip_p(np.array(differences) * scale) == pytest.approx(exact, abs=0.025)


@given(st.floats(-5, 5), st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_as_one_more_control(target: float, controls: list[float]) -> None:
    every = [target, *controls]
    mean = math.fsum(every) / len(every)
    far = [v for v in every if abs(v - mean) >= abs(target - mean) - 1e-9]
    assert unlike_p(target, controls) >= 1 / len(every)
    assert unlike_p(target, controls) <= len(far) / len(every)
    assert unlike_p(-target, [-c for c in controls]) == unlike_p(target, controls)


def test_chosen_at_random_it_is_unlike_the_others_as_often_as_is_said() -> None:
    rng = np.random.default_rng(0)
    drawn = [unlike_p(first, rest) for first, *rest in rng.exponential(size=(4000, 20))]
    assert np.mean(np.array(drawn) <= 0.05) == pytest.approx(0.05, abs=0.01)
    assert unlike_p(0.042, [0.427, 0.203, 0.25, 0.182, 0.26]) == pytest.approx(2 / 6)  # 0.427 lies farther from the mean of all
    assert unlike_p(9.0, [0.0] * 19) == 0.05


def test_permutation_p_counts_ties_against_the_target() -> None:
    assert permutation_p(0.1, [0.2, 0.3, 0.4]) == 0.25
    assert permutation_p(0.2, [0.2, 0.3, 0.4]) == 0.5
    assert permutation_p(0.9, [0.2, 0.3, 0.4]) == 1.0


@given(st.floats(0, 1), st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=30))
def test_permutation_p_is_a_percentile(target: float, controls: list[float]) -> None:
    below = len(controls) * scipy_stats.percentileofscore(controls, target, kind="weak") / 100 if controls else 0
    assert permutation_p(target, controls) == pytest.approx((1 + below) / (1 + len(controls)))


def test_permutation_p_without_controls_shows_nothing() -> None:
    assert permutation_p(0.0, []) == 1.0


@pytest.mark.parametrize(("n", "discordant"), [(12, 0.0), (20, 0.3), (31, 0.6), (40, 0.9), (20, 1.0)])
@pytest.mark.parametrize("tests", [1, 4])
def test_detectable_difference_is_the_first_of_enough_exact_power(n: int, discordant: float, tests: int) -> None:
    def power(k: int) -> float:
        """Over all numbers of pairs lost and won, by the multinomial distribution and the test itself."""
        share = max(discordant, k / n)
        chances = [max(0.0, (share - k / n) / 2), (share + k / n) / 2]
        total = 0.0
        for lost in range(n + 1):
            for won in range(lost + 1, n + 1 - lost):  # shown in the right direction
                if scipy_stats.binomtest(lost, lost + won).pvalue <= 0.05 / tests:
                    total += scipy_stats.multinomial.pmf([lost, won, n - lost - won], n, [*chances, 1 - sum(chances)])
        return total

    k = round(detectable_difference(discordant, n, tests=tests) * n)
    assert k == n or power(k) >= 0.8
    assert k == 1 or power(k - 1) < 0.8


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


@pytest.mark.parametrize(("discordant", "change", "tests"), [(0.0, 0.3, 1), (0.1, 0.15, 4), (0.4, 0.15, 4), (0.3, 0.25, 2)])
def test_problems_needed_are_the_fewest_that_detect(discordant: float, change: float, tests: int) -> None:
    n = problems_needed(discordant, change, tests)
    assert detectable_difference(discordant, n, tests) <= change + 1e-9
    assert all(detectable_difference(discordant, fewer, tests) > change for fewer in range(max(1, n - 12), n))


def test_holm_within_bonferroni() -> None:
    assert detectable_difference(0.1, 96, tests=4) >= detectable_difference(0.1, 96)


def test_diagonal_contrast_by_definition() -> None:
    rng = np.random.default_rng(3)
    changes = [[rng.normal(size=5 + j) for j in range(4)] for _ in range(4)]
    table = np.array([[cell.mean() for cell in row] for row in changes])
    effects = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    contrast, low, high, p = diagonal_contrast(changes)
    assert contrast == pytest.approx(np.diag(effects).mean())
    assert low < contrast < high
    orders = [np.mean([effects[order[j], j] for j in range(4)]) for order in itertools.permutations(range(4))]
    assert p == pytest.approx(np.mean([o <= contrast + 1e-12 for o in orders]))


def test_diagonal_contrast_finds_a_diagonal_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    noise = [[rng.normal(0, 0.1, 40) for _ in range(4)] for _ in range(4)]
    large_sets = [[cell - 3 * i - 5 * j for j, cell in enumerate(row)] for i, row in enumerate(noise)]
    contrast, low, high, _ = diagonal_contrast(large_sets)
    assert low < 0 < high
    assert abs(contrast) < 0.1
    own = [[cell - 2 * (i == j) for j, cell in enumerate(row)] for i, row in enumerate(large_sets)]
    contrast, low, high, p = diagonal_contrast(own)
    assert contrast == pytest.approx(-1.5, abs=0.1)  # 2 less what its row's and column's means take up
    assert high < -1
    assert p == pytest.approx(1 / 24)
    none = [[np.zeros(3)] * 2] * 2
    assert diagonal_contrast(none) == (0.0, 0.0, 0.0, 1.0)
