"""Ways of choosing neurons, on evidence in which the right choice is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cotscope.measuring.selections import WAYS, Evidence, attribution, contrast, lexicon, paper, size, words
from cotscope.records import Concept, Neuron, Pole
from cotscope.runs.tables import ATTRIBUTIONS

LAYERS, WIDTH = 4, 50


def made(seed: int = 0) -> Evidence:
    """Noise everywhere; 40 completions of two strata, half of them right."""
    rng = np.random.default_rng(seed)
    names = [n for n in ATTRIBUTIONS.schema.names if n not in ("layer", "index")]
    columns = {n: rng.normal(0, 1, (LAYERS, WIDTH)) for n in names} | {
        n: rng.lognormal(0, 0.3, (LAYERS, WIDTH)) for n in ("solutions_size", "text_size")
    }
    active = [Neuron(layer, i) for layer in range(LAYERS) for i in range(0, WIDTH, 2)]
    right = [i % 2 == 0 for i in range(40)]
    return Evidence(
        columns,
        [Neuron(1, 4), Neuron(2, 8), Neuron(3, 2)],
        rng.uniform(0, 0.5, (40, len(active))),
        active,
        right,
        [(i % 4 // 2, False) for i in range(40)],
        {
            Pole(1, 4, -1): ["plus", "sum", "red"],
            Pole(1, 4, 1): [" +", "blue"],  # the other pole promotes a symbol
            Pole(2, 6, 1): ["plus", "sum"],
            Pole(3, 0, 1): ["+", "-"],
            Pole(3, 8, 1): ["Total", " sum"],
        },
        {Pole(1, 4, 1): ["+", " plus", "x"], Pole(2, 6, 1): ["red", "blue"], Pole(3, 0, 1): [" Sum", "add"]},
        (Concept("addition", "", ("+", "plus", "sum", "total")), Concept("subtraction", "", ("-", "minus"))),
        {Neuron(1, 4): 5, Neuron(2, 8): 9, Neuron(3, 2): 1, Neuron(3, 0): 7},
        frozenset({Neuron(0, 0)}),
    )


@pytest.mark.parametrize("way", WAYS)
def test_no_way_chooses_a_neuron_twice_or_one_that_is_barred(way: str) -> None:
    everything = frozenset(Neuron(layer, i) for layer in range(LAYERS) for i in range(0, WIDTH, 3))
    chosen = WAYS[way](replace(made(), barred=everything), 30)
    assert len(chosen) == len(set(chosen)) <= 30 and not everything.intersection(chosen)


def test_the_lexicons_come_in_the_order_of_their_steps() -> None:
    assert lexicon(made(), 2) == [Neuron(2, 8), Neuron(1, 4)]


def test_the_papers_promote_two_words_of_one_concept() -> None:
    assert paper(made(), 10) == [Neuron(3, 0), Neuron(1, 4)]


def test_words_are_of_neurons_that_promote_no_symbol() -> None:
    assert words(made(), 10) == [Neuron(2, 6), Neuron(3, 8)]


def test_attribution_takes_what_results_lose_indirectly_and_nothing_else_does() -> None:
    evidence = made()
    for name in evidence.columns:
        evidence.columns[name][:] *= 1e-3
    margin, direct, battery = (evidence.columns[n] for n in ("result_margin", "result_margin_direct", "battery"))
    margin[1, 7] = -5.0  # all of it through later layers
    margin[2, 9] = direct[2, 9] = -9.0  # all of it its own push
    margin[3, 11], battery[3, 11] = -6.0, -6.0  # everything suffers
    margin[2, 3] = 8.0  # results gain
    assert attribution(evidence, 1) == [Neuron(1, 7)]
    assert Neuron(2, 9) not in attribution(evidence, 20) and Neuron(2, 3) not in attribution(evidence, 20)
    margin[3, 11] = -60.0
    battery[3, 11] = 0.0
    assert attribution(evidence, 2) == [Neuron(3, 11), Neuron(1, 7)]


def test_size_takes_what_is_large_on_solutions_and_not_on_text() -> None:
    evidence = made()
    evidence.columns["solutions_size"][1, 3] = evidence.columns["text_size"][1, 3] = 50.0  # large everywhere
    evidence.columns["solutions_size"][2, 5] = 40.0
    evidence.columns["text_size"][2, 5] = 0.01
    chosen = size(evidence, 10)
    assert chosen[0] == Neuron(2, 5) and Neuron(1, 3) not in chosen and len(chosen) == 10


def test_size_gives_what_there_is_where_rankings_are_alike() -> None:
    evidence = made()
    rng = np.random.default_rng(1)
    alike = {"solutions_size": evidence.columns["solutions_size"]}
    alike["text_size"] = alike["solutions_size"] * rng.lognormal(0, 0.02, (LAYERS, WIDTH))
    most = max(_difference(alike, k) for k in range(1, LAYERS * WIDTH))
    chosen = size(replace(evidence, columns={**evidence.columns, **alike}, barred=frozenset()), 150)
    assert 0 < len(chosen) == most < 150


def _difference(columns: dict[str, np.ndarray], k: int) -> int:
    """How many of the k largest on solutions are not among the k largest on text."""
    largest = [set(np.argsort(-columns[c].ravel(), kind="stable")[:k].tolist()) for c in ("solutions_size", "text_size")]
    return len(largest[0] - largest[1])


def test_contrast_is_not_led_by_strata_of_one_against_one() -> None:
    """A neuron that differs by chance in a stratum of two does not come before one that differs in twenty."""
    evidence = made()
    strata = [(0, False) if i < 38 else (1, False) for i in range(40)]
    rates = np.random.default_rng(2).uniform(0, 0.5, evidence.rates.shape)
    rates[38:, :] = 0.25
    rates[38, 5] = 0.5  # right, in the stratum of two; nothing else there differs
    rates[:38, 7] += np.where(evidence.right[:38], 0.3, 0.0)
    chosen = contrast(replace(evidence, rates=rates, strata=strata), 1)
    assert chosen == [evidence.active[7]]


def test_contrast_finds_what_goes_with_being_right_and_not_with_the_stratum() -> None:
    evidence = made()
    right, strata = np.array(evidence.right), np.array([s for s, _ in evidence.strata])
    evidence.rates[right, 10] += 0.4
    evidence.rates[~right, 20] += 0.4
    # More active in the second stratum, where most are right: within strata it tells nothing.
    most = replace(evidence, right=[bool(s == (i % 8 != 0)) for i, s in enumerate(strata)])
    confounded = replace(most, rates=evidence.rates.copy())
    confounded.rates[:, 30] = 0.1 + 0.6 * strata
    chosen = contrast(evidence, 3)
    assert chosen[0] == evidence.active[10] and evidence.active[20] not in chosen
    assert evidence.active[30] not in contrast(confounded, 5)
    assert evidence.active[20] == contrast(replace(evidence, right=[not r for r in evidence.right]), 1)[0]


def test_contrast_is_silent_where_no_stratum_has_both() -> None:
    evidence = made()
    assert contrast(replace(evidence, right=[True] * 40), 5) == []
    assert contrast(replace(evidence, right=[s == 1 for s, _ in evidence.strata]), 5) == []
    pairs = [(i // 2, False) for i in range(40)]  # one right, one wrong in each: no spread is known
    assert contrast(replace(evidence, strata=pairs), 5) == []
