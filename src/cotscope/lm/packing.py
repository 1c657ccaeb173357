"""Weights in the order in which the matrix kernel reads them.

For every `F.linear` in bfloat16 on a CPU, oneDNN first brings the weight into its own blocked order; doing that once,
at loading, gives the same result bit for bit. Where our own kernels run (`kernels.py`), the weight is in their order,
and few rows are multiplied as fast as the weight can be read.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import kernels
from .families import norm_gamma

_ROWS_HINT = 96  # the blocked order may depend on the rows that are to come; the result does not


class PackedLinear(nn.Module):
    """An `nn.Linear` whose weight is kept in blocked order; reading `weight` (out, in) unpacks a copy.

    Args:
        linear: the layer.
        dense: the same weight where it lives on in another module: then there is nothing to unpack.
    """

    def __init__(self, linear: nn.Linear, dense: nn.Parameter | None) -> None:
        super().__init__()
        self.dense = dense
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.own = kernels.multiplies(linear.weight)
        pack = kernels.pack if self.own else _packed_by_onednn
        self.packed, self.bias = pack(linear.weight.detach()), linear.bias

    @property
    def weight(self) -> Tensor:
        if self.dense is not None:
            return self.dense
        return kernels.unpack(self.packed) if self.own else self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) → (…, out)."""
        if self.own:
            return kernels.linear(x, self.packed, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def _packed_by_onednn(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)


def pack(model: PreTrainedModel) -> None:
    """Replace the linear layers of a model by packed ones, where that helps: bfloat16 on a CPU that computes in it.

    An unembedding that is tied to the embedding keeps its dense copy there. The other weights are copied out of the
    file's memory map, which can then be closed: otherwise all weights would stay in memory twice.
    """
    ops = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and ops._is_mkldnn_bf16_supported()):
        return
    embedding = model.get_input_embeddings().weight
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            weight = getattr(child, "weight", None)
            if type(child) is nn.Linear and weight.dtype == torch.bfloat16 and weight.device.type == "cpu":
                tied = weight.data_ptr() == embedding.data_ptr()
                setattr(parent, name, PackedLinear(child, embedding if tied else None))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    if kernels.library() is not None:
        _fuse(model)


class _FusedNorm:
    """Mixed into a root-mean-square norm: one pass instead of six, rounded once."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if kernels.usable(hidden_states):
            return kernels.rms_norm(hidden_states, *self.fused)
        return super().forward(hidden_states)


class _FusedGate:
    """Mixed into a gated feed-forward block: the coefficients in one pass over the two products."""

    def forward(self, x: Tensor) -> Tensor:
        if kernels.usable(x):
            return self.down_proj(kernels.gated(self.gate_proj(x), self.up_proj(x)))
        return super().forward(x)


def _fuse(model: PreTrainedModel) -> None:
    """Let norms and gates take our kernels where these compute the same, which the module itself is asked.

    The module stays, with its parameters and their names; only its class gets another `forward`.
    """
    for module in model.modules():
        names = dict(module.named_children())
        if type(module).__name__.endswith("RMSNorm"):
            weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if weight is None or not kernels.usable(weight) or weight.numel() % kernels.LANES or epsilon is None:
                continue
            gamma, _ = norm_gamma(module)
            mixin, size, module.fused = _FusedNorm, len(weight), (gamma, epsilon)
        elif {"gate_proj", "up_proj", "down_proj", "act_fn"} == names.keys() and getattr(names["gate_proj"], "own", False):
            mixin, size = _FusedGate, names["gate_proj"].in_features
        else:
            continue
        x = torch.randn(8, size, generator=torch.Generator().manual_seed(0)).bfloat16()
        with torch.inference_mode():
            expected, plain = module(x).float(), type(module)
            module.__class__ = type(plain.__name__, (mixin, plain), {})
            if not torch.allclose(module(x).float(), expected, rtol=2**-6, atol=2**-6 * float(expected.std())):
                module.__class__ = plain


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All parameters of a model by name, in name order, each once; packed ones are unpacked as they are reached."""
    parameters = dict(model.named_parameters())
    packed = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, PackedLinear) and m.dense is None}
    for name in sorted(parameters.keys() | packed.keys()):
        yield name, parameters[name] if name in parameters else packed[name].weight
