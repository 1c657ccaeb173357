"""Variants of the derived prompts: other numbers and orders of exemplars under every perturbation.

A correlation over twelve prompts rests on twelve points; variants give it as many as there is time to measure.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import PromptError, shown
from ..records import Problem, Prompt
from .derive import PERTURBATIONS, derive_prompt, problems_of
from .exemplars import Exemplars

FEWEST = 2
"""Exemplars that a variant has at least."""

MOST = 10_000
"""Variants that are made at most: each is a prompt that a model reads and answers on every problem."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A prompt and what it was made of.

    Attributes:
        prompt: named PERTURBATION.KofN.LETTERS, e.g. "full.3of8.a": K of the perturbation's N exemplars; the letters
            number the variants of one K.
        perturbation: one of `PERTURBATIONS`.
        exemplars: K.
    """

    prompt: Prompt
    perturbation: str
    exemplars: int


def variants(exemplars: Exemplars, count: int, seed: int = 0) -> tuple[Variant, ...]:
    """Different variants, each of 2 to all exemplars in random order; the same for the same arguments.

    Perturbations take turns, and within each the numbers of exemplars do, in a new order each round. So both are
    spread evenly, except where a perturbation has no more subsets and orders. Fewer variants are a prefix of more.

    Args:
        exemplars: the worked solutions; a perturbation of which they have fewer than two is left out.
        count: how many, 1 to `MOST`.
        seed: of all draws, the wrong results included.

    Raises:
        PromptError: `count` is below 1 or above `MOST`, or the exemplars do not allow that many.
    """
    if count < 1:
        raise PromptError("too few prompt variants asked for", expected="at least 1", got=shown(count))
    _check_count(exemplars, count)
    made: list[Variant] = []
    turns = {name: _of_one(name, problems_of(exemplars, name), seed) for name in PERTURBATIONS}
    while turns:
        for name in tuple(turns):
            variant = next(turns[name], None)
            if variant is None:
                del turns[name]
                continue
            made.append(variant)
            if len(made) == count:
                return tuple(made)
    raise AssertionError("fewer variants than were counted")


def _check_count(exemplars: Exemplars, count: int) -> None:
    """Refuse more variants than there are before any is drawn: that could take until the end of time."""
    allowed = 0
    for name in PERTURBATIONS:
        n = len(problems_of(exemplars, name))
        for k in range(FEWEST, n + 1):
            allowed += _orders(n, k)
            if allowed > MOST:
                break
    if count > MOST and allowed > MOST:
        raise PromptError("too many prompt variants asked for", expected=f"at most {MOST:,}", got=shown(count))
    if count > allowed:
        raise PromptError(
            f"the exemplars ({exemplars.source}) do not allow that many prompt variants",
            expected=f"at most {allowed}",
            got=shown(count),
            remedy="Ask for fewer, or add exemplars.",
        )


def _orders(n: int, k: int) -> int:
    """In how many ways k of n things can stand in a row; counted no further than is ever asked, just above `MOST`."""
    ways = 1
    for i in range(k):
        ways *= n - i
        if ways > MOST:
            break
    return min(ways, MOST + 1)


def _of_one(perturbation: str, problems: tuple[Problem, ...], seed: int) -> Iterator[Variant]:
    """All variants of one perturbation, in random order."""
    rng = random.Random(f"{seed}:{perturbation}:variants")
    made: set[tuple[str, ...]] = set()
    of_size: Counter[int] = Counter()
    orders = {k: _orders(len(problems), k) for k in range(FEWEST, len(problems) + 1)}
    while sizes := [k for k in orders if of_size[k] < orders[k]]:
        rng.shuffle(sizes)
        for size in sizes:
            chosen = rng.sample(problems, size)
            while (order := tuple(problem.id for problem in chosen)) in made:
                chosen = rng.sample(problems, size)
            made.add(order)
            name = f"{perturbation}.{size}of{len(problems)}.{_letters(of_size[size])}"
            of_size[size] += 1
            prompt = derive_prompt(perturbation, chosen, seed=rng.getrandbits(32))
            yield Variant(replace(prompt, name=name), perturbation, size)


def _letters(number: int) -> str:
    """a, b, … z, aa, ab, … for 0, 1, …, as spreadsheets name columns."""
    letters = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        letters = chr(ord("a") + letter) + letters
        number -= 1
    return letters
