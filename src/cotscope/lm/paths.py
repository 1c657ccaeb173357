"""Effects of a set of neurons taken apart by path: what it writes to the logits itself, and what later layers make of it.

A neuron's update m·v enters the residual stream, and with it the final norm and the unembedding (its *direct* effect on
the logits) and all later layers (its *indirect* effect): Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; the split of an ablation after McGrath et al. 2023, arXiv:2307.15771. With r₀ and r₁ the streams that enter the
final norm, untouched and with the set zeroed, and d = Σ m·v of the set in the untouched model:

    total     logits of r₁
    direct    logits of r₀ − d: the set's own push is taken away, later layers run as if it were there
    indirect  logits of r₁ + d: the set is zeroed, and its own push put back

On a linear readout the two parts add up to the total: (r₀ − d) + (r₁ + d) = r₀ + r₁. With the set in the last layer alone
the indirect part is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..records import Neuron
from .engine import Engine
from .families import Anatomy, value_matrix
from .interventions import Intervention, scale
from .recorders import ChosenNeurons
from .scoring import Given, TokenScore, score, token_scores
from .stream import check_writes

Path = Literal["total", "direct", "indirect"]
PATHS: tuple[Path, ...] = ("total", "direct", "indirect")
Disrupt = Callable[[Sequence[Neuron]], Intervention | None]
Scores = list[list[TokenScore]]
COEFFICIENT_BYTES = 2**28
"""Of untouched coefficients that are kept at once: 24 solutions of 60 tokens have room for 46,000 neurons."""
_ROWS = 64  # positions whose logits stand in memory at once


class Untouched(NamedTuple):
    """What the untouched model did at the places of the given tokens, in order.

    Attributes:
        scores: of the tokens.
        residual: what entered the final norm, (places, hidden), float32.
        coefficients: of `neurons`, (places, neurons), float32.
        outputs: per layer with a norm over the block's output, what enters that norm, (places, hidden); else None.
    """

    scores: Scores
    residual: Tensor
    neurons: tuple[Neuron, ...]
    coefficients: Tensor
    outputs: tuple[Tensor | None, ...]


class PathEffects:
    """Scores of given continuations under sets of neurons, by path.

    One untouched pass is kept for all sets; each set costs one pass more.

    Args:
        given: prompts and continuations; without recorder and intervention, and all tokens scored.
        neurons: all that any set has.
        disrupt: the intervention under which a set is gone, and, of no neurons, that which all sets have in common (the
            untouched model is then one with shuffled value vectors, say); None: the set is zeroed, and nothing else.

    Raises: ModelError if what its blocks write, or its logits, are not what `Anatomy` says of them.
    """

    def __init__(self, engine: Engine, given: Given, neurons: Sequence[Neuron], disrupt: Disrupt | None = None) -> None:
        assert given.recorder is None and given.intervention is None and given.scored is None
        check_writes(engine.loaded)
        self._engine, self._given = engine, given
        self._disrupt = disrupt or (lambda some: scale(engine.loaded.anatomy, some, 0.0) if some else None)
        self._targets = [t for tokens in given.continuations for t in tokens]
        self._untouched = self._look(neurons)

    def untouched(self) -> Scores:
        """Each continuation's tokens with nothing disrupted."""
        return self._untouched.scores

    @torch.inference_mode()
    def of(self, neurons: Sequence[Neuron], paths: Sequence[Path] = PATHS) -> dict[Path, Scores]:
        """Each continuation's tokens with a set gone, by path."""
        disrupted, _, total = self._run(replace(self._given, intervention=self._disrupt(tuple(neurons))))
        push = self._push(neurons)
        parts = {"direct": lambda: self._untouched.residual - push, "indirect": lambda: disrupted + push}
        return {path: self._by_prompt(self._scores(parts[path]())) if path in parts else total for path in paths}

    # -- streams -----------------------------------------------------------------------------------------------------

    def _look(self, neurons: Sequence[Neuron]) -> Untouched:
        found: dict[int, Tensor] = {}
        recorder = ChosenNeurons(self._engine.loaded.anatomy, neurons, found.__setitem__) if neurons else None
        residual, outputs, said = self._run(replace(self._given, recorder=recorder, intervention=self._disrupt(())))
        self._check(residual, said)
        if recorder is None:
            return Untouched(said, residual, (), residual[:, :0], outputs)
        coefficients = torch.cat([found[i] for i in range(len(self._given.prompts))])
        return Untouched(said, residual, tuple(recorder.neurons), coefficients, outputs)

    def _run(self, given: Given) -> tuple[Tensor, tuple[Tensor | None, ...], Scores]:
        """One pass: what enters the final norm, and the norms over blocks' outputs, at each given token's place, in order;
        and what the model itself says of the tokens."""
        passes, anatomy = self._engine.passes, self._engine.loaded.anatomy
        order: list[tuple[int, int]] = []
        self._engine.shares_prefix(1)  # its check of the model runs passes of its own
        passes.residuals = []
        try:
            with _norm_inputs(anatomy, passes.unembedded) as inputs:
                said = score(self._engine, given, places=order)
            residual = torch.cat(passes.residuals).float()
        finally:
            passes.residuals = None
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=residual.device)
        return residual[back], tuple(torch.cat(y)[back] if y else None for y in inputs), said

    def _push(self, neurons: Sequence[Neuron]) -> Tensor:
        """What a set writes to the residual stream of the untouched model, (places, hidden), float32: Σ m·v; where a norm
        over the block's output stands between, the difference that the set makes to its output."""
        anatomy, seen = self._engine.loaded.anatomy, self._untouched
        place = {n: i for i, n in enumerate(seen.neurons)}
        push = torch.zeros_like(seen.residual)
        for layer in sorted({n.layer for n in neurons}):
            here = sorted({n for n in neurons if n.layer == layer})
            columns = torch.tensor([place[n] for n in here], device=push.device)
            index = torch.tensor([n.index for n in here], device=push.device)
            values = value_matrix(anatomy.down[layer]).detach()[:, index].float()  # (hidden, neurons)
            written = seen.coefficients[:, columns] @ values.T
            norm, y = anatomy.post_norm[layer], seen.outputs[layer]
            if norm is not None and y is not None:  # what of the normalised output is gone with the set
                written = (norm(y[None]) - norm((y - written.to(y.dtype))[None]))[0].float()
            push += written * anatomy.residual[layer]
        return push

    # -- logits ------------------------------------------------------------------------------------------------------

    def _logits(self, residual: Tensor) -> Tensor:
        anatomy = self._engine.loaded.anatomy
        hidden = residual.to(self._engine.loaded.dtype)
        hidden = hidden if anatomy.final_norm is None else anatomy.final_norm(hidden[None])[0]
        logits: Tensor = anatomy.readout(anatomy.head(hidden))
        return logits

    def _scores(self, residual: Tensor) -> list[TokenScore]:
        found: list[TokenScore] = []
        for part in residual.split(_ROWS):
            at = len(found)
            found += token_scores(self._logits(part), self._targets[at : at + len(part)])
        return found

    def _by_prompt(self, scores: list[TokenScore]) -> Scores:
        rows, at = [], 0
        for tokens in self._given.continuations:
            rows.append(scores[at : at + len(tokens)])
            at += len(tokens)
        return rows

    @torch.inference_mode()
    def _check(self, residual: Tensor, said: Scores) -> None:
        """No list of families is whole: what the same pass said must be what is read here."""
        found = [s.log_prob for s in self._scores(residual)]
        loose = 1e-3 if self._engine.loaded.dtype == torch.float32 else 0.25
        if any(abs(a - b.log_prob) > loose for a, b in zip(found, (s for row in said for s in row), strict=True)):
            raise ModelError(
                f"the logits of {self._engine.loaded.name} are not its unembedding of its final norm",
                expected="a model that does nothing else to them, or that lm/families.py knows",
            )


def path_effects(
    engine: Engine,
    given: Given,
    sets: Mapping[str, Sequence[Neuron]],
    disrupt: Disrupt | None = None,
    paths: Sequence[Path] = PATHS,
) -> Iterator[tuple[str, dict[Path, Scores]]]:
    """`PathEffects` of each set in turn; of a set without neurons only "total", which is the untouched model.

    Sets share an untouched pass as far as their neurons' coefficients take `COEFFICIENT_BYTES`.

    Raises: ModelError as `PathEffects` does, before the first.
    """
    most = COEFFICIENT_BYTES // (4 * max(1, sum(map(len, given.continuations))))
    groups: list[tuple[list[str], set[Neuron]]] = []
    for name, neurons in sets.items():
        if not groups or len(groups[-1][1].union(neurons)) > most:
            groups.append(([], set()))
        groups[-1][0].append(name)
        groups[-1][1].update(neurons)
    for names, together in groups:
        effects = PathEffects(engine, given, sorted(together), disrupt)
        for name in names:
            yield name, effects.of(sets[name], paths) if sets[name] else {"total": effects.untouched()}


@contextmanager
def _norm_inputs(anatomy: Anatomy, unembedded: Callable[[], tuple[Tensor, Tensor] | None]) -> Iterator[list[list[Tensor]]]:
    """Per layer, pass by pass, what enters a norm over the block's output at unembedded places; empty without such a norm."""
    found: list[list[Tensor]] = [[] for _ in anatomy.down]
    handles = []
    for layer, norm in enumerate(anatomy.post_norm):

        def take(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> None:
            if (places := unembedded()) is not None:
                found[layer].append(args[0][places])

        if norm is not None:
            handles.append(norm.register_forward_pre_hook(take))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
