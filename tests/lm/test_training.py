"""Training factors: losses and gradients against the engine's scores, what is trained, and going on from a state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_model

from cotscope.edits.edit import Base, Edit
from cotscope.lm.attribution import Outcome, attribute
from cotscope.lm.engine import Engine
from cotscope.lm.loading import LoadedModel
from cotscope.lm.scoring import Given, score
from cotscope.lm.training import FactorTraining, Text
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz")
CONTINUATIONS = ((40, 41, 42, 43, 44), (50, 51, 52), (60, 61, 62, 63))
CHOSEN = tuple(Neuron(layer, i) for layer in (0, 2) for i in (1, 8, 20, 33))


def texts(loaded: LoadedModel) -> list[Text]:
    return [Text(tuple(loaded.encode(p)), c) for p, c in zip(PROMPTS, CONTINUATIONS)]


def by_engine(loaded: LoadedModel, factors: dict[Neuron, float]) -> list[float]:
    """Losses as the engine scores them with an edit of these factors."""
    edit = Edit("some", Base.of(loaded), {n: (f, f) for n, f in factors.items()})
    given = Given(PROMPTS, CONTINUATIONS, intervention=edit.intervention(loaded.anatomy))
    return [-sum(t.log_prob for t in scores) / len(scores) for scores in score(Engine(loaded), given)]


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt", "gemma2"])
def test_training_lowers_the_loss_and_the_edit_says_the_same(family: str) -> None:
    loaded = tiny_model(family)
    before = loaded.weight_hash()
    training = FactorTraining(loaded, CHOSEN, 0.05)
    untouched = training.losses(texts(loaded))
    assert untouched == pytest.approx(by_engine(loaded, {CHOSEN[0]: 1.0}), abs=1e-4)
    assert training.step(texts(loaded)) == pytest.approx(untouched, abs=1e-5)  # the loss before the step
    for _ in range(8):
        training.step(texts(loaded))
    after = training.losses(texts(loaded))
    assert sum(after) < sum(untouched) - 1e-3
    factors = dict(zip(training.neurons, training.factors.tolist()))
    assert set(factors) == set(CHOSEN) and sum(f != 1 for f in factors.values()) >= 3  # behind ReLU some never speak
    assert after == pytest.approx(by_engine(loaded, factors), abs=1e-4)
    assert loaded.weight_hash() == before  # and no weight is


def test_the_first_step_goes_against_the_gradient() -> None:
    """Adam's first step is the rate, in the direction that attribution says (with one prompt nothing is shared)."""
    loaded = tiny_model("qwen2")
    text = texts(loaded)[:1]
    outcome = Outcome("log_prob", (frozenset(range(len(CONTINUATIONS[0]))),))
    found = attribute(loaded, [text[0].prompt], [text[0].continuation], {"all": outcome}).outcomes["all"].total
    training = FactorTraining(loaded, CHOSEN, 0.01)
    training.step(text)
    moved = training.factors - 1
    gradient = np.array([-float(found[n]) for n in training.neurons])  # of the log-probability
    clear = np.abs(gradient) > 1e-5
    assert clear.sum() >= 6
    assert np.allclose(moved[clear], 0.01 * np.sign(gradient[clear]), rtol=1e-2)


def test_it_goes_on_from_a_state_as_if_it_had_not_stopped() -> None:
    loaded = tiny_model("qwen2")
    whole = FactorTraining(loaded, CHOSEN, 0.05)
    losses = [whole.step(texts(loaded)) for _ in range(4)]
    first = FactorTraining(loaded, CHOSEN, 0.05)
    [first.step(texts(loaded)) for _ in range(2)]
    second = FactorTraining(loaded, CHOSEN, 0.05)
    second.restore(first.state())
    assert [second.step(texts(loaded)) for _ in range(2)] == losses[2:]
    assert np.array_equal(second.factors, whole.factors)


def test_what_is_trained_is_as_small_as_the_choice() -> None:
    loaded = tiny_model("qwen2")
    training = FactorTraining(loaded, CHOSEN, 0.05)
    training.step(texts(loaded))
    assert sum(a.size for name, a in training.state().items() if "step" not in name) == 3 * len(CHOSEN)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert torch.is_grad_enabled()
