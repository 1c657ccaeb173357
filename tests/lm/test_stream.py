"""What blocks write reaches the stream as `Anatomy` says, where families scale or norm it too; else it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import _SHAPE, FAMILIES, tiny_model

from cotscope.errors import ModelError
from cotscope.lm.engine import Engine
from cotscope.lm.families import anatomy, norm_gamma
from cotscope.lm.loading import LoadedModel
from cotscope.lm.paths import path_effects
from cotscope.lm.scoring import Given
from cotscope.lm.stream import check_writes
from cotscope.lm.tracing import trace
from cotscope.records import Neuron

HEADS = {"num_key_value_heads": 2}
RANKS = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
PLAIN = {"hidden_size_per_layer_input": 0, "layer_types": ["full_attention"] * 3, "head_dim": 8, "global_head_dim": 8}
SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "minicpm3": ("MiniCPM3", RANKS | {"num_key_value_heads": 4}),
    "hyperclovax": ("HyperCLOVAX", HEADS | {"use_post_norm": True, "residual_multiplier": 0.5, "logits_scaling": 3.0}),
    "olmo": ("Olmo", HEADS),
    "gemma4": ("Gemma4Text", HEADS | PLAIN | {"sliding_window": 40}),
    "doge": ("Doge", HEADS),
    "gemma3n": ("Gemma3nText", HEADS | {
        "head_dim": 8, "sliding_window": 40, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
        "altup_num_inputs": 2, "intermediate_size": [48] * 3, "activation_sparsity_pattern": [0.0] * 3,
    }),
}  # fmt: skip


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (kind, settings) in SCALED.items():
        monkeypatch.setitem(FAMILIES, name, (kind, _SHAPE | settings))


def test_every_family_writes_what_it_says(tiny: LoadedModel) -> None:
    check_writes(tiny)


@pytest.mark.parametrize("family", ["minicpm3", "hyperclovax", "gemma4"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_set_that_is_put_back_at_the_last_layer_is_not_missed(scaled: None, family: str, layer: int) -> None:
    """Zeroed in the last layer: all of its effect is direct. Zeroed in the first: taken apart as `path_effects` says."""
    loaded = tiny_model(family)
    if family == "gemma4":
        for block, factor in zip(loaded.anatomy.stack, (0.5, 2.0, 0.25), strict=True):
            block.layer_scalar.fill_(factor)
        loaded = LoadedModel(family, loaded.model, loaded.tokenizer, anatomy(loaded.model))
        assert loaded.anatomy.residual == (0.25, 0.5, 0.25)
    given = Given(("one and two", "three"), ((20, 30, 40), (50, 60)))
    found = dict(path_effects(Engine(loaded), given, {"none": (), "set": [Neuron(layer, i) for i in range(0, 48, 2)]}))
    log_probs = {p: torch.tensor([t.log_prob for row in rows for t in row]) for p, rows in found["set"].items()}
    before = torch.tensor([t.log_prob for row in found["none"]["total"] for t in row])
    assert not torch.allclose(log_probs["total"], before, atol=1e-2)
    if layer == 2:
        assert torch.allclose(log_probs["indirect"], before, atol=1e-3)
        assert torch.allclose(log_probs["direct"], log_probs["total"], atol=1e-3)


def test_what_is_scaled_in_a_way_that_nobody_knows_is_refused(scaled: None) -> None:
    given = Given(("one",), ((20,),))
    with pytest.raises(ModelError, match="multiply their residual stream by learned vectors"):
        dict(path_effects(Engine(tiny_model("doge")), given, {"set": [Neuron(0, 1)]}))
    loaded = tiny_model("qwen2")
    loaded.anatomy.blocks[-1].register_forward_hook(lambda module, args, out: 0.5 * out)
    with pytest.raises(ModelError, match="is not what reaches its residual stream"):
        dict(path_effects(Engine(loaded), given, {"set": [Neuron(0, 1)]}))


def test_a_layer_norm_without_weights_centres(scaled: None) -> None:
    assert norm_gamma(tiny_model("olmo").anatomy.final_norm) == (None, True)
    assert norm_gamma(tiny_model("qwen2").anatomy.final_norm)[1] is False
    assert norm_gamma(torch.nn.LayerNorm(8, elementwise_affine=False)) == (None, True)
    assert norm_gamma(None) == (None, False)


def test_several_streams_are_refused_where_one_is_read(scaled: None) -> None:
    """Gemma 3n's layers predict and correct streams: what a block writes reaches none of them as it is."""
    loaded = tiny_model("gemma3n")
    with pytest.raises(ModelError, match=r"layers of gemma3n write several streams.*one: .*\(2, 1, \d+, 32\)"):
        check_writes(loaded)
    with pytest.raises(ModelError, match=r"several streams.*\(2, 1, \d+, 32\)"):
        trace(Engine(loaded), ["one and two"], [[20, 30]], [Neuron(0, 1)])
