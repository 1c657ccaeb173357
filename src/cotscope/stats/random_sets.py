"""Random sets of neurons to compare a set with: matched, unmatched and permuted.

Matching within calipers: Rosenbaum & Rubin 1985; optimal matching: Rosenbaum 1989; stratified permutation: Good 2005.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..records import Neuron

CALIPER = 0.25
"""The most by which a match may differ from its target in the logarithm of steps, and in that of update size.

Equals are alike within a factor of 1.28 in either trait: about 0.15 standard deviations of log steps and 0.3 of log
update size, as narrow as the 0.2 to 0.25 that is usual (Rosenbaum & Rubin 1985; Austin 2011). They have as many poles too. On
the default model 97 % of the reasoning neurons have such a counterpart and every set's mean steps are 0.98 to 1.00 of theirs.
Without regard to poles (when the caliper was chosen) at 0.1 one in twelve had no equal, and at 0.5 sets fell to 0.96.
"""

STRATUM = 2 * CALIPER
"""The width of a stratum, in the logarithm of steps and in that of update size."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a neuron was seen to do in discovery.

    Attributes:
        steps: generated tokens at which it was active.
        update_size: its mean at them.
        poles: signs with which it was active, 1 or 2. With two it has two chances to promote a concept's words.
    """

    steps: int
    update_size: float
    poles: int = 1


class Matched(NamedTuple):
    """Targets that can be compared, and sets that are like them.

    Attributes:
        targets: in the order of layers; those without a counterpart, or alone in their stratum, are left out.
        sets: one per seed. Of matched sets the neuron at each place is the equal of the target at that place.
    """

    targets: tuple[Neuron, ...]
    sets: tuple[tuple[Neuron, ...], ...]


def matched_sets(targets: Collection[Neuron], pool: Mapping[Neuron, Traits], traits: Mapping[Neuron, Traits],
                 seeds: Sequence[int]) -> Matched:  # fmt: skip
    """For each target another neuron of its layer with as many poles, alike in how often active and in update size, once per
    seed.

    Per layer, an assignment of neurons to targets within the caliper that has the least cost: the squared distance
    in calipers (0 to 2) plus noise of the seed (uniform, 0 to 1), so that seeds differ. Which targets have a counterpart
    is settled once, without noise: the assignment that serves the most targets, and among those the nearest.

    Args:
        targets: the set to match.
        pool: neurons to draw from, none of them a target.
        traits: the targets' traits.
        seeds: of the sets.
    """
    kept: list[Neuron] = []
    sets: list[list[Neuron]] = [[] for _ in seeds]
    generators = [np.random.default_rng(seed) for seed in seeds]
    for layer in sorted({t.layer for t in targets}):
        here = sorted(t for t in targets if t.layer == layer)
        free = sorted(n for n in pool if n.layer == layer)
        if not free:
            continue
        assert not set(here) & set(free), "a target in the pool"
        difference = (log_traits(here, traits)[:, None] - log_traits(free, pool)) / CALIPER  # (targets, pool, traits)
        cost: NDArray[np.float64] = (difference**2).sum(axis=2)
        poles = [np.array([known[n].poles for n in some]) for some, known in ((here, traits), (free, pool))]
        alike: NDArray[np.bool_] = np.all(np.abs(difference) <= 1, axis=2) & (poles[0][:, None] == poles[1])
        rows, columns = _assign(cost, alike)
        rows = rows[alike[rows, columns]]
        if not len(rows):
            continue
        kept += [here[row] for row in rows]
        cost, alike = cost[rows], alike[rows]
        for chosen, rng in zip(sets, generators):
            order, columns = _assign(cost + rng.random(cost.shape), alike)
            assert alike[order, columns].all(), "the targets of a comparison can all be matched"
            chosen += [free[column] for column in columns]
    return Matched(tuple(kept), tuple(map(tuple, sets)))


def permuted_sets(targets: Collection[Neuron], pool: Mapping[Neuron, Traits], traits: Mapping[Neuron, Traits],
                  seeds: Sequence[int]) -> Matched:  # fmt: skip
    """For each stratum as many neurons as the targets have there, drawn from all that are there, targets too.

    A stratum is a cell of a grid: one layer, one number of poles, log steps and log update size to within `STRATUM`. If
    it were chance within strata that these neurons are the targets, the target set would be just one more of these sets,
    so that its rank among them is an exact p-value (a stratified permutation test; Good 2005). Without the poles it would
    not be chance: a neuron with two has two chances of a label. Matched sets are not like that: they never hold a target,
    and nearly all of them hold the same few substitutes for a very active one.

    Args:
        targets: the set to permute.
        pool: all the other neurons that could have been targets, rejected candidates too.
        traits: the targets' traits.
        seeds: of the sets.
    """
    everything = sorted({*targets, *pool})
    known = {**pool, **{t: traits[t] for t in targets}}
    return permuted_within(dict(zip(everything, strata_of(everything, known))), targets, seeds)


def strata_of(neurons: Sequence[Neuron], traits: Mapping[Neuron, Traits]) -> list[Hashable]:
    """The cell of each neuron: layer, number of poles, log steps and log update size to within `STRATUM`."""
    cells = np.floor(log_traits(neurons, traits) / STRATUM).astype(int).tolist()
    return [(n.layer, traits[n].poles, *cell) for n, cell in zip(neurons, cells)]


def permuted_within(stratum: Mapping[Neuron, Hashable], targets: Collection[Neuron], seeds: Sequence[int]) -> Matched:
    """For each stratum as many neurons as the targets have there, drawn from all that are there, targets too.

    Args:
        stratum: of every neuron that can be drawn, the targets among them.
    """
    strata: dict[Hashable, list[Neuron]] = defaultdict(list)
    for neuron in sorted(stratum):
        strata[stratum[neuron]].append(neuron)
    chosen, kept = set(targets), list[Neuron]()
    shares: list[tuple[list[Neuron], int]] = []
    for here in strata.values():
        own = [n for n in here if n in chosen]
        if own and len(own) < len(here):
            kept += own
            shares.append((here, len(own)))
    sets = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        sets.append(tuple(sorted(here[i] for here, count in shares for i in rng.choice(len(here), count, replace=False))))
    return Matched(tuple(sorted(kept)), tuple(sets))


def in_place_of(targets: Sequence[Neuron], drawn: Sequence[Neuron]) -> dict[Neuron, Neuron]:
    """Which of the neurons that `random_like` drew stands for each target; where a layer had too few, the last have none."""
    left = {layer: [n for n in drawn if n.layer == layer] for layer in {n.layer for n in targets}}
    return {n: left[n.layer].pop(0) for n in targets if left[n.layer]}


def random_like(
    targets: Sequence[Neuron], traits: Mapping[Neuron, Sequence[float]], seed: int, nearest: int = 10
) -> list[Neuron]:
    """For each target another neuron of its layer, drawn from those that are nearest to it; in the targets' order.

    No target and none twice. A target that is larger than all others of its layer gets one that is smaller, where
    `permuted_within` leaves it out.

    Args:
        traits: of every neuron that can be drawn, and of the targets; numbers that are compared by their logarithms.
        nearest: from how many one is drawn.

    Returns: fewer than the targets where a layer has too few others.
    """
    rng = np.random.default_rng(seed)
    barred, found = set(targets), list[Neuron]()
    by_layer: dict[int, list[Neuron]] = defaultdict(list)
    for neuron in sorted(traits):
        by_layer[neuron.layer].append(neuron)
    logs = {
        layer: np.log(np.maximum(np.array([traits[n] for n in here], float), np.finfo(float).tiny))
        for layer, here in by_layer.items()
    }
    place = {n: i for here in by_layer.values() for i, n in enumerate(here)}
    free = {layer: np.array([n not in barred for n in here]) for layer, here in by_layer.items()}
    for target in targets:
        here, open_places = by_layer[target.layer], np.flatnonzero(free[target.layer])
        if not len(open_places):
            continue
        distance = np.abs(logs[target.layer][open_places] - logs[target.layer][place[target]]).max(axis=1)
        drawn = open_places[rng.choice(np.argsort(distance, kind="stable")[:nearest])]
        free[target.layer][drawn] = False
        found.append(here[drawn])
    return found


def unmatched_set(targets: Sequence[Neuron], active: Collection[Neuron], seed: int) -> list[Neuron]:
    """Any active neurons, as many of each layer as the targets have there (or all there are)."""
    rng = np.random.default_rng(seed)
    chosen: list[Neuron] = []
    for layer, count in sorted(Counter(t.layer for t in targets).items()):
        candidates = sorted(n for n in active if n.layer == layer)
        picks = rng.choice(len(candidates), size=min(count, len(candidates)), replace=False)
        chosen += [candidates[i] for i in sorted(picks)]
    return chosen


def _assign(cost: NDArray[np.float64], alike: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the cheapest assignment among those with the most pairs that are alike; rows ascend."""
    from scipy.optimize import linear_sum_assignment

    never = 4.0 * (len(cost) + 1)  # dearer than all the others together, which cost below 3 each
    return linear_sum_assignment(np.where(alike, cost, never))


def log_traits(neurons: Sequence[Neuron], traits: Mapping[Neuron, Traits]) -> NDArray[np.float64]:
    """Logarithms of both traits (neurons, 2). A size of 0 (a ReLU's) counts as the smallest number there is."""
    points = np.array([(traits[n].steps, traits[n].update_size) for n in neurons], float).reshape(-1, 2)
    return np.log(np.maximum(points, np.finfo(float).tiny))
