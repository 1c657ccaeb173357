"""What is carried over between data sets is of no template that it is judged on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from cotscope.measuring.prediction.telling import exchanged, others_apart
from cotscope.measuring.prediction.tracing import Answer
from cotscope.records import Problem


def answers(*questions: str) -> list[Answer]:
    return [Answer(Problem(str(i), q, Fraction(1)), "", (), True, None) for i, q in enumerate(questions)]


def test_answers_of_a_judged_template_are_left_out() -> None:
    pens = [f"Ann has {i} pens and finds {i + 3} more. How many pens has she now?" for i in range(6)]
    alone = ["A train leaves at noon; when does it arrive?", "Which share of the cake is eaten?", "How fast runs the dog?"]
    every = [answers(pens[0], pens[1], alone[0]), answers(alone[1], pens[2]), answers(alone[2])]
    found = others_apart(every)
    assert [here.tolist() for here, _, _ in found] == [[0, 1, 2], [3, 4], [5]]
    assert [apart.tolist() for _, apart, _ in found] == [[3, 5], [2, 5], [0, 1, 2, 3, 4]]
    for here, apart, of in found:
        assert len(of) == 6 and not np.isin(of[apart], of[here]).any()


def test_shuffled_labels_go_together_as_they_did() -> None:
    """One template of sixty answers, all right, and sixty of one: a large template is all right or all wrong after it, too."""
    of = np.array([0] * 60 + list(range(1, 61)))
    hits = np.array([True] * 60 + [False] * 60)
    small = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    told = list[bool]()
    for seed in range(50):
        rng = np.random.default_rng(seed)
        moved = exchanged(hits, of, rng)
        assert len(set(moved[:60].tolist())) == 1 and moved[60:].sum() in (0, 1)
        told.append(bool(moved[0]))
        even = exchanged(np.array([1, 1, 1, 1, 0, 0, 0, 1], bool), small, rng)
        assert even.sum() == 5 and sorted(even.reshape(4, 2).sum(axis=1).tolist()) == [0, 1, 2, 2]
    assert not all(told)
