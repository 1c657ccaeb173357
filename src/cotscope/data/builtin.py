"""Built-in word problems: made from templates, in any number, each with its gold solution as structured steps.

A template is one table of a `templates/*.toml` file:

- `numbers`: the quantities in the order in which they are drawn, "a=8..45, c=3..b-2, d=10..60:5, e=b*c": a range
  (inclusive, ":" its stride) or a value, with ends that may use earlier quantities. All of them, results too, are whole
  and at least 2, so that plurals are always right.
- `scenes`: sets of words that fit together, one of which is drawn.
- `question` and `solution`: `{a}` is a quantity, `{item}` a word of the scene, `{name}` a person with the pronouns
  `{he}`, `{him}`, `{his}` (capitalised too), `{friend}` a second person. In the solution, "[a - b = c]" marks the
  formula of a step and names its result; a sentence without one states a fact.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from random import Random

from ..errors import DataError, shown
from ..records import OPERATIONS, SYMBOLS, Operation, Problem, Step
from .numbers import evaluate

TEMPLATE_PARTS = ("train", "held-out")
"""Two parts of the templates that share none: two in three, and the third."""

_SHE = (
    "Ada", "Amina", "Beatriz", "Clara", "Dalia", "Elif", "Freya", "Greta", "Hana", "Ines",
    "Jing", "Katya", "Lena", "Mei", "Nadia", "Olga", "Priya", "Rosa", "Sofia", "Yara",
)  # fmt: skip
_HE = (
    "Aron", "Bruno", "Chidi", "Dmitri", "Emil", "Farid", "Goran", "Hugo", "Idris", "Jonas",
    "Kofi", "Lars", "Mateo", "Nikhil", "Oskar", "Pavel", "Ravi", "Samir", "Tomas", "Yusuf",
)  # fmt: skip
_PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}
_BY_SYMBOL: dict[str, Operation] = {symbol: operation for operation, symbol in SYMBOLS.items()}
_FORMULA = re.compile(r"\[([^=\]]+)=\s*(\w+)\]")
_SMALLEST = 2
_TRIES = 200
"""Draws of one template that may fail or repeat a question before it counts as used up."""


@dataclass(frozen=True, slots=True)
class Template:
    """A word problem without its names, things and numbers (see the module's text for the notation)."""

    name: str
    numbers: str
    scenes: tuple[Mapping[str, str], ...]
    question: str
    solution: tuple[str, ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operation of each operation step, in order."""
        formulas = (_FORMULA.search(sentence) for sentence in self.solution)
        return tuple(_operation(match[1])[0] for match in formulas if match)


@cache
def templates() -> tuple[Template, ...]:
    """All templates, sorted by name."""
    found = []
    for path in (resources.files("cotscope.data") / "templates").iterdir():
        if path.name.endswith(".toml"):
            for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
                scenes, solution = tuple(table["scenes"]), tuple(table["solution"])
                found.append(Template(name, table["numbers"], scenes, table["question"], solution))
    return tuple(sorted(found, key=lambda template: template.name))


def generate(
    n: int,
    seed: int = 0,
    steps: tuple[int, int] = (1, 4),
    operations: Collection[Operation] | None = None,
    part: str | None = None,
) -> list[Problem]:
    """`n` different word problems, the same for the same arguments on any machine; fewer are a prefix of more.

    Templates take turns, in a new order each round, so that any stretch of the list is balanced.

    Args:
        n: how many, at least 1.
        seed: of all draws; it is also in the ids, `builtin-<seed>-<i>`, of a part `builtin-<seed>-<part>-<i>`.
        steps: the least and the most operation steps of a solution (templates have 1 to 4).
        operations: only problems all of whose operation steps are among these; None for all four.
        part: of the templates (`TEMPLATE_PARTS`): who trains on one and tests on the other tests on other templates; None: all.

    Raises:
        DataError: no template fits, or not that many different problems can be made.
    """
    if n < 1:
        raise DataError("too few problems asked of the built-in generator", expected="at least 1", got=shown(n))
    wanted = set(OPERATIONS if operations is None else operations)
    if not wanted <= set(OPERATIONS):
        raise DataError("unknown operation", expected="some of " + ", ".join(OPERATIONS), got=", ".join(sorted(wanted)))
    of_part = [t for i, t in enumerate(templates()) if part in (None, TEMPLATE_PARTS[i % 3 == 0])]
    usable = [t for t in of_part if steps[0] <= len(t.operations) <= steps[1] and wanted.issuperset(t.operations)]
    if not usable:
        got = f"{steps[0]} to {steps[1]} steps of " + (", ".join(sorted(wanted)) or "no operation")
        raise DataError("no built-in problem is of this kind", expected="1 to 4 steps", got=got)
    rng = Random(f"cotscope-{seed}")  # a string, because it is hashed by SHA-512: the same everywhere
    problems: list[Problem] = []
    asked: set[str] = set()
    ids = f"builtin-{seed}-{part}" if part else f"builtin-{seed}"
    while usable:
        rng.shuffle(usable)
        for template in tuple(usable):
            problem = _new(template, f"{ids}-{len(problems)}", asked, rng)
            if problem is None:
                usable.remove(template)
                continue
            asked.add(problem.question)
            problems.append(problem)
            if len(problems) == n:
                return problems
    raise DataError(
        "the built-in generator cannot make that many different problems of this kind",
        expected=f"at most {len(problems)}",
        got=shown(n),
        remedy="Ask for fewer, or allow more steps or operations.",
    )


def _new(template: Template, problem_id: str, asked: Collection[str], rng: Random) -> Problem | None:
    """A problem whose question is not in `asked`; None if none turns up."""
    for _ in range(_TRIES):
        problem = _draw(template, problem_id, rng)
        if problem is not None and problem.question not in asked:
            return problem
    return None


def _draw(template: Template, problem_id: str, rng: Random) -> Problem | None:
    """One draw of `template`; None if its numbers came out of range."""
    numbers = _draw_numbers(template.numbers, rng)
    if numbers is None:
        return None
    words = {**rng.choice(template.scenes), **_people(rng)}
    steps: list[Step] = []
    for sentence in template.solution:
        step = _step(sentence, numbers, words)
        if step is None:
            return None
        steps.append(step)
    answer = steps[-1].result
    assert answer is not None, f"template {template.name}: the last sentence has no formula"
    question = _fill(template.question, numbers, words)
    return Problem(id=problem_id, question=question, answer=answer, steps=tuple(steps))


def _draw_numbers(text: str, rng: Random) -> dict[str, Fraction] | None:
    numbers: dict[str, Fraction] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        span, _, stride = value.partition(":")
        low, dots, high = span.partition("..")
        first = _evaluate(low, numbers)
        if dots:
            choices = range(int(first), int(_evaluate(high, numbers)) + 1, int(stride or 1))
            if not choices:
                return None
            first = Fraction(rng.choice(choices))
        if first < _SMALLEST:
            return None
        numbers[name] = first
    return numbers


def _people(rng: Random) -> dict[str, str]:
    name, friend = rng.sample(_SHE + _HE, 2)
    he, him, his = _PRONOUNS["she" if name in _SHE else "he"]
    people = {"name": name, "friend": friend, "he": he, "him": him, "his": his}
    return people | {"He": he.capitalize(), "His": his.capitalize()}


def _step(sentence: str, numbers: dict[str, Fraction], words: Mapping[str, str]) -> Step | None:
    """The step of one sentence, its result added to `numbers`; None if that is not whole or too small."""
    match = _FORMULA.search(sentence)
    if match is None:
        return Step(_fill(sentence, numbers, words))
    operation, terms = _operation(match[1])
    operands = tuple(_evaluate(term, numbers) for term in terms)
    result = evaluate(operation, operands)
    if result.denominator != 1 or result < _SMALLEST:
        return None
    assert numbers.get(match[2], result) == result, f"two values for {match[2]} in {sentence!r}"
    numbers[match[2]] = result
    before, after = sentence[: match.start()], sentence[match.end() :]
    filled = _fill(before, numbers, words) + "{}" + _fill(after, numbers, words)
    return Step(filled, operation, operands, result)


def _operation(formula: str) -> tuple[Operation, list[str]]:
    """The operation of "a - b" and its terms; one operation to a formula."""
    terms = formula.split()
    symbols = set(terms[1::2])
    assert len(symbols) == 1, f"one operation to a formula: {formula!r}"
    return _BY_SYMBOL[symbols.pop()], terms[::2]


def _evaluate(expression: str, numbers: Mapping[str, Fraction]) -> Fraction:
    """The value of "7", "b" or "b-3"; of at most one operation."""
    parts = re.split(r"\s*([-+*/])\s*", expression.strip())
    values = tuple(Fraction(part) if part.isdigit() else numbers[part] for part in parts[::2])
    return values[0] if len(values) == 1 else evaluate(_BY_SYMBOL[parts[1]], values)


def _fill(text: str, numbers: Mapping[str, Fraction], words: Mapping[str, str]) -> str:
    return text.format_map({**words, **numbers})
