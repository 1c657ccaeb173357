"""Interventions on neurons: they act on a down-projection's input or output while the model runs, never on weights.

Coefficients can be multiplied (`scale`), set to their mean over reference positions (`mean`), or to what they were at a
reference position drawn at random (`resample`); value vectors can have noise added (`noise`, `paper_noise`), which is
written to the block's output. Each acts on the whole sequence, on the prompt only, or on generated tokens only; and on
all that neurons write, or on what of it reaches the logits directly, or on what later layers see (`carried.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..records import Neuron, Pole, factors_of
from .changes import Change, Factors, Noise, Places, Shuffled, Values, digest_into
from .families import Anatomy, value_matrix

Scope = Literal["all", "prompt", "generated"]
Path = Literal["both", "direct", "indirect"]
PAPER_NOISE = (-1.0, 1.0)
"""Mean and standard deviation of the noise in Rai & Yao's released code (`corrupt_inference.py`), per component of a
value vector and whatever the vector's size."""


@dataclass(frozen=True)
class Intervention:
    """Changes to some layers, within a scope.

    Attributes:
        changes: by layer; layers that are absent are untouched.
        scope: "all"; "prompt": only where the input token is one of the prompt; "generated": only where it is not.
        path: "both"; "direct": later layers see nothing of it, the logits do; "indirect": the other way round.
        bias: added to the logits (vocabulary,), at every place; None: nothing is.
    """

    changes: dict[int, Change]
    scope: Scope = "all"
    path: Path = "both"
    bias: Tensor | None = None

    def along(self, path: Path) -> Intervention:
        """The same along one path."""
        return replace(self, path=path)

    @property
    def adds(self) -> bool:
        """Whether it changes the outputs of blocks too."""
        return any(change.adds for change in self.changes.values())

    @cached_property
    def prefix_key(self) -> str:
        """Interventions of one key do the same to a prompt; "" is nothing."""
        spared = not self.changes or self.scope == "generated" or self.path == "direct"
        return "" if spared else self._changes_key()

    @cached_property
    def key(self) -> str:
        """Interventions of one key are the same."""
        digest = sha256(repr((self._changes_key(), self.scope, self.path)).encode())
        digest_into(digest, self.bias)
        return digest.hexdigest()

    def _changes_key(self) -> str:
        digest = sha256()
        for layer in sorted(self.changes):
            digest_into(digest, (layer, self.changes[layer]))
        return digest.hexdigest()

    def apply(self, layer: int, m: Tensor, places: Places) -> None:
        """Change the coefficients (rows, positions, neurons) of one layer in place."""
        change, where = self.changes.get(layer), self._within(places)
        if change is None or where is False:
            return
        if where is True:
            change.coefficients(m, places)
        else:
            part = m[where]
            change.coefficients(part, places.at(where))
            m[where] = part

    def add(self, layer: int, m: Tensor, y: Tensor, places: Places) -> None:
        """Change the output (rows, positions, hidden) of one layer's down-projection in place."""
        change, where = self.changes.get(layer), self._within(places)
        if change is None or where is False or not change.adds:
            return
        if where is True:
            change.output(m, y)
        else:
            part = y[where]
            change.output(m[where], part)
            y[where] = part

    def _within(self, places: Places) -> bool | Tensor:
        """Which places are in scope: all, none, or a mask (rows, positions)."""
        if self.scope == "all":
            return True
        generated = places.generated
        if isinstance(generated, Tensor):
            return generated if self.scope == "generated" else ~generated
        return generated == (self.scope == "generated")


def _ones(anatomy: Anatomy, layer: int) -> Tensor:
    """A factor of 1 for each neuron, float32, where the layer's weights are; of weights that are not in memory on the CPU."""
    weight = value_matrix(anatomy.down[layer])
    return torch.ones(anatomy.width, device="cpu" if weight.is_meta else weight.device)


def _held(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in the model's dtype where that holds them exactly; else in float32: 1.003 would be 1 in bfloat16."""
    stored = values.to(dtype)
    return stored if torch.equal(stored.float(), values) else values


def scale(anatomy: Anatomy, targets: Iterable[Neuron] | Iterable[Pole], factor: float, scope: Scope = "all") -> Intervention:
    """Multiply the coefficients of neurons (either sign) or poles (their sign only) by `factor`; 0 zeroes them."""
    return rescale(anatomy, factors_of(targets, factor), scope=scope)


@dataclass(frozen=True)
class Reference:
    """What coefficients are on texts that are not tested.

    Attributes:
        neurons: whose, by column.
        coefficients: (positions, neurons), float32.
    """

    neurons: tuple[Neuron, ...]
    coefficients: np.ndarray


def mean(anatomy: Anatomy, targets: Iterable[Neuron], reference: Reference, scope: Scope = "all") -> Intervention:
    """Set coefficients to their mean over the reference positions."""
    average = reference.coefficients.mean(axis=0, dtype=np.float64, keepdims=True)
    return resample(anatomy, targets, Reference(reference.neurons, average), 0, scope)


def resample(
    anatomy: Anatomy, targets: Iterable[Neuron], reference: Reference, seed: int, scope: Scope = "all"
) -> Intervention:
    """Set coefficients to what they were at a random reference position, the same one for all targets."""
    column = {neuron: i for i, neuron in enumerate(reference.neurons)}
    values = torch.from_numpy(reference.coefficients).to(anatomy.device, anatomy.dtype)
    changes: dict[int, Change] = {}
    for layer, here in _by_layer(targets):
        index = torch.tensor([n.index for n in here], device=anatomy.device)
        changes[layer] = Values(index, values[:, [column[n] for n in here]], seed)
    return Intervention(changes, scope)


def noise(anatomy: Anatomy, targets: Iterable[Neuron], dose: float, seed: int, scope: Scope = "all") -> Intervention:
    """v ← v + e, e Gaussian in direction and `dose`·‖v‖ long; each neuron has one direction, at every dose.

    v is the raw column of the down-projection, also in models that normalise the block's output again.
    """

    def vectors(g: Tensor, v: Tensor) -> Tensor:
        return g * (dose * v.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True))

    return _noise(anatomy, targets, vectors, seed, scope)


def paper_noise(anatomy: Anatomy, targets: Iterable[Neuron], seed: int, scope: Scope = "all") -> Intervention:
    """The noise of Rai & Yao's released code, added once and not to the weights (see `PAPER_NOISE`)."""
    return _noise(anatomy, targets, lambda g, v: PAPER_NOISE[0] + PAPER_NOISE[1] * g, seed, scope)


def without_component(
    anatomy: Anatomy, targets: Iterable[Neuron], directions: Tensor, within: bool, scope: Scope = "all"
) -> Intervention:
    """Take out of value vectors what lies in a subspace of the residual stream, or, not `within`, all that does not.

    Args:
        directions: (directions, hidden); they span the subspace.
    """
    spanned = torch.linalg.svd(directions.float(), full_matrices=False)
    basis = spanned.Vh[1e-5 * spanned.S.max() < spanned.S]

    def vectors(g: Tensor, v: Tensor) -> Tensor:
        inside = v @ basis.T @ basis
        return -inside if within else inside - v

    return _noise(anatomy, targets, vectors, 0, scope)


def _noise(
    anatomy: Anatomy,
    targets: Iterable[Neuron],
    vectors: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    scope: Scope,
) -> Intervention:
    """Add `vectors(g, v)`, g standard normal and v the value vectors, both (targets, hidden)."""
    changes: dict[int, Change] = {}
    for layer, here in _by_layer(targets):
        columns = value_matrix(anatomy.down[layer]).detach()
        index = torch.tensor([n.index for n in here], device=columns.device)
        # A generator for each neuron: what it draws does not depend on which others are disrupted.
        g = np.stack([np.random.default_rng((seed, *n)).standard_normal(len(columns)) for n in here])
        v = columns[:, index].T.float()
        changes[layer] = Noise(index, vectors(torch.from_numpy(g).float().to(v.device), v))
    return Intervention(changes, scope)


def _by_layer(targets: Iterable[Neuron]) -> list[tuple[int, list[Neuron]]]:
    every = sorted(set(targets))
    return [(layer, [n for n in every if n.layer == layer]) for layer in sorted({n.layer for n in every})]


def rescale(
    anatomy: Anatomy,
    factors: Mapping[Neuron, tuple[float, float]],
    offsets: Mapping[Neuron, float] | None = None,
    scope: Scope = "all",
) -> Intervention:
    """m ← f·m + o of each neuron: its factors of positive and of negative coefficients (1, 1), its offset (0)."""
    offsets = offsets or {}
    changes: dict[int, Change] = {}
    for layer, here in _by_layer([*factors, *offsets]):
        ends = [[factors.get(n, (1.0, 1.0))[i] for n in here] for i in range(2)]
        columns = [_ones(anatomy, layer) for _ in ends]
        index = torch.tensor([n.index for n in here], device=columns[0].device)
        for column, values in zip(columns, ends, strict=True):
            column[index] = torch.tensor(values, device=column.device)
        offset = None
        if any(n in offsets for n in here):
            offset = torch.zeros_like(columns[0])
            offset[index] = torch.tensor([offsets.get(n, 0.0) for n in here], device=offset.device)
            offset = _held(offset, anatomy.dtype)
        positive = _held(columns[0], anatomy.dtype)
        changes[layer] = Factors(positive, positive if ends[0] == ends[1] else _held(columns[1], anatomy.dtype), offset)
    return Intervention(changes, scope)


def logit_bias(anatomy: Anatomy, biases: Mapping[int, float]) -> Intervention:
    """Add to the logits of some tokens, by id; neurons are left alone."""
    bias = torch.zeros(anatomy.vocabulary, device=anatomy.device)
    for token, value in biases.items():
        bias[token] = value
    return Intervention({}, bias=bias)


def shuffled(anatomy: Anatomy, orders: Mapping[int, np.ndarray], then: Intervention | None = None) -> Intervention:
    """The model whose value vectors are shuffled: in layer l, v[i] gets the coefficient of neuron `orders[l][i]`.

    Args:
        orders: layer → a permutation of its neurons, (neurons,).
        then: what is done to that model, its neurons being those of its value vectors; of coefficients, and everywhere.
    """
    assert then is None or (not then.adds and then.scope == "all" and then.changes.keys() <= orders.keys())
    after = {} if then is None else then.changes
    return Intervention(
        {i: Shuffled(torch.as_tensor(order, device=anatomy.device), after.get(i)) for i, order in orders.items()}
    )
