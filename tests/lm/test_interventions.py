"""Interventions against plain transformers with edited weights, or with hooks that add Σ (change of m)·v by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from cotscope.lm.engine import Engine
from cotscope.lm.families import anatomy, value_matrix
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.interventions import (
    PAPER_NOISE,
    Intervention,
    Reference,
    logit_bias,
    mean,
    noise,
    paper_noise,
    resample,
    scale,
    without_component,
)
from cotscope.lm.jobs import Job
from cotscope.lm.loading import LoadedModel
from cotscope.lm.scoring import Given, score, text_scores
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz", "the same start")
TARGETS = [Neuron(layer, i) for layer in (0, 2) for i in range(1, 40, 3)]
SEED = 11
SCOPES = ("all", "prompt", "generated")
KINDS: dict[str, Callable[..., Intervention]] = {
    "scale": lambda loaded, scope: scale(loaded.anatomy, TARGETS, 0.5, scope),
    "mean": lambda loaded, scope: mean(loaded.anatomy, TARGETS, reference(), scope),
    "resample": lambda loaded, scope: resample(loaded.anatomy, TARGETS, reference(), SEED, scope),
    "noise": lambda loaded, scope: noise(loaded.anatomy, TARGETS, 1.5, SEED, scope),
    "paper_noise": lambda loaded, scope: paper_noise(loaded.anatomy, TARGETS, SEED, scope),
}
PLAIN = {"gemma2", "falcon_alibi", "qwen3_5"}  # families on the plain path


def reference() -> Reference:
    """Coefficients at seven positions, of more neurons than the targets and in another order."""
    neurons = tuple(reversed([Neuron(layer, i) for layer in range(3) for i in range(40)]))
    return Reference(neurons, np.random.default_rng(3).normal(0.4, 0.6, (7, len(neurons))).astype(np.float32))


def targets_of(layer: int) -> list[int]:
    return [n.index for n in TARGETS if n.layer == layer]


def reference_rows(layer: int) -> Tensor:
    """The reference coefficients of the layer's targets (positions, targets)."""
    found = reference()
    return torch.tensor(found.coefficients[:, [found.neurons.index(Neuron(layer, i)) for i in targets_of(layer)]])


def tokens(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.encode(text)[len(loaded.encode("")) :]


def direction(layer: int, index: int, size: int) -> Tensor:
    return torch.tensor(np.random.default_rng((SEED, layer, index)).standard_normal(size)).float()


def edited(loaded: LoadedModel, kind: str) -> LoadedModel:
    """A copy of the model with the noise in its weights."""
    model = copy.deepcopy(loaded.model)
    other = LoadedModel(loaded.name, model, loaded.tokenizer, anatomy(model))
    for layer, index in TARGETS:
        v = value_matrix(other.anatomy.down[layer])[:, index]
        g = direction(layer, index, len(v))
        v += g / g.norm() * 1.5 * v.norm() if kind == "noise" else PAPER_NOISE[0] + PAPER_NOISE[1] * g
    return other


def drawn_rows(loaded: LoadedModel, ids: list[int], intervention: Intervention) -> Tensor:
    """Which reference row each position of a text got: the same one in both layers."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int, m: Tensor) -> None:
        seen[layer] = m.reshape(len(ids), -1).clone()

    with torch.inference_mode(), coefficient_hooks(loaded.anatomy, intervention, keep, torch.tensor([ids])):
        loaded.model(input_ids=torch.tensor([ids]))
    found = []
    for layer in (0, 2):
        same = (seen[layer][:, None, targets_of(layer)] == reference_rows(layer)[None]).all(dim=-1)
        assert (same.sum(dim=1) == 1).all()
        found.append(same.long().argmax(dim=1))
    assert torch.equal(*found)
    return found[0]


def by_hand(loaded: LoadedModel, prompt: list[int], given: list[int], kind: str, scope: str) -> Tensor:
    """Log-probabilities (positions, vocabulary) of one sequence under plain hooks that know nothing of cotscope's."""
    ids = prompt + given
    generated = torch.arange(len(ids)) >= len(prompt)
    mask = {"all": torch.ones(len(ids), dtype=torch.bool), "prompt": ~generated, "generated": generated}[scope]
    rows = drawn_rows(loaded, ids, KINDS[kind](loaded, "all")) if kind == "resample" else None

    def hook(layer: int) -> Callable:
        values = value_matrix(loaded.anatomy.down[layer])
        index = targets_of(layer)

        def add(module: torch.nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
            m = args[0].reshape(len(ids), -1)[:, index]
            if kind == "scale":
                change = (0.5 * m - m) @ values[:, index].T
            elif kind in ("mean", "resample"):
                new = reference_rows(layer)
                change = ((new.mean(dim=0) if rows is None else new[rows]) - m) @ values[:, index].T
            else:
                g = torch.stack([direction(layer, i, len(values)) for i in index])
                size = 1.5 * values[:, index].norm(dim=0)[:, None] / g.norm(dim=1, keepdim=True)
                change = m @ (g * size if kind == "noise" else PAPER_NOISE[0] + PAPER_NOISE[1] * g)
            return y + (change * mask[:, None]).view_as(y)

        return add

    handles = [loaded.anatomy.down[layer].register_forward_hook(hook(layer)) for layer in (0, 2)]
    try:
        with torch.inference_mode():
            return torch.log_softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_forcing_is_a_plain_pass_with_hooks(tiny: LoadedModel, kind: str) -> None:
    answers = [tokens(tiny, a) for a in (" one two", " 3", " fourteen or so", " ")]
    engine = Engine(tiny)
    different = {}
    for scope in SCOPES:
        got = score(engine, Given(PROMPTS, tuple(map(tuple, answers)), intervention=KINDS[kind](tiny, scope)))
        different[scope] = [[t.log_prob for t in found] for found in got]
        for prompt, answer, found in zip(PROMPTS, answers, got, strict=True):
            start = tiny.encode(prompt)
            log_prob = by_hand(tiny, start, answer, kind, scope)
            for place, (token, mine) in enumerate(zip(answer, found, strict=True)):
                assert mine.log_prob == pytest.approx(log_prob[len(start) - 1 + place, token].item(), abs=1e-3)
    assert engine.shares_prefix(40) == (tiny.name not in PLAIN)
    assert different["all"] != different["prompt"] != different["generated"] != different["all"]


@pytest.mark.parametrize("kind", ["noise", "paper_noise"])
def test_noise_is_that_of_edited_weights(tiny: LoadedModel, kind: str) -> None:
    before = tiny.weight_hash()
    intervention = KINDS[kind](tiny, "all")
    other = edited(tiny, kind)
    ids = torch.tensor([tiny.encode("a text of some words")])
    with torch.inference_mode():
        expected = other.model(input_ids=ids).logits
        with coefficient_hooks(tiny.anatomy, intervention, None):
            torch.testing.assert_close(tiny.model(input_ids=ids).logits, expected, atol=2e-3, rtol=1e-3)
    if kind == "noise":  # the paper's drowns these small models: the same greedy text would be a matter of rounding
        got = Engine(tiny).generate(PROMPTS, max_new_tokens=8, intervention=intervention)
        assert got == Engine(other).generate(PROMPTS, max_new_tokens=8)
        assert got != Engine(tiny).generate(PROMPTS, max_new_tokens=8)
    assert tiny.weight_hash() == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_is_greedy_when_given(tiny: LoadedModel, kind: str) -> None:
    engine, written = Engine(tiny), []
    for scope in SCOPES:
        intervention = KINDS[kind](tiny, scope)
        written.append([c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=12, intervention=intervention)])
        assert any(written[-1])
        found = score(engine, Given(PROMPTS, tuple(written[-1]), intervention=intervention))
        assert all(t.greedy for row in found for t in row)
    untouched = [c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=12)]
    first = [row[0] if row else None for row in untouched]  # it depends on the prompt alone
    assert [row[0] if row else None for row in written[2]] == first


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "opt", "gpt2"])
def test_jobs_of_every_kind_and_scope_share_batches(family: str) -> None:
    loaded = tiny_model(family)
    settings = [None, *(KINDS[kind](loaded, scope) for kind, scope in product(KINDS, SCOPES))]
    texts = ["a common start " + rest for rest in ("one", "and two", "x")]
    apart = [Engine(loaded).generate(texts, max_new_tokens=6 + i % 3, intervention=s) for i, s in enumerate(settings)]
    assert len({tuple(job) for job in apart}) > len(settings) // 2
    for rows, ahead in ((5, False), (48, False), (7, True)):
        jobs = [Job(tuple(texts), 6 + i % 3, intervention=s) for i, s in enumerate(settings)]
        assert Engine(loaded, rows=rows, ahead=ahead).run(jobs) == apart
    # Neither the order nor who else is there matters.
    alone = [Engine(loaded).generate([t], max_new_tokens=8, intervention=KINDS["resample"](loaded, "all"))[0] for t in texts]
    assert Engine(loaded).generate(texts[::-1], max_new_tokens=8, intervention=KINDS["resample"](loaded, "all")) == alone[::-1]


def test_draws_vary_with_seed_position_and_token(qwen: LoadedModel) -> None:
    ids = qwen.encode("some text that is long enough to see every row of the reference")
    rows = drawn_rows(qwen, ids, KINDS["resample"](qwen, "all"))
    assert len(set(rows.tolist())) == 7
    assert torch.equal(rows, drawn_rows(qwen, ids, KINDS["resample"](qwen, "all")))
    other = drawn_rows(qwen, ids, resample(qwen.anatomy, TARGETS, reference(), SEED + 1))
    assert (rows == other).sum() < len(ids) / 2
    shifted = drawn_rows(qwen, [ids[0], *ids], KINDS["resample"](qwen, "all"))[1:]
    assert (rows == shifted).sum() < len(ids) / 2
    words = drawn_rows(qwen, [3 + token % 90 for token in ids], KINDS["resample"](qwen, "all"))
    assert (rows == words).sum() < len(ids) / 2
    assert torch.equal(rows[:9], drawn_rows(qwen, ids[:9], KINDS["resample"](qwen, "all")))


def test_a_dose_has_one_direction_and_its_size(qwen: LoadedModel) -> None:
    v = value_matrix(qwen.anatomy.down[0])[:, 7]
    one = noise(qwen.anatomy, [Neuron(0, 7)], 1.0, SEED).changes[0].vectors[0]
    three = noise(qwen.anatomy, TARGETS, 3.0, SEED).changes[0].vectors[targets_of(0).index(7)]
    assert one.norm() == pytest.approx(v.norm().item(), rel=1e-5)
    torch.testing.assert_close(three, 3 * one)


def test_general_text_counts_as_prompt(tiny: LoadedModel) -> None:
    text = "some words that nobody was taught, one after another. " * 3
    names = ("scale", "resample", "noise")
    interventions = {f"{kind}.{scope}": KINDS[kind](tiny, scope) for kind in names for scope in SCOPES}
    got = text_scores(tiny, text, interventions)
    for kind in names:
        assert got[f"{kind}.all"] == got[f"{kind}.prompt"]
        assert got[f"{kind}.all"].kl > 1e-3
        assert got[f"{kind}.generated"].kl == pytest.approx(0, abs=1e-6)
    ids = tiny.encode(text)
    p, q = (by_hand(tiny, ids, [], "resample", scope)[:-1] for scope in ("generated", "all"))
    assert got["resample.all"].kl == pytest.approx((p.exp() * (p - q)).sum(dim=-1).mean().item(), rel=2e-3)


def test_only_the_first_windows_are_read(qwen: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotscope.lm.scoring.WINDOW", 20)
    text = "some words that nobody was taught, one after another"
    assert text_scores(qwen, text, {"none": None}, at_most=1) == text_scores(qwen, text[:20], {"none": None})


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "gpt2", "olmo2"])
def test_a_component_is_taken_out_of_value_vectors(family: str, within: bool) -> None:
    """Against weights from which it was taken; what lies within and what lies beyond are all of a vector."""
    loaded, continuations = tiny_model(family), ((40, 41), (50,), (60, 61), (70,))
    directions = torch.tensor(np.random.default_rng(5).normal(0, 1, (6, len(loaded.anatomy.unembedding[0])))).float()
    directions[5] = directions[0] + directions[1]  # says nothing new
    intervention = without_component(loaded.anatomy, TARGETS, directions, within)
    found = score(Engine(loaded), Given(PROMPTS, continuations, intervention=intervention))
    model = copy.deepcopy(loaded.model)
    other = LoadedModel(loaded.name, model, loaded.tokenizer, anatomy(model))
    project = directions[:5].T @ torch.linalg.pinv(directions[:5].T)
    for layer, index in TARGETS:
        v = value_matrix(other.anatomy.down[layer])[:, index]
        v -= project @ v if within else v - project @ v
    want = score(Engine(other), Given(PROMPTS, continuations))
    for a, b in zip(found, want, strict=True):
        assert [t.log_prob for t in a] == pytest.approx([t.log_prob for t in b], abs=2e-3)


def test_keys_tell_interventions_apart() -> None:
    blocks = tiny_model("qwen2").anatomy
    zeroed = scale(blocks, TARGETS, 0.0)
    every = [zeroed, zeroed.along("direct"), zeroed.along("indirect"), scale(blocks, TARGETS, 0.0, "generated")]
    every += [scale(blocks, TARGETS[1:], 0.0), logit_bias(blocks, {3: 1.0}), logit_bias(blocks, {3: 2.0})]
    assert len({i.key for i in every}) == len(every)
    assert scale(blocks, TARGETS, 0.0).key == zeroed.key
