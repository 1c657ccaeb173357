"""Factors and offsets while a model runs: the engine, plain transformers and hooks written here say the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload
from conftest import tiny_model
from torch import Tensor, nn

from cotscope.edits.edit import Base, Edit
from cotscope.errors import EditError
from cotscope.lm import cpu
from cotscope.lm.engine import Engine
from cotscope.lm.families import anatomy, value_matrix
from cotscope.lm.interventions import Scope, rescale, scale
from cotscope.lm.loading import LoadedModel
from cotscope.lm.scoring import Given, score
from cotscope.records import Neuron, Pole

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz", "the same start")
TARGETS = [Neuron(layer, i) for layer in (0, 2) for i in range(1, 40, 3)]
FACTORS = {n: (0.1 * (n.index % 7) - 0.2,) * 2 for n in TARGETS}
SIGNED = FACTORS | {n: (f, 1.5 - f) for n, (f, _) in FACTORS.items() if n.index % 2}
OFFSETS = {n: 0.3 - 0.02 * n.index for n in [*TARGETS[::3], Neuron(1, 7), Neuron(1, 8)]}
SCOPES: tuple[Scope, ...] = ("all", "prompt", "generated")
SOME = ("qwen2", "gemma2", "gemma3", "phi3", "gpt_neox", "gpt2", "opt", "falcon_alibi")
CASES = {"factors": (FACTORS, {}), "signed": (SIGNED, {}), "offsets": ({}, OFFSETS), "all of it": (SIGNED, OFFSETS)}


def tokens(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.encode(text)[len(loaded.encode("")) :]


@contextmanager
def by_hand(loaded: LoadedModel, factors: dict, offsets: dict, mask: Tensor | None = None) -> Iterator[None]:
    """Hooks that add Σ (change of m)·v to what down-projections made; `mask`: at which positions of one sequence."""

    def hook(layer: int):
        here = sorted(n for n in {*factors, *offsets} if n.layer == layer)
        values = value_matrix(loaded.anatomy.down[layer])

        def add(module: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
            change = torch.zeros_like(y)
            for n in here:
                m = args[0][..., n.index]
                p, q = factors.get(n, (1.0, 1.0))
                new = m * torch.where(m > 0, torch.tensor(p), torch.tensor(q)) + offsets.get(n, 0.0)
                change += (new - m)[..., None] * values[:, n.index]
            where = 1 if mask is None else mask.reshape(y.shape[:-1])[..., None]
            return y + change * where

        return add

    handles = [down.register_forward_hook(hook(i)) for i, down in enumerate(loaded.anatomy.down)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def edit_of(loaded: LoadedModel, **changes: object) -> Edit:
    return Edit(**{"name": "e", "base": Base.of(loaded), "factors": SIGNED, "offsets": OFFSETS} | changes)


def hooks_of(loaded: LoadedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in loaded.model.modules())


def plainly(loaded: LoadedModel, text: str, count: int) -> tuple[int, ...]:
    """The greedy continuation by transformers' `generate`."""
    ids = torch.tensor([loaded.encode(text)])
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        out = loaded.model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    row = tuple(out[0, ids.shape[1] :].tolist())
    return row[: row.index(2)] if 2 in row else row


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("case", CASES)
def test_rescaled_is_a_plain_pass_with_hooks(family: str, case: str) -> None:
    loaded, (factors, offsets) = tiny_model(family), CASES[case]
    answers = [tokens(loaded, a) for a in (" one two", " 3", " fourteen or so", " ")]
    engine, different = Engine(loaded), {}
    for scope in SCOPES:
        intervention = rescale(loaded.anatomy, factors, offsets, scope)
        got = score(engine, Given(PROMPTS, tuple(map(tuple, answers)), intervention=intervention))
        different[scope] = [[t.log_prob for t in found] for found in got]
        for prompt, answer, found in zip(PROMPTS, answers, got, strict=True):
            start = loaded.encode(prompt)
            ids = torch.tensor([start + answer])
            generated = torch.arange(ids.shape[1]) >= len(start)
            mask = {"all": torch.ones_like(generated), "prompt": ~generated, "generated": generated}[scope]
            with torch.inference_mode(), by_hand(loaded, factors, offsets, mask):
                log_prob = torch.log_softmax(loaded.model(input_ids=ids).logits[0], dim=-1)
            for place, (token, mine) in enumerate(zip(answer, found, strict=True)):
                assert mine.log_prob == pytest.approx(log_prob[len(start) - 1 + place, token].item(), abs=1e-3)
    assert different["all"] != different["prompt"] != different["generated"] != different["all"]


@pytest.mark.parametrize("family", SOME)
def test_written_tokens_are_those_of_hooks_and_of_applied(family: str) -> None:
    loaded = tiny_model(family)
    edit = edit_of(loaded)
    intervention = edit.intervention(loaded.anatomy)
    written = [c.token_ids for c in Engine(loaded).generate(PROMPTS, max_new_tokens=10, intervention=intervention)]
    untouched, before = [plainly(loaded, p, 10) for p in PROMPTS], hooks_of(loaded)
    with by_hand(loaded, SIGNED, OFFSETS):
        assert [plainly(loaded, p, 10) for p in PROMPTS] == written
    with edit.applied(loaded.model):
        assert hooks_of(loaded) > before
        assert [plainly(loaded, p, 10) for p in PROMPTS] == written
    assert written != untouched and hooks_of(loaded) == before
    assert [plainly(loaded, p, 10) for p in PROMPTS] == untouched
    with pytest.raises(KeyError), edit.applied(loaded.model):
        raise KeyError
    assert hooks_of(loaded) == before


@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_scopes_write_differently_and_are_greedy_when_given(family: str) -> None:
    loaded = tiny_model(family)
    engine, written = Engine(loaded), []
    for scope in SCOPES:
        intervention = rescale(loaded.anatomy, SIGNED, OFFSETS, scope)
        written.append([c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=10, intervention=intervention)])
        found = score(engine, Given(PROMPTS, tuple(written[-1]), intervention=intervention))
        assert any(written[-1]) and all(t.greedy for row in found for t in row)
    untouched = [c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=10)]
    assert len({tuple(w) for w in (*written, untouched)}) == 4
    assert [w[:1] for w in written[2]] == [w[:1] for w in untouched]  # the first token depends on the prompt alone


def test_one_factor_is_that_of_scale(qwen: LoadedModel) -> None:
    """The two that zero, or halve, neurons or poles are one."""
    for targets in (TARGETS, [Pole(n.layer, n.index, 1 - 2 * (n.index % 2)) for n in TARGETS]):
        edit = Edit.scaled("e", Base.of(qwen), targets, 0.5)
        one, other = edit.intervention(qwen.anatomy), scale(qwen.anatomy, targets, 0.5)
        m = torch.randn(5, 2, qwen.anatomy.width)
        for layer in range(3):
            a, b = m.clone(), m.clone()
            for intervention, x in ((one, a), (other, b)):
                if layer in intervention.changes:
                    intervention.changes[layer].coefficients(x, None)
            assert torch.equal(a, b) and torch.equal(a, m) == (layer == 1)
            touched = sorted({t.index for t in targets if t.layer == layer})
            assert not touched or one.changes[layer].touched.tolist() == touched


def test_offsets_alone_touch_their_neurons(qwen: LoadedModel) -> None:
    intervention = rescale(qwen.anatomy, {Neuron(1, 3): (1.0, 1.0)}, {Neuron(1, 5): 0.25, Neuron(1, 6): 0.0})
    assert intervention.changes[1].touched.tolist() == [5]
    keys = {rescale(qwen.anatomy, {}, {Neuron(1, 5): o}).key for o in (0.25, 0.5)}
    assert len(keys | {rescale(qwen.anatomy, {Neuron(1, 5): (0.25, 0.25)}).key}) == 3


def test_applied_to_what_it_is_not_for(qwen: LoadedModel) -> None:
    edit, before = edit_of(qwen), hooks_of(qwen)
    for scope in ("prompt", "generated"):
        with pytest.raises(EditError, match=f"holds for {scope} tokens only"), edit_of(qwen, scope=scope).applied(qwen.model):
            pytest.fail("it ran")
    for sizes in ({"num_hidden_layers": 4}, {"intermediate_size": 64}):
        other = tiny_model("qwen2", **sizes)
        with pytest.raises(EditError, match="expected 3 layers of 48 neurons"), edit.applied(other.model):
            pytest.fail("it ran")
        with pytest.raises(EditError, match="for another model"):
            edit.check(other)
    other = tiny_model("qwen2", seed=1)
    with pytest.raises(EditError, match="for another model"):
        edit.check(other)
    with pytest.raises(EditError, match=r"for another model.*known=True"), edit.applied(other.model):
        pytest.fail("it ran")
    with edit.applied(other.model, known=True):
        assert hooks_of(other) > before
    with edit.applied(copy.deepcopy(qwen.model).to(torch.bfloat16)):  # the same weights in another dtype
        pass
    with (
        pytest.raises(EditError, match="is weights, and no factors"),
        replace(edit, factors={}, offsets={}, weights="ab").applied(qwen.model),
    ):
        pytest.fail("it ran")
    edit.check(qwen)
    assert hooks_of(qwen) == before


def test_a_base_that_claims_more_than_its_weights_have(qwen: LoadedModel) -> None:
    """As whoever writes a file by hand can."""
    base = Base.of(qwen)
    for larger, neuron in ((Base("m", base.weights, 9, 48), Neuron(8, 1)), (Base("m", base.weights, 3, 99), Neuron(1, 98))):
        with pytest.raises(EditError, match="expected 9 layers of 48|expected 3 layers of 99"):
            Edit.scaled("e", larger, [neuron], 0.0).check(qwen)


@pytest.mark.parametrize("scope", SCOPES)
def test_numbers_that_break_the_model(qwen: LoadedModel, scope: Scope) -> None:
    """Finite in the file, not in the model's dtype, or not in what it computes."""
    base = Base.of(qwen)
    offsets = ({TARGETS[0]: 1e39}, dict.fromkeys(TARGETS, 3e38))
    scaled = [Edit.scaled("e", base, TARGETS, factor, scope=scope) for factor in (1e39, 3e38)]
    for broken in (*scaled, *(Edit("e", base, {}, o, scope) for o in offsets)):
        with pytest.raises(EditError, match="breaks the model"):
            broken.check(qwen)


# -- the base's hash -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi3", "gemma3"])
def test_weights_have_one_hash_in_either_dtype(family: str) -> None:
    """A checkpoint in bfloat16, and one in float32, loaded in both."""
    for stored in (torch.bfloat16, torch.float32):
        one = tiny_model(family, dtype=stored)
        weights = one.model.state_dict()
        other = torch.float32 if stored == torch.bfloat16 else torch.bfloat16
        again = tiny_model(family, seed=1, dtype=other)
        assert again.weight_hash(torch.bfloat16) != one.weight_hash(torch.bfloat16)
        again.model.load_state_dict({name: w.to(other) if w.is_floating_point() else w for name, w in weights.items()})
        assert again.weight_hash(torch.bfloat16) == one.weight_hash(torch.bfloat16)
        assert again.weight_hash() != one.weight_hash() == one.weight_hash(stored)
        with torch.no_grad():
            next(again.model.parameters()).view(-1)[3] += 1
        assert again.weight_hash(torch.bfloat16) != one.weight_hash(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_edit_of_one_dtype_is_for_the_model_in_the_other_and_packed(dtype: torch.dtype) -> None:
    made_in = tiny_model("qwen2", dtype=torch.float32 if dtype == torch.bfloat16 else torch.bfloat16)
    packed = tiny_model("qwen2", seed=1, dtype=dtype)
    packed.model.load_state_dict({name: w.to(dtype) for name, w in made_in.model.state_dict().items()})
    cpu.prepare(packed.model, "pytorch")
    packed = LoadedModel("qwen2", packed.model, packed.tokenizer, anatomy(packed.model))
    if not isinstance(packed.anatomy.down[0], cpu.PackedLinear):
        pytest.skip(f"this CPU does not compute in {dtype}")
    edit_of(made_in).check(packed)
    with pytest.raises(EditError, match="for another model"):
        edit_of(tiny_model("qwen2", seed=1)).check(packed)


def test_factors_that_16_bits_do_not_hold_are_applied_as_they_are() -> None:
    """1.003 would be 1 in bfloat16, and a training with a small rate would be measured as nothing."""
    loaded = tiny_model("qwen2", dtype=torch.bfloat16)
    m = torch.randn(500, 1, loaded.anatomy.width, dtype=torch.bfloat16)
    edit = Edit.scaled("e", Base.of(loaded), TARGETS, 1.003)
    for intervention in (edit.intervention(loaded.anatomy), scale(loaded.anatomy, TARGETS, 1.003)):
        for layer in {t.layer for t in TARGETS}:
            index = [t.index for t in TARGETS if t.layer == layer]
            intervention.changes[layer].coefficients(changed := m.clone(), None)  # type: ignore[arg-type]
            assert changed.dtype == torch.bfloat16 and torch.equal(changed, (m.float() * _factors(m, index, 1.003)).bfloat16())
            ratio = (changed[..., index].float() / m[..., index].float()).mean().item()
            assert ratio == pytest.approx(1.003, abs=5e-4)
    halved = scale(loaded.anatomy, TARGETS, 0.5).changes[TARGETS[0].layer]
    assert halved.positive.dtype == torch.bfloat16  # type: ignore[attr-defined]  # which holds it


def _factors(m: torch.Tensor, index: list[int], factor: float) -> torch.Tensor:
    ones = torch.ones(m.shape[-1])
    ones[index] = factor
    return ones


def test_weights_that_are_not_in_memory_are_edited_all_the_same_when_known() -> None:
    """As accelerate offloads them: on the meta device until their layer runs."""
    loaded = tiny_model("qwen2")
    edit = edit_of(loaded)
    ids = torch.tensor([loaded.encode(PROMPTS[0])])
    with torch.inference_mode(), edit.applied(loaded.model):
        expected = loaded.model(input_ids=ids).logits
    cpu_offload(loaded.model, execution_device=torch.device("cpu"))
    with pytest.raises(EditError, match="known=True"), edit.applied(loaded.model):
        pass
    with torch.inference_mode(), edit.applied(loaded.model, known=True):
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
