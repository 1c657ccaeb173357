"""What an intervention does to one layer: changes of coefficients, or of what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


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
class Factors:
    """m ← m · positive where m > 0, m · negative where m < 0, plus offset; each (neurons,)."""

    positive: Tensor
    negative: Tensor
    offset: Tensor | None = None
    adds = False

    @property
    def touched(self) -> Tensor:
        touched = (self.positive != 1) | (self.negative != 1)
        return (touched if self.offset is None else touched | (self.offset != 0)).nonzero()[:, 0]

    def coefficients(self, m: Tensor, places: Places) -> None:
        positive = self.positive.to(m.device)  # elsewhere where the weights are not in memory until their layer runs
        m.mul_(positive if self.positive is self.negative else torch.where(m > 0, positive, self.negative.to(m.device)))
        if self.offset is not None:
            m.add_(self.offset.to(m.device))

    def output(self, m: Tensor, y: Tensor) -> None:
        pass


@dataclass(frozen=True)
class Values:
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
class Noise:
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
class Shuffled:
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


def digest_into(digest: Any, value: object) -> None:
    """Take in numbers, tensors, and dataclasses and sequences of them, each with its kind."""
    digest.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        digest.update(repr((value.dtype, value.shape)).encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    elif is_dataclass(value):
        digest_into(digest, tuple(getattr(value, f.name) for f in fields(value)))
    elif isinstance(value, tuple):
        for part in value:
            digest_into(digest, part)
    else:
        assert value is None or isinstance(value, int | float | str), value
        digest.update(repr(value).encode())
