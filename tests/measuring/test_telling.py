"""What is carried over between data sets is of no template that it is judged on."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cotscope.data.roles import ROLES
from cotscope.measuring.choosing import REASONING
from cotscope.measuring.prediction import estimating, predictors, telling
from cotscope.measuring.prediction.telling import Known, early, exchanged, others_apart
from cotscope.measuring.prediction.tracing import CONFIDENCE, STOPS, Answer, Traces, by_concept
from cotscope.records import Neuron, Problem


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


def made(count: int) -> tuple[Known, dict[str, list[Neuron]]]:
    """Answers of 10, 20, … tokens, every third wrong; each number of their traces is one of its own."""
    given = [
        Answer(Problem(str(i), f"{i}?", Fraction(1)), "", tuple(range(10 * (i + 1))), i % 3 > 0, None) for i in range(count)
    ]
    groups = {REASONING: [Neuron(0, 1), Neuron(0, 4)], "random 1": [Neuron(0, 2), Neuron(0, 3)]}

    def numbered(columns: int) -> np.ndarray:
        return np.arange(count * len(STOPS) * columns, dtype=np.float32).reshape(count, len(STOPS), columns)

    none = np.zeros((count, 0, 0), np.float32)
    traces = Traces(tuple(Neuron(0, i) for i in range(6)), none, numbered(6), none, numbered(len(CONFIDENCE)), none)
    return Known(SimpleNamespace(label="made"), given, traces, [], list(range(count))), groups  # type: ignore[arg-type]


def test_on_the_way_the_least_likely_are_stopped_by_what_was_there_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    known, groups = made(6)
    likely = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.6])  # the second is the least likely one, then the fourth
    asked: list[np.ndarray] = []
    monkeypatch.setattr(telling, "out_of_fold", lambda x, *a, **k: (asked.append(x), (likely, []))[1])
    monkeypatch.setattr(telling, "STOPPED", (1 / 3,))
    session: Any = SimpleNamespace(config=SimpleNamespace(seed=0))
    rows, stopping = early(session, known, groups, lambda: None)
    assert [(r["predictor"], r["stop"]) for r in rows] == [(n, s) for s in STOPS for n in (REASONING, "random 1", "confidence")]
    lengths = np.array([10.0, 20, 30, 40, 50, 60])
    for i, row in enumerate(rows):
        at = STOPS.index(row["stop"])
        columns = {REASONING: [1, 4], "random 1": [2, 3]}.get(row["predictor"])
        if columns is None:  # what a share of the answer is in tokens would tell how long it becomes
            on_the_way = [n for n, name in enumerate(CONFIDENCE) if name not in ("tokens", "log_prob_sum")]
            columns = list(range(len(CONFIDENCE))) if row["stop"] in (0, 1) else on_the_way
            assert (asked[i] == known.traces.confidence[:, at, columns]).all()
        else:
            assert (asked[i] == known.traces.so_far[:, at, columns]).all()
        assert row["tokens"] == pytest.approx(np.maximum(1, np.round(row["stop"] * lengths)).mean())
    assert {s["stop"] for s in stopping} == set(STOPS) - {1} and len(stopping) == 3 * (len(STOPS) - 1)
    for s in stopping:
        seen = np.maximum(1, np.round(s["stop"] * lengths))
        assert s["saved"] == pytest.approx((20 + 40 - seen[1] - seen[3]) / lengths.sum())
        assert s["lost"] == 1 / 4, "of the four right ones the second; the fourth is wrong"


def test_a_concept_that_nobody_stands_in_for_is_there_with_nothing() -> None:
    """So that the concepts of random neurons are those of the reasoning neurons, in their order."""
    rows = [{"concept": c, "layer": 0, "index": i} for c, i in (("a", 1), ("b", 4))]
    session: Any = SimpleNamespace(run=SimpleNamespace(rows=lambda sql: rows))
    sizes = np.ones((2, len(ROLES), 6), np.float32)
    none = np.zeros((2, 0, 0), np.float32)
    traces = Traces(tuple(Neuron(0, i) for i in range(6)), sizes, none, np.zeros((2, len(ROLES), 3)), none, none)
    names, own = by_concept(session, traces)
    others, drawn = by_concept(session, traces, {Neuron(0, 1): Neuron(0, 2)})
    assert names == others == ["a", "b"] and own.shape == drawn.shape
    assert own[:, 1].any() and drawn[:, 0].any() and not drawn[:, 1].any()


def test_samples_agree_as_answers_are_graded() -> None:
    def same(drawn: str | None, read: str | None, answer: Fraction | str) -> bool:
        return predictors._same(drawn, Answer(Problem("p", "When?", answer), "", (), False, read))

    assert (
        same("Friday", "on Friday", "Friday") and same("on Friday", "Friday", "Monday") and same("friday", "Friday", "Monday")
    )
    assert not same("Monday", "Friday", "Friday") and not same(None, "Friday", "Friday") and not same("Friday", None, "Friday")
    assert same("12", "12", Fraction(1)) and not same("12", "2", Fraction(2)) and not same(None, None, Fraction(2))


def test_a_line_through_the_other_prompts() -> None:
    """Each prompt's accuracy by the others' alone: of points on a line and one beside it, that one is told by the line."""
    rows = [
        {"method": "active poles (count)", "name": str(i), "estimated": float(i), "accuracy": 0.1 + 0.1 * i} for i in range(6)
    ]
    rows[3]["accuracy"] = 0.9
    plain = {"method": "confidence", "name": "0", "estimated": 0.5, "accuracy": 0.1}
    found = estimating._regressed([dict(r) for r in (*rows, plain)])
    assert found[-1] == plain and {r["method"] for r in found[:-1]} == {"regression on active poles"}
    assert found[3]["estimated"] == pytest.approx(0.4) and found[0]["estimated"] != pytest.approx(0.1)
    assert estimating._regressed([dict(r) for r in (*rows[:4], plain)]) == [plain], "of four prompts there is none"
    [of_all, of_family] = estimating._errors(
        [r | {"family": "study", "kind": r["name"], "problems": 60} for r in found[:-1]], 0
    )
    assert (of_all["family"], of_family["family"]) == ("all", "study")
    errors = [abs(r["estimated"] - r["accuracy"]) for r in found[:-1]]
    assert of_all["error"] == pytest.approx(np.mean(errors)) == of_family["error"]
