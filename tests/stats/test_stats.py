"""The statistics against scipy and statsmodels, on ordinary and degenerate data."""

from __future__ import annotations

import itertools
import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.api import OLS, add_constant
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from cotscope.stats import (
    TOO_FEW,
    cohen_kappa,
    detectable_difference,
    diagonal_contrast,
    expected_jaccard,
    holm,
    jaccard,
    mcnemar_exact,
    paired_bootstrap,
    partial_spearman,
    permutation_p,
    sign_flip_p,
    spearman,
    specific_damage,
    wilson,
    within_rank_correlation,
    within_spearman,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


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
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@pytest.mark.parametrize("p_values", [[0.04], [0.01] * 4, [1.0] * 3, [0.0, 0.0, 1.0], [0.05, 0.001, 0.05, 0.001]])
def test_holm_with_ties_and_extremes(p_values: list[float]) -> None:
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


def test_partial_spearman_of_one_column_is_the_textbook_formula() -> None:
    x, y, z = np.random.default_rng(4).normal(size=(3, 25))
    a, b, c = (scipy_stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (a - b * c) / np.sqrt((1 - b * b) * (1 - c * c))
    assert partial_spearman(x, y, z)[0] == pytest.approx(expected)
    assert partial_spearman(x, y, z) == partial_spearman(x, y, z[:, None])


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
    assert not any(map(math.isnan, partial_spearman(x, y, z[:, :2])))


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


def test_holm_within_bonferroni() -> None:
    assert detectable_difference(0.1, 96, tests=4) >= detectable_difference(0.1, 96)


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
    assert -1 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1


@pytest.mark.parametrize("words", [[], [1], [0, 0, 0]])
def test_cohen_kappa_of_one_word_is_undefined(words: list[int]) -> None:
    assert all(map(math.isnan, cohen_kappa(words, words)))


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


def test_specific_damage_needs_all_three() -> None:
    matched = [(-1.0 - i / 100, -0.5) for i in range(20)]
    found = specific_damage((-0.1, -0.1), (-2.0, -0.5), matched)
    assert found.verdict == "matters"
    assert found.p_value == found.p_beyond == pytest.approx(1 / 21)
    assert found.change == pytest.approx(-1.9)
    assert found.permuted_mean == pytest.approx(-0.995)
    everything = specific_damage((-0.1, -0.1), (-2.0, -3.0), matched)
    assert (everything.verdict, everything.p_value, everything.p_beyond) == ("not shown", pytest.approx(1 / 21), 1)
    assert specific_damage((-0.1, -0.1), (-1.05, -0.5), matched).verdict == "not shown"
    assert specific_damage((-0.1, -0.1), (-2.0, -0.5), matched[:18]).verdict == TOO_FEW
    small = specific_damage((-0.1, -0.1), (-1.04, -0.5), [(-1.0, -0.5)] * 20)
    assert (small.verdict, small.p_value, small.p_beyond) == ("not shown", pytest.approx(1 / 21), pytest.approx(1 / 21))
    assert specific_damage((-0.1, -0.1), (-1.06, -0.5), [(-1.0, -0.5)] * 20).verdict == "matters"


def test_specific_damage_says_matters_of_a_random_set_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    said = 0
    for _ in range(2000):
        sets = rng.normal(-1, 0.3, (20, 2)).tolist()
        said += specific_damage((0.0, 0.0), sets[0], sets[1:]).verdict == "matters"
    assert 0 < said / 2000 <= 0.05


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
