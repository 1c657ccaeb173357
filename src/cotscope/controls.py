"""Random sets of neurons to compare a set with: matched and unmatched (design, section 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .records import Neuron

NEAREST = 5  # a match is drawn among this many nearest neurons, so that seeds differ


@dataclass(frozen=True, slots=True)
class Traits:
    """What a neuron was seen to do in discovery: steps at which it was active, its mean update size then."""

    steps: int
    update_size: float


def matched_set(targets: Sequence[Neuron], pool: Mapping[Neuron, Traits], traits: Mapping[Neuron, Traits],
                seed: int) -> list[Neuron]:  # fmt: skip
    """For each target another neuron of its layer, alike in how often active and in update size.

    The distance is Euclidean in the logarithms of both traits, each divided by its standard deviation over the layer's
    pool; targets are served in random order, without replacement, each by one of the 5 nearest neurons that are left.

    Args:
        targets: the set to match.
        pool: neurons to draw from, none of them a target.
        traits: the targets' traits.

    Returns: as many neurons as targets, fewer only where a layer's pool runs out.
    """
    rng = np.random.default_rng(seed)
    chosen: list[Neuron] = []
    for layer in sorted({t.layer for t in targets}):
        here = [t for t in targets if t.layer == layer]
        candidates = sorted(n for n in pool if n.layer == layer)
        if not candidates:
            continue
        points = np.array([_point(pool[n]) for n in candidates])
        scale = np.where((spread := points.std(axis=0)) > 0, spread, 1.0)
        free = np.ones(len(candidates), bool)
        for target in rng.permutation(len(here)):
            left = np.flatnonzero(free)
            if not len(left):
                break
            distance = (((points[left] - _point(traits[here[target]])) / scale) ** 2).sum(axis=1)
            nearest = left[np.argsort(distance, kind="stable")[:NEAREST]]
            pick = int(rng.choice(nearest))
            free[pick] = False
            chosen.append(candidates[pick])
    return chosen


def unmatched_set(targets: Sequence[Neuron], active: Collection[Neuron], seed: int) -> list[Neuron]:
    """Any active neurons, as many of each layer as the targets have there (or all there are)."""
    rng = np.random.default_rng(seed)
    chosen: list[Neuron] = []
    for layer, count in sorted(Counter(t.layer for t in targets).items()):
        candidates = sorted(n for n in active if n.layer == layer)
        picks = rng.choice(len(candidates), size=min(count, len(candidates)), replace=False)
        chosen += [candidates[i] for i in sorted(picks)]
    return chosen


def _point(traits: Traits) -> np.ndarray:
    return np.log([traits.steps, traits.update_size])
