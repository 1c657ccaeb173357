"""Items of other skills are hits or not of the model that was asked, with its intervention."""

from __future__ import annotations

import pytest
from conftest import AsWritten

from cotscope.lm.engine import Engine
from cotscope.lm.interventions import scale
from cotscope.lm.loading import LoadedModel
from cotscope.measuring import solutions
from cotscope.records import Neuron


def test_hits_are_of_the_model_that_was_asked(qwen: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are what the model writes itself: to half of the prompts as it is, to the others without some neurons."""
    engine = Engine(qwen)
    zeroed = scale(qwen.anatomy, [Neuron(layer, i) for layer in range(3) for i in range(0, 48, 2)], 0.0)
    prompts = [f"w: {i}\nx:" for i in range(40)]
    written = [engine.generate(prompts, max_new_tokens=1, intervention=i) for i in (None, zeroed)]
    differ = [(p, *(c.text for c in both)) for p, *both in zip(prompts, *written, strict=True)]
    differ = [(p, a, b) for p, a, b in differ if a != b and a.isalnum() and b.isalnum()][:6]
    assert len(differ) == 6
    items = tuple((p, (a, b)[i % 2]) for i, (p, a, b) in enumerate(differ))
    monkeypatch.setattr(solutions, "load_battery", lambda: (AsWritten("t", items),))
    assert [h.hit for h in solutions.score_battery(engine, 6)] == [True, False] * 3
    assert [h.hit for h in solutions.score_battery(engine, 6, zeroed)] == [False, True] * 3
    both = tuple((p, a + a) for p, a, _ in differ)  # the first token alone is no answer
    monkeypatch.setattr(solutions, "load_battery", lambda: (AsWritten("t", both),))
    after = [c.text for c in engine.generate([p + a for p, a, _ in differ], max_new_tokens=1)]
    assert [h.hit for h in solutions.score_battery(engine, 6)] == [said == a for said, (_, a, _) in zip(after, differ)]
