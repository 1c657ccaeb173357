"""Interventions along one path, in float32 against plain passes with hooks of the test's own, and against `PathEffects`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from conftest import each_family, tiny_model
from torch import Tensor

from cotscope.errors import ModelError
from cotscope.lm.engine import Engine
from cotscope.lm.families import value_matrix
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.interventions import Intervention, logit_bias, noise, scale
from cotscope.lm.jobs import Job
from cotscope.lm.loading import LoadedModel
from cotscope.lm.paths import PathEffects
from cotscope.lm.scoring import Given, score, text_scores
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz")
CONTINUATIONS = ((40, 41, 42, 43, 44), (50, 51, 52), (60, 61, 62, 63))
SET = tuple(Neuron(layer, i) for layer in range(3) for i in range(1, 40, 3))
KINDS: dict[str, Callable[[LoadedModel], Intervention]] = {
    "zero": lambda loaded: scale(loaded.anatomy, SET, 0.0),
    "half, generated": lambda loaded: scale(loaded.anatomy, SET, 0.5, "generated"),
    "noise": lambda loaded: noise(loaded.anatomy, SET, 1.5, 3),
}


def reference(loaded: LoadedModel, path: str, ids: list[int], begins: int, kind: str) -> Tensor:
    """Logits (positions, vocabulary) of a plain pass in which one path is cut by hand."""
    anatomy, written = loaded.anatomy, []
    change = KINDS[kind](loaded)
    here = torch.arange(len(ids)) >= (begins if kind == "half, generated" else 0)
    with ExitStack() as hooks:
        for layer, down in enumerate(anatomy.down):
            index = [n.index for n in SET if n.layer == layer]

            def after(
                module: torch.nn.Module, args: tuple[Tensor], y: Tensor, layer: int = layer, index: list[int] = index
            ) -> Tensor:
                m = args[0] if args[0].ndim == 3 else args[0][None]
                values = value_matrix(anatomy.down[layer])[:, index]
                if kind == "noise":
                    own = m[..., index] @ change.changes[layer].vectors  # type: ignore[attr-defined]
                else:
                    own = (0.0 if kind == "zero" else 0.5) * m[..., index] @ values.T - m[..., index] @ values.T
                own = own * here[:, None]
                own = own if y.ndim == 3 else own[0]
                norm = anatomy.post_norm[layer]
                multiplier = getattr(loaded.model.config, "residual_multiplier", 1.0)  # Granite
                written.append(multiplier * (norm(y + own) - norm(y) if norm is not None else own))
                return y + own if path == "indirect" else y

            hooks.enter_context(_removing(down.register_forward_hook(after)))

        def arrive(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            total = sum(w if w.ndim == 3 else w[None] for w in written)
            return (args[0] + total if path == "direct" else args[0] - total,)

        hooks.enter_context(_removing(anatomy.final_norm.register_forward_pre_hook(arrive)))
        with torch.inference_mode():
            return loaded.model(input_ids=torch.tensor([ids])).logits[0]


class _removing:
    def __init__(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self.handle = handle

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["direct", "indirect"])
@pytest.mark.parametrize("family", each_family())
def test_scores_are_those_of_a_plain_pass_with_the_path_cut(family: str, path: str, kind: str) -> None:
    loaded = tiny_model(family)
    intervention = KINDS[kind](loaded).along(path)
    found = score(Engine(loaded), Given(PROMPTS, CONTINUATIONS, intervention=intervention))
    for prompt, tokens, scores in zip(PROMPTS, CONTINUATIONS, found, strict=True):
        start = loaded.encode(prompt)
        logits = reference(loaded, path, start + list(tokens), len(start), kind)[len(start) - 1 : -1]
        want = torch.log_softmax(logits, dim=-1)[range(len(tokens)), list(tokens)]
        assert [s.log_prob for s in scores] == pytest.approx(want.tolist(), abs=1e-3)


@pytest.mark.parametrize("path", ["direct", "indirect"])
@pytest.mark.parametrize("family", ["qwen2", "olmo2", "gpt2", "falcon_alibi"])
def test_generated_text_is_that_of_plain_passes_with_the_path_cut(family: str, path: str) -> None:
    """Jobs of several paths share batches; each row's text is what greedy plain passes write."""
    loaded = tiny_model(family)
    zeroed = KINDS["zero"](loaded)
    engine = Engine(loaded, rows=4)
    jobs = [Job(PROMPTS, 6, (), None, i) for i in (zeroed.along(path), None, zeroed)]
    texts = engine.run(jobs)[0]
    assert [t.token_ids for t in texts] != [t.token_ids for t in engine.run([jobs[1]])[0]]
    for prompt, completion in zip(PROMPTS, texts, strict=True):
        ids = loaded.encode(prompt)
        for token in completion.token_ids:
            assert int(reference(loaded, path, ids, 0, "zero")[-1].argmax()) == token
            ids.append(token)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_a_set_of_one_layer_has_the_effects_that_the_two_passes_say(family: str) -> None:
    """`PathEffects` puts back what the untouched model wrote: the same where no neuron of the set lies behind another."""
    loaded = tiny_model(family)
    here = tuple(n for n in SET if n.layer == 1)
    engine, zeroed = Engine(loaded), scale(loaded.anatomy, here, 0.0)
    expected = PathEffects(engine, Given(PROMPTS, CONTINUATIONS), here).of(here)
    for path in ("direct", "indirect"):
        found = score(engine, Given(PROMPTS, CONTINUATIONS, intervention=zeroed.along(path)))
        for got, want in zip(found, expected[path], strict=True):
            assert [s.log_prob for s in got] == pytest.approx([s.log_prob for s in want], abs=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "opt", "olmo2"])
def test_the_last_layer_has_no_indirect_effect_and_all_of_its_effect_directly(family: str) -> None:
    loaded = tiny_model(family)
    last = scale(loaded.anatomy, [n for n in SET if n.layer == 2], 0.0)
    text = "some general prose. " * 5
    found = text_scores(loaded, text, {"none": None, "total": last} | {p: last.along(p) for p in ("direct", "indirect")})
    assert found["indirect"].kl == pytest.approx(0, abs=1e-5)
    assert found["direct"].perplexity == pytest.approx(found["total"].perplexity, rel=1e-4)
    assert found["total"].kl > 1e-3


def test_a_direct_path_leaves_the_prompts_keys_alone() -> None:
    loaded = tiny_model("qwen2")
    zeroed = scale(loaded.anatomy, SET, 0.0)
    assert zeroed.along("direct").prefix_key == ""
    assert zeroed.along("indirect").prefix_key == zeroed.prefix_key != ""


def test_a_model_without_a_final_norm_is_refused(qwen: LoadedModel) -> None:
    object.__setattr__(qwen.anatomy, "final_norm", None)
    with (
        pytest.raises(ModelError, match="no norm before its unembedding"),
        coefficient_hooks(qwen.anatomy, scale(qwen.anatomy, SET, 0.0).along("direct"), None),
    ):
        pass


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_bias_on_the_logits_is_added_for_its_own_job_only(family: str) -> None:
    loaded = tiny_model(family)
    engine = Engine(loaded, rows=4)
    bias = logit_bias(loaded.anatomy, {40: -3.0, 50: 2.5})
    plain, biased = (score(engine, Given(PROMPTS, CONTINUATIONS, intervention=i)) for i in (None, bias))
    for prompt, tokens, scores in zip(PROMPTS, CONTINUATIONS, biased, strict=True):
        start = loaded.encode(prompt)
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([start + list(tokens)])).logits[0, len(start) - 1 : -1]
        added = torch.zeros(logits.shape[1])
        added[40], added[50] = -3.0, 2.5
        want = torch.log_softmax(logits + added, dim=-1)[range(len(tokens)), list(tokens)]
        assert [s.log_prob for s in scores] == pytest.approx(want.tolist(), abs=1e-3)
    assert plain != biased
    alone = engine.generate(PROMPTS, max_new_tokens=5)
    forced = logit_bias(loaded.anatomy, {45: 1e4})
    together = engine.run([Job(PROMPTS, 5, (), None, forced), Job(PROMPTS, 5)])
    assert {t for c in together[0] for t in c.token_ids} == {45}
    assert [c.token_ids for c in together[1]] == [c.token_ids for c in alone]
    found = text_scores(loaded, "some general prose. " * 5, {"none": None, "forced": forced})
    assert found["forced"].perplexity > found["none"].perplexity
