"""Correlations of a family of prompts: their rows, their errors where prompts come in kinds, their rank among sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from cotscope.records import Neuron
from cotscope.stats import rank_correlation, spearman, within_rank_correlation, within_spearman
from cotscope.stats.correlation import LEAST_KINDS, Points, correlations
from cotscope.stats.labels import as_high_p, permuted_sums
from cotscope.stats.random_sets import Traits, matched_sets


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotscope.stats.ranks.RESAMPLES", 300)


def rows(activity: Any, accuracy: Any, **columns: Any) -> list[dict[str, Any]]:
    """Prompts of which generated activity alone was measured, unless columns say more."""
    found = [
        {"accuracy": a, "poles_per_token": x, "poles_per_token_first": None, "fixed_activity": None,
         "fixed_activity_first": None, "prompt_tokens": 100 + i * i % 7, "tokens_per_problem": 40.0 + i % 3}
        for i, (x, a) in enumerate(zip(activity, accuracy))
    ]  # fmt: skip
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(found)]


def test_a_family_without_kinds() -> None:
    rng = np.random.default_rng(0)
    activity, accuracy, fixed = rng.normal(size=(3, 12))
    permuted = rng.normal(size=(49, 12))
    table, summary = correlations(Points("study", rows(activity, accuracy, fixed_activity=fixed), None, permuted), 1)
    of = {(r["activity"], r["poles"], r["given"]): r for r in table}
    assert set(of) == {(a, "all", g) for a in ("own", "fixed") for g in ("nothing", "length")}
    assert tuple(of["own", "all", "nothing"][k] for k in ("spearman", "low", "high", "p_value")) == spearman(
        activity, accuracy, 1
    )
    assert of["fixed", "all", "nothing"]["spearman"] == pytest.approx(scipy_stats.spearmanr(fixed, accuracy).statistic)
    assert summary["spearman"] == of["own", "all", "nothing"]["spearman"]
    others = [scipy_stats.spearmanr(p, accuracy).statistic for p in permuted]
    assert summary["permuted"]["p_value"] == (1 + sum(o >= summary["spearman"] for o in others)) / 50
    assert summary["permuted"]["median"] == pytest.approx(np.median(others))
    assert summary["first"] is None and "within" not in summary


@pytest.mark.parametrize("kinds", [LEAST_KINDS, LEAST_KINDS - 1])
def test_a_family_with_kinds_has_its_intervals_within_and_between_them(kinds: int) -> None:
    rng = np.random.default_rng(1)
    groups = [f"kind {i}" for i in range(kinds) for _ in range(4)]
    activity, accuracy = rng.normal(size=(2, len(groups)))
    permuted = rng.normal(size=(49, len(groups)))
    table, summary = correlations(Points("variant", rows(activity, accuracy), groups, permuted), 1)
    of = {r["given"]: r for r in table}
    for given in ("nothing", "length"):
        assert of[given]["spearman"] is not None
        assert of[given]["low"] is of[given]["high"] is of[given]["p_value"] is None
    assert tuple(of["kind"][k] for k in ("spearman", "low", "high", "p_value")) == within_spearman(
        activity, accuracy, groups, 1
    )
    assert ("between" in of) == (summary["between"] is not None) == (kinds == LEAST_KINDS)
    if kinds == LEAST_KINDS:
        means = [np.reshape(v, (kinds, 4)).mean(axis=1) for v in (activity, accuracy)]
        assert of["between"]["spearman"] == pytest.approx(scipy_stats.spearmanr(*means).statistic)
    assert (summary["kinds"], summary["within"]["spearman"]) == (kinds, of["kind"]["spearman"])
    others = [within_rank_correlation(p, accuracy, groups) for p in permuted]
    assert summary["permuted_within"]["p_value"] == as_high_p(of["kind"]["spearman"], others)


@pytest.mark.parametrize(
    ("groups", "told"), [(None, False), ("abcdeffg", False), ("aabbccddee", False), ("aaabbcce", False), ("aaabbccdde", True)]
)
def test_prompts_that_no_order_could_tell(groups: str | None, told: bool) -> None:
    """Five independent prompts can be ordered in 120 ways, of which two are extreme; four, and most pairs, in too few."""
    n = len(groups or "abcd")
    activity, accuracy = np.arange(n), np.arange(n)
    table, _ = correlations(Points("study", rows(activity, accuracy), groups and list(groups), np.ones((9, n))), 0)
    [found] = [r for r in table if r["given"] == ("kind" if groups else "nothing")]
    assert found["spearman"] == pytest.approx(1)
    assert (found["p_value"] is not None) == (found["low"] is not None) == told
    if not groups:
        assert correlations(Points("study", rows(range(5), range(5)), None, np.ones((9, 5))), 0)[1]["p_value"] < 0.05


def test_nothing_that_varies_and_no_prompts() -> None:
    table, summary = correlations(Points("study", rows([1.0] * 5, [0.5] * 5), None, np.ones((9, 5))), 0)
    assert np.isnan(summary["spearman"]) and summary["permuted"] is None
    assert len(table) == 2
    assert correlations(Points("study", [], None, np.ones((9, 0))), 0)[0] == []


@pytest.mark.slow
def test_kinds_alone_make_no_relation() -> None:
    """Kinds differ in activity and in accuracy, for reasons of their own: over all prompts p is small in a quarter of cases."""
    rng = np.random.default_rng(2)
    groups = [f"kind {i}" for i in range(8) for _ in range(5)]
    small: dict[str, list[bool]] = {"all": [], "within": [], "between": []}
    holds: dict[str, list[bool]] = {"all": [], "within": [], "between": []}
    for i in range(100):
        activity, accuracy = np.repeat(rng.normal(0, 1.5, (2, 8)), 5, axis=1) + rng.normal(size=(2, 40))
        _, summary = correlations(Points("variant", rows(activity, accuracy), groups, np.empty((0, 40))), i)
        summary["all"] = dict(zip(("spearman", "low", "high", "p_value"), spearman(activity, accuracy, i)))
        for name in small:
            small[name].append(summary[name]["p_value"] <= 0.05)
            holds[name].append(summary[name]["low"] <= 0 <= summary[name]["high"])
    assert np.mean(small["all"]) > 0.15 and np.mean(holds["all"]) < 0.87
    for name in ("within", "between"):
        assert np.mean(small[name]) <= 0.09 and np.mean(holds[name]) >= 0.91, name


@pytest.mark.slow
def test_rank_among_permuted_sets_is_a_p_value_and_among_matched_sets_is_not() -> None:
    """Half of the poles are labelled, by chance: the matched sets are all but one and the same."""
    rng = np.random.default_rng(3)
    accuracy = rng.normal(size=10)
    common = rng.normal(size=10)
    activity = 2 + 0.3 * common + rng.normal(size=(60, 10))
    poles = [Neuron(0, i) for i in range(60)]
    traits = {n: Traits(100, 1.0) for n in poles}
    permuted_ps, matched_ps = [], []
    for i in range(80):
        labelled = rng.permutation(60) < 30
        points = rows(activity[labelled].sum(axis=0), accuracy)
        sums = permuted_sums(activity, labelled, np.zeros(60, int), seed=i, permutations=99)
        _, summary = correlations(Points("study", points, None, sums), i)
        permuted_ps.append(summary["permuted"]["p_value"])
        pool = {n: traits[n] for n in poles if not labelled[n.index]}
        _, sets = matched_sets([n for n in poles if labelled[n.index]], pool, traits, range(19))
        found = [rank_correlation(activity[[n.index for n in s]].sum(axis=0), accuracy) for s in sets]
        matched_ps.append(as_high_p(rank_correlation(activity[labelled].sum(axis=0), accuracy), found))
    assert np.mean(np.array(matched_ps) <= 0.05) > 0.3
    assert np.mean(np.array(permuted_ps) <= 0.05) <= 0.1
