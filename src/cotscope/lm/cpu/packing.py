"""Weights in the order in which the matrix kernel reads them, and whose kernels a model runs on.

Where our own kernels run (`kernels.py`), the weight is in their order, and few rows are multiplied as fast as it can be
read. Elsewhere on a CPU it is in oneDNN's: for every `F.linear` in bfloat16 oneDNN first brings the weight into its own
blocked order, and doing that once, at loading, gives the same result bit for bit. In float32 PyTorch asks MKL, which is
slower than that, and on AMD's CPUs uses half of their registers; results differ by rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import ModelError
from ..families import anatomy, weight_of
from . import kernels

KERNELS = ("auto", "compiled", "pytorch")
_ROWS_HINT = 96  # the blocked order may depend on the rows that are to come; the result does not

log = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """An `nn.Linear` whose weight is kept in blocked order; reading `weight` (out, in) unpacks a copy.

    Args:
        linear: the layer.
        dense: the same weight where it lives on in another module: then there is nothing to unpack.
        compiled: let our own kernels multiply it, if its sizes suit them.
    """

    def __init__(self, linear: nn.Linear, dense: nn.Parameter | None, compiled: bool) -> None:
        super().__init__()
        self.dense = dense
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.compiled = compiled and kernels.multiplies(linear.weight)
        pack = kernels.pack if self.compiled else _packed_by_onednn
        self.packed, self.bias = pack(linear.weight.detach()), linear.bias

    @property
    def weight(self) -> Tensor:
        if self.dense is not None:
            return self.dense
        return kernels.unpack(self.packed) if self.compiled else self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) → (…, out)."""
        if self.compiled:
            return kernels.linear(x, self.packed, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def _packed_by_onednn(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)


def is_compiled(module: nn.Module) -> bool:
    """Whether our own kernels multiply a linear layer; those of a model that runs on them do so for its `down`."""
    return isinstance(module, PackedLinear) and module.compiled


def prepare(model: PreTrainedModel, wanted: str = "auto") -> None:
    """Let a model run on compiled kernels or on PyTorch's, and pack its weights for them where that helps: on a CPU, in
    float32, and in bfloat16 if oneDNN computes in it.

    An unembedding that is tied to the embedding keeps its dense copy there. The other weights are copied out of the
    file's memory map, which can then be closed: otherwise all weights would stay in memory twice.

    Args:
        wanted: "compiled"; "pytorch"; "auto": compiled where this machine can, and has no AMX for it.

    Raises: ModelError if "compiled" is wanted and can't be had.
    """
    down = anatomy(model).down
    first = weight_of(down[0])
    suits, dtype = all(type(d) is nn.Linear and kernels.multiplies(d.weight) for d in down), first.dtype
    amx = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    compiled = suits and wanted != "pytorch" and not (wanted == "auto" and amx)
    lacks = kernels.missing(dtype) if compiled else None
    if wanted == "compiled" and (lacks is not None or not suits):
        raise ModelError(
            "compiled kernels can't run this model here",
            expected="AVX512-BF16 for bfloat16 or AVX2 for float32, a C compiler, linear layers of multiples of 64 outputs",
            got=lacks or f"{tuple(first.shape)} in {str(dtype).removeprefix('torch.')}, {first.device}",
            remedy='Take the kernels "pytorch" or "auto".',
        )
    if lacks is not None and lacks not in kernels.NO_INSTRUCTIONS.values():
        log.warning("no compiled kernels, so the engine is slower: %s", lacks)
    _pack(model, dtype if compiled and lacks is None else None)


def packs(weight: Tensor) -> bool:
    """Whether PyTorch multiplies a weight faster in blocked order."""
    if not torch.backends.mkldnn.is_available() or weight.device.type != "cpu":
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(half or weight.dtype == torch.float32)


def _pack(model: PreTrainedModel, compiled: torch.dtype | None) -> None:
    """Pack weights: those of dtype `compiled` for our own kernels."""
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, nn.Parameter)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and packs(child.weight):
                tied = child.weight.data_ptr() == embedding.data_ptr()
                setattr(parent, name, PackedLinear(child, embedding if tied else None, child.weight.dtype == compiled))
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All parameters of a model by name, in name order, each once; packed ones are unpacked as they are reached."""
    parameters = dict(model.named_parameters())
    packed = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, PackedLinear) and m.dense is None}
    for name in sorted(parameters.keys() | packed.keys()):
        yield name, parameters[name] if name in parameters else packed[name].weight
