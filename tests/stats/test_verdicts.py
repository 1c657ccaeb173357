"""The rule's every branch, and that the rule's text states its own numbers."""

from __future__ import annotations

import pytest

from cotscope.stats.verdicts import LARGEST_BLIND_CHANGE, LEVEL, RULE, verdict

YES, NO = 0.01, 0.2


@pytest.mark.parametrize(
    ("accuracy", "activity", "detectable", "said"),
    [
        ((-0.3, YES), (-2.0, YES), 0.5, "explained"),
        ((0.3, YES), (2.0, YES), 0.05, "explained"),
        ((-0.3, YES), (2.0, YES), 0.05, "contradicted"),
        ((0.3, YES), (-2.0, YES), 0.5, "contradicted"),
        ((-0.3, YES), (-2.0, NO), 0.5, "accuracy moves without activity"),
        ((-0.1, NO), (-2.0, YES), 0.15, "activity moves without accuracy"),
        ((-0.1, NO), (-2.0, NO), 0.1, "no change"),
        ((-0.1, NO), (-2.0, YES), 0.16, "too few problems to tell"),
        ((-0.1, NO), (-2.0, NO), 0.16, "too few problems to tell"),
        ((-0.1, LEVEL), (-2.0, LEVEL), 0.1, "no change"),
    ],
)
def test_verdict(accuracy: tuple[float, float], activity: tuple[float, float], detectable: float, said: str) -> None:
    assert verdict(accuracy, activity, detectable, problems=50, tests=4) == said


def test_few_solutions_cannot_say_that_activity_did_not_move() -> None:
    """Eight sign flips have a least p of 2 / 256; four phenomena share the level."""
    moved, still = (-0.3, YES), (-0.1, NO)
    assert verdict(moved, still, 0.1, problems=8, tests=4) == "accuracy moves without activity"
    assert verdict(moved, still, 0.1, problems=7, tests=4) == "too few problems to tell"
    assert verdict(moved, still, 0.1, problems=7, tests=1) == "accuracy moves without activity"


def test_the_rule_states_its_numbers() -> None:
    assert f"below {LEVEL}" in RULE and f"above {LARGEST_BLIND_CHANGE}" in RULE
    for said in ("explained", "contradicted", "accuracy moves without activity", "activity moves without accuracy",
                 "no change", "too few problems to tell"):  # fmt: skip
        assert said in RULE
