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
from .fusing import fuse

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
    if kernels.usable(embedding):
        fuse(model)


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All parameters of a model by name, in name order, each once; packed ones are unpacked as they are reached."""
    parameters = dict(model.named_parameters())
    packed = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, PackedLinear) and m.dense is None}
    for name in sorted(parameters.keys() | packed.keys()):
        yield name, parameters[name] if name in parameters else packed[name].weight
