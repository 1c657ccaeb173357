"""Recorders: what is kept of the coefficients while the model generates.

`ActivePoles` keeps, per generated token and layer, the K active poles (design, section 2): the coefficients with the
largest update sizes |m|·‖v‖₂. A step is recorded at the position whose output chose the token, so a row has as many
steps as it generated tokens, its end token included. What is kept is bounded by one batch: `sink` gets its tally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .families import Anatomy, value_norms


class Recorder(Protocol):
    """What the engine calls."""

    def observe(self, layer: int, m: Tensor) -> None:
        """One layer's coefficients (rows, positions, neurons); the last position is the one that is recorded."""

    def end_step(self, rows: list[int]) -> None:
        """All layers of one forward pass have been observed; `rows` are the batch rows, in order, as row numbers."""

    def end_batch(self) -> None:
        """A batch has ended: all steps of its rows are known."""


@dataclass(frozen=True)
class PoleTally:
    """Active poles summed over each row's steps, long form: one entry per row and pole that was ever active.

    Attributes: equal-length arrays; `steps` counts the steps at which the pole was active, `update_size` and
    `coefficient` are sums over those steps.
    """

    row: np.ndarray
    layer: np.ndarray
    index: np.ndarray
    sign: np.ndarray
    steps: np.ndarray
    update_size: np.ndarray
    coefficient: np.ndarray


class ActivePoles:
    """Records the K active poles per layer and generated token.

    Args:
        anatomy: the model's feed-forward blocks.
        k: poles per layer and step (the paper's text: 10; its code: 20).
        sink: gets each batch's tally when the batch has ended.
        keep_steps: keep the steps themselves in `steps`: (row numbers (rows,), indices and coefficients (rows,
            layers, k)) per forward pass. For inspection and tests; grows with the number of problems.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        k: int = 10,
        sink: Callable[[PoleTally], None] = lambda tally: None,
        keep_steps: bool = False,
    ) -> None:
        self.k, self.sink, self.keep_steps = k, sink, keep_steps
        self.norms = value_norms(anatomy)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._batch: list[tuple[np.ndarray, Tensor, Tensor]] = []
        self.steps: list[tuple[np.ndarray, Tensor, Tensor]] = []

    def observe(self, layer: int, m: Tensor) -> None:
        last = m[:, -1].float()
        index = torch.topk(last.abs() * self.norms[layer], self.k, dim=-1, sorted=False).indices
        self._layers.append((index, last.gather(-1, index)))

    def end_step(self, rows: list[int]) -> None:
        index = torch.stack([i for i, _ in self._layers], dim=1)  # (rows, layers, k)
        coefficient = torch.stack([c for _, c in self._layers], dim=1)
        self._layers.clear()
        self._batch.append((np.asarray(rows), index.to(torch.int32), coefficient))

    def end_batch(self) -> None:
        if self._batch:
            self.sink(self._tally())
            if self.keep_steps:
                self.steps += self._batch
        self._batch = []

    def _tally(self) -> PoleTally:
        layers, width = self.norms.shape
        rows = np.concatenate([r for r, _, _ in self._batch])
        index = torch.cat([i for _, i, _ in self._batch]).cpu().numpy().astype(np.int64)
        coefficient = torch.cat([c for _, _, c in self._batch]).cpu().numpy().astype(np.float64)
        layer = np.arange(layers)[None, :, None]
        size = np.abs(coefficient) * self.norms.cpu().numpy()[layer, index]
        key = (((rows[:, None, None] * layers + layer) * width) + index) * 2 + (coefficient > 0)
        written = coefficient != 0  # a neuron that writes nothing is not active, even among the K largest
        key, size, coefficient = key[written], size[written], coefficient[written]
        unique, inverse = np.unique(key, return_inverse=True)
        rest, positive = np.divmod(unique, 2)
        rest, neuron = np.divmod(rest, width)
        row, layer_of = np.divmod(rest, layers)
        return PoleTally(
            row=row,
            layer=layer_of.astype(np.int16),
            index=neuron.astype(np.int32),
            sign=np.where(positive, 1, -1).astype(np.int8),
            steps=np.bincount(inverse).astype(np.int32),
            update_size=np.bincount(inverse, weights=size),
            coefficient=np.bincount(inverse, weights=coefficient),
        )
