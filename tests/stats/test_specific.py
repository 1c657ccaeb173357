"""The rule by which a set pushes arithmetic tokens, or matters to arithmetic; and how far a set goes beyond others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cotscope.stats import (
    LEAST_MARGIN,
    MATTERS,
    NOT_SHOWN,
    PUSH,
    TOO_FEW,
    UNSPLIT,
    VERDICTS,
    ByKind,
    Scored,
    beyond_controls,
    paired_bootstrap,
    specific_damage,
)

UNTOUCHED = Scored(ByKind(-0.1, -0.1), ByKind(5.0, 4.0))
RUNS = 2000


def scored(arithmetic: float, elsewhere: float, margin: float = 5.0, margin_elsewhere: float = 4.0) -> Scored:
    return Scored(ByKind(arithmetic, elsewhere), ByKind(margin, margin_elsewhere))


def test_a_claim_needs_all_three() -> None:
    permuted = [scored(-1.0 - i / 100, -0.5) for i in range(20)]
    found = specific_damage(UNTOUCHED, scored(-2.0, -0.5), permuted)
    assert found.verdict == PUSH and found.pushes.holds
    assert found.pushes.p_value == found.pushes.p_beyond == pytest.approx(1 / 21)
    assert found.pushes.change == pytest.approx(-1.9)
    assert found.pushes.permuted_mean == pytest.approx(-0.995)
    assert found.matters is not None and (found.matters.p_value, found.matters.holds) == (1, False)
    everything = specific_damage(UNTOUCHED, scored(-2.0, -3.0), permuted)
    assert (everything.verdict, everything.pushes.p_value) == (NOT_SHOWN, pytest.approx(1 / 21))
    assert everything.pushes.p_beyond == 1
    assert specific_damage(UNTOUCHED, scored(-1.05, -0.5), permuted).verdict == NOT_SHOWN
    few = specific_damage(UNTOUCHED, scored(-2.0, -0.5, 1.0), permuted[:18])
    assert (few.verdict, few.pushes.holds) == (TOO_FEW, False)
    alike = [scored(-1.0, -0.5)] * 20
    small = specific_damage(UNTOUCHED, scored(-1.04, -0.5), alike)
    assert (small.verdict, small.pushes.p_value) == (NOT_SHOWN, pytest.approx(1 / 21))
    assert specific_damage(UNTOUCHED, scored(-1.06, -0.5), alike).verdict == PUSH


def test_what_matters_is_the_margin_with_the_push_put_back() -> None:
    alike = [scored(-1.0, -0.5, 5.0, 4.0)] * 20
    for total in (-1.0, -2.0):  # whether it pushes too
        found = specific_damage(UNTOUCHED, scored(total, -0.5, 4.8), alike)
        assert found.verdict == MATTERS
        assert found.matters is not None and found.matters.change == pytest.approx(-0.2)
    assert specific_damage(UNTOUCHED, scored(-2.0, -0.5, 5.0 - LEAST_MARGIN / 2), alike).verdict == PUSH
    assert specific_damage(UNTOUCHED, scored(-1.0, -0.5, 4.0, 3.0), alike).verdict == NOT_SHOWN  # all margins alike


def test_where_paths_cannot_be_told_apart_no_push_is_called_one() -> None:
    def total(arithmetic: float) -> Scored:
        return Scored(ByKind(arithmetic, -0.5), None)

    found = specific_damage(UNTOUCHED, total(-2.0), [total(-1.0)] * 20)
    assert (found.verdict, found.matters) == (UNSPLIT, None)
    assert specific_damage(UNTOUCHED, total(-1.0), [total(-1.0)] * 20).verdict == NOT_SHOWN
    assert set(VERDICTS) == {MATTERS, PUSH, NOT_SHOWN, TOO_FEW, UNSPLIT}


def simulated(push: float, later: float) -> tuple[Counter[str], dict[str, float]]:
    """Verdicts on sets whose direct and indirect effects at arithmetic tokens are normal, and how often each claim holds.

    Args:
        push: what the target's direct effect is beyond that of permuted sets, in their standard deviations.
        later: the same of its indirect effect.
    """
    rng, verdicts, claims = np.random.default_rng(1), Counter[str](), {"pushes": 0, "matters": 0}
    for _ in range(RUNS):
        direct, indirect = rng.normal(0, 0.3, (2, 21, 2))
        direct[0, 0] -= 0.3 * push
        indirect[0, 0] -= 0.3 * later
        # The total is what both paths do; later layers make up for part of the push.
        sets = [
            Scored(ByKind(*(0.5 * d + i)), ByKind(*(2 * i + rng.normal(0, 0.1, 2))))
            for d, i in zip(direct, indirect, strict=True)
        ]
        found = specific_damage(Scored(ByKind(0, 0), ByKind(0, 0)), sets[0], sets[1:])
        verdicts[found.verdict] += 1
        assert found.matters is not None
        claims["pushes"] += found.pushes.holds
        claims["matters"] += found.matters.holds
    return verdicts, {name: count / RUNS for name, count in claims.items()}


def test_each_claim_holds_of_a_random_set_one_time_in_twenty_at_most() -> None:
    verdicts, claims = simulated(push=0, later=0)
    assert 0 < claims["pushes"] <= 0.05 and 0 < claims["matters"] <= 0.05
    assert verdicts[NOT_SHOWN] / RUNS >= 0.9


def test_a_set_that_only_pushes_is_not_said_to_matter() -> None:
    verdicts, claims = simulated(push=12, later=0)
    assert claims["pushes"] > 0.9 and claims["matters"] <= 0.05
    assert verdicts[PUSH] / RUNS > 0.85


def test_a_set_that_matters_is_found() -> None:
    verdicts, claims = simulated(push=0, later=12)
    assert claims["matters"] > 0.9 and verdicts[MATTERS] / RUNS > 0.9


def test_beyond_controls_is_the_difference_of_means_and_needs_one_control() -> None:
    target, controls = [1.0, 2.0, 4.0], [[0.0, 1.0, 1.0], [1.0, 1.0, 2.0]]
    mean, low, high = beyond_controls(target, controls, seed=3)
    assert mean == pytest.approx(7 / 3 - 1.0)
    assert low < mean < high
    assert beyond_controls(target, controls, seed=3) == (mean, low, high)
    alone = beyond_controls(target, controls[:1])
    assert alone[0] == pytest.approx(5 / 3) and alone[1] < alone[0] < alone[2]
    assert beyond_controls([1.0], [[0.0]]) == (1.0, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("sets", "at_most"), [(5, 0.8), (20, 0.88)])
def test_intervals_of_specific_damage_take_in_the_spread_of_control_sets(sets: int, at_most: float) -> None:
    """Control sets differ by 0.5, problems too: an interval over problems alone misses the truth too often."""
    rng, covered, runs = np.random.default_rng(0), np.zeros(2), 200
    for _ in range(runs):
        target = -1 + rng.normal(0, 0.5, 16)
        controls = 0.5 * rng.normal(0, 1, (sets, 1)) + rng.normal(0, 0.2, (sets, 16))
        ways = (paired_bootstrap(target - controls.mean(axis=0)), beyond_controls(target, controls))
        covered += [low <= -1 <= high for _, low, high in ways]
    assert covered[0] / runs <= at_most
    assert covered[1] / runs >= 0.92
