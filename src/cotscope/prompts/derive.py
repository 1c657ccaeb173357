"""The prompts of a study, all derived from the same exemplars, so that they differ in one thing each.

Source: Rai & Yao, "An Investigation of Neuron Activation as a Unified Lens to Explain Chain-of-Thought Eliciting
Arithmetic Reasoning of LLMs" (ACL 2024, arXiv:2406.12288): the four phenomena of the chain-of-thought prompt. As in
the paper's prompts, a wrong result that a later formula uses stands there too, in place of the right one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from ..data.answers import written_answer
from ..data.numbers import evaluate, format_number
from ..records import OPERATIONS, SYMBOLS, Operation, Problem, Prompt, Step
from .exemplars import Exemplars

STEP_BY_STEP = "\nLet's think step by step\n"
PLAIN = "\n"
_ONLY: dict[str, Operation] = {f"{operation}_only": operation for operation in OPERATIONS}
PERTURBATIONS = (
    "full",
    "formulas_only",
    "text_only",
    *_ONLY,
    "wrong_results",
    "wrong_results_out_of_domain",
    "answer_only",
)
"""The derived prompts that show exemplars."""
ZERO_SHOT_NAMES = ("zero_shot", "zero_shot_step_by_step")
DERIVED_NAMES = (*PERTURBATIONS, *ZERO_SHOT_NAMES)
# fmt: off
WORDS: tuple[str, ...] = (
    "Abbott", "Barlow", "Calloway", "Denholm", "Ellery", "Farrow", "Garrick", "Holloway",
    "Ingram", "Jarvis", "Kendrick", "Lambert", "Merrick", "Norwood", "Osborne", "Prescott",
    "Quimby", "Rowland", "Sinclair", "Tilden", "Underwood", "Vaughn", "Whitaker", "Yardley",
)
# fmt: on
"""Surnames that stand for results out of the domain of numbers."""

Layout = Literal["sentence", "formula", "result", "answer"]
"""What is left of a solution: whole sentences, bare formulas, sentences with results only, or the answer alone."""
_LAYOUTS: dict[str, Layout] = {"formulas_only": "formula", "text_only": "result", "answer_only": "answer"}
"""Of the prompts that leave something out."""


class _Shown(NamedTuple):
    """A formula as a prompt shows it: right, or with results replaced."""

    operands: tuple[str, ...]
    result: str


def derive_prompts(exemplars: Exemplars, seed: int = 0) -> tuple[Prompt, ...]:
    """All prompts that these exemplars allow, in the order of `DERIVED_NAMES`; see `left_out` for the others.

    Args:
        exemplars: the worked solutions.
        seed: of the wrong results; the same seed gives the same prompts.
    """
    allowed = (name for name in DERIVED_NAMES if name not in left_out(exemplars))
    return tuple(derive_prompt(name, problems_of(exemplars, name), seed) for name in allowed)


def problems_of(exemplars: Exemplars, name: str) -> tuple[Problem, ...]:
    """The exemplars that the prompt of this name shows; none for zero-shot prompts, and for those `left_out`."""
    if name in ZERO_SHOT_NAMES:
        return ()
    operation = _ONLY.get(name)
    return exemplars.by_operation.get(operation, ()) if operation else exemplars.mixed


def derive_prompt(name: str, problems: Sequence[Problem], seed: int = 0) -> Prompt:
    """One prompt of `DERIVED_NAMES`, showing these problems in this order.

    Args:
        name: which one.
        problems: worked solutions; for a prompt of one operation all of that operation; for zero-shot prompts none.
        seed: of the wrong results. Each prompt has its own stream of random numbers: a change to one leaves the
            others as they were.
    """
    rng = random.Random(f"{seed}:{name}")
    if name == "wrong_results":
        shown = [_replaced(problem, [str(n) for n in _wrong_numbers(problem, rng)]) for problem in problems]
    elif name == "wrong_results_out_of_domain":
        words = _endless_words(problems, rng)
        shown = [_replaced(problem, [next(words) for _ in _formulas(problem)]) for problem in problems]
    else:
        shown = [_right(problem) for problem in problems]
    cue = PLAIN if name in ("formulas_only", "answer_only", "zero_shot") else STEP_BY_STEP
    return _prompt(name, cue, problems, shown, _LAYOUTS.get(name, "sentence"))


def left_out(exemplars: Exemplars) -> tuple[str, ...]:
    """The names of the prompts that `derive_prompts` cannot make: one operation only, and no exemplars of it."""
    return tuple(name for name, operation in _ONLY.items() if operation not in exemplars.by_operation)


def render_solution(problem: Problem) -> str:
    """The gold solution as text, formulas in their sentences, closed by "The answer is N."; the fixed continuation.

    A problem without steps gives its `solution` text and that line, if it does not say so itself, or the line alone. No newline
    at the end.
    """
    if not problem.steps and problem.solution.strip():
        if problem.solution.strip().rstrip(".").endswith(_closing(written_answer(problem.answer)).rstrip(".")):
            return problem.solution.strip()
        return f"{problem.solution.strip()}\n{_closing(written_answer(problem.answer))}"
    return _solution(problem, _right(problem), written_answer(problem.answer), "sentence")


def _prompt(name: str, cue: str, problems: Sequence[Problem], shown: Sequence[list[_Shown]], layout: Layout) -> Prompt:
    blocks = []
    for problem, formulas in zip(problems, shown, strict=True):
        # An exemplar's answer is its last formula's result (load_exemplars checks it), so it is replaced with it.
        solution = _solution(problem, formulas, formulas[-1].result, layout)
        blocks.append(f"Question: {problem.question}{cue}{solution}\n\n")
    return Prompt(name, "".join(blocks), cue)


def _solution(problem: Problem, shown: Sequence[_Shown], answer: str, layout: Layout) -> str:
    lines, formulas = [], iter(shown)
    for step in problem.steps:
        if step.operation is None:
            if layout in ("sentence", "result"):
                lines.append(step.sentence)
            continue
        operands, result = next(formulas)
        formula = f"{f' {SYMBOLS[step.operation]} '.join(operands)} = {result}"
        if layout == "formula":
            lines.append(f"{formula}.")
        elif layout != "answer":
            lines.append(step.sentence.replace("{}", formula if layout == "sentence" else result))
    return "\n".join([*lines, _closing(answer)])


def _closing(answer: str) -> str:
    return f"The answer is {answer}."


def _formulas(problem: Problem) -> list[Step]:
    return [step for step in problem.steps if step.operation is not None]


def _right(problem: Problem) -> list[_Shown]:
    return _replaced(problem, [format_number(step.result) for step in _formulas(problem) if step.result is not None])


def _replaced(problem: Problem, results: Sequence[str]) -> list[_Shown]:
    """The formulas with other results; an operand equal to an earlier result is taken to be that result."""
    shown: list[_Shown] = []
    instead: dict[Fraction, str] = {}
    for step, result in zip(_formulas(problem), results, strict=True):
        assert step.result is not None
        shown.append(_Shown(tuple(instead.get(operand, format_number(operand)) for operand in step.operands), result))
        instead[step.result] = result
    return shown


def _wrong_numbers(problem: Problem, rng: random.Random) -> list[int]:
    """For each formula a whole number of about its result's size, at least 2 so that plurals stay right.

    It is no result of the problem, no operand of its formula, no earlier wrong result, and not what the formula
    comes to with the wrong operands that it shows: each formula is wrong as it stands.
    """
    formulas = _formulas(problem)
    wrong: list[int] = []
    instead: dict[Fraction, Fraction] = {}
    for step in formulas:
        assert step.operation is not None and step.result is not None
        operands = tuple(instead.get(operand, operand) for operand in step.operands)
        barred = {formula.result for formula in formulas if formula.result is not None} | {
            *step.operands,
            *operands,
            *wrong,
        }
        barred.add(evaluate(step.operation, operands))
        size = abs(int(step.result))
        low, high = max(2, size // 3), max(12, 2 * size) + len(barred)  # always more numbers than are barred
        number = rng.randint(low, high)
        while number in barred:
            number = rng.randint(low, high)
        wrong.append(number)
        instead[step.result] = Fraction(number)
    return wrong


def _endless_words(problems: Sequence[Problem], rng: random.Random) -> Iterator[str]:
    """Words in random order, again from the start when used up; none that the exemplars themselves contain."""
    text = " ".join(sentence for problem in problems for sentence in (problem.question, *_sentences(problem)))
    words = [word for word in WORDS if word not in text] or list(WORDS)
    rng.shuffle(words)
    while True:
        yield from words


def _sentences(problem: Problem) -> list[str]:
    return [step.sentence for step in problem.steps]
