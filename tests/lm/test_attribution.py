"""Attributions against finite differences of what the engine says under factors, in float32 (and the tests' own hooks)."""

from __future__ import annotations

import pytest
import torch
from conftest import each_family, tiny_model

from cotscope.errors import ModelError, PromptError
from cotscope.lm.attribution import Outcome, attribute
from cotscope.lm.engine import Engine
from cotscope.lm.families import Anatomy
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.interventions import scale
from cotscope.lm.loading import LoadedModel
from cotscope.lm.paths import PathEffects
from cotscope.lm.scoring import Given, score
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz")
CONTINUATIONS = ((40, 41, 42, 43, 44), (50, 51, 52), (60, 61, 62, 63))
SOME = (frozenset({1, 3}), frozenset({0, 2}), frozenset({1}))
NEURONS = tuple(Neuron(layer, i) for layer in range(3) for i in (1, 8, 20, 33))
STEP = 0.005  # small: ReLU has kinks


def starts(loaded: LoadedModel) -> list[list[int]]:
    return [loaded.encode(p) for p in PROMPTS]


def log_prob(loaded: LoadedModel, neuron: Neuron, factor: float, path: str) -> float:
    """Mean log-probability of the first prompt's chosen tokens with a factor on one neuron, everywhere."""
    intervention = scale(loaded.anatomy, [neuron], factor).along(path)
    [found] = score(Engine(loaded), Given(PROMPTS[:1], CONTINUATIONS[:1], intervention=intervention))
    return sum(found[t].log_prob for t in SOME[0]) / len(SOME[0])


@pytest.mark.parametrize("path", ["both", "direct"])
@pytest.mark.parametrize("family", each_family("gemma2"))
def test_attributions_are_finite_differences(family: str, path: str) -> None:
    """(Gemma 2 caps its attention's scores: the engine's plain path runs it, and the next test.)"""
    loaded = tiny_model(family)
    found = attribute(loaded, starts(loaded)[:1], CONTINUATIONS[:1], {"some": Outcome("log_prob", SOME[:1])}).outcomes["some"]
    got, want = [], []
    for neuron in NEURONS:
        ends = [log_prob(loaded, neuron, factor, path) for factor in (1 + STEP, 1 - STEP)]
        want.append(-(ends[0] - ends[1]) / (2 * STEP))
        got.append(float((found.total if path == "both" else found.direct)[neuron]))
    assert max(map(abs, want)) > 0.01
    assert got == pytest.approx(want, rel=0.03, abs=min(2e-3, 0.05 * max(map(abs, want))))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3", "mistral_sliding", "gpt2", "falcon_alibi", "qwen3_5"])
@pytest.mark.parametrize("measure", ["log_prob", "margin"])
def test_factors_act_after_what_the_prompts_share(family: str, measure: str) -> None:
    loaded = tiny_model(family)
    outcome = Outcome(measure, SOME)  # type: ignore[arg-type]
    found = attribute(loaded, starts(loaded), CONTINUATIONS, {"some": outcome}).outcomes["some"]
    shared = next(i for i in range(99) if len({s[i] for s in starts(loaded)}) > 1)

    def value(neuron: Neuron, factor: float) -> list[float]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            m = args[0].clone()
            m[..., shared:, neuron.index] *= factor
            return (m,)

        values = []
        handle = loaded.anatomy.down[neuron.layer].register_forward_pre_hook(hook)
        for start, tokens, chosen in zip(starts(loaded), CONTINUATIONS, SOME):
            with torch.inference_mode():
                logits = loaded.model(input_ids=torch.tensor([start + list(tokens)])).logits[0, len(start) - 1 : -1]
            own = logits[range(len(tokens)), list(tokens)]
            others = logits.clone()
            with torch.inference_mode():
                others[range(len(tokens)), list(tokens)] = -torch.inf
            each = own - others.amax(1) if measure == "margin" else own - logits.logsumexp(1)
            values.append(float(each[sorted(chosen)].mean()))
        handle.remove()
        return values

    for neuron in NEURONS:
        up, down = value(neuron, 1 + STEP), value(neuron, 1 - STEP)
        each = [-(a - b) / (2 * STEP) for a, b in zip(up, down)]
        assert float(found.total[neuron]) == pytest.approx(sum(each) / 3, rel=0.04, abs=3e-3)
        assert float(found.halves[0][neuron]) == pytest.approx((each[0] + each[2]) / 2, rel=0.04, abs=3e-3)
        assert float(found.halves[1][neuron]) == pytest.approx(each[1], rel=0.04, abs=3e-3)
    assert found.texts == 3 and found.value == pytest.approx(sum(value(NEURONS[0], 1.0)) / 3, abs=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "olmo2"])
def test_averaged_over_factors_a_sets_attributions_add_up_to_its_effect(family: str) -> None:
    loaded = tiny_model(family)
    outcome = {"some": Outcome("log_prob", (frozenset(range(5)),))}
    scaled = [(NEURONS, (i + 0.5) / 16) for i in range(16)]
    found = attribute(loaded, starts(loaded)[:1], CONTINUATIONS[:1], outcome, scaled).outcomes["some"]
    [zeroed] = PathEffects(Engine(loaded), Given(PROMPTS[:1], CONTINUATIONS[:1]), NEURONS).of(NEURONS)["total"]
    [untouched] = score(Engine(loaded), Given(PROMPTS[:1], CONTINUATIONS[:1]))
    effect = sum(a.log_prob - b.log_prob for a, b in zip(zeroed, untouched, strict=True)) / 5
    assert sum(float(found.total[n]) for n in NEURONS) == pytest.approx(effect, rel=0.02, abs=2e-3)
    first = attribute(loaded, starts(loaded)[:1], CONTINUATIONS[:1], outcome).outcomes["some"]
    assert abs(sum(float(first.total[n]) for n in NEURONS) - effect) > 5e-3  # the first order alone does not


def test_the_last_layer_acts_directly_and_an_outcome_without_tokens_says_nothing(qwen: LoadedModel) -> None:
    outcomes = {"some": Outcome("margin", SOME), "none": Outcome("margin", (frozenset(),) * 3)}
    found = attribute(qwen, starts(qwen), CONTINUATIONS, outcomes).outcomes
    torch.testing.assert_close(found["some"].total[-1], found["some"].direct[-1], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found["some"].total[0], found["some"].direct[0], atol=1e-2)
    assert found["none"].texts == 0 and not found["none"].total.any()
    anatomy: Anatomy = qwen.anatomy
    assert found["some"].total.shape == (anatomy.layers, anatomy.width)


def test_what_does_not_fit_and_a_model_without_a_final_norm_are_refused(qwen: LoadedModel) -> None:
    outcome = {"some": Outcome("margin", (frozenset({1}),))}
    with pytest.raises(PromptError, match="longer than the model's context"):
        attribute(qwen, [[3] * 250], [[4] * 10], outcome)
    object.__setattr__(qwen.anatomy, "final_norm", None)
    with pytest.raises(ModelError, match="no norm before its unembedding"):
        attribute(qwen, [[3] * 5], [[4] * 10], outcome)


def test_sizes_are_mean_update_sizes_at_the_places_that_choose_the_tokens(qwen: LoadedModel) -> None:
    found = attribute(qwen, starts(qwen), CONTINUATIONS, {"some": Outcome("margin", SOME)}).sizes
    seen: list[torch.Tensor] = []
    for start, tokens in zip(starts(qwen), CONTINUATIONS):

        def keep(layer: int, m: torch.Tensor, last: int = len(tokens)) -> None:
            if layer == 1:
                seen.append(m[0, -last:])

        with torch.inference_mode(), coefficient_hooks(qwen.anatomy, None, keep):
            qwen.model(input_ids=torch.tensor([[*start, *tokens[:-1]]]))
    sizes = torch.cat(seen).abs().mean(0) * qwen.anatomy.norms[1]
    torch.testing.assert_close(found[1], sizes, atol=1e-4, rtol=1e-3)
