from __future__ import annotations

from collections import Counter

import numpy as np

from cotscope.controls import Traits, matched_set, unmatched_set
from cotscope.records import Neuron


def pool_of(layers: int, width: int, seed: int = 0) -> dict[Neuron, Traits]:
    rng = np.random.default_rng(seed)
    return {
        Neuron(layer, i): Traits(int(rng.lognormal(3, 1.5)) + 1, float(rng.lognormal(0, 0.5)))
        for layer in range(layers)
        for i in range(width)
    }


def test_matched_sets_match() -> None:
    everything = pool_of(3, 2000)
    targets = sorted(everything, key=lambda n: -everything[n].steps * everything[n].update_size)[300:420]
    pool = {n: t for n, t in everything.items() if n not in set(targets)}
    chosen = matched_set(targets, pool, everything, seed=1)
    assert len(set(chosen)) == len(chosen) == len(targets)
    assert not set(chosen) & set(targets)
    assert Counter(n.layer for n in chosen) == Counter(n.layer for n in targets)

    def log_mean(neurons: list[Neuron], trait: str) -> float:
        return float(np.mean([np.log(getattr(everything[n], trait)) for n in neurons]))

    for trait in ("steps", "update_size"):
        spread = np.std([np.log(getattr(t, trait)) for t in pool.values()])
        assert abs(log_mean(chosen, trait) - log_mean(targets, trait)) < 0.15 * spread
    unmatched = unmatched_set(targets, everything, seed=1)
    assert abs(log_mean(unmatched, "steps") - log_mean(targets, "steps")) > 1


def test_sets_follow_their_seed() -> None:
    everything = pool_of(2, 200)
    targets = sorted(everything)[::9]
    pool = {n: t for n, t in everything.items() if n not in set(targets)}
    assert matched_set(targets, pool, everything, 3) == matched_set(targets, pool, everything, 3)
    assert matched_set(targets, pool, everything, 3) != matched_set(targets, pool, everything, 4)
    assert unmatched_set(targets, everything, 3) == unmatched_set(targets, everything, 3)
    assert unmatched_set(targets, everything, 3) != unmatched_set(targets, everything, 4)


def test_a_pool_that_runs_out_gives_what_it_has() -> None:
    everything = pool_of(2, 10)
    targets = [n for n in everything if n.layer == 0 and n.index < 7]
    pool = {n: t for n, t in everything.items() if n not in set(targets)}
    assert len(matched_set(targets, pool, everything, 0)) == 3
    assert len(unmatched_set([Neuron(5, 1)], everything, 0)) == 0
