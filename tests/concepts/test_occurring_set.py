"""The occurring concepts: their words stand in solutions, and are no arithmetic."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from cotscope.concepts.lexicon import normalise
from cotscope.concepts.sets import load_concepts
from cotscope.data.builtin import generate
from cotscope.prompts.derive import render_solution
from cotscope.prompts.exemplars import load_exemplars

OCCURRING = load_concepts("occurring")
LEAST = 0.1
"""Share of the solutions in which a concept's words must stand."""
NO_SEED = """total altogether together each every all both per equally share shared split splits left more fewer less remain
             rest half twice double times now so then first second third one two three by over into than many"""
"""Words of solutions that state an operation or a result there, or link its steps."""


@pytest.fixture(scope="module")
def solutions() -> list[set[str]]:
    """The words of each solution of the packaged exemplars, and of built-in problems of every template."""
    exemplars = load_exemplars(None)
    shown = {p.question: p for p in chain(exemplars.mixed, *exemplars.by_operation.values())}
    problems = [*shown.values(), *generate(600)]
    return [set(re.findall("[a-z]+", render_solution(p).lower())) for p in problems]


def test_every_word_stands_in_a_solution(solutions: list[set[str]]) -> None:
    words = set().union(*solutions)
    assert {c.name: set(c.seeds) - words for c in OCCURRING.concepts} == {c.name: set() for c in OCCURRING.concepts}


def test_every_concept_is_named_in_many_solutions(solutions: list[set[str]]) -> None:
    shares = {c.name: sum(bool(s & set(c.seeds)) for s in solutions) / len(solutions) for c in OCCURRING.concepts}
    assert {name: share for name, share in shares.items() if share < LEAST} == {}
    placebo = {s for c in load_concepts("placebo").concepts for s in c.seeds}
    assert not any(s & placebo for s in solutions), "what tells this set from the placebo"


def test_no_word_is_arithmetic_and_none_belongs_to_two_concepts() -> None:
    seeds = [s for c in OCCURRING.concepts for s in c.seeds]
    assert len(seeds) == len(set(seeds))
    assert not set(seeds) & ({s for c in load_concepts("arithmetic").concepts for s in c.seeds} | set(NO_SEED.split()))
    assert all(len(c.seeds) > 6 and c.question.endswith("?") for c in OCCURRING.concepts)


@pytest.mark.model
def test_words_are_tokens(default_tokenizer) -> None:
    tokens = {normalise(default_tokenizer.decode([i])) for i in range(len(default_tokenizer))}
    assert {s for c in OCCURRING.concepts for s in c.seeds} - tokens == set()
