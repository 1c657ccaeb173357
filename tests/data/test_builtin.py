"""The built-in word problems: that they are right, readable, different, balanced and the same everywhere."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from cotscope.data import builtin
from cotscope.data.builtin import TEMPLATE_PARTS, Template, generate, templates
from cotscope.data.load import load_problems
from cotscope.data.numbers import evaluate
from cotscope.data.rows import question_key
from cotscope.errors import DataError
from cotscope.records import OPERATIONS, Problem

MANY = generate(2000, seed=3, steps=(1, 4))


def texts(problem: Problem) -> list[str]:
    return [problem.question, *(step.sentence for step in problem.steps)]


def operation_steps(problem: Problem) -> int:
    return sum(step.operation is not None for step in problem.steps)


def test_steps_are_right() -> None:
    for problem in MANY:
        known = {Fraction(number) for number in re.findall(r"\d+", problem.question)}
        for step in problem.steps:
            if step.operation is None:
                assert (step.operands, step.result) == ((), None)
                assert "{" not in step.sentence
                continue
            assert len(step.operands) >= 2
            assert step.result == evaluate(step.operation, step.operands)
            assert known.issuperset(step.operands), problem
            assert step.result.denominator == 1 and step.result >= 2
            assert step.sentence.count("{}") == 1 and step.sentence.count("{") == 1
            known.add(step.result)
        assert problem.answer == problem.steps[-1].result


def test_statements_take_their_numbers_from_the_problem() -> None:
    for problem in MANY:
        known = set(re.findall(r"\d+", problem.question))
        for step in problem.steps:
            assert known.issuperset(re.findall(r"\d+", step.sentence)), problem
            known.add(str(step.result))


@pytest.mark.parametrize(
    ("operation", "operands", "value"),
    [
        ("addition", (2, 3, 4), Fraction(9)),
        ("subtraction", (9, 3, 4), Fraction(2)),
        ("multiplication", (2, 3, 4), Fraction(24)),
        ("division", (24, 3, 5), Fraction(8, 5)),
    ],
)
def test_evaluate(operation: str, operands: tuple[int, ...], value: Fraction) -> None:
    assert evaluate(operation, tuple(map(Fraction, operands))) == value


def test_texts_read_well() -> None:
    for problem in MANY:
        assert problem.question.endswith("?")
        for text in texts(problem):
            assert "  " not in text and text == text.strip()
            assert text[0].isupper() or text[0].isdigit()
            assert text[-1] in ".?"
            assert not re.search(r"\b[01] ", text), text
            assert not re.search(r"\ba [aeiou]|\ban (?!hour)[^aeiou]", text, re.IGNORECASE), text
            assert not re.search(r"\$(?!\d)|\[|\]|\}(?<!\{\})", text), text
            assert not any(first == second for first, second in pairwise(text.lower().split())), text


def test_none_is_asked_twice() -> None:
    assert len({question_key(problem.question) for problem in MANY}) == len(MANY)
    assert len({problem.id for problem in MANY}) == len(MANY)


def test_every_template_and_scene_is_drawn() -> None:
    for template in templates():
        for scene in template.scenes:
            text = template.question
            for key, word in scene.items():
                text = text.replace(f"{{{key}}}", word)
            pieces = re.split(r"\{\w+\}", text)
            drawn = (all(piece in problem.question for piece in pieces) for problem in MANY)
            assert any(drawn), (template.name, scene)


def test_there_are_enough_templates() -> None:
    assert len(templates()) >= 40
    kinds = Counter(template.operations[0] for template in templates() if len(set(template.operations)) == 1)
    assert all(kinds[operation] >= 6 for operation in OPERATIONS)
    assert {len(template.operations) for template in templates()} == {1, 2, 3, 4}


@pytest.mark.parametrize("template", templates(), ids=lambda template: template.name)
def test_template_is_well_formed(template: Template) -> None:
    assert len(template.scenes) >= 3
    assert len({frozenset(scene) for scene in template.scenes}) == 1, "scenes with different words"
    used = "".join((template.question, *template.solution))
    for word in template.scenes[0]:
        assert f"{{{word}}}" in used
    assert template.solution[0].startswith("First ")
    assert template.solution[-1].startswith("So ")


def test_any_stretch_is_balanced() -> None:
    numbers = Counter(operation_steps(problem) for problem in generate(len(templates())))
    assert numbers == Counter(len(template.operations) for template in templates())


@pytest.mark.parametrize("steps", [(1, 1), (2, 3), (4, 4)])
def test_steps_are_counted(steps: tuple[int, int]) -> None:
    counts = {operation_steps(problem) for problem in generate(80, steps=steps)}
    assert counts == set(range(steps[0], steps[1] + 1))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_operation(operation: str) -> None:
    problems = generate(60, operations=[operation])
    assert {step.operation for problem in problems for step in problem.steps} == {operation, None}


def test_two_operations() -> None:
    wanted = {"addition", "subtraction"}
    for problem in generate(60, operations=wanted):
        assert {step.operation for step in problem.steps} <= {*wanted, None}


def test_is_repeatable() -> None:
    assert generate(50, seed=1) == generate(50, seed=1)
    assert generate(50, seed=1) == generate(90, seed=1)[:50]
    first, second = generate(50, seed=1), generate(50, seed=2)
    assert {p.question for p in first} != {p.question for p in second}
    assert [problem.id for problem in first[:2]] == ["builtin-1-0", "builtin-1-1"]


def test_does_not_depend_on_the_hash_seed() -> None:
    script = "from cotscope.data.builtin import generate; print(generate(70, operations={'addition', 'division'}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": 5, "steps": (5, 9)}, "no built-in problem"),
        ({"n": 5, "steps": (3, 1)}, "no built-in problem"),
        ({"n": 5, "operations": ()}, "no built-in problem"),
        ({"n": 5, "operations": ["modulo"]}, "unknown operation"),
        ({"n": 5, "steps": (4, 4), "operations": ["division"]}, "no built-in problem"),
    ],
)
def test_impossible_requests(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        generate(**arguments)


def test_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = ("First the box holds {a} pens.", "So four boxes hold [a * 4 = b] pens.")
    small = Template("small", "a=2..4", ({},), "A box holds {a} pens. How many do 4 boxes hold?", sentences)
    monkeypatch.setattr("cotscope.data.builtin.templates", lambda: (small,))
    assert len(generate(3)) == 3
    with pytest.raises(DataError, match="at most 3"):
        generate(4)


def test_two_parts_of_the_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = (generate(100, part=part) for part in TEMPLATE_PARTS)
    assert train[0].id == "builtin-0-train-0" and held_out[7].id == "builtin-0-held-out-7"
    assert load_problems("builtin:40/held-out").problems == tuple(held_out[:40])
    for wrong in ("builtin:40/", "builtin:40/test", "builtin:/train"):
        with pytest.raises(DataError, match="not a number of built-in problems"):
            load_problems(wrong)
    numbered = tuple(replace(t, question=f"{i}: {t.question}") for i, t in enumerate(templates()))
    monkeypatch.setattr(builtin, "templates", lambda: numbered)
    train, held_out = ({p.question.split(":")[0] for p in generate(200, part=part)} for part in TEMPLATE_PARTS)
    assert not train & held_out and len(train | held_out) == len(numbered) and len(train) == 2 * len(held_out) - 2
