"""What differs between architectures. The only file that knows them.

A feed-forward block is known by its down-projection: its input is the coefficient m, its columns are the value
vectors v (Geva et al. 2022, arXiv:2203.14680). To add a family, add its names to the tables below.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError

# Within a decoder layer, in the order tried: Llama/Qwen/Gemma/Mistral/OLMo/Phi-3, GPT-2/StarCoder 2, NeoX/Falcon/Bloom,
# Phi, OPT, GPT-J, MPT.
_DOWN = (
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.dense_4h_to_h",
    "mlp.fc2",
    "fc2",
    "mlp.fc_out",
    "ffn.down_proj",
)
# A norm that the FF output passes before it is added to the residual stream (Gemma 2/3, OLMo 2, GLM-4; HyperCLOVA X).
_POST_NORM = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_norm2")
# Learned vectors that the stream is multiplied by in a layer (Doge).
_WEIGHED = ("input_residual", "post_attention_residual")
_EXPERTS = ("experts", "router", "router_gate")  # of a mixture, whose neurons are not those of one down-projection
_STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "layer_norm")
# Of the configuration: what logits are multiplied by (Cohere, Falcon H1), divided by (Granite), and the cap that they then
# approach (Gemma 2; RecurrentGemma, xLSTM).
_MULTIPLIED, _DIVIDED = ("logit_scale", "lm_head_multiplier", "output_multiplier"), ("logits_scaling",)
_CAPPED = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class Readout:
    """What stands between the unembedding and the logits: a factor, then a cap. Most families have neither."""

    factor: float = 1.0
    cap: float | None = None

    def __call__(self, unembedded: Tensor) -> Tensor:
        """Logits of what the head said, (…, vocabulary) each."""
        logits = unembedded if self.factor == 1 else unembedded * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class Anatomy:
    """Where a decoder keeps its feed-forward neurons.

    Attributes:
        down: each layer's down-projection, in layer order.
        blocks: what each of them stands in.
        post_norm: each layer's norm over the FF output, or None.
        final_norm: the norm before the unembedding, or None.
        head: the module that unembeds.
        readout: what makes logits of what it says.
        residual: by layer, what its block's output is multiplied by until it reaches the final norm: before it is added to
            the residual stream (Granite, MiniCPM 3), and with the stream in that layer and those after it (Gemma 4). Empty: no
            numbers say it.
        stack: the decoder layers: what each returns is the residual stream after it.
    """

    down: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...]
    post_norm: tuple[nn.Module | None, ...]
    final_norm: nn.Module | None
    head: nn.Module
    readout: Readout = Readout()
    residual: tuple[float, ...] = ()
    stack: tuple[nn.Module, ...] = ()

    @property
    def unembedding(self) -> Tensor:
        """W_U, (vocabulary, hidden); a copy where the weight is packed."""
        return weight_of(self.head).detach()

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that have a logit."""
        return int(getattr(self.head, "out_features", None) or len(self.unembedding))

    @cached_property
    def up(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Each layer's projections that coefficients are made from: up, or gate and up, or both in one (none if packed)."""
        return tuple(
            tuple(
                m
                for m in block.children()
                if isinstance(m, nn.Linear | Conv1D) and m is not down and len(value_matrix(m)) in (self.width, 2 * self.width)
            )
            for block, down in zip(self.blocks, self.down, strict=True)
        )

    @cached_property
    def norms(self) -> Tensor:
        """‖v‖₂ of every neuron, (layers, neurons), float32; computed once, since weights are never changed."""
        return torch.stack([value_vectors(self, layer).norm(dim=0) for layer in range(self.layers)])

    @cached_property
    def device(self) -> torch.device:
        return value_matrix(self.down[0]).device

    @cached_property
    def dtype(self) -> torch.dtype:
        return value_matrix(self.down[0]).dtype

    @property
    def layers(self) -> int:
        return len(self.down)

    @cached_property
    def width(self) -> int:
        """Neurons per layer."""
        return value_matrix(self.down[0]).shape[1]


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None


def weight_of(module: nn.Module) -> Tensor:
    """A layer's weight as it is stored; a copy where it is packed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def value_matrix(down: nn.Module) -> Tensor:
    """The down-projection's weight as (hidden, neurons), whichever way round it is stored. A view, no copy."""
    weight = weight_of(down)
    return weight.T if isinstance(down, Conv1D) else weight


def norm_gamma(norm: nn.Module | None) -> tuple[Tensor | None, bool]:
    """What a norm multiplies by, in float32, and whether it centres its input first; (None, False) without a norm.

    Found by asking the norm itself, in float32, with x = (1, -1, 1, …), whose mean is 0 and mean square 1: families
    differ in whether they multiply by w or 1 + w (relative error: half the norm's ε).
    """
    if norm is None:
        return None, False
    probe = copy.deepcopy(norm).float()
    for hooks in (probe._forward_hooks, probe._forward_pre_hooks):
        hooks.clear()
    weight = next(probe.parameters(), None)
    shape = getattr(norm, "normalized_shape", None) if weight is None else weight.shape
    if shape is None:  # what norms any width does not centre
        return None, False
    x = torch.ones(tuple(shape), device=None if weight is None else weight.device)
    x[1::2] = -1
    with torch.no_grad():
        gamma = (probe(x) - probe(-x)) / 2 * x
        centred = torch.allclose(probe(x + 1), probe(x), atol=1e-3, rtol=1e-3)
    return None if weight is None else gamma, centred


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the feed-forward blocks of a decoder.

    Raises: ModelError if the model is no decoder with dense feed-forward layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    # The decoder's own first: a vision tower may have as many layers.
    modules = dict.fromkeys((*(model.get_decoder() or model).modules(), *model.modules()))
    stacks = [m for m in modules if isinstance(m, nn.ModuleList) and len(m) == count]
    for stack in stacks:
        down, blocks = [], []
        for layer in stack:
            path, found = next(((p, d) for p in _DOWN if (d := _submodule(layer, p)) is not None), ("", None))
            experts = any(name.rpartition(".")[2] in _EXPERTS for name, _ in layer.named_modules())  # beside a dense block too
            if experts or found is None:
                continue
            if isinstance(weight := getattr(found, "weight", None), Tensor) and weight.ndim == 2:
                down.append(found)
                blocks.append(layer.get_submodule(path.rpartition(".")[0]))
        if len(down) == count and len({value_matrix(d).shape for d in down}) == 1:
            break
    else:
        raise ModelError(
            f"cotscope can't find the feed-forward neurons of this model ({model.config.model_type})",
            expected="a decoder with one dense down-projection per layer",
            got=type(model).__name__,
            remedy="Mixture-of-experts and layers of different widths are not supported.",
        )
    if (stored := value_matrix(down[0]).dtype) not in _STORED:  # float8 calls itself floating-point, and has scales beside it
        raise ModelError("the weights of this model are quantised", expected="floating-point numbers", got=str(stored),
                         remedy="Load the model in bfloat16, or one that was made from it without quantisation.")  # fmt: skip
    head, written = model.get_output_embeddings(), value_matrix(down[0]).shape[0]
    if weight_of(head).shape[1] != written:
        raise ModelError(
            f"this model ({model.config.model_type}) reads its logits off something narrower than what its blocks write",
            expected=f"an unembedding of {written} numbers a token", got=str(weight_of(head).shape[1]),
        )  # fmt: skip
    post = tuple(next((n for name in _POST_NORM if (n := getattr(layer, name, None))), None) for layer in stack)
    holders = [model.base_model, *model.base_model.children()]
    norms = (getattr(holder, name, None) for holder in holders for name in _FINAL_NORM)
    final = next((n for n in norms if isinstance(n, nn.Module)), None)
    config = model.config.get_text_config()
    return Anatomy(
        tuple(down), tuple(blocks), post, final, head, _readout(config), _residual(config, stack),
        tuple(stack),
    )  # fmt: skip


def _residual(config: object, stack: nn.ModuleList) -> tuple[float, ...]:
    """Of each layer; whether that is all, `stream.check_writes` finds out."""
    weights = [w for layer in stack for name in _WEIGHED if isinstance(w := getattr(layer, name, None), Tensor)]
    if not all(torch.equal(w, torch.ones_like(w)) for w in weights):
        return ()
    factor = getattr(config, "residual_multiplier", None) or 1.0
    if (depth := getattr(config, "scale_depth", None)) is not None:
        factor = depth / math.sqrt(len(stack))
    found = list[float]()
    for layer in reversed(stack):
        scalar = getattr(layer, "layer_scalar", None)
        factor *= float(scalar) if isinstance(scalar, Tensor) else 1.0
        found.append(factor)
    return tuple(reversed(found))


def _readout(config: object) -> Readout:
    """As the names in a configuration tell it; whether that is all is for the reader of logits to check."""

    def first(names: tuple[str, ...]) -> float | None:
        return next((v for name in names if (v := getattr(config, name, None)) is not None), None)

    divided = first(_DIVIDED) or 1.0
    if getattr(config, "model_type", "") == "hyperclovax":  # what Granite divides by, it multiplies by
        divided = 1 / divided
    return Readout((first(_MULTIPLIED) or 1.0) / divided, first(_CAPPED))


def value_vectors(model_anatomy: Anatomy, layer: int) -> Tensor:
    """The directions that layer's neurons write: (hidden, neurons), float32; a post-norm's weight is included."""
    values = value_matrix(model_anatomy.down[layer]).detach().float()
    gamma, _ = norm_gamma(model_anatomy.post_norm[layer])
    return values if gamma is None else values * gamma[:, None]
