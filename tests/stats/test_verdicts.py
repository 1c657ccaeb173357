"""The rule's every branch, that the rule's text states its own numbers, and how many problems would tell."""

from __future__ import annotations

import numpy as np
import pytest

from cotscope.stats import equivalence, sign_flip_p
from cotscope.stats.verdicts import (
    AGAINST,
    LARGEST_BLIND_CHANGE,
    LEVEL,
    MANY,
    RULE,
    STILL,
    TOGETHER,
    TOO_FEW_PROBLEMS,
    ActivityChange,
    problems_to_tell,
    verdict,
)

YES, NO = 0.01, 0.2
LIKE_OTHERS = "activity moves as any neurons' does"


@pytest.mark.parametrize(
    ("accuracy", "activity", "detectable", "said"),
    [
        ((-0.3, YES), (-2.0, YES, YES, False), 0.5, TOGETHER),
        ((0.3, YES), (2.0, YES, YES, False), 0.05, TOGETHER),
        ((0.3, YES), (2.0, YES, YES, True), 0.05, TOGETHER),
        ((-0.3, YES), (2.0, YES, YES, False), 0.05, AGAINST),
        ((0.3, YES), (-2.0, YES, YES, False), 0.5, AGAINST),
        ((-0.3, YES), (-2.0, YES, NO, False), 0.5, LIKE_OTHERS),
        ((-0.3, YES), (2.0, YES, LEVEL, True), 0.5, LIKE_OTHERS),
        ((-0.3, YES), (-2.0, NO, YES, True), 0.5, "accuracy moves without activity"),
        ((-0.3, YES), (-2.0, NO, YES, False), 0.5, TOO_FEW_PROBLEMS),
        ((-0.1, NO), (-2.0, YES, NO, False), 0.15, "activity moves without accuracy"),
        ((-0.1, NO), (-2.0, NO, NO, True), 0.1, "no change"),
        ((-0.1, NO), (-2.0, NO, NO, False), 0.1, TOO_FEW_PROBLEMS),
        ((-0.1, NO), (-2.0, YES, YES, False), 0.16, TOO_FEW_PROBLEMS),
        ((-0.1, NO), (-2.0, NO, NO, True), 0.16, TOO_FEW_PROBLEMS),
        ((-0.1, LEVEL), (-2.0, LEVEL, YES, True), 0.1, "no change"),
    ],
)
def test_verdict(
    accuracy: tuple[float, float], activity: tuple[float, float, float, bool], detectable: float, said: str
) -> None:
    assert verdict(accuracy, ActivityChange(*activity), detectable) == said


def test_accuracy_without_activity_is_not_said_of_activity_that_could_not_be_seen_to_move() -> None:
    """Activity falls by 10 % of itself; with eight problems that seldom has a small p, but it is no lack of change."""
    rng, said = np.random.default_rng(0), []
    for _ in range(150):
        changes = rng.normal(-0.1, 0.2, 8)  # of an activity of 1
        activity = ActivityChange(changes.mean(), min(1, 4 * sign_flip_p(changes)), 1.0, equivalence(changes, STILL)[2])
        said.append(verdict((-0.5, YES), activity, 0.5))
    assert said.count(TOO_FEW_PROBLEMS) > 100  # by p alone all of these would be without activity
    assert said.count("accuracy moves without activity") / 150 <= 0.05


def test_problems_to_tell() -> None:
    """With so many, of the same mean and spread, activity is told to move, or to stand still, about every other time."""
    changes = [0.1 + v for v in (-1.0, 1.0, -0.5, 0.5, 0.0, 0.0, -1.0, 1.0)]
    assert problems_to_tell([0.0] * 3, 1.0, 4) == 8, "sign flips of seven have no p below 0.05 / 4"
    assert problems_to_tell([0.0] * 3, 0.0, 1) == 6
    assert problems_to_tell([5.0], 0.1, 4) == 8
    assert problems_to_tell([1.0, 1.1] * 8, 0.1, 4) == 17, "one more than there are"
    assert problems_to_tell([-1.0, 1.0 + 1e-13] * 8, 0.0, 4) == problems_to_tell([-1.0, 1.0] * 8, 1e-9, 4) == MANY
    rng, spread = np.random.default_rng(0), np.std(changes, ddof=1)
    for bound, tests in ((0.01, 1), (0.5, 4)):
        n, told = problems_to_tell(changes, bound, tests), []
        for i in range(60):
            drawn = rng.normal(0.1, spread, n)
            told.append(tests * sign_flip_p(drawn, i) < LEVEL or equivalence(drawn, bound, i)[2])
        assert 0.3 < np.mean(told) < 0.75, (bound, tests, n)


def test_the_rule_states_its_numbers() -> None:
    assert f"below {LEVEL}" in RULE and f"of {LARGEST_BLIND_CHANGE} or less" in RULE and f"±{STILL} of" in RULE
    for said in (TOGETHER, AGAINST, LIKE_OTHERS, "accuracy moves without activity",
                 "activity moves without accuracy", "no change", TOO_FEW_PROBLEMS):  # fmt: skip
        assert said in RULE
