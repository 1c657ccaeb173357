"""What one model's answers teach of another's: found where it is there, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cotscope.measuring.prediction.carrying import WAYS, Answered, across

N = 120
rng = np.random.default_rng(0)
RIGHT = rng.random((2, N)) < 0.5


def questions(seed: int) -> list[str]:
    """Each of words of its own, a template of its own."""
    letters = random.Random(seed)
    return [" ".join("".join(letters.choices("abcdefghilmnoprstu", k=5)) for _ in range(4)) for _ in range(N)]


def answered(model: str, right: NDArray[np.bool_], asked: list[str], concepts: Sequence[str], sign: float = 1.0) -> Answered:
    """One whose second concept says what is right, and whose others say nothing."""
    told = sign * (right + rng.normal(0, 0.3, N))
    concept = {name: told if name == "tells" else rng.normal(size=N) for name in concepts}
    noise = {"0": rng.normal(size=N)}
    return Answered(model, "some", asked, right, {way: concept if way == "concepts" else noise for way in WAYS})


def areas(mine: Answered, theirs: Sequence[Answered]) -> dict[str, float]:
    rows = across([mine], theirs, 0)
    assert {r["predictor"] for r in rows} == set(WAYS) and {r["n"] for r in rows} == {N}
    assert all(r["model"] == "b" and r["low"] <= r["auroc"] <= r["high"] for r in rows)
    return {r["predictor"]: r["auroc"] for r in rows}


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True], ids=["other questions", "the same questions"])
def test_a_concept_is_found_by_its_name(same: bool) -> None:
    mine = answered("a", RIGHT[0], questions(1), ["x", "tells", "only here"])
    theirs = answered("b", RIGHT[0] if same else RIGHT[1], questions(1 if same else 2), ["tells", "x"])
    found = areas(mine, [theirs])
    assert found["concepts"] > 0.9
    assert all(0.35 < found[way] < 0.65 for way in WAYS if way != "concepts")


def test_what_means_the_contrary_elsewhere_misleads() -> None:
    mine = answered("a", RIGHT[0], questions(1), ["tells"])
    assert areas(mine, [answered("b", RIGHT[1], questions(2), ["tells"], sign=-1)])["concepts"] < 0.1


@pytest.mark.slow
def test_no_template_is_both_learned_and_judged() -> None:
    """Features that name the question: who learned on its answer by another model would know this model's."""
    asked = questions(1)
    names = {str(i): np.eye(N)[i] for i in range(N)}
    mine, theirs = (Answered(m, "some", asked, RIGHT[0], dict.fromkeys(WAYS, names)) for m in "ab")
    assert all(0.35 < area < 0.65 for area in areas(mine, [theirs]).values())


def test_without_other_models_nothing_is_carried() -> None:
    assert across([answered("a", RIGHT[0], questions(1), ["x"])], [], 0) == []


def test_of_too_few_templates_nothing_is_carried_and_nothing_ends_in_an_error() -> None:
    same = [f"How many {'pens'} are {i}?" for i in range(N)]
    alone = Answered("a", "some", same, RIGHT[0], answered("a", RIGHT[0], same, ["x"]).features)
    said = list[str]()
    other = answered("b", RIGHT[1], questions(2), ["x"])
    assert across([alone], [other], 0, said.append) == []  # its one template can't be parted
    assert said == ["Answers to some are not told from other models' answers: they are of one template."]
    few = [*questions(3)[: N - 3], *questions(2)[:3]]  # of the other's questions three are not of these templates
    mine, theirs = answered("a", RIGHT[0], questions(3), ["x"]), answered("b", RIGHT[1], few, ["x"])
    for row in across([mine], [theirs], 0):
        assert row["n"] == N and 0.3 < row["auroc"] < 0.7


def test_where_a_fold_cannot_be_learned_nothing_is_said() -> None:
    """The other model got ten wrong, on the same questions: every fold of its own takes some of them away."""
    asked = questions(1)
    nearly = np.arange(N) >= 10
    mine, theirs = answered("a", RIGHT[0], asked, ["x"]), answered("b", nearly, asked, ["x"])
    said = list[str]()
    assert across([mine], [theirs], 0, said.append) == []
    assert [text.partition(": too few right or wrong")[0] for text in said] == [
        "Answers to some are not told from other models' answers"
    ]
