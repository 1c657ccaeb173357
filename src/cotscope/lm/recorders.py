"""Recorders: what is kept of the coefficients while the model generates.

`ActivePoles` keeps, per generated token and layer, the K active poles (docs/methods.md): the coefficients with the
largest update sizes |m|·‖v‖₂. A step is recorded at the position whose output chose the token, so a row has as many
steps as it generated tokens, its end token included. What is kept does not grow with the number of rows: they are
tallied as they end, and `sink` gets the tally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..records import Neuron
from .families import Anatomy
from .select import largest_updates

TALLY_ROWS = 64  # rows per tally: enough that tables are not torn into scraps


class Recorder(Protocol):
    """What the engine calls."""

    def observe(self, layer: int, m: Tensor) -> None:
        """One layer's coefficients at the recorded places of a pass, (places, neurons)."""

    def end_step(self, rows: list[int]) -> None:
        """All layers of a pass have been observed; `rows` says whose each place is, by number, in order."""

    def end_row(self, row: int, tokens: Sequence[int]) -> None:
        """A row has ended: the places that chose these tokens (end token too), its first ones, count; no more will come."""

    def end(self) -> None:
        """All rows have ended."""


@dataclass(frozen=True)
class PoleTally:
    """Active poles summed over each row's steps, long form: one entry per row, label and pole that was ever active.

    Attributes: equal-length arrays; `steps` counts the steps at which the pole was active, `update_size` and
    `coefficient` are sums over those steps.
    """

    row: np.ndarray
    label: np.ndarray
    layer: np.ndarray
    index: np.ndarray
    sign: np.ndarray
    steps: np.ndarray
    update_size: np.ndarray
    coefficient: np.ndarray


class _Rows:
    """What was kept of each place, by row: places in order, each a tuple of tensors."""

    def __init__(self) -> None:
        self.running: dict[int, list[tuple[Tensor, ...]]] = {}

    def add(self, rows: list[int], *kept: Tensor) -> None:
        for place, row in enumerate(rows):
            self.running.setdefault(row, []).append(tuple(k[place] for k in kept))

    def at(self, row: int, step: int) -> tuple[Tensor, ...]:
        """One place of a row that goes on."""
        return self.running[row][step]

    def take(self, row: int, steps: int) -> tuple[Tensor, ...]:
        """One row's places stacked: each (steps, …)."""
        return tuple(torch.stack(part) for part in zip(*self.running.pop(row)[:steps], strict=True))


class ActivePoles:
    """Records the K active poles per layer and generated token.

    Args:
        anatomy: the model's feed-forward blocks.
        k: poles per layer and step (the paper's text: 10; its code: 20).
        sink: gets the tally of rows that have ended, several at a time.
        keep_steps: keep the steps themselves in `steps`: row number → indices and coefficients, (steps, layers, k)
            each. For inspection and tests; grows with the number of problems.
        label: of a row's number and tokens: the label of each token, 0 or more, which the tally keeps apart; None: 0 for all.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        k: int = 10,
        sink: Callable[[PoleTally], None] = lambda tally: None,
        keep_steps: bool = False,
        label: Callable[[int, Sequence[int]], Sequence[int]] | None = None,
    ) -> None:
        self.k, self.sink, self.keep_steps, self.label = k, sink, keep_steps, label
        self.norms = anatomy.norms
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._rows = _Rows()
        self._ended: dict[int, tuple[Tensor, ...]] = {}
        self._labels: dict[int, Sequence[int]] = {}
        self.steps: dict[int, tuple[Tensor, ...]] = {}

    def observe(self, layer: int, m: Tensor) -> None:
        self._layers.append(largest_updates(m, self.norms[layer], self.k))

    def end_step(self, rows: list[int]) -> None:
        index, coefficient = (torch.stack(part, dim=1) for part in zip(*self._layers, strict=True))
        self._layers.clear()
        self._rows.add(rows, index, coefficient)

    def at(self, row: int, step: int) -> tuple[Tensor, ...]:
        """Indices and coefficients, (layers, k) each, of a step of a row that has not ended."""
        return self._rows.at(row, step)

    def end_row(self, row: int, tokens: Sequence[int]) -> None:
        self._ended[row] = self._rows.take(row, len(tokens))
        self._labels[row] = self.label(row, tokens) if self.label else [0] * len(tokens)
        if len(self._ended) >= TALLY_ROWS:
            self._flush()

    def end(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._ended:
            self.sink(self._tally())
            if self.keep_steps:
                self.steps |= self._ended
        self._ended, self._labels = {}, {}

    def _tally(self) -> PoleTally:
        layers, width = self.norms.shape
        rows = np.repeat(list(self._ended), [len(index) for index, _ in self._ended.values()])
        labels = np.concatenate([self._labels[row] for row in self._ended]).astype(np.int64)
        kinds = int(labels.max(initial=0)) + 1
        place = (rows * kinds + labels)[:, None, None]
        index = torch.cat([i for i, _ in self._ended.values()]).cpu().numpy().astype(np.int64)
        coefficient = torch.cat([c for _, c in self._ended.values()]).cpu().numpy().astype(np.float64)
        layer = np.arange(layers)[None, :, None]
        size = np.abs(coefficient) * self.norms.cpu().numpy()[layer, index]
        key = (((place * layers + layer) * width) + index) * 2 + (coefficient > 0)
        written = coefficient != 0  # a neuron that writes nothing is not active, even among the K largest
        key, size, coefficient = key[written], size[written], coefficient[written]
        unique, inverse = np.unique(key, return_inverse=True)
        rest, positive = np.divmod(unique, 2)
        rest, neuron = np.divmod(rest, width)
        rest, layer_of = np.divmod(rest, layers)
        row, label = np.divmod(rest, kinds)
        return PoleTally(
            row=row,
            label=label,
            layer=layer_of.astype(np.int16),
            index=neuron.astype(np.int32),
            sign=np.where(positive, 1, -1).astype(np.int8),
            steps=np.bincount(inverse).astype(np.int32),
            update_size=np.bincount(inverse, weights=size),
            coefficient=np.bincount(inverse, weights=coefficient),
        )


class ChosenNeurons:
    """Records every coefficient of chosen neurons at each step.

    Args:
        anatomy: the model's feed-forward blocks.
        neurons: which; the columns of the result stand in the order that `neurons` has then: by layer and index.
        sink: gets (row number, coefficients (steps, neurons) in float32) when a row has ended.
    """

    def __init__(self, anatomy: Anatomy, neurons: Iterable[Neuron], sink: Callable[[int, Tensor], None]) -> None:
        self.neurons = sorted(set(neurons))
        self.sink = sink
        self._index = {
            layer: torch.tensor([n.index for n in self.neurons if n.layer == layer], device=anatomy.device)
            for layer in sorted({n.layer for n in self.neurons})
        }
        self._layers: list[Tensor] = []
        self._rows = _Rows()

    def observe(self, layer: int, m: Tensor) -> None:
        if layer in self._index:
            self._layers.append(m[:, self._index[layer]])

    def end_step(self, rows: list[int]) -> None:
        self._rows.add(rows, torch.cat(self._layers, dim=1))
        self._layers.clear()

    def end_row(self, row: int, tokens: Sequence[int]) -> None:
        [coefficients] = self._rows.take(row, len(tokens))
        self.sink(row, coefficients.float())

    def end(self) -> None:
        """Nothing is left: each row was given away as it ended."""
