"""Norms and gates in one pass over their input, by our kernels, where PyTorch takes six and two.

A module stays, with its parameters and their names; only its class gets another `forward`, and only if that computes
what the module itself does, which is asked first. Results are rounded once, so they are a little nearer to float32's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..families import norm_gamma, root_mean_square_norms, silu_gates, weight_of
from . import kernels

_TOLERANCE = 2**-6  # two roundings to bfloat16 more or less


class _FusedNorm(nn.Module):
    """Mixed into a norm; `fused`: what it multiplies by, and its epsilon."""

    fused: tuple[Tensor, float]

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, *self.fused) if kernels.takes(x) else super().forward(x)


class _FusedGate(nn.Module):
    """Mixed into a feed-forward block; `fused`: the two products of the input, and the down-projection."""

    fused: tuple[nn.Module, nn.Module, nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        if not kernels.takes(x):
            return super().forward(x)
        gate, up, down = self.fused
        return down(kernels.gated(gate(x), up(x)))


@torch.inference_mode()
def fuse(model: PreTrainedModel) -> None:
    """Let the norms and gates of a model, its weights packed, take our kernels. It is in bfloat16, on a CPU."""
    for norm, epsilon in root_mean_square_norms(model):
        size = weight_of(norm).numel()
        if size % kernels.LANES == 0:
            _mix_in(_FusedNorm, norm, size, norm_gamma(norm)[0], epsilon)
    for block, gate, up, down in silu_gates(model):
        if getattr(gate, "compiled", False) and getattr(up, "compiled", False):
            _mix_in(_FusedGate, block, weight_of(gate).shape[1], gate, up, down)


def _mix_in(mixin: type, module: Any, size: int, *fused: object) -> None:
    plain = type(module)
    x = torch.randn(8, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = module(x).float()
    module.fused = fused
    module.__class__ = type(plain.__name__, (mixin, plain), {})
    if not torch.allclose(module(x).float(), expected, rtol=_TOLERANCE, atol=_TOLERANCE * expected.std().item()):
        module.__class__ = plain
