"""Variants: different, evenly spread, the same under a seed, and each what its name says."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from math import perm

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotscope.errors import PromptError
from cotscope.prompts.derive import PERTURBATIONS, derive_prompts, problems_of
from cotscope.prompts.exemplars import Exemplars, load_exemplars
from cotscope.prompts.extra import extra_prompts
from cotscope.prompts.variants import FEWEST, MOST, Variant, variants

EXEMPLARS = load_exemplars()
MANY = variants(EXEMPLARS, 200, seed=1)


def few(n: int) -> Exemplars:
    """The first n mixed exemplars, and none of one operation."""
    return replace(EXEMPLARS, mixed=EXEMPLARS.mixed[:n], by_operation={})


def questions(variant: Variant) -> list[str]:
    return re.findall(r"^Question: (.*)$", variant.prompt.prefix, re.MULTILINE)


def test_names_and_prompts_are_different() -> None:
    assert len(MANY) == 200
    assert len({variant.prompt.name for variant in MANY}) == 200
    assert len({variant.prompt.prefix for variant in MANY}) == 200
    assert not {v.prompt.prefix for v in MANY} & {p.prefix for p in derive_prompts(EXEMPLARS, seed=1)}


def test_a_variant_is_what_its_name_says() -> None:
    for variant in MANY:
        perturbation, sizes, letters = variant.prompt.name.split(".")
        assert perturbation == variant.perturbation
        assert sizes == f"{variant.exemplars}of8" and re.fullmatch("[a-z]+", letters)
        asked = questions(variant)
        assert len(asked) == len(set(asked)) == variant.exemplars
        assert set(asked) <= {problem.question for problem in problems_of(EXEMPLARS, perturbation)}


def test_a_variant_is_written_as_the_derived_prompt_is() -> None:
    derived = {prompt.name: prompt for prompt in derive_prompts(EXEMPLARS)}
    for variant in MANY:
        whole = derived[variant.perturbation]
        assert (variant.prompt.cue, variant.prompt.source) == (whole.cue, whole.source)
        if not variant.perturbation.startswith("wrong"):  # their numbers are drawn anew
            blocks = variant.prompt.prefix.removesuffix("\n\n").split("\n\n")
            assert set(blocks) <= set(whole.prefix.removesuffix("\n\n").split("\n\n"))


def test_wrong_results_are_drawn_anew_for_each_variant() -> None:
    closings: dict[str, set[str]] = {}
    for variant in MANY:
        if variant.perturbation == "wrong_results":
            for block in variant.prompt.prefix.removesuffix("\n\n").split("\n\n"):
                question, *_, closing = block.split("\n")
                closings.setdefault(question, set()).add(closing)
    assert all(len(answers) > 1 for answers in closings.values())
    right = {f"The answer is {problem.answer}." for problem in EXEMPLARS.mixed}
    assert len(set().union(*closings.values()) - right) > 20


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 130), st.integers(0, 1000))
def test_perturbations_and_numbers_of_exemplars_are_spread_evenly(count: int, seed: int) -> None:
    made = variants(EXEMPLARS, count, seed)
    counts = Counter(variant.perturbation for variant in made)
    of_each = [counts[name] for name in PERTURBATIONS]
    assert max(of_each) - min(of_each) <= 1
    for name in PERTURBATIONS:
        sizes = Counter(variant.exemplars for variant in made if variant.perturbation == name)
        of_size = [sizes[k] for k in range(FEWEST, 9)]
        assert max(of_size) - min(of_size) <= 1
        assert set(sizes) <= set(range(FEWEST, 9))


def test_orders_are_random_too() -> None:
    order = {problem.question: n for n, problem in enumerate(EXEMPLARS.mixed)}
    mixed = [[order[q] for q in questions(v)] for v in MANY if problems_of(EXEMPLARS, v.perturbation)[0].question in order]
    assert 0.3 < sum(numbers[0] < numbers[-1] for numbers in mixed) / len(mixed) < 0.7


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(0, 100))
def test_fewer_are_a_prefix_of_more_and_a_seed_decides(count: int, seed: int) -> None:
    more = variants(EXEMPLARS, 60, seed)
    assert variants(EXEMPLARS, count, seed) == more[:count]
    assert more != variants(EXEMPLARS, 60, seed + 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_exemplars_are_used_up_and_then_it_is_said(n: int) -> None:
    per_perturbation = sum(perm(n, k) for k in range(FEWEST, n + 1))
    most = 6 * per_perturbation  # all perturbations but those of one operation
    made = variants(few(n), most)
    assert len({variant.prompt.name for variant in made}) == most
    assert set(Counter(variant.perturbation for variant in made).values()) == {per_perturbation}
    orders = {(v.perturbation, tuple(questions(v))) for v in made}
    assert len(orders) == most
    with pytest.raises(PromptError, match=f"at most {most}; got {most + 1}"):
        variants(few(n), most + 1)


def test_letters_go_on_after_z() -> None:
    names = [variant.prompt.name for variant in variants(few(5), 6 * 120) if variant.perturbation == "full"]
    letters = [name.split(".")[2] for name in names if ".3of5." in name]
    assert letters[:2] == ["a", "b"] and letters[25:28] == ["z", "aa", "ab"]


def test_one_exemplar_has_no_variant() -> None:
    with pytest.raises(PromptError, match="at most 0"):
        variants(few(1), 1)
    alone = replace(EXEMPLARS, by_operation={"addition": EXEMPLARS.by_operation["addition"][:1]})
    assert "addition_only" not in {variant.perturbation for variant in variants(alone, 40)}


@pytest.mark.parametrize("count", [0, -3])
def test_none_is_too_few(count: int) -> None:
    with pytest.raises(PromptError, match="at least 1"):
        variants(EXEMPLARS, count)


@pytest.mark.parametrize("count", [MOST + 1, 10**9, 10**30, 10**5000], ids=["10001", "1e9", "1e30", "1e5000"])
def test_more_than_can_be_measured_are_refused_at_once(count: int) -> None:
    began = time.process_time()
    with pytest.raises(PromptError, match=f"too many prompt variants asked for; expected at most {MOST:,}; got") as caught:
        variants(EXEMPLARS, count)
    with pytest.raises(PromptError, match="too many prompt variants"):
        extra_prompts(EXEMPLARS, count, sentences=True)
    with pytest.raises(PromptError, match="at most 360; got"):
        variants(few(4), count)
    assert time.process_time() - began < 1
    assert len(str(caught.value)) < 200
    with pytest.raises(PromptError, match="at least 1"):
        extra_prompts(EXEMPLARS, -count, sentences=False)


def test_of_many_exemplars_a_variant_is_drawn_at_once() -> None:
    """A thousand of them can stand in more orders than there are atoms, which no one counts."""
    problems = tuple(replace(EXEMPLARS.mixed[i % 8], id=f"p{i}") for i in range(1000))
    began = time.process_time()
    made = variants(replace(EXEMPLARS, mixed=problems, by_operation={}), 12)
    assert time.process_time() - began < 5
    assert len({variant.prompt.name for variant in made}) == 12
    with pytest.raises(PromptError, match="too many prompt variants"):
        variants(replace(EXEMPLARS, mixed=problems), 10**30)
