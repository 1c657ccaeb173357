"""Coefficients, value vectors and projections against what the model itself computes."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    DogeConfig,
    DogeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from cotscope.errors import ModelError
from cotscope.lm import cpu
from cotscope.lm.families import anatomy, norm_gamma, value_vectors
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.loading import LoadedModel
from cotscope.lm.projection import project
from cotscope.lm.select import argmax, largest
from cotscope.records import Neuron


def test_the_block_is_the_sum_of_its_neurons(tiny: LoadedModel) -> None:
    """FF(x) = Σ m·v + bias, through the post-norm where there is one."""
    m: dict[int, Tensor] = {}
    out: dict[int, Tensor] = {}
    for layer, (down, norm) in enumerate(zip(tiny.anatomy.down, tiny.anatomy.post_norm)):
        (norm or down).register_forward_hook(lambda _m, _a, o, layer=layer: out.__setitem__(layer, o.clone()))
    with torch.inference_mode(), coefficient_hooks(tiny.anatomy, None, lambda i, x: m.__setitem__(i, x.clone())):
        tiny.model(input_ids=torch.tensor([tiny.encode("a few words")]))
    assert m.keys() == out.keys() == set(range(tiny.anatomy.layers))
    for layer, norm in enumerate(tiny.anatomy.post_norm):
        assert m[layer].shape[-1] == tiny.anatomy.width
        written = (m[layer] @ value_vectors(tiny.anatomy, layer).T).view_as(out[layer])
        if norm is None:
            bias = tiny.anatomy.down[layer].bias
            torch.testing.assert_close(written + (0 if bias is None else bias), out[layer], atol=1e-4, rtol=1e-4)
        else:  # the norm divides by one number per position: the direction is what must agree
            cosine = torch.nn.functional.cosine_similarity(written, out[layer], dim=-1)
            torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-4, rtol=0)


def test_gamma_is_the_weight_that_the_family_multiplies_by(tiny: LoadedModel) -> None:
    gamma, centred = norm_gamma(tiny.anatomy.final_norm)
    weight = tiny.anatomy.final_norm.weight
    expected = weight + 1 if tiny.name.startswith(("gemma", "qwen3_5")) else weight
    torch.testing.assert_close(gamma, expected, atol=1e-4, rtol=1e-4)
    assert centred == (tiny.name in ("cohere", "gpt2", "gpt_neox", "opt", "phi", "falcon_alibi"))


def test_projection_is_the_plain_product(tiny: LoadedModel) -> None:
    a = tiny.anatomy
    gamma, centred = norm_gamma(a.final_norm)
    neurons = [Neuron(layer, i) for i in (5, 0, 47) for layer in (2, 0, 1)]
    for mode in ("norm", "raw"):
        got = project(a, neurons, k=6, projection=mode)
        for row, (layer, index) in enumerate(neurons):
            v = value_vectors(a, layer)[:, index]
            if mode == "norm":
                v = (v - v.mean() if centred else v) * gamma
            logits = a.unembedding.float() @ v
            best, worst = logits.topk(6), (-logits).topk(6)
            assert got.top[row].tolist() == best.indices.tolist()
            assert got.bottom[row].tolist() == worst.indices.tolist()
            torch.testing.assert_close(got.top_scores[row], best.values)
            torch.testing.assert_close(got.bottom_scores[row], -worst.values)


@pytest.mark.parametrize("vocabulary", [5, 64, 640, 6400 + 17])
def test_two_level_top_k_is_exact(vocabulary: int) -> None:
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0))
    k = min(9, vocabulary)
    got = largest(logits, k).sort(dim=1).values
    assert torch.equal(got, logits.topk(k, dim=1).indices.sort(dim=1).values)


@pytest.mark.parametrize("vocabulary", [5, 512, 5 * 512 + 17])
@pytest.mark.parametrize("values", [2, 1000])
def test_chunked_argmax_is_the_first_of_the_largest(vocabulary: int, values: int) -> None:
    logits = torch.randint(values, (50, vocabulary), generator=torch.Generator().manual_seed(0)).bfloat16()
    first = [row.index(max(row)) for row in logits.tolist()]
    assert argmax(logits).tolist() == first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_weights_change_nothing(dtype: torch.dtype) -> None:
    """The same weights and hash; the same logits, bit for bit in bfloat16, whatever the number of rows.

    By PyTorch's kernels; for our own there is `test_kernels.py`.
    """
    from conftest import tiny_model

    for family in ("qwen2", "phi", "gemma3"):
        plain, packed = tiny_model(family, dtype=dtype), tiny_model(family, dtype=dtype)
        cpu.prepare(packed.model, "pytorch")
        packed = LoadedModel(family, packed.model, packed.tokenizer, anatomy(packed.model))
        if not isinstance(packed.anatomy.down[0], cpu.PackedLinear):
            pytest.skip(f"this CPU does not compute in {dtype}")
        for shape in ((1, 40), (33, 1), (7, 5)):
            ids = torch.randint(3, 100, shape, generator=torch.Generator().manual_seed(1))
            with torch.inference_mode():
                got, expected = packed.model(ids).logits, plain.model(ids).logits
            if dtype == torch.bfloat16:
                assert torch.equal(got, expected)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert packed.weight_hash() == plain.weight_hash()
        assert packed.weight_hash(torch.bfloat16) == plain.weight_hash(torch.bfloat16)
        assert packed.parameters() == plain.parameters()
        assert torch.equal(packed.anatomy.unembedding, plain.anatomy.unembedding)
        assert torch.equal(packed.anatomy.norms, plain.anatomy.norms)


def test_update_size_norms(tiny: LoadedModel) -> None:
    norms = tiny.anatomy.norms
    assert norms.shape == (tiny.anatomy.layers, tiny.anatomy.width)
    expected = value_vectors(tiny.anatomy, 1)[:, 4].square().sum().sqrt()
    torch.testing.assert_close(norms[1, 4], expected)


def test_no_norm_is_no_gamma() -> None:
    assert norm_gamma(None) == (None, False)
    assert norm_gamma(torch.nn.LayerNorm(4, elementwise_affine=False)) == (None, True)


def test_mixture_of_experts_is_refused() -> None:
    config = MixtralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"can't find the feed-forward neurons.*got MixtralForCausalLM"):
        anatomy(MixtralForCausalLM(config))


def test_experts_beside_a_shared_one_are_refused() -> None:
    """Doge's stand in two embeddings, beside a projection that looks like a dense block's."""
    few = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for experts in (False, True):
        model = DogeForCausalLM(DogeConfig(**few, num_key_value_heads=1, is_moe=experts, num_experts=16, num_experts_per_tok=2))
        if not experts:
            assert anatomy(model).layers == 2
            continue
        with pytest.raises(ModelError, match="can't find the feed-forward neurons.*Mixture-of-experts"):
            anatomy(model)


def test_experts_beside_a_dense_block_are_refused() -> None:
    """Its dense block's neurons are half of what a layer's feed-forward part is, behind norms of their own (Gemma 4)."""
    model = tiny_model("qwen2").model
    assert anatomy(model).layers == 3
    model.base_model.layers[1].experts = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="can't find the feed-forward neurons.*Mixture-of-experts"):
        anatomy(model)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused(dtype: torch.dtype) -> None:
    """An eight-bit float is a floating-point number to PyTorch; what it stands for is a scale beside it times that."""
    model = tiny_model("qwen2").model
    for layer in model.base_model.layers:
        weight = layer.mlp.down_proj.weight
        layer.mlp.down_proj.weight = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(ModelError, match="are quantised"):
        anatomy(model)


def test_a_vision_tower_of_as_many_layers_is_not_the_decoder() -> None:
    of_text = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
               "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 3}  # fmt: skip
    of_images = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
                 "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=of_text, vision_config=of_images, mm_tokens_per_image=4)
    model = AutoModelForCausalLM.from_config(config)
    found, names = anatomy(model), {m: name for name, m in model.named_modules()}
    assert all("language_model.layers" in names[m] for m in (*found.down, *found.blocks)) and found.width == 48


def test_an_encoder_is_refused() -> None:
    config = BertConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(ModelError):
        anatomy(BertLMHeadModel(config))


@pytest.mark.model
def test_default_model_block_is_the_sum_of_its_neurons(default_model) -> None:
    loaded = default_model("float32")
    seen: dict[int, Tensor] = {}
    out: list[Tensor] = []
    handle = loaded.anatomy.down[7].register_forward_hook(lambda _m, _a, o: out.append(o.clone()))
    with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, lambda i, x: seen.__setitem__(i, x.clone())):
        loaded.model(input_ids=torch.tensor([loaded.encode("So there must be 5 + 4 = 9 toys.")]))
    handle.remove()
    torch.testing.assert_close(seen[7] @ value_vectors(loaded.anatomy, 7).T, out[0], atol=1e-4, rtol=1e-4)
