"""Training: losses and gradients against the engine's scores and plain autograd, what is trained, going on from a state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from folders import make_folder
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cotscope.edits.edit import Base, Edit
from cotscope.errors import ModelError, UserError
from cotscope.lm import cpu
from cotscope.lm.attribution import Outcome, attribute, shared_length
from cotscope.lm.engine import Engine
from cotscope.lm.families import anatomy, value_matrix
from cotscope.lm.loading import LoadedModel, load_model
from cotscope.lm.scoring import Given, score
from cotscope.lm.trained import Adapters, Factors, Trained, Vectors, Weights, lora_numbers, lora_rank
from cotscope.lm.training import BYTES, Text, Training, working_bytes
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz")
CONTINUATIONS = ((40, 41, 42, 43, 44), (50, 51, 52), (60, 61, 62, 63))
CHOSEN = tuple(Neuron(layer, i) for layer in (0, 2) for i in (1, 8, 20, 33))
WAYS: dict[str, Callable[[LoadedModel], Trained]] = {
    "factors": lambda loaded: Factors(loaded, CHOSEN),
    "values": lambda loaded: Vectors(loaded, CHOSEN),
    "rows": lambda loaded: Vectors(loaded, CHOSEN, rows=True),
    "lora": lambda loaded: Adapters(loaded, "lora", 2 * lora_numbers(loaded)),
    "ia3": lambda loaded: Adapters(loaded, "ia3"),
    "full": Weights,
}


def texts(loaded: LoadedModel) -> list[Text]:
    return [Text(tuple(loaded.encode(p)), c) for p, c in zip(PROMPTS, CONTINUATIONS)]


def begun(loaded: LoadedModel, way: str, rate: float = 0.05, checkpointing: bool = False) -> Training:
    training = Training(loaded, WAYS[way](loaded), checkpointing)
    training.begin(rate)
    return training


def by_engine(loaded: LoadedModel, intervention: object = None) -> list[float]:
    """Losses as the engine scores them."""
    given = Given(PROMPTS, CONTINUATIONS, intervention=intervention)  # type: ignore[arg-type]
    return [-sum(t.log_prob for t in scores) / len(scores) for scores in score(Engine(loaded), given)]


def plain_loss(model: nn.Module, text: Text) -> Tensor:
    """As PyTorch has it, of the whole text."""
    ids = torch.tensor([[*text.prompt, *text.continuation]])
    logits = model(input_ids=ids[:, :-1]).logits[0, -len(text.continuation) :]
    return nn.functional.cross_entropy(logits, torch.tensor(text.continuation))


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt", "gemma2", "qwen3_5"])
def test_training_factors_lowers_the_loss_and_the_edit_says_the_same(family: str) -> None:
    loaded = tiny_model(family)
    before = loaded.weight_hash()
    training = begun(loaded, "factors")
    untouched = training.losses(texts(loaded))
    assert untouched == pytest.approx(by_engine(loaded), abs=1e-4)
    assert training.step(texts(loaded)) == pytest.approx(untouched, abs=1e-5)  # the loss before the step
    for _ in range(8):
        training.step(texts(loaded))
    after = training.losses(texts(loaded))
    assert sum(after) < sum(untouched) - 1e-3
    assert isinstance(training.trained, Factors)
    factors = dict(zip(training.trained.neurons, training.trained.values))
    assert set(factors) == set(CHOSEN) and sum(f != 1 for f in factors.values()) >= 3  # behind ReLU some never speak
    edit = Edit("some", Base.of(loaded), {n: (f, f) for n, f in factors.items()})
    assert after == pytest.approx(by_engine(loaded, edit.intervention(loaded.anatomy)), abs=1e-4)
    assert loaded.weight_hash() == before  # and no weight is


def test_no_text_trains_a_vision_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model("qwen2")
    whole = lora_numbers(loaded)
    loaded.model.vision_tower = nn.Linear(32, 32)
    config = type(loaded.model.config)
    monkeypatch.setattr(config, "get_text_config", lambda self, **more: copy.copy(self))
    assert lora_numbers(loaded) == whole
    assert not any("vision_tower" in name for name in Weights(loaded).parameters)
    assert {"model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight"} < set(Weights(loaded).parameters)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "full"])
def test_what_is_trained_is_float32_beside_weights_in_16_bits(way: str) -> None:
    loaded = tiny_model("qwen2", dtype=torch.bfloat16)
    training = begun(loaded, way, rate=1e-2)
    assert {p.dtype for p in training.trained.parameters.values()} == {torch.float32}
    exact = begun(tiny_model("qwen2"), way).losses(texts(loaded))
    first = training.step(texts(loaded))
    assert first == pytest.approx(exact, rel=0.03)
    for _ in range(4):
        last = training.step(texts(loaded))
    assert sum(last) < sum(first)
    assert loaded.model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_one_row_of_a_few_positions_is_unembedded_without_gaps(tmp_path: Path) -> None:
    """With a gap, torch copies the whole unembedding for it: a third of the time of a step."""
    loaded = load_model(str(make_folder(tmp_path)), dtype="float32", differentiable=True)
    seen = list[Tensor]()
    loaded.anatomy.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for rows in (1, 2):
        loaded.model(input_ids=torch.arange(10, 10 + 6 * rows).reshape(rows, 6), logits_to_keep=3)
        assert seen[-1].shape[:2] == (rows, 3)
        assert seen[-1].stride() == torch.empty(seen[-1].shape).stride()


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi3", "opt", "gemma2", "qwen3_5"])
@pytest.mark.parametrize("way", ["values", "rows", "lora", "ia3", "full"])
def test_each_way_lowers_the_loss_and_merged_says_the_same_without_hooks(family: str, way: str) -> None:
    loaded = tiny_model(family)
    if way == "ia3" and family in ("phi3", "qwen3_5"):  # in one projection with queries; linear attention
        with pytest.raises(ModelError, match="peft has no ia3 for this architecture"):
            begun(loaded, way)
        return
    names = {name for name, _ in loaded.model.named_parameters()}
    training = begun(loaded, way, 0.01)
    untouched = training.losses(texts(loaded))
    for _ in range(5):
        training.step(texts(loaded))
    after = training.losses(texts(loaded))
    assert sum(after) < sum(untouched) - 0.05
    training.trained.merge()  # type: ignore[attr-defined]
    assert {name for name, _ in loaded.model.named_parameters()} == names
    with torch.no_grad():
        assert after == pytest.approx([plain_loss(loaded.model, t).item() for t in texts(loaded)], abs=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("way", ["values", "rows"])
def test_the_vectors_of_chosen_neurons_change_and_every_other_weight_is_bitwise_the_same(family: str, way: str) -> None:
    loaded, base = tiny_model(family), dict(tiny_model(family).model.named_parameters())
    training = begun(loaded, way)
    for _ in range(3):
        training.step(texts(loaded))
    training.trained.merge()  # type: ignore[attr-defined]
    names = {id(p): name for name, p in loaded.model.named_parameters()}
    expected = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in base.items()}
    for n in CHOSEN:
        down, width = loaded.anatomy.down[n.layer], loaded.anatomy.width
        _matrix(expected[names[id(down.weight)]], down)[:, n.index] = True
        for up in loaded.anatomy.up[n.layer] if way == "rows" else ():
            _matrix(expected[names[id(up.weight)]], up)[n.index :: width] = True  # phi3: in each half
    changed = {name: p != base[name] for name, p in loaded.model.named_parameters()}
    for name, where in changed.items():
        assert not (where & ~expected[name]).any(), name
    hidden, ups = loaded.model.config.hidden_size, {"qwen2": 2, "gpt2": 1, "phi3": 2, "opt": 1}[family]
    assert (
        training.numbers == len(CHOSEN) * hidden * (1 + ups * (way == "rows")) == sum(int(e.sum()) for e in expected.values())
    )
    if family != "opt":  # behind ReLU some neurons never speak
        assert sum(int(w.sum()) for w in changed.values()) > 0.9 * training.numbers


def _matrix(like: Tensor, module: nn.Module) -> Tensor:
    """A tensor of a weight's shape as (outputs, inputs)."""
    return like if value_matrix(module).shape == module.weight.shape else like.T  # type: ignore[operator]


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi3", "gemma2"])
def test_gradients_of_vectors_are_those_of_plain_autograd(family: str) -> None:
    loaded, plain = tiny_model(family), tiny_model(family)
    [text] = texts(loaded)[1:2]  # alone it shares nothing
    training = begun(loaded, "rows")
    with training.trained.applied(), torch.enable_grad():
        training._loss(text, None, 0).backward()
    plain.model.requires_grad_(True)
    with torch.enable_grad():
        plain_loss(plain.model, text).backward()
    seen = 0
    for layer in (0, 2):
        index = [n.index for n in CHOSEN if n.layer == layer]
        for number, module in enumerate([plain.anatomy.down[layer], *plain.anatomy.up[layer]]):
            whole = _matrix(module.weight.grad, module)  # type: ignore[arg-type]
            halves = [whole[:, index]] if number == 0 else [part[index] for part in whole.split(plain.anatomy.width)]
            name = f"{layer}.down" if number == 0 else f"{layer}.up{number - 1}"
            found = training.trained.parameters[name].grad
            assert found is not None
            assert torch.allclose(found, torch.cat(halves, dim=int(number == 0)), atol=1e-5, rtol=1e-3)
            seen += 1
    assert seen == {"qwen2": 6, "gpt2": 4, "phi3": 4, "gemma2": 6}[family]
    assert all(p.grad is None for p in loaded.model.parameters())


def test_full_fine_tuning_is_what_pytorch_does() -> None:
    """With checkpointing, that is with prompts run whole; a step of plain PyTorch on the mean of the losses."""
    loaded, plain = tiny_model("qwen2"), tiny_model("qwen2")
    training = begun(loaded, "full", 0.01, checkpointing=True)
    training.step(texts(loaded))
    plain.model.requires_grad_(True)
    adam = torch.optim.Adam(plain.model.parameters(), lr=0.01)
    with torch.enable_grad():
        (sum(plain_loss(plain.model, t) for t in texts(plain)) / 3).backward()  # type: ignore[union-attr]
    gradients = {name: p.grad for name, p in plain.model.named_parameters()}
    adam.step()
    other = dict(plain.model.named_parameters())
    for name, p in loaded.model.named_parameters():
        clear = gradients[name].abs() > 1e-4  # type: ignore[union-attr]  # else Adam's first step is the sign of noise
        assert torch.allclose(p[clear], other[name][clear], atol=1e-4)


@pytest.mark.parametrize(("way", "family"), [*((way, "gpt2") for way in WAYS), ("factors", "opt")])
def test_checkpointing_computes_the_same(way: str, family: str) -> None:
    """Families that drop out in training: GPT-2 in modules of its layers, OPT in the layers themselves."""
    dropout = {"opt": {"dropout": 0.5}}.get(family, {})
    [text] = texts(tiny_model(family))[:1]
    found = []
    for checkpointing in (False, True):
        training = begun(tiny_model(family, **dropout), way, 0.01, checkpointing)
        found.append([training.step([text])[0] for _ in range(3)] + training.losses([text]))
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_what_layers_compute_is_not_kept_with_checkpointing() -> None:
    kept = []
    for checkpointing in (False, True):
        loaded = tiny_model("qwen2")
        training = begun(loaded, "values", 0.01, checkpointing)
        runs = 0

        def count(*args: object) -> None:
            nonlocal runs
            runs += 1

        loaded.anatomy.down[1].register_forward_pre_hook(count)
        training.step(texts(loaded)[:1])
        kept.append(runs)
    assert kept == [1, 2]  # computed again on the way back


def test_the_rate_rises_as_pytorch_has_it_after_a_state_too() -> None:
    training, plain = begun(tiny_model("qwen2"), "factors"), torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.01)
    rising = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: min(1.0, (step + 1) / 4))
    training.begin(0.01, warmup=4)
    for number in range(6):
        expected = rising.get_last_lr()
        training.step(texts(training.loaded))
        assert [group["lr"] for group in training._adam.param_groups] == pytest.approx(expected)
        if number == 0:
            moved = [float((p.detach() - 1).abs().max()) for p in training.trained.parameters.values()]
            assert max(moved) == pytest.approx(0.0025, rel=1e-2)  # Adam's first step is the rate
        if number == 2:
            state = {name: t.clone() for name, t in training.state().items()}
            training.begin(0.01, warmup=4)
            training.restore(state)
        plain.step()
        rising.step()


def test_the_first_step_goes_against_the_gradient() -> None:
    """Adam's first step is the rate, in the direction that attribution says (with one prompt nothing is shared)."""
    loaded = tiny_model("qwen2")
    text = texts(loaded)[:1]
    outcome = Outcome("log_prob", (frozenset(range(len(CONTINUATIONS[0]))),))
    found = attribute(loaded, [text[0].prompt], [text[0].continuation], {"all": outcome}).outcomes["all"].total
    training = begun(loaded, "factors", 0.01)
    training.step(text)
    assert isinstance(training.trained, Factors)
    moved = np.array(training.trained.values) - 1
    gradient = np.array([-float(found[n]) for n in training.trained.neurons])  # of the log-probability
    clear = np.abs(gradient) > 1e-5
    assert clear.sum() >= 6
    assert np.allclose(moved[clear], 0.01 * np.sign(gradient[clear]), rtol=1e-2)


@pytest.mark.parametrize("way", list(WAYS))
def test_it_goes_on_from_a_state_as_if_it_had_not_stopped(way: str) -> None:
    whole = begun(tiny_model("qwen2"), way)
    losses = [whole.step(texts(whole.loaded)) for _ in range(4)]
    first = begun(tiny_model("qwen2"), way)
    [first.step(texts(first.loaded)) for _ in range(2)]
    state = {name: t.clone() for name, t in first.state().items()}
    second = begun(tiny_model("qwen2"), way)
    second.restore(state)
    assert [second.step(texts(second.loaded)) for _ in range(2)] == losses[2:]
    second.begin(0.05)
    assert second.step(texts(second.loaded)) == losses[0]


@pytest.mark.parametrize("way", list(WAYS))
def test_what_is_kept_is_as_small_as_what_is_trained(way: str) -> None:
    training = begun(tiny_model("qwen2"), way)
    training.step(texts(training.loaded))
    held = [t for name, t in training.state().items() if not name.startswith("step")]
    assert sum(t.numel() for t in held) == 3 * training.numbers and all(t.dtype == torch.float32 for t in held)
    assert BYTES == 4 * (3 + 1 + 1)  # a gradient, and what it began as
    trained = {id(p) for p in training.trained.parameters.values()}
    assert not any(p.grad is not None for p in training.loaded.model.parameters() if id(p) not in trained)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma2", "olmo2", "gpt_neox"])
def test_the_memory_that_is_reckoned_is_about_what_is_kept_for_the_way_back(family: str) -> None:
    """Of all layers; with checkpointing what enters each, and one of them computed again."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 512}
    longer = [Text((*([5, 6, 7] * 10), *([8] * (20 + i))), tuple(range(10, 70))) for i in range(2)]
    kept: dict[bool, int] = {}
    for checkpointing in (False, True):
        loaded = tiny_model(family, **sizes)
        neurons = [Neuron(layer, i) for layer in range(4) for i in range(256)]
        training = Training(loaded, Factors(loaded, neurons), checkpointing, shared_length(loaded, [t.prompt for t in longer]))
        weights = {t.untyped_storage().data_ptr() for t in (*loaded.model.parameters(), *loaded.model.buffers())}
        found: dict[int, int] = {}

        def keep(tensor: Tensor, weights: set[int] = weights, found: dict[int, int] = found) -> Tensor:
            if (at := (storage := tensor.untyped_storage()).data_ptr()) not in weights:
                found[at] = storage.nbytes()
            return tensor

        with training.trained.applied():
            prefix, shared = training._prefix(longer)
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = training._loss(longer[1], prefix, shared)
        kept[checkpointing] = sum(found.values()) + (kept[False] // 4 if checkpointing else 0)
        assert 0.8 < working_bytes(loaded, longer, checkpointing, 4) / kept[checkpointing] < 2.5
        del loss
    assert kept[True] < 0.6 * kept[False]


def test_bfloat16_weights_have_float32_copies_of_what_is_trained() -> None:
    loaded = tiny_model("qwen2", dtype=torch.bfloat16)
    training = begun(loaded, "rows", 1e-4)  # less than bfloat16 can add to most weights
    for _ in range(3):
        training.step(texts(loaded))
    assert all(p.dtype == torch.float32 for p in training.trained.parameters.values())
    moved = training.trained.parameters["2.down"]
    assert 0 < float(moved.detach().abs().max()) < 1e-3


def test_loras_size_is_the_nearest() -> None:
    loaded = tiny_model("qwen2")
    one = lora_numbers(loaded)
    for wanted, rank in ((1, 1), (one, 1), (int(2.6 * one), 3)):
        adapters = Adapters(tiny_model("qwen2"), "lora", wanted)
        assert lora_rank(loaded, wanted) == rank and sum(p.numel() for p in adapters.parameters.values()) == rank * one
    cpu.prepare(packed := tiny_model("qwen2").model)
    assert lora_numbers(replace(loaded, model=packed, anatomy=anatomy(packed))) == one
    head = loaded.model.get_output_embeddings()
    assert one == sum(sum(m.weight.shape) for m in loaded.model.modules() if isinstance(m, nn.Linear) and m is not head)


@pytest.mark.parametrize(("family", "scaled"), [
    ("qwen2", ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")),
    ("opt", ("self_attn.k_proj", "self_attn.v_proj", "fc2")),
    ("gpt2", ("attn.c_attn", "mlp.c_proj")),
])  # fmt: skip
def test_ia3_scales_keys_values_and_the_hidden_layer(family: str, scaled: tuple[str, ...]) -> None:
    """Liu et al. 2022; peft's own list for Qwen2 has queries in place of keys, its list for OPT no values. GPT-2's keys are in
    one projection with queries."""
    loaded = tiny_model(family)
    shapes = {n: m.weight.shape for n, m in loaded.model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    found = {n.rpartition(".ia3_l")[0]: p.numel() for n, p in Adapters(loaded, "ia3").parameters.items()}
    assert {n for n in shapes if n.endswith(scaled)} == set(found) and len(found) == 3 * len(scaled)
    for name, count in found.items():
        ours = value_matrix(dict(tiny_model(family).model.named_modules())[name]).shape
        assert count == ours[int(name.endswith(scaled[-1]))]  # of the down-projection's input, of the others' output


def test_without_peft_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"lora needs the package peft. Install it: pip install 'cotscope\[peft\]'"):
        begun(tiny_model("qwen2"), "lora")


def test_a_text_alone_in_its_batch_shares_what_all_share() -> None:
    """Else the last batch of a pass would be trained otherwise than the others: through the prompt's start too."""
    loaded = tiny_model("qwen2")
    every = texts(loaded)
    shared = len(loaded.encode("the same start and "))
    one, other = (Training(each, WAYS["values"](each), shared=shared) for each in (loaded, tiny_model("qwen2")))
    gradients = []
    for training, batch in ((one, every), (other, every[:1])):
        prefix, count = training._prefix(batch)
        assert count == shared
        with training.trained.applied(), torch.enable_grad():
            training._loss(every[0], prefix, count).backward()
        gradients.append([p.grad for p in training.trained.parameters.values()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]
