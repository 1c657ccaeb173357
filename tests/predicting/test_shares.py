"""Estimates of how many answers are right, against what is known; and which questions are one template's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotscope.predicting.shares import correlation_within, difference_share, expected_share, risk_coverage, threshold_share
from cotscope.predicting.templates import templates

scores = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50, unique_by=lambda p: p[0])


@settings(deadline=None)
@given(scores)
def test_on_the_source_itself_estimates_are_its_accuracy(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = zip(*pairs)
    assert threshold_share(confidence, right, confidence) == pytest.approx(np.mean(right))
    assert difference_share(confidence, right, confidence) == pytest.approx(np.mean(right))


def test_a_shift_is_followed() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.uniform(size=4000), rng.uniform(size=4000) ** 2
    right = rng.random(4000) < source
    assert threshold_share(source, right, target) == pytest.approx(1 - 0.5**0.5, abs=0.03)
    assert difference_share(source, right, target) == pytest.approx(1 / 3, abs=0.03)
    assert expected_share(target)[0] == pytest.approx(np.mean(target))


def test_the_interval_of_an_expected_share_covers() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        p = rng.beta(2, 1, 60)
        _, low, high = expected_share(p.tolist())
        covered += low <= np.mean(rng.random(60) < p) <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_risk_and_coverage() -> None:
    points = risk_coverage([0.9, 0.1, 0.8, 0.2], [True, False, True, False])
    assert points[-1] == (1.0, 0.5) and points[4] == (0.5, 1.0)


def test_templates() -> None:
    questions = [
        "Ann has 3 apples and buys 12 more at the market. How many apples has she?",
        "Bob has 45 apples and buys 1,200 more at the market. How many apples has he?",
        "A train leaves the station at 7 and drives 80 miles per hour. When does it arrive?",
        "Wie viele Äpfel hat Jörg, wenn er 5 verkauft?",
        "Wie viele Äpfel hat Ruth, wenn er 8 verkauft?",
    ]
    assert len({*templates(questions)}) == 3
    first, second, train, jorg, ruth = templates(questions)
    assert first == second != train and jorg == ruth
    assert templates(["7"]) == [0]


@pytest.mark.parametrize("together", [0.0, 0.4])
def test_answers_of_one_template_are_right_together(together: float) -> None:
    """The correlation is found, and with it the interval covers; without it, by far not."""
    rng = np.random.default_rng(3)
    of = np.repeat(np.arange(60), 6)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        p = np.repeat(rng.uniform(0.2, 0.9, 60), 6)
        whole = np.repeat(rng.random(60), 6)  # with this probability a template's answers are all of one draw
        own = np.where(np.repeat(rng.random(60) < together, 6), whole, rng.random(360))
        return p, own < p

    found = [correlation_within(p.tolist(), right.tolist(), of.tolist()) for p, right in (draw() for _ in range(60))]
    assert np.mean(found) == pytest.approx(together, abs=0.05)
    covered = np.zeros(2)
    for _ in range(400):
        p, right = draw()
        for way, known in enumerate((together, 0.0)):
            _, low, high = expected_share(p.tolist(), 0.0, of.tolist(), known)
            covered[way] += low <= right.mean() <= high
    assert 0.92 <= covered[0] / 400 <= 0.98 and (together == 0 or covered[1] / 400 < 0.85)
    assert expected_share(p.tolist(), 0.0, list(range(360)), 0.4) == pytest.approx(expected_share(p.tolist()))
