"""Hooks on the down-projections: where coefficients pass, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .carried import Carried, every_place
from .changes import Places
from .families import Anatomy
from .interventions import Intervention

Before = Callable[[int, Tensor], None]  # (layer, coefficients as the model shapes them)
After = Callable[[int, Tensor, Tensor], None]  # (layer, coefficients, the down-projection's output)


@contextmanager
def block_hooks(anatomy: Anatomy, before: Before | None, after: After | None) -> Iterator[None]:
    """Within the block, call `before` with what each down-projection gets and `after` with what it made of it."""

    def before_hook(call: Before, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: call(layer, args[0])

    def after_hook(call: After, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: call(layer, args[0], output)

    handles = []
    try:
        for layer, down in enumerate(anatomy.down):
            if before is not None:
                handles.append(down.register_forward_pre_hook(before_hook(before, layer)))
            if after is not None:
                handles.append(down.register_forward_hook(after_hook(after, layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def arrival_hook(anatomy: Anatomy, arrive: Callable[[Tensor], Tensor | None], carried: bool) -> Iterator[None]:
    """Within the block, what `arrive` makes of what enters the final norm takes its place; None: it stays as it is.

    Args:
        carried: whether something will be carried there (`Carried`).

    Raises: ModelError if something will, and the model has no final norm, or no numbers say what reaches it.
    """
    norm = anatomy.final_norm
    if carried and not anatomy.residual:
        raise ModelError("this model multiplies its residual stream by learned vectors, so that paths can't be cut")
    if norm is None:
        if carried:
            raise ModelError("this model has no norm before its unembedding, so that direct and indirect paths can't be cut")
        yield
        return

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        changed = arrive(args[0])
        return None if changed is None else (changed, *args[1:])

    handle = norm.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def coefficient_hooks(
    anatomy: Anatomy, intervention: Intervention | None, observe: Before | None, ids: Tensor | None = None
) -> Iterator[None]:
    """Within the block, apply `intervention` to every layer, then call `observe(layer, m)`.

    `m` has shape (rows, positions, neurons) and is what the down-projection multiplies. `observe` may be None. All tokens
    are those of a prompt, from its start; `ids` (rows, positions) are they: only `resample` needs them.
    """
    carried = Carried(anatomy)
    path = "both" if intervention is None else intervention.path

    def shaped(x: Tensor) -> Tensor:
        return x if x.ndim == 3 else x[None]  # OPT flattens rows and positions

    def places(m: Tensor) -> Places:
        rows, positions, _ = shaped(m).shape
        return Places(ids, torch.arange(positions, device=m.device).expand(rows, -1), False)

    def before(layer: int, m: Tensor) -> None:
        if intervention is not None and path != "both":
            at = every_place(shaped(m))
            carried.before(layer, intervention, at, shaped(m)[at], places(m).at(at))
        if intervention is not None and path != "direct":
            intervention.apply(layer, shaped(m), places(m))
        if observe is not None:
            observe(layer, m)

    def after(layer: int, m: Tensor, y: Tensor) -> None:
        assert intervention is not None
        if path != "direct":
            intervention.add(layer, shaped(m), shaped(y), places(m))
        carried.after(layer, shaped(y))

    def arrive(residual: Tensor) -> Tensor | None:
        changed = carried.arrive(residual)
        carried.begin()
        return changed

    adds = intervention is not None and (intervention.adds or path != "both")
    acts = intervention is not None or observe is not None
    with block_hooks(anatomy, before if acts else None, after if adds else None), arrival_hook(anatomy, arrive, path != "both"):
        yield
