"""Interventions along one path: what neurons write reaches the logits alone, or later layers alone.

The direct path leads from a neuron's update m·v through the final norm and the unembedding; the indirect one through
later layers (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). An intervention on the direct path
leaves every layer as it was and adds what it would have changed of the blocks' outputs, c, to the stream that enters the
final norm; one on the indirect path acts as it always does and takes c out of that stream again.

In a text that is generated there is no untouched model beside the disrupted one: c is of the coefficients that the neurons
have in the pass that runs. (`paths.py` has both models, and the two parts then add up exactly; so they do here for a set
in one layer.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .changes import Change, Places
from .families import Anatomy, value_matrix
from .interventions import Intervention

At = tuple[Tensor, Tensor]  # rows and positions of places, (places,) each


@dataclass
class _Part:
    """What an intervention changes of one layer's output at some places, (places, hidden), float32."""

    at: At
    intervention: Intervention
    written: Tensor


@dataclass
class Carried:
    """The changed updates of one forward pass, on their way to the final norm."""

    anatomy: Anatomy
    _parts: list[_Part] = field(default_factory=list)
    _waiting: list[_Part] = field(default_factory=list)
    _values: dict[int, tuple[Change, Tensor, Tensor]] = field(default_factory=dict)

    def begin(self) -> None:
        """A pass begins."""
        self._parts.clear()

    def forget(self) -> None:
        """No more passes with these interventions come."""
        self.begin()
        self._values.clear()

    def before(self, layer: int, intervention: Intervention, at: At, m: Tensor, places: Places) -> None:
        """Take what an intervention changes at places, whose coefficients (places, neurons) it has not changed yet."""
        change = intervention.changes.get(layer)
        if change is None:
            return
        after = m.clone()
        intervention.apply(layer, after, places)
        index, values = self._of(layer, change)
        written = (after - m)[:, index].float() @ values
        if change.adds:
            intervention.add(layer, after, written, places)
        self._waiting.append(_Part(at, intervention, written))

    def after(self, layer: int, y: Tensor) -> None:
        """The layer's down-projection has made y (rows, positions, hidden), changed where the path is the indirect one."""
        norm = self.anatomy.post_norm[layer]
        for part in self._waiting:
            if norm is not None:  # what is added to the stream is what the norm makes of it
                here = y[part.at]
                other = (here + (part.written if part.intervention.path == "direct" else -part.written)).to(y.dtype)
                difference = (norm(other[None]) - norm(here[None]))[0].float()
                part.written = difference if part.intervention.path == "direct" else -difference
            part.written = part.written * self.anatomy.residual[layer]
            self._parts.append(part)
        self._waiting.clear()

    def arrive(self, residual: Tensor) -> Tensor | None:
        """What enters the final norm (rows, positions, hidden) with the changes carried there; None: it stays as it is."""
        if not self._parts:
            return None
        carried = torch.zeros_like(residual, dtype=torch.float32)  # of all layers first: the stream is rounded once
        for part in self._parts:
            carried[part.at] += part.written if part.intervention.path == "direct" else -part.written
        return (residual.float() + carried).to(residual.dtype)

    def _of(self, layer: int, change: Change) -> tuple[Tensor, Tensor]:
        """The neurons whose coefficients a change touches, and their value vectors (neurons, hidden), float32."""
        if (found := self._values.get(id(change))) is None:
            index = change.touched
            found = change, index, value_matrix(self.anatomy.down[layer]).detach()[:, index].float().T.contiguous()
            self._values[id(change)] = found  # with the change, so that no other gets its id
        return found[1:]


def every_place(m: Tensor) -> At:
    """All places of a pass, whose coefficients are m (rows, positions, neurons)."""
    rows, positions = torch.ones_like(m[..., 0]).nonzero(as_tuple=True)
    return rows, positions
