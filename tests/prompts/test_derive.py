"""Derived prompts: each differs from the full one in the one thing that its name says."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from cotscope.prompts.derive import DERIVED_NAMES, STEP_BY_STEP, WORDS, derive_prompts, left_out, render_solution
from cotscope.prompts.exemplars import Exemplars, load_exemplars
from cotscope.records import OPERATIONS, SYMBOLS, Problem, Prompt, Step

TWO = """
[[mixed]]
question = "A pond has 4 frogs. Six more come, and each lays 3 eggs. How many eggs are there?"
steps = ["First there are 4 frogs.", "So there are {4 + 6 = 10} frogs.", "So there are {10 * 3 = 30} eggs."]
answer = 30

[[mixed]]
question = "How many are 9 and 8?"
steps = ["So there are {9 + 8 = 17}."]
answer = 17
"""
FORMULA = re.compile(r"(\w+(?: [-+*/] \w+)+) = (\w+)")


@pytest.fixture
def two(tmp_path: Path) -> Exemplars:
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return load_exemplars(path)


def by_name(exemplars: Exemplars, seed: int = 0) -> dict[str, Prompt]:
    return {prompt.name: prompt for prompt in derive_prompts(exemplars, seed)}


def lines(prompt: Prompt) -> list[list[str]]:
    """The solution lines of each exemplar: without question and cue."""
    blocks = prompt.prefix.removesuffix("\n\n").split("\n\n")
    return [block.split("\n")[1 + prompt.cue.count("\n") - 1 :] for block in blocks]


def test_names_and_order() -> None:
    assert tuple(prompt.name for prompt in derive_prompts(load_exemplars(None))) == DERIVED_NAMES
    assert left_out(load_exemplars(None)) == ()


def test_prompts_that_cannot_be_made_are_left_out_and_named(two: Exemplars) -> None:
    assert left_out(two) == tuple(f"{operation}_only" for operation in OPERATIONS)
    names = tuple(prompt.name for prompt in derive_prompts(two))
    assert names == tuple(name for name in DERIVED_NAMES if name not in left_out(two))


def test_the_layout_of_each_prompt(two: Exemplars) -> None:
    prompts = by_name(two)
    first = "A pond has 4 frogs. Six more come, and each lays 3 eggs. How many eggs are there?"
    assert prompts["full"].prefix == (
        f"Question: {first}\nLet's think step by step\nFirst there are 4 frogs.\nSo there are 4 + 6 = 10 frogs.\n"
        "So there are 10 * 3 = 30 eggs.\nThe answer is 30.\n\n"
        "Question: How many are 9 and 8?\nLet's think step by step\nSo there are 9 + 8 = 17.\nThe answer is 17.\n\n"
    )
    assert prompts["formulas_only"].prefix == (
        f"Question: {first}\n4 + 6 = 10.\n10 * 3 = 30.\nThe answer is 30.\n\n"
        "Question: How many are 9 and 8?\n9 + 8 = 17.\nThe answer is 17.\n\n"
    )
    assert lines(prompts["text_only"])[0] == [
        "First there are 4 frogs.",
        "So there are 10 frogs.",
        "So there are 30 eggs.",
        "The answer is 30.",
    ]
    assert lines(prompts["answer_only"]) == [["The answer is 30."], ["The answer is 17."]]
    assert prompts["zero_shot"].text("Why?") == "Question: Why?\n"
    assert prompts["zero_shot_step_by_step"].text("Why?") == "Question: Why?\nLet's think step by step\n"


def test_a_question_is_appended_just_as_the_exemplars_are_written() -> None:
    exemplars = load_exemplars(None)
    for prompt in derive_prompts(exemplars):
        plain = prompt.name in ("formulas_only", "answer_only", "zero_shot")
        assert prompt.cue == ("\n" if plain else STEP_BY_STEP)
        assert prompt.source == "derived"
        if prompt.prefix:
            operation = prompt.name.removesuffix("_only")
            problem = exemplars.by_operation.get(operation, exemplars.mixed)[0]
            assert prompt.prefix.startswith(Prompt("", "", prompt.cue).text(problem.question))
            assert prompt.prefix.endswith(".\n\n") and "\n\n\n" not in prompt.prefix
            assert prompt.prefix.count("Question: ") == prompt.prefix.count("The answer is ") == 8
            assert "{" not in prompt.prefix


def test_one_operation_prompts_have_formulas_of_that_operation_alone() -> None:
    prompts = by_name(load_exemplars(None))
    for operation in OPERATIONS:
        formulas = FORMULA.findall(prompts[f"{operation}_only"].prefix)
        assert len(formulas) >= 8
        assert {symbol for left, _ in formulas for symbol in re.findall(r"[-+*/]", left)} == {SYMBOLS[operation]}


def test_text_only_has_no_formula_and_formulas_only_no_sentence() -> None:
    prompts = by_name(load_exemplars(None))
    assert not FORMULA.search(prompts["text_only"].prefix)
    for block in lines(prompts["formulas_only"]):
        assert all(re.fullmatch(r"[-0-9+*/ =]+\.", line) for line in block[:-1])


@pytest.mark.parametrize("seed", range(20))
def test_every_formula_of_the_wrong_prompt_is_wrong_and_carried_on(seed: int) -> None:
    exemplars = load_exemplars(None)
    blocks = lines(by_name(exemplars, seed)["wrong_results"])
    for problem, block in zip(exemplars.mixed, blocks, strict=True):
        steps = [step for step in problem.steps if step.operation]
        shown = [match for line in block for match in FORMULA.findall(line)]
        instead: dict[Fraction, Fraction] = {}
        for step, (left, result) in zip(steps, shown, strict=True):
            operands = [Fraction(word) for word in left.split() if word.isdigit()]
            assert operands == [instead.get(operand, operand) for operand in step.operands]
            assert Fraction(result) not in {*(other.result for other in steps), *step.operands, *operands}
            assert eval(left) != int(result)  # digits and one operator, as FORMULA found them
            assert 2 <= int(result) <= max(12, 2 * step.result) + 12
            instead[step.result] = Fraction(result)
        assert block[-1] == f"The answer is {shown[-1][1]}."


def test_wrong_prompts_differ_from_the_full_one_in_numbers_only(two: Exemplars) -> None:
    prompts = by_name(two)
    masked = {name: re.sub(rf"\b(\d+|{'|'.join(WORDS)})\b", "#", prompts[name].prefix) for name in prompts}
    assert masked["wrong_results"] == masked["wrong_results_out_of_domain"] == masked["full"]
    assert prompts["wrong_results"].prefix != prompts["full"].prefix


def test_words_stand_for_results_operands_and_answers() -> None:
    exemplars = load_exemplars(None)
    used: list[str] = []
    for block in lines(by_name(exemplars)["wrong_results_out_of_domain"]):
        shown = [match for line in block for match in FORMULA.findall(line)]
        before: list[str] = []
        for left, result in shown:
            assert result in WORDS
            assert {word for word in left.split() if word.isalpha()} <= set(before)
            before.append(result)
        assert block[-1] == f"The answer is {before[-1]}."
        used += before
    assert len(set(used)) == len(used)


def test_a_seed_decides_the_wrong_prompts_and_no_other() -> None:
    exemplars = load_exemplars(None)
    assert derive_prompts(exemplars, 3) == derive_prompts(exemplars, 3)
    one, other = by_name(exemplars, 3), by_name(exemplars, 4)
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {"wrong_results", "wrong_results_out_of_domain"}


def test_more_formulas_than_words_start_the_words_again() -> None:
    step = Step("So {} it is.", "addition", (Fraction(1), Fraction(2)), Fraction(3))
    problem = Problem("p", "How many?", Fraction(3), (step,))
    prompts = by_name(Exemplars((problem,) * 30, {}, "test", ""))
    assert prompts["wrong_results_out_of_domain"].prefix.count("1 + 2 = ") == 30


def test_gold_solutions(two: Exemplars) -> None:
    assert render_solution(two.mixed[0]) == (
        "First there are 4 frogs.\nSo there are 4 + 6 = 10 frogs.\nSo there are 10 * 3 = 30 eggs.\nThe answer is 30."
    )
    assert render_solution(Problem("p", "?", Fraction(5, 2), solution="Half of 5.\n")) == ("Half of 5.\nThe answer is 2.5.")
    said = "2.5 is half.\nThe answer is 2.5."  # by itself: it is not said twice
    assert render_solution(Problem("p", "?", Fraction(5, 2), solution=said)) == said
    for other in ("2.5 it is.\n#### 2.5", "The answer is 2.5 cups. Check: 5 / 2 = 2.5."):  # not in these words
        assert render_solution(Problem("p", "?", Fraction(5, 2), solution=other)) == f"{other}\nThe answer is 2.5."
    assert render_solution(Problem("p", "?", Fraction(3), solution=said)) == f"{said}\nThe answer is 3."
    assert render_solution(Problem("p", "?", Fraction(1, 3))) == "The answer is 1/3."
