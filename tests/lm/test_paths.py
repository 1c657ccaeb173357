"""Effects by path, in float32 against plain passes with hooks of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model

from cotscope.errors import ModelError
from cotscope.lm import paths
from cotscope.lm.engine import Engine
from cotscope.lm.families import Readout, value_matrix
from cotscope.lm.interventions import scale
from cotscope.lm.paths import PathEffects, path_effects
from cotscope.lm.scoring import Given, score
from cotscope.records import Neuron

PROMPTS = ("the same start and one", "the same start and another one")
CONTINUATIONS = ((40, 41, 42, 43, 44), (50, 51, 52))
SET = (Neuron(0, 3), Neuron(0, 7), Neuron(1, 5), Neuron(2, 0), Neuron(2, 11))
GIVEN = Given(PROMPTS, CONTINUATIONS)
LINEAR = ["qwen2", "llama", "gpt2", "gpt_neox", "opt", "phi", "gemma3", "olmo2"]
SCALED = ["gemma2", "cohere", "granite"]  # what stands over their logits is lm/families.py's to know


@pytest.mark.parametrize("family", LINEAR + SCALED)
def test_total_is_what_scoring_says(family: str) -> None:
    loaded = tiny_model(family)
    engine = Engine(loaded)
    found = PathEffects(engine, GIVEN, SET)
    expected = score(engine, GIVEN)
    for got, want in zip(found.untouched(), expected, strict=True):
        assert [s.log_prob for s in got] == pytest.approx([s.log_prob for s in want], abs=2e-4)
        assert [s.margin for s in got] == pytest.approx([s.margin for s in want], abs=2e-3)
        assert [s.margin > 0 for s in got] == [s.greedy for s in got] == [s.greedy for s in want]
    zeroed = score(engine, Given(PROMPTS, CONTINUATIONS, intervention=scale(loaded.anatomy, SET, 0.0)))
    for got, want in zip(found.of(SET)["total"], zeroed, strict=True):
        assert [s.log_prob for s in got] == pytest.approx([s.log_prob for s in want], abs=2e-4)


@pytest.mark.parametrize("family", LINEAR)
def test_parts_add_up_in_the_stream_and_the_last_layer_has_no_indirect_effect(family: str) -> None:
    loaded = tiny_model(family)
    found = PathEffects(Engine(loaded), GIVEN, SET)
    last = tuple(n for n in SET if n.layer == 2)
    untouched, by_path = found.untouched(), found.of(last)
    for a, b in zip(untouched, by_path["indirect"], strict=True):
        assert [s.margin for s in a] == pytest.approx([s.margin for s in b], abs=2e-3)
    for a, b in zip(by_path["total"], by_path["direct"], strict=True):
        assert [s.margin for s in a] == pytest.approx([s.margin for s in b], abs=2e-3)
    assert any(abs(a.margin - b.margin) > 0.01 for a, b in zip(untouched[0], by_path["total"][0]))
    early = tuple(n for n in SET if n.layer == 0)
    assert any(abs(a.margin - b.margin) > 0.01 for a, b in zip(untouched[0], found.of(early)["indirect"][0]))


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma3"])
def test_the_push_is_the_sets_own_updates(family: str) -> None:
    """Against m·v taken by hooks of the test's own in a plain pass of one prompt."""
    loaded = tiny_model(family)
    found = PathEffects(Engine(loaded), GIVEN, SET)
    push = found._push(SET)
    anatomy, at = loaded.anatomy, 0
    for prompt, tokens in zip(PROMPTS, CONTINUATIONS):
        ids = torch.tensor([loaded.encode(prompt) + list(tokens)])
        coefficients: dict[int, torch.Tensor] = {}
        outputs: dict[int, torch.Tensor] = {}
        hooks = [
            d.register_forward_hook(
                lambda _, a, y, i=i, c=coefficients, o=outputs: c.__setitem__(i, a[0]) or o.__setitem__(i, y)
            )
            for i, d in enumerate(anatomy.down)
        ]
        with torch.inference_mode():
            loaded.model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        want = 0
        for layer in range(anatomy.layers):
            here = [n.index for n in SET if n.layer == layer]
            written = coefficients[layer][0][:, here] @ value_matrix(anatomy.down[layer])[:, here].T
            if (norm := anatomy.post_norm[layer]) is not None:
                written = norm(outputs[layer])[0] - norm(outputs[layer] - written)[0]
            want = want + written
        want = want[ids.shape[1] - len(tokens) - 1 : -1]
        torch.testing.assert_close(push[at : at + len(tokens)], want, atol=2e-4, rtol=2e-3)
        at += len(tokens)


@pytest.mark.parametrize("family", SCALED)
def test_logits_that_stand_under_something_unknown_are_refused(family: str) -> None:
    loaded = tiny_model(family)
    loaded.anatomy = replace(loaded.anatomy, readout=Readout())
    with pytest.raises(ModelError, match="not its unembedding"):
        PathEffects(Engine(loaded), GIVEN, SET)


def test_sets_share_an_untouched_pass_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups, each as large as its bytes allow, with the same figures."""
    engine = Engine(tiny_model("qwen2"))
    sets: dict[str, tuple[Neuron, ...]] = {"none": (), "a": SET[:2], "b": SET[1:3], "c": SET[3:], "d": SET}
    together = dict(path_effects(engine, GIVEN, sets))
    looked: list[int] = []
    look = PathEffects._look
    monkeypatch.setattr(PathEffects, "_look", lambda self, neurons: looked.append(len(neurons)) or look(self, neurons))
    monkeypatch.setattr(paths, "COEFFICIENT_BYTES", 4 * 8 * 3)  # 8 places, 3 neurons
    apart = dict(path_effects(engine, GIVEN, sets))
    assert looked == [3, 2, 5], "a set alone may be larger"
    assert list(apart) == list(together) == list(sets)
    assert set(apart["none"]) == {"total"} and set(apart["d"]) == {"total", "direct", "indirect"}
    for name, found in together.items():
        for path, scores in found.items():
            for one, other in zip(scores, apart[name][path], strict=True):
                assert [s.margin for s in one] == pytest.approx([s.margin for s in other], abs=1e-4)


def test_a_model_without_a_final_norm_is_refused() -> None:
    loaded = tiny_model("qwen2")
    object.__setattr__(loaded.anatomy, "final_norm", None)
    with pytest.raises(ModelError, match="no norm before its unembedding"):
        PathEffects(Engine(loaded), GIVEN, SET)
