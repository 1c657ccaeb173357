"""Interventions on neurons: they act on a down-projection's input or output while the model runs, never on weights.

Coefficients can be multiplied (`scale`), set to their mean over reference positions (`mean`), or to what they were at a
reference position drawn at random (`resample`); value vectors can have noise added (`noise`, `paper_noise`), which is
written to the block's output. Each acts on the whole sequence, on the prompt only, or on generated tokens only; and on
all that neurons write, or on what of it reaches the logits directly, or on what later layers see (`carried.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ..records import Neuron, Pole
from .families import Anatomy, value_matrix

Scope = Literal["all", "prompt", "generated"]
Path = Literal["both", "direct", "indirect"]
PAPER_NOISE = (-1.0, 1.0)
"""Mean and standard deviation of the noise in Rai & Yao's released code (`corrupt_inference.py`), per component of a
value vector and whatever the vector's size."""


@dataclass(frozen=True)
class Places:
    """The places of a forward pass.

    Attributes:
        ids, positions: the input tokens and their positions in the sequence, each (rows, positions); only `resample`
            needs the tokens.
        generated: whether the input token was generated, or belongs to a continuation that is given: one word for the
            whole pass, or one for each place (rows, positions).
    """

    ids: Tensor | None
    positions: Tensor
    generated: bool | Tensor

    def at(self, index: Tensor | tuple[Tensor, Tensor]) -> Places:
        """Those of some rows (row indices), that a mask (rows, positions) chooses, or at (row indices, positions)."""
        generated = self.generated[index] if isinstance(self.generated, Tensor) else self.generated
        return Places(None if self.ids is None else self.ids[index], self.positions[index], generated)


class Change(Protocol):
    """What happens to one layer. Both methods act in place; tensors may have any leading shape."""

    adds: bool  # whether `output` does anything

    @property
    def touched(self) -> Tensor:
        """The neurons whose coefficients it may change, (touched,)."""

    def coefficients(self, m: Tensor, places: Places) -> None:
        """Change coefficients (…, neurons) at these places (…)."""

    def output(self, m: Tensor, y: Tensor) -> None:
        """Change what the down-projection made (…, hidden) of the coefficients."""


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
        _digest(digest, self.bias)
        return digest.hexdigest()

    def _changes_key(self) -> str:
        digest = sha256()
        for layer in sorted(self.changes):
            _digest(digest, (layer, self.changes[layer]))
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


def _digest(digest: Any, value: object) -> None:
    """Take in numbers, tensors, and dataclasses and sequences of them, each with its kind."""
    digest.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        digest.update(repr((value.dtype, value.shape)).encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    elif is_dataclass(value):
        _digest(digest, tuple(getattr(value, f.name) for f in fields(value)))
    elif isinstance(value, tuple):
        for part in value:
            _digest(digest, part)
    else:
        assert value is None or isinstance(value, int | float | str), value
        digest.update(repr(value).encode())


# -- changes of coefficients -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Factors:
    """m ← m · positive where m > 0, m · negative where m < 0; both (neurons,)."""

    positive: Tensor
    negative: Tensor
    adds = False

    @property
    def touched(self) -> Tensor:
        return ((self.positive != 1) | (self.negative != 1)).nonzero()[:, 0]

    def coefficients(self, m: Tensor, places: Places) -> None:
        if self.positive is self.negative:
            m.mul_(self.positive)
        else:
            m.mul_(torch.where(m > 0, self.positive, self.negative))

    def output(self, m: Tensor, y: Tensor) -> None:
        pass


@dataclass(frozen=True)
class _Values:
    """m[index] ← a row of `values` (reference positions, targets): drawn by seed, token and position.

    The draw depends on nothing else, so it is the same in every layer, batch, order and path, when the text is generated
    and when it is given. With one reference position there is nothing to draw.
    """

    index: Tensor
    values: Tensor
    seed: int
    adds = False

    @property
    def touched(self) -> Tensor:
        return self.index

    def coefficients(self, m: Tensor, places: Places) -> None:
        if len(self.values) == 1:
            m[..., self.index] = self.values[0]
        else:
            assert places.ids is not None
            drawn = _hashed(self.seed, places.ids, places.positions).remainder(len(self.values))
            m[..., self.index] = self.values[drawn]

    def output(self, m: Tensor, y: Tensor) -> None:
        pass


@dataclass(frozen=True)
class _Noise:
    """v[index] ← v[index] + vectors (targets, hidden), float32: the output gains Σ m·vector."""

    index: Tensor
    vectors: Tensor
    adds = True

    @property
    def touched(self) -> Tensor:
        return self.index[:0]

    def coefficients(self, m: Tensor, places: Places) -> None:
        pass

    def output(self, m: Tensor, y: Tensor) -> None:
        y.add_((m[..., self.index].float() @ self.vectors).to(y.dtype))


@dataclass(frozen=True)
class _Shuffled:
    """m ← m[order] (neurons,), then another change: value vectors stand at other neurons' coefficients."""

    order: Tensor
    then: Change | None
    adds = False

    @property
    def touched(self) -> Tensor:
        return torch.arange(len(self.order), device=self.order.device)

    def coefficients(self, m: Tensor, places: Places) -> None:
        m.copy_(m[..., self.order])
        if self.then is not None:
            self.then.coefficients(m, places)

    def output(self, m: Tensor, y: Tensor) -> None:
        pass


def _hashed(seed: int, ids: Tensor, positions: Tensor) -> Tensor:
    """Well mixed numbers ≥ 0 (…), the same on every device: SplitMix64's finaliser on what wraps around in int64."""
    x = positions * 0x1E3779B97F4A7C15 + ids * 0x3F58476D1CE4E5B9 + seed * 0x14D049BB133111EB % 2**62
    for factor in (0x3F58476D1CE4E5B9, 0x14D049BB133111EB):
        x = (x ^ ((x >> 30) & (2**34 - 1))) * factor
    return (x >> 33) & (2**31 - 1)


# -- the interventions -------------------------------------------------------------------------------------------------


def scale(anatomy: Anatomy, targets: Iterable[Neuron] | Iterable[Pole], factor: float, scope: Scope = "all") -> Intervention:
    """Multiply the coefficients of neurons (either sign) or poles (their sign only) by `factor`; 0 zeroes them."""
    changes: dict[int, Change] = {}
    every: list[Neuron | Pole] = list(targets)
    for layer in {t.layer for t in every}:
        here = [t for t in every if t.layer == layer]
        positive = torch.ones(anatomy.width, dtype=anatomy.dtype, device=anatomy.device)
        poles = [t for t in here if isinstance(t, Pole)]
        negative = positive.clone() if poles else positive
        if poles:
            positive[[t.index for t in poles if t.sign > 0]] = factor
            negative[[t.index for t in poles if t.sign < 0]] = factor
        else:
            positive[[t.index for t in here]] = factor
        changes[layer] = _Factors(positive, negative)
    return Intervention(changes, scope)


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
        changes[layer] = _Values(index, values[:, [column[n] for n in here]], seed)
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
        changes[layer] = _Noise(index, vectors(torch.from_numpy(g).float().to(v.device), v))
    return Intervention(changes, scope)


def _by_layer(targets: Iterable[Neuron]) -> list[tuple[int, list[Neuron]]]:
    every = sorted(set(targets))
    return [(layer, [n for n in every if n.layer == layer]) for layer in sorted({n.layer for n in every})]


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
        {i: _Shuffled(torch.as_tensor(order, device=anatomy.device), after.get(i)) for i, order in orders.items()}
    )
