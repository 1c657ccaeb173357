"""Interventions on coefficients: they act on the down-projection's input while the model runs, never on weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..records import Neuron, Pole
from .families import Anatomy


@dataclass(frozen=True)
class Intervention:
    """Multiplies coefficients: m ← m · positive where m > 0, m · negative where m < 0.

    Attributes:
        positive, negative: layer → factors of shape (neurons,); layers that are absent are untouched.
    """

    positive: dict[int, Tensor]
    negative: dict[int, Tensor]

    def apply(self, layer: int, m: Tensor) -> None:
        """Change the coefficients (…, neurons) of one layer in place."""
        if layer not in self.positive:
            return
        positive, negative = self.positive[layer], self.negative[layer]
        if positive is negative:
            m.mul_(positive)
        else:
            m.mul_(torch.where(m > 0, positive, negative))


def scale(anatomy: Anatomy, targets: Iterable[Neuron] | Iterable[Pole], factor: float) -> Intervention:
    """Multiply the coefficients of neurons (either sign) or poles (their sign only) by `factor`; 0 zeroes them."""
    targets = list(targets)
    weight, width = anatomy.down[0].weight, anatomy.width
    poles = bool(targets) and isinstance(targets[0], Pole)
    positive: dict[int, Tensor] = {}
    negative: dict[int, Tensor] = {}
    for layer in {t.layer for t in targets}:
        here = [t for t in targets if t.layer == layer]
        positive[layer] = torch.ones(width, dtype=weight.dtype, device=weight.device)
        negative[layer] = positive[layer].clone() if poles else positive[layer]
        if poles:
            positive[layer][[t.index for t in here if t.sign > 0]] = factor
            negative[layer][[t.index for t in here if t.sign < 0]] = factor
        else:
            positive[layer][[t.index for t in here]] = factor
    return Intervention(positive, negative)


@contextmanager
def coefficient_hooks(anatomy: Anatomy, intervention: Intervention | None, observe) -> Iterator[None]:
    """Within the block, apply `intervention` to every layer's coefficients, then call `observe(layer, m)`.

    `m` has shape (rows, positions, neurons) and is what the down-projection multiplies. `observe` may be None.
    """

    def hook(layer: int):
        def pre_hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if intervention is not None:
                intervention.apply(layer, args[0])
            if observe is not None:
                observe(layer, args[0])

        return pre_hook

    handles = []
    try:
        if intervention is not None or observe is not None:
            handles = [down.register_forward_pre_hook(hook(i)) for i, down in enumerate(anatomy.down)]
        yield
    finally:
        for handle in handles:
            handle.remove()
