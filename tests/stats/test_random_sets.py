from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotscope.records import Neuron
from cotscope.stats import permutation_p
from cotscope.stats.random_sets import CALIPER, STRATUM, Traits, matched_sets, permuted_sets, random_like, unmatched_set


def pool_of(layers: int, width: int, seed: int = 0) -> dict[Neuron, Traits]:
    rng = np.random.default_rng(seed)
    return {
        Neuron(layer, i): Traits(int(rng.lognormal(3, 1.5)) + 1, float(rng.lognormal(0, 0.5)))
        for layer in range(layers)
        for i in range(width)
    }


def without(everything: dict[Neuron, Traits], targets: list[Neuron]) -> dict[Neuron, Traits]:
    return {n: t for n, t in everything.items() if n not in set(targets)}


def alike(a: Traits, b: Traits) -> bool:
    steps, size = abs(np.log(a.steps / b.steps)), abs(np.log(a.update_size / b.update_size))
    return max(steps, size) <= CALIPER + 1e-12 and a.poles == b.poles


_traits = st.builds(Traits, st.integers(1, 60), st.floats(0.2, 5), st.integers(1, 2))
_neurons = st.dictionaries(st.builds(Neuron, st.integers(0, 2), st.integers(0, 40)), _traits, min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(_neurons, st.data())
def test_matched_sets_hold_the_caliper_and_serve_whom_they_can(everything: dict[Neuron, Traits], data) -> None:
    targets = data.draw(st.lists(st.sampled_from(sorted(everything)), unique=True))
    pool = without(everything, targets)
    kept, sets = matched_sets(targets, pool, everything, [3, 4, 5])
    assert (kept, sets) == matched_sets(targets[::-1], pool, everything, [3, 4, 5])
    # Whatever other seeds there are, a seed's set is the same, and so are the targets.
    assert (kept, sets[1:2]) == matched_sets(targets, pool, everything, [4])
    assert len(sets) == 3
    assert set(kept) <= set(targets) and len(set(kept)) == len(kept)
    for chosen in sets:
        assert len(set(chosen)) == len(chosen) == len(kept)
        assert set(chosen) <= set(pool)
        for target, match in zip(kept, chosen):
            assert match.layer == target.layer
            assert alike(everything[target], pool[match])
    # No target that was left out has an equal that is free.
    for target in set(targets) - set(kept):
        free = [n for n in pool if n.layer == target.layer and alike(everything[target], pool[n]) and n not in sets[0]]
        assert not free


def test_matched_sets_match_on_average_where_a_caliper_alone_would_not() -> None:
    everything = pool_of(3, 2000)
    # Targets are active more often than most: their neighbours within the caliper are, on average, not.
    targets = sorted(everything, key=lambda n: -everything[n].steps * everything[n].update_size)[300:420]
    pool = without(everything, targets)
    kept, [chosen] = matched_sets(targets, pool, everything, [1])
    assert len(kept) >= 0.95 * len(targets)
    assert Counter(n.layer for n in chosen) == Counter(n.layer for n in kept)
    for trait in ("steps", "update_size"):
        own, aim = (np.mean([getattr(everything[n], trait) for n in some]) for some in (chosen, kept))
        assert own / aim == pytest.approx(1, abs=0.03)
    unmatched = unmatched_set(targets, everything, seed=1)
    assert np.mean([everything[n].steps for n in unmatched]) < 0.7 * np.mean([everything[n].steps for n in targets])


def test_the_one_without_an_equal_is_left_out_for_every_seed() -> None:
    everything = {Neuron(0, i): Traits(10 + i % 3, 1.0) for i in range(50)} | {Neuron(0, 99): Traits(5000, 1.0)}
    targets = [Neuron(0, 0), Neuron(0, 99), Neuron(0, 5)]
    kept, sets = matched_sets(targets, without(everything, targets), everything, range(4))
    assert set(kept) == {Neuron(0, 0), Neuron(0, 5)}
    assert all(len(s) == 2 for s in sets)


def test_targets_that_share_their_only_equal_are_not_matched_twice() -> None:
    everything = {Neuron(0, 0): Traits(10, 1.0), Neuron(0, 1): Traits(10, 1.1), Neuron(0, 2): Traits(10, 1.05)}
    kept, sets = matched_sets([Neuron(0, 0), Neuron(0, 1)], {Neuron(0, 2): everything[Neuron(0, 2)]}, everything, [0, 1])
    assert len(kept) == 1 and sets == ((Neuron(0, 2),),) * 2


def test_nothing_to_match_and_nothing_to_match_with() -> None:
    everything = pool_of(1, 5)
    assert matched_sets([], everything, everything, [0, 1]) == ((), ((), ()))
    assert matched_sets(list(everything), {}, everything, [0]) == ((), ((),))


def test_an_update_of_size_zero_is_like_another_only() -> None:
    everything = {Neuron(0, 0): Traits(1, 0.0), Neuron(0, 1): Traits(1, 1.0), Neuron(0, 2): Traits(1, 0.0)}
    assert matched_sets([Neuron(0, 0)], without(everything, [Neuron(0, 0)]), everything, [0]).sets == ((Neuron(0, 2),),)


def test_seeds_differ_far_beyond_their_overlap_by_necessity() -> None:
    everything = pool_of(2, 1000)
    targets = sorted(everything)[::20]
    _, sets = matched_sets(targets, without(everything, targets), everything, range(20))
    shared = [len(set(a) & set(b)) / len(a) for i, a in enumerate(sets) for b in sets[:i]]
    assert np.mean(shared) < 0.35 and max(shared) < 0.6
    assert len(set(sets)) == 20


def test_unmatched_sets_follow_their_seed_and_take_what_there_is() -> None:
    everything = pool_of(2, 200)
    targets = sorted(everything)[::9]
    assert unmatched_set(targets, everything, 3) == unmatched_set(targets, everything, 3)
    assert unmatched_set(targets, everything, 3) != unmatched_set(targets, everything, 4)
    assert Counter(n.layer for n in unmatched_set(targets, everything, 3)) == Counter(n.layer for n in targets)
    assert unmatched_set([Neuron(5, 1)], everything, 0) == []


def cell(neuron: Neuron, traits: Traits) -> tuple[int, ...]:
    return neuron.layer, traits.poles, *(int(np.floor(np.log(t) / STRATUM)) for t in (traits.steps, traits.update_size))


@settings(max_examples=200, deadline=None)
@given(_neurons, st.data())
def test_permuted_sets_have_as_many_neurons_of_each_stratum(everything: dict[Neuron, Traits], data) -> None:
    targets = data.draw(st.lists(st.sampled_from(sorted(everything)), unique=True))
    kept, sets = permuted_sets(targets, without(everything, targets), everything, [3, 4])
    assert (kept, sets[1:]) == permuted_sets(targets[::-1], without(everything, targets), everything, [4])
    strata = Counter(cell(n, everything[n]) for n in kept)
    own = Counter(cell(t, everything[t]) for t in targets)
    there = Counter(cell(n, t) for n, t in everything.items())
    # Left out are exactly those that share their stratum with targets alone.
    assert strata == {s: n for s, n in own.items() if n < there[s]}
    assert set(kept) <= set(targets)
    for chosen in sets:
        assert len(set(chosen)) == len(chosen)
        assert Counter(cell(n, everything[n]) for n in chosen) == strata


def test_a_permuted_set_draws_targets_and_others_alike() -> None:
    everything = {Neuron(0, i): Traits(10, 1.0) for i in range(8)} | {Neuron(1, i): Traits(10, 1.0) for i in range(4)}
    targets = [Neuron(0, 0), Neuron(0, 1), Neuron(1, 3)]
    kept, sets = permuted_sets(targets, without(everything, targets), everything, range(4000))
    assert set(kept) == set(targets)
    drawn = Counter(n for s in sets for n in s)
    for neuron in everything:
        assert drawn[neuron] / 4000 == pytest.approx({0: 2 / 8, 1: 1 / 4}[neuron.layer], abs=0.03)


def test_one_very_active_neuron_makes_no_finding_of_permuted_sets_as_it_does_of_matched_ones() -> None:
    """A neuron with few equals that does everything: chance alone puts it into the target, and then no matched set has it."""
    rng, said = np.random.default_rng(0), Counter()
    everything = {Neuron(0, i): Traits(900 if i >= 200 else 10 + i % 4, 1.0) for i in range(204)}
    for trial in range(300):
        targets = [Neuron(0, int(i)) for i in (*rng.choice(200, 20, replace=False), 200 + rng.choice(4))]
        pool, seeds = without(everything, targets), range(20 * trial, 20 * trial + 20)
        for name, draw in (("matched", matched_sets), ("permuted", permuted_sets)):
            kept, sets = draw(targets, pool, everything, seeds)
            noise = rng.normal(0, 0.01, 21)
            effects = [-(Neuron(0, 200) in s) + e for s, e in zip((kept, *sets), noise)]
            said[name] += permutation_p(effects[0], effects[1:]) <= 0.05
    assert said["matched"] / 300 > 0.15, "one time in four it is the target that has the neuron, and no matched set does"
    assert said["permuted"] / 300 < 0.08


@pytest.mark.slow
def test_two_poles_are_two_chances_of_a_label() -> None:
    """Labels fall on poles at random, and neurons with two poles do more. The rank among sets that ignore this is no p."""
    rng, said = np.random.default_rng(0), Counter()
    counted = {Neuron(0, i): Traits(10, 1.0, 2 if i < 80 else 1) for i in range(400)}
    ignored = {n: replace(t, poles=1) for n, t in counted.items()}
    for trial in range(300):
        labels = rng.random((400, 2)) < 0.15
        targets = [n for n, t in counted.items() if labels[n.index, : t.poles].any()]
        noise = rng.normal(0, 0.5, 21)
        for name, traits in (("counted", counted), ("ignored", ignored)):
            kept, sets = permuted_sets(targets, without(traits, targets), traits, range(20 * trial, 20 * trial + 20))
            effects = [e - sum(counted[n].poles == 2 for n in s) for s, e in zip((kept, *sets), noise)]
            said[name] += permutation_p(effects[0], effects[1:]) <= 0.05
    assert said["ignored"] / 300 > 0.3
    assert said["counted"] / 300 < 0.08


def test_random_like_are_others_of_the_same_layer_and_size() -> None:
    rng = np.random.default_rng(1)
    traits = {
        Neuron(layer, i): (float(a), float(b)) for layer in range(3) for i, (a, b) in enumerate(rng.lognormal(size=(200, 2)))
    }
    targets = [n for n in sorted(traits) if n.index % 7 == 0]
    rng.shuffle(targets)  # type: ignore[arg-type]
    drawn = random_like(targets, traits, 0)
    assert len(drawn) == len(set(drawn)) == len(targets) and not set(drawn) & set(targets)
    assert [d.layer for d in drawn] == [t.layer for t in targets]  # in their order
    off = [max(abs(np.log(a / b)) for a, b in zip(traits[d], traits[t])) for d, t in zip(drawn, targets)]
    anyone = [max(abs(np.log(a / b)) for a, b in zip(traits[n], traits[t])) for t in targets for n in list(traits)[:50]]
    assert np.median(off) < 0.5 * np.median(anyone)
    assert random_like(targets, traits, 0) == drawn != random_like(targets, traits, 1)
    assert len(random_like(sorted(traits)[:150], traits, 0)) == 50  # no more others are there
