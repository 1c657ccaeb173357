"""What a model goes through at each token of a text that it wrote: one pass over it, instead of writing it again.

Kept are how sure the model was of each token, how far chosen neurons and whole layers moved the residual stream there, and
the residual stream itself. The positions are those that chose the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError
from ..records import Neuron
from .engine import Engine
from .scoring import Given, TokenScore, score
from .stream import ONE_STREAM


@dataclass(frozen=True)
class Trace:
    """One text.

    Attributes:
        scores: of its tokens.
        updates: update sizes |m|·‖v‖ of the chosen neurons, (tokens, neurons), in the order that was asked for.
        layers: the sum of the update sizes of all neurons of a layer, (tokens, layers).
        residual: the residual stream after each layer, mean over tokens, (layers, hidden).
    """

    scores: list[TokenScore]
    updates: NDArray[np.float32]
    layers: NDArray[np.float32]
    residual: NDArray[np.float32]


def trace(
    engine: Engine,
    prompts: Sequence[str],
    texts: Sequence[Sequence[int]],
    neurons: Sequence[Neuron],
    progress: Callable[[int], None] | None = None,
) -> list[Trace]:
    """Trace texts under their prompts.

    Args:
        texts: token ids, at least one each.

    Raises: PromptError if a prompt and its text do not fit the model's context.
    """
    engine.shares_prefix(1)  # is found out once by passes of its own, which are not to be seen
    tracer = _Tracer(engine, neurons)
    given = Given(tuple(prompts), tuple(map(tuple, texts)), None, tracer)
    with tracer.hooks():
        scores = score(engine, given, progress, entropy=True)
    return [Trace(found, *tracer.of(row)) for row, found in enumerate(scores)]


class _Tracer:
    """A recorder that looks at the residual stream too."""

    def __init__(self, engine: Engine, neurons: Sequence[Neuron]) -> None:
        anatomy = engine.loaded.anatomy
        self.passes, self.norms, self.stack, self.count = engine.passes, anatomy.norms, anatomy.stack, len(neurons)
        self._at = [
            [torch.tensor(part, dtype=torch.long, device=anatomy.device) for part in zip(*found)] if found else None
            for found in ([(n.index, i) for i, n in enumerate(neurons) if n.layer == layer] for layer in range(anatomy.layers))
        ]
        self._sums: list[Tensor] = []
        self._residual: list[Tensor] = []
        self._updates: Tensor | None = None
        self._rows: dict[int, tuple[NDArray[np.float32], ...]] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Within the block, each layer's output is seen."""

        def seen(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.ndim != 3:
                raise ModelError("the layers of this model write several streams", expected=ONE_STREAM,
                                 got=str(tuple(hidden.shape)))  # fmt: skip
            if (places := self.passes.recorded()) is not None:
                self._residual.append(hidden[places].float())

        handles = [block.register_forward_hook(seen) for block in self.stack]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def observe(self, layer: int, m: Tensor) -> None:
        sizes = (m.float() * self.norms[layer]).abs_()
        if self._updates is None:
            self._updates = sizes.new_zeros(len(m), self.count)
        if (at := self._at[layer]) is not None:
            self._updates[:, at[1]] = sizes[:, at[0]]
        self._sums.append(sizes.sum(dim=1))

    def end_step(self, rows: list[int]) -> None:
        assert self._updates is not None
        every = self._updates, torch.stack(self._sums, dim=1), torch.stack(self._residual, dim=1)
        self._updates, self._sums, self._residual = None, [], []
        starts = [i for i, row in enumerate(rows) if not i or rows[i - 1] != row]  # a row's places stand together
        for start, end in zip(starts, [*starts[1:], len(rows)]):
            updates, sums, residual = (part[start:end] for part in every)
            self._rows[rows[start]] = tuple(x.cpu().numpy() for x in (updates, sums, residual.mean(dim=0)))

    def end_row(self, row: int, tokens: Sequence[int]) -> None:
        """All of a row's places were in one pass."""

    def end(self) -> None:
        """Nothing is left."""

    def of(self, row: int) -> tuple[NDArray[np.float32], ...]:
        """What was seen of a row, once."""
        return self._rows.pop(row)
