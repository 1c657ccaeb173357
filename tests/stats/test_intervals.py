"""Intervals of proportions and differences against statsmodels and scipy, on ordinary and degenerate data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from cotscope.stats import (
    beyond_controls,
    clustered_error,
    clustered_p,
    clustered_proportions,
    clustered_share,
    diagonal_contrast,
    equivalence,
    groups_difference,
    intervals,
    mcnemar_exact,
    paired_bootstrap,
    paired_proportions,
    paired_shares,
    series_mean,
    share_of_gain,
    sign_flip_p,
    specific_change,
    wilson,
)


def test_many_cases_are_resampled_in_blocks_and_to_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    changes, others = rng.normal(0.1, 1, 60).tolist(), rng.normal(0, 1, (4, 60)).tolist()
    table = rng.normal(0, 1, (3, 3, 20)).tolist()

    def figures() -> list[float]:
        found = [*paired_bootstrap(changes), *beyond_controls(changes, others), *diagonal_contrast(table)]
        return [*found, sign_flip_p(changes)]

    whole = figures()
    for draws in (17, 60 * 999):  # a resample at a time; blocks of which the last is shorter
        monkeypatch.setattr(intervals, "DRAWS", draws)
        assert figures() == pytest.approx(whole, abs=1e-12)


def test_shares_that_are_all_the_same_have_an_interval_of_some_width() -> None:
    assert paired_bootstrap([0.0] * 16)[1:] == (0, 0)
    assert paired_shares([0.0] * 16) == pytest.approx(paired_proportions([True] * 16, [True] * 16))
    assert paired_shares([-1.0] * 16) == pytest.approx(paired_proportions([True] * 16, [False] * 16))
    assert paired_shares([1.0]) == pytest.approx(paired_proportions([False], [True])) and all(
        map(math.isnan, paired_shares([]))
    )
    low, high = paired_shares([0.5] * 16)[1:]
    assert 0 < low < 0.5 < high < 1
    some = [0.0, 1.0, 0.5, 0.0, -1.0, 0.0, 0.0]
    assert paired_shares(some, 3) == paired_bootstrap(some, 3)
    lost, kept = [0.0] * 16, [1.0] * 16
    assert beyond_controls(lost, [kept] * 5) == (-1, -1, -1)
    assert beyond_controls(lost, [kept] * 5, shares=True) == pytest.approx(paired_proportions([True] * 16, [False] * 16))
    assert specific_change(kept, [kept] * 5, 0, shares=True)["low"] == pytest.approx(
        -specific_change(kept, [kept], 0, True)["high"]
    )


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


def test_a_share_of_clustered_hits() -> None:
    """Wilson's where each is its own; longer where clusters agree, and then it covers."""
    rng = np.random.default_rng(5)
    hits = (rng.random(50) < 0.7).tolist()
    assert clustered_share(hits, list(range(50))) == wilson(sum(hits), 50)
    assert clustered_share([True] * 30, [0] * 10 + [1] * 20) == wilson(2, 2)
    covered, naive = 0, 0
    for _ in range(500):
        of = np.repeat(np.arange(40), 5)
        whole = np.repeat(rng.random(40) < 0.7, 5)
        drawn = np.where(np.repeat(rng.random(40) < 0.6, 5), whole, rng.random(200) < 0.7).tolist()
        low, high = clustered_share(drawn, of.tolist())
        covered += low <= 0.7 <= high
        low, high = wilson(sum(drawn), 200)
        naive += low <= 0.7 <= high
    assert 0.92 <= covered / 500 <= 0.98 and naive / 500 < 0.85


@pytest.mark.parametrize(("clusters", "least"), [(4, 0.93), (8, 0.93), (24, 0.93)])
def test_a_share_of_few_clusters_is_covered(clusters: int, least: float) -> None:
    """Clusters whose rates are anything: with the normal's quantile 0.86 of the intervals of four hold the mean."""
    rng, of, covered = np.random.default_rng(7), np.repeat(np.arange(clusters), 12), 0
    for _ in range(1000):
        low, high = clustered_share((rng.random(len(of)) < rng.beta(2, 2, clusters)[of]).tolist(), of.tolist())
        covered += low <= 0.5 <= high
    assert covered / 1000 >= least


def test_wilson_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


DIFFERENCES = [
    np.random.default_rng(0).normal(0.3, 1, 80),
    np.random.default_rng(1).choice([-1, 0, 1], 96, p=[0.1, 0.7, 0.2]),  # solved before and after
    np.random.default_rng(2).choice([-0.75, -0.25, 0, 0.25], 12),
    -np.random.default_rng(3).exponential(size=8),
]


@pytest.mark.parametrize("values", DIFFERENCES)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bootstrap_t_by_definition(values: np.ndarray, level: float) -> None:
    rng, n, t = np.random.default_rng(9), len(values), []
    error = values.std(ddof=1) / np.sqrt(n)
    for _ in range(4000):
        drawn = rng.choice(values, n)
        t.append((drawn.mean() - values.mean()) / max(drawn.std(ddof=1) / np.sqrt(n), error / 4))
    low, high = values.mean() - error * np.quantile(t, [0.5 + level / 2, 0.5 - level / 2])
    expected = max(low, values.min()), min(high, values.max())
    mean, *ends = paired_bootstrap(values, level=level)
    assert mean == pytest.approx(values.mean())
    assert ends == pytest.approx(expected, abs=0.12 * error * 2)


def test_bootstrap_t_and_scipys_bca_agree_on_many_pairs() -> None:
    for values in DIFFERENCES[:2]:
        expected = scipy_stats.bootstrap((values,), np.mean, method="BCa", rng=1).confidence_interval
        assert paired_bootstrap(values)[1:] == pytest.approx(tuple(expected), abs=0.035)


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Most differences near 0, some large, as of log-probabilities; mean -0.45."""
    return np.where(rng.random(n) < 0.7, rng.normal(0, 0.05, n), -rng.exponential(1.5, n))


@pytest.mark.parametrize(
    ("draw", "mean", "n", "least", "percentile"),
    [
        (lambda rng, n: rng.normal(0.5, 1, n), 0.5, 8, 0.93, 0.93),
        (lambda rng, n: -rng.exponential(1, n), -1, 8, 0.91, 0.89),
        (lambda rng, n: rng.standard_t(3, n), 0, 8, 0.92, 0.92),
        (lambda rng, n: rng.choice([-1, 0, 1], n, p=[0.45, 0.5, 0.05]), -0.4, 8, 0.93, 0.95),
        (skewed, -0.45, 16, 0.91, 0.86),
        (skewed, -0.45, 48, 0.93, 0.93),
    ],
)
def test_coverage(draw: Any, mean: float, n: int, least: float, percentile: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 95 % interval holds the mean about as often as it says; a percentile interval does not."""
    monkeypatch.setattr("cotscope.stats.intervals.RESAMPLES", 1000)
    rng, holds, plain = np.random.default_rng(5), [], []
    for i in range(600):
        values = draw(rng, n)
        _, low, high = paired_bootstrap(values, i)
        holds.append(low <= mean <= high)
        ends = np.quantile(rng.choice(values, (1000, n)).mean(axis=1), [0.025, 0.975])
        plain.append(ends[0] <= mean <= ends[1])
    assert np.mean(holds) >= least
    assert np.mean(plain) <= percentile


def test_no_end_lies_beyond_all_differences() -> None:
    """Of accuracies, and where hardly any problem changes."""
    for values in ([-1.0] * 7 + [0.0], [0.0] * 5 + [1.0], [0.0] * 47 + [1.0]):
        mean, low, high = paired_bootstrap(values)
        assert min(values) <= low <= mean <= high <= max(values)
    assert high < 0.12


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_few_pairs_have_students_interval(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.3, 1, n)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(level)
    assert paired_bootstrap(values, level=level) == pytest.approx((values.mean(), *expected))


@pytest.mark.parametrize(("values", "expected"), [([1.0, 1.0], (1, 1, 1)), ([0.0] * 9, (0, 0, 0))])
def test_bootstrap_of_degenerate_data(values: list[float], expected: tuple[float, ...]) -> None:
    assert paired_bootstrap(values) == expected


def test_bootstrap_of_nothing_and_of_one() -> None:
    assert all(map(math.isnan, paired_bootstrap([])))
    mean, *ends = paired_bootstrap([2.0])
    assert mean == 2 and all(map(math.isnan, ends))


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
    assert not equivalence([0.0] * 8, 0.0)[2], "what is never active does not stand still"


def test_equivalence_is_said_of_a_change_at_the_bound_one_time_in_twenty() -> None:
    rng = np.random.default_rng(0)
    said = [equivalence(rng.normal(0.5, 1, 48), 0.5)[2] for _ in range(400)]
    assert 0 < np.mean(said) < 0.08
    assert np.mean([equivalence(rng.normal(0, 1, 48), 0.5)[2] for _ in range(50)]) > 0.9


# -- two paired proportions ----------------------------------------------------------------------------------------------

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None)
@given(OUTCOMES, st.sampled_from([0.8, 0.95, 0.99]))
def test_paired_proportions_by_their_formula(pairs: list[tuple[bool, bool]], level: float) -> None:
    """Agresti & Min 2005: Wald's interval of a table with half an observation more in each of its four cells."""
    before, after = zip(*pairs)
    cells = np.full((2, 2), 0.5)
    for b, a in pairs:
        cells[int(b), int(a)] += 1
    share = cells / cells.sum()
    values = np.array([[0, 1], [-1, 0]])  # of each cell: after less before
    mean = (share * values).sum()
    variance = (share * values**2).sum() - mean**2
    z = scipy_stats.norm.isf((1 - level) / 2)
    low, high = mean - z * math.sqrt(variance / cells.sum()), mean + z * math.sqrt(variance / cells.sum())
    found = paired_proportions(before, after, level)
    assert found[0] == pytest.approx(np.mean(after) - np.mean(before), abs=1e-12)
    assert found[1:] == pytest.approx((max(low, -1), min(high, 1)), abs=1e-12)
    assert -1 <= found[1] < found[2] <= 1
    swapped = paired_proportions(after, before, level)
    assert swapped == pytest.approx((-found[0], -found[2], -found[1]), abs=1e-12)


def test_paired_proportions_of_nothing_and_of_no_change() -> None:
    assert all(map(math.isnan, paired_proportions([], [])))
    difference, low, high = paired_proportions([True, False] * 24, [True, False] * 24)
    assert difference == 0 and low == -high and 0.02 < high < 0.1
    assert paired_proportions([False] * 48, [True] * 48)[0] == 1
    with pytest.raises(ValueError, match="zip"):
        paired_proportions([True], [True, False])


@pytest.mark.parametrize(
    ("lost", "gained"), [(0, 0), (0.02, 0.02), (0.05, 0.15), (0.1, 0.1), (0.2, 0.05), (0.02, 0.3), (0.45, 0.05), (0.3, 0.3)]
)
def test_paired_proportions_cover_the_truth(lost: float, gained: float) -> None:
    rng, tries, covered = np.random.default_rng(int(1000 * lost + 7 * gained)), 1500, 0
    for _ in range(tries):
        cell = rng.choice(3, 48, p=[lost, gained, 1 - lost - gained])  # of those that stay, half were right
        stays = rng.random(48) < 0.5
        before, after = np.where(cell == 2, stays, cell == 0), np.where(cell == 2, stays, cell == 1)
        _, low, high = paired_proportions(before.tolist(), after.tolist())
        covered += low <= gained - lost <= high
    assert covered / tries >= 0.93


def test_each_problem_of_a_template_of_its_own() -> None:
    before, after = [True, True, False, False, True] * 8, [True, False, True, False, True] * 8
    difference, low, high, independent = clustered_proportions(before, after, list(range(40)))
    assert (difference, low, high) == paired_proportions(before, after) and independent == 40
    assert clustered_p(before, after, list(range(40))) == mcnemar_exact(before, after)


def test_one_template_says_nothing_of_others() -> None:
    assert clustered_proportions([False] * 9, [True] * 9, [3] * 9) == (1.0, -1.0, 1.0, 1.0)
    assert clustered_p([False] * 9, [True] * 9, [3] * 9) == 1.0


def test_no_change_and_nothing_at_all() -> None:
    difference, low, high, independent = clustered_proportions([True] * 8, [True] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    assert difference == 0 and -low == high == pytest.approx(float(scipy_stats.t.ppf(0.975, 3)) / 6) and independent == 4
    assert math.isnan(clustered_proportions([], [], [])[0])


def test_all_that_change_alike_are_as_many_as_there_are_templates() -> None:
    """100 problems of four templates, all gained: four templates say little, and their signs nothing below 1/8."""
    of = [i // 25 for i in range(100)]
    difference, low, high, independent = clustered_proportions([False] * 100, [True] * 100, of)
    assert (difference, high, independent) == (1, 1, 4) and low < 0
    mirrored = clustered_proportions([True] * 100, [False] * 100, of)
    assert mirrored[:3] == (-1, -high, -low)
    # One fewer says about as much; of many templates that do nearly alike it is told that they do.
    assert clustered_proportions([False] * 100, [False, *[True] * 99], of)[1] == pytest.approx(low, abs=0.03)
    assert clustered_proportions([False] * 100, [False, *[True] * 99], [i // 5 for i in range(100)])[1] > 0.9


@pytest.mark.parametrize(("clusters", "of_each", "gained"), [(2, 50, 50), (2, 50, 49), (3, 20, 10), (4, 25, 24), (5, 20, 3)])
def test_groups_on_few_templates_show_nothing(clusters: int, of_each: int, gained: int) -> None:
    """However alike these are: the signs of five show nothing below 1/16."""
    of = [i // of_each for i in range(clusters * of_each)]
    ours = [[float(i % of_each < gained) for i in range(len(of))]]
    _, low, _, p = groups_difference(ours, [[0.0] * len(of)], of)
    assert p >= 2.0 ** (1 - clusters) and low < gained / of_each - 0.2


def test_the_least_error_of_a_difference_is_of_problems_not_of_templates() -> None:
    """Of 28 templates half a template is 0.033: three times the error of answers that change seldom."""
    rng = np.random.default_rng(5)
    of = rng.integers(0, 28, 192).tolist()
    ours = (rng.random((1, 192)) < 0.5).astype(float)
    others = ours.copy()
    others[0, rng.choice(192, 8, replace=False)] *= 0
    difference, low, high, _ = groups_difference(ours, others, of)
    change = (ours - others)[0]
    gains, losses = (change.sum() + 0.5) / 194, 0.5 / 194
    error = max(clustered_error(change, of), ((gains + losses - (gains - losses) ** 2) / 194) ** 0.5)
    assert difference == pytest.approx(change.mean()) and (high - low) / 2 == pytest.approx(
        float(scipy_stats.t.ppf(0.975, len(set(of)) - 1)) * error
    )
    assert error < 1 / 30
    # Templates that all differ by the same have no spread, and problems have.
    alike = [[float(i % 10 < 3) for i in range(100)]]
    _, low, high, p = groups_difference(alike, [[0.0] * 100], [i // 10 for i in range(100)])
    assert (high - low) / 2 > float(scipy_stats.t.ppf(0.975, 9)) * 0.045 and p == 2.0**-9
    # Where no problem differs, or each does alike, only templates count.
    for value, error in ((0.0, 1 / 7), (1.0, ((6 - 5**2 / 7) / 7 / 7) ** 0.5)):
        _, low, high, _ = groups_difference([[value] * 100], [[0.0] * 100], [i // 20 for i in range(100)])
        assert value - low == pytest.approx(float(scipy_stats.t.ppf(0.975, 4)) * error)
        assert high == pytest.approx(min(1, value + (value - low)))


def test_groups_that_do_not_differ_are_seldom_said_to() -> None:
    """Whole templates, single problems, and few of either, by chance better or worse."""
    rng = np.random.default_rng(7)
    for together, share in ((True, 0.5), (False, 0.5), (True, 0.1), (False, 0.06)):
        of, runs, said = np.repeat(np.arange(28), 7), 400, 0
        for _ in range(runs):
            turned = rng.choice([0.0, 1.0, -1.0], 28 if together else 196, p=[1 - share, share / 2, share / 2])
            change = turned[of] if together else turned
            said += groups_difference([(change > 0).astype(float)], [(change < 0).astype(float)], of.tolist())[3] < 0.05
        assert said / runs <= 0.075


def test_the_mean_of_a_series_whose_neighbours_go_together() -> None:
    rng = np.random.default_rng(2)
    covered, runs = [0, 0], 300
    for _ in range(runs):
        series = np.repeat(rng.normal(0.3, 1, 100), 16) + rng.normal(0, 0.5, 1600)  # sixteen neighbours share the most of it
        for i, block in enumerate((64, 1)):
            mean, low, high = series_mean(series.tolist(), block)
            covered[i] += low <= 0.3 <= high
            assert mean == pytest.approx(series.mean())
    assert covered[0] / runs >= 0.91 and covered[1] / runs < 0.7
    assert series_mean([1.0] * 200, 64) == (1, 1, 1)
    mean, low, high = series_mean([1.0] * 64, 64)
    assert mean == 1 and math.isnan(low) and math.isnan(high)
    assert math.isinf(series_mean([1.0, math.inf] * 99, 64)[0]) and math.isnan(series_mean([], 64)[0])


def test_problems_of_a_template_that_change_together() -> None:
    """Edits that change whole templates, for better or worse: what is true is covered, and of chance nothing is said."""
    rng, of = np.random.default_rng(3), np.repeat(np.arange(40), 4)
    covered, said, runs = {True: 0, False: 0}, {True: 0, False: 0}, 300
    for _ in range(runs):
        turns = rng.choice([0.0, 0.0, 1.0, -1.0], 40)[of]  # half of the templates change, as many either way
        before = np.where(turns > 0, rng.random(160) < 0.2, np.where(turns < 0, rng.random(160) < 0.8, rng.random(160) < 0.5))
        after = np.where(turns > 0, rng.random(160) < 0.8, np.where(turns < 0, rng.random(160) < 0.2, before))
        for known in covered:
            _, low, high, _ = clustered_proportions(before, after, of if known else list(range(160)))
            covered[known] += low <= 0 <= high
            said[known] += clustered_p(before, after, of if known else list(range(160))) < 0.05
    assert covered[True] / runs >= 0.92 and covered[False] / runs <= 0.85
    assert said[True] / runs <= 0.08 and said[False] / runs >= 0.12


def test_a_share_of_a_gain_has_fiellers_interval() -> None:
    """Of one model each, problems apart: the roots of his quadratic."""
    rng = np.random.default_rng(0)
    base, ours, others = ((rng.random(200) < p).astype(float) for p in (0.4, 0.55, 0.75))
    share, low, high = share_of_gain(base, [ours], [others], range(200))
    gain, of = ours - base, others - base
    assert share == pytest.approx(gain.mean() / of.mean())
    t = scipy_stats.t.ppf(0.975, 199)
    (vx, cxy), (_, vy) = np.cov(gain, of) / 200
    roots = np.roots([of.mean() ** 2 - t**2 * vy, -2 * (gain.mean() * of.mean() - t**2 * cxy), gain.mean() ** 2 - t**2 * vx])
    assert (low, high) == pytest.approx(tuple(sorted(roots.real)), abs=1e-6)
    assert share_of_gain(base, [others], [others], range(200)) == (1, pytest.approx(1, abs=0.2), pytest.approx(1, abs=0.2))


@pytest.mark.parametrize("others", [[0.0] * 4 + [1.0] * 6, [0.0] * 9 + [1.0], [0.0] * 10])
def test_no_share_of_a_gain_that_is_not_shown(others: list[float]) -> None:
    base = [0.0] * 5 + [1.0] * 5
    assert all(map(math.isnan, share_of_gain(base, [[1.0] * 10], [others], range(10))))
    assert all(map(math.isnan, share_of_gain(base, [[1.0] * 10], [[1.0] * 10], [0] * 10)))
    assert all(map(math.isnan, share_of_gain([], [[]], [[]], [])))


def test_a_share_of_a_gain_lies_in_its_interval_as_often_as_is_said() -> None:
    """Three seeds each; templates whose problems go together."""
    rng, hits, told, share = np.random.default_rng(1), 0, 0, 0.5
    for _ in range(300):
        hard = np.repeat(rng.random(60), 4)  # of a template, whose four problems are alike
        base = (hard < 0.4).astype(float)
        gained = np.repeat(rng.random(60), 4)
        others = [np.maximum(base, gained * (hard >= 0.4) + 0.02 * rng.normal() > 0.6) for _ in range(3)]
        ours = [np.where(rng.random(240) < share, o, base) for o in others]
        found, low, high = share_of_gain(base, ours, others, np.repeat(np.arange(60), 4).tolist())
        told += not math.isnan(found)
        hits += low <= share <= high
    assert told == 300 and hits >= 0.93 * told
