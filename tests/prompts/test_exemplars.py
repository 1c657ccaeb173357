"""Exemplars: the built-in file is sound, formulas parse exactly, and each mistake in a file is named."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotscope.data.numbers import evaluate, format_number
from cotscope.errors import PromptError
from cotscope.prompts.exemplars import load_exemplars, parse_formula
from cotscope.records import OPERATIONS, SYMBOLS

GOOD = """
[[mixed]]
question = "A bowl holds 5 pears. Two are eaten. How many are left?"
steps = ["First there are 5 pears.", "So {5 - 2 = 3} pears are left."]
answer = 3
"""
ANOTHER = GOOD.replace("5 pears", "9 pears").replace("5 - 2 = 3", "9 - 2 = 7").replace("answer = 3", "answer = 7")


def short(value: object) -> str:
    """A parameter's place in a test's name."""
    return ascii(value)[:40]


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def test_built_in_exemplars_have_eight_of_every_group() -> None:
    exemplars = load_exemplars(None)
    assert exemplars.source == "built-in"
    assert len(exemplars.mixed) == 8
    assert {operation: len(group) for operation, group in exemplars.by_operation.items()} == dict.fromkeys(OPERATIONS, 8)
    problems = [*exemplars.mixed, *(p for group in exemplars.by_operation.values() for p in group)]
    assert len({problem.id for problem in problems}) == len({problem.question for problem in problems}) == 40
    used = {step.operation for problem in exemplars.mixed for step in problem.steps} - {None}
    assert used == set(OPERATIONS)
    assert all(1 <= sum(step.operation is not None for step in problem.steps) <= 3 for problem in exemplars.mixed)


def test_an_operand_of_a_built_in_exemplar_equals_an_earlier_result_only_where_it_is_that_result() -> None:
    """Replacing results relies on this: a number that the question states must not be an earlier result by chance."""
    exemplars = load_exemplars(None)
    for problem in [*exemplars.mixed, *(p for group in exemplars.by_operation.values() for p in group)]:
        stated = {Fraction(word.strip(".,?$")) for word in problem.question.split() if word.strip(".,?$").isdigit()}
        results = [step.result for step in problem.steps if step.result is not None]
        assert not stated & set(results[:-1]), problem.question
        assert len(set(results)) == len(results), problem.question


def test_steps_keep_a_mark_where_the_formula_stood(write) -> None:
    path = write(GOOD)
    exemplars = load_exemplars(path)
    statement, formula = exemplars.mixed[0].steps
    assert (statement.sentence, statement.operation, statement.operands) == ("First there are 5 pears.", None, ())
    assert formula.sentence == "So {} pears are left."
    assert (formula.operation, formula.operands, formula.result) == ("subtraction", (5, 2), 3)
    assert exemplars.mixed[0].id == "exemplar:mixed:1"
    assert exemplars.source == str(path)
    assert exemplars.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_groups_come_from_two_mixed_exemplars_of_one_operation(write) -> None:
    assert load_exemplars(write(GOOD)).by_operation == {}
    exemplars = load_exemplars(write(GOOD + ANOTHER))
    assert exemplars.by_operation == {"subtraction": exemplars.mixed}


def test_a_group_of_its_own_is_preferred_even_with_one_exemplar(write) -> None:
    own = ANOTHER.replace("[[mixed]]", "[[subtraction]]")
    exemplars = load_exemplars(write(GOOD + ANOTHER + own))
    assert [problem.id for problem in exemplars.by_operation["subtraction"]] == ["exemplar:subtraction:1"]


def test_a_decimal_answer_is_exact(write) -> None:
    text = GOOD.replace("{5 - 2 = 3}", "{5 ÷ 2 = 2.5}").replace("answer = 3", "answer = 2.5")
    assert load_exemplars(write(text)).mixed[0].answer == Fraction(5, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml", "is not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\xff", "line 1: not UTF-8"),
        (GOOD + "\0", "no text; expected UTF-8; got a NUL character"),
        ("", "no mixed exemplars"),
        ("mixed = []", "no list of exemplars"),
        ("mixed = 3", "no list of exemplars"),
        (ANOTHER.replace("[[mixed]]", "[[subtraction]]"), "no mixed exemplars"),
        (GOOD + ANOTHER.replace("[[mixed]]", "[[modulo]]"), "got modulo"),
        (GOOD.replace("answer = 3", "answer = 3\nhint = 1"), "expected question, steps, answer; got answer, hint"),
        (GOOD.replace("answer = 3", ""), "mixed exemplar 1: wrong keys"),
        (GOOD.replace("answer = 3", 'answer = "3"'), "answer is no number"),
        (GOOD.replace("answer = 3", "answer = nan"), "answer is no number"),
        (GOOD.replace("answer = 3", "answer = true"), "answer is no number"),
        (GOOD.replace("answer = 3", "answer = 4"), "last formula's result; expected 3; got 4"),
        (GOOD.replace("5 - 2 = 3", "5 - 2 = 4"), "expected 3 as the result; got '5 - 2 = 4'"),
        (GOOD.replace("5 - 2 = 3", "five - 2 = 3"), "mixed exemplar 1, step 2: formula does not parse"),
        (GOOD.replace("5 - 2 = 3", "5 - 2 + 0 = 3"), "mixes operators"),
        (GOOD.replace("5 - 2 = 3", "3 / 0 = 3"), "divides by zero"),
        (GOOD.replace("5 - 2 = 3", "5 / 0.00 = 0"), "divides by zero"),
        (GOOD.replace("5 - 2 = 3", "9" * 5000 + " - 2 = 3"), "formula has too long a number; expected at most 100 digits"),
        (GOOD.replace("5 - 2 = 3", "5 - 2 = " + "3" * 5000), "formula has too long a number"),
        (GOOD.replace("5 - 2 = 3", " * ".join(["9" * 100] * 100) + " = 3"), "is wrong arithmetic"),
        (GOOD.replace("5 - 2 = 3", "1" + " + 1" * 100_000 + " = 3"), "too many numbers; expected at most 100 before the ="),
        (GOOD.replace("5 - 2 = 3", "5" + " -" * 100_000 + " 2 = 3"), "does not parse"),
        (GOOD.replace("5 - 2 = 3", "{" * 100_000), "a brace without its partner"),
        (GOOD.replace("answer = 3", "answer = 1e999999999"), "answer is too long a number"),
        (GOOD.replace("answer = 3", "answer = 1e-999999999"), "answer is too long a number"),
        (GOOD.replace("answer = 3", "answer = 1e99999999999999999999"), "has a number that can't be read"),
        (GOOD.replace("answer = 3", "answer = " + "3" * 5000), "has a number that can't be read"),
        (GOOD.replace("answer = 3", "answer = 0x" + "f" * 10_000), "answer is too long a number"),
        (GOOD.replace("answer = 3", "answer = -inf"), "answer is no number"),
        (GOOD.replace("answer = 3", "answer = 1979-05-27"), "answer is no number"),
        (GOOD.replace("answer = 3", "answer = " + "[" * 10_000), "is nested too deeply"),
        ("\n".join(f"key{i} = 1" for i in range(10_000)), "has unknown groups"),
        (GOOD.replace("pears are left", "or {5 - 2 = 3} are left"), "more than one formula"),
        (GOOD.replace("= 3}", "= 3"), "brace without its partner"),
        (GOOD.replace("{5 - 2 = 3}", "3"), "mixed exemplar 1: no formula"),
        (GOOD.replace('"First there are 5 pears."', '""'), "step 1 is empty"),
        (
            GOOD.replace('["First', '"First').replace('left."]', 'left."').replace('pears.", "So', "pears. So"),
            "no list",
        ),
        (GOOD.replace('"A bowl holds 5 pears. Two are eaten. How many are left?"', '" "'), "question is empty"),
        (GOOD + ANOTHER.replace("answer = 7", "answer = 8"), "mixed exemplar 2"),
        (GOOD + ANOTHER.replace("[[mixed]]", "[[addition]]"), "addition exemplar 1: a formula of another operation"),
    ],
    ids=short,
)
def test_each_mistake_is_named_with_its_file_and_place(write, text, words) -> None:
    path = write(text)
    with pytest.raises(PromptError) as caught:
        load_exemplars(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_numbers_of_a_hundred_digits_are_exact(write) -> None:
    large = 10**99
    text = GOOD.replace("5 - 2 = 3", f"{large} - 2 = {large - 2}").replace("answer = 3", f"answer = {large - 2}")
    assert load_exemplars(write(text)).mixed[0].answer == large - 2
    text = GOOD.replace("5 - 2 = 3", f"{large} * 1 = {large}").replace("answer = 3", "answer = 1e99")
    assert load_exemplars(write(text)).mixed[0].answer == large


def test_a_byte_order_mark_is_no_part_of_the_file(write) -> None:
    assert load_exemplars(write(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).mixed[0].answer == 3


def test_what_is_no_file_of_text(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "got a folder"), (Path("a\0b"), "no text"), (Path("x" * 5000), "can't be read"),
                        (Path("\udcff.toml"), "no text")):  # fmt: skip
        with pytest.raises(PromptError, match=words) as caught:
            load_exemplars(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_missing_file_is_a_prompt_error(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="can't be read"):
        load_exemplars(tmp_path / "absent.toml")


@given(
    operation=st.sampled_from(OPERATIONS),
    numbers=st.lists(st.integers(-500, 500).filter(bool), min_size=2, max_size=4),
    places=st.integers(0, 2),
    gap=st.sampled_from(["", " ", "  "]),
)
def test_a_written_formula_parses_to_what_it_says(operation, numbers, places, gap) -> None:
    operands = tuple(Fraction(number, 10**places) for number in numbers)
    if operation == "division":  # the quotient must end within the places that are written
        operands = (evaluate("multiplication", operands), *operands[1:])
    result = evaluate(operation, operands)
    if any("/" in format_number(number) for number in (*operands, result)):
        return
    symbol = f"{gap}{SYMBOLS[operation]}{gap}"
    text = f"{symbol.join(map(format_number, operands))}{gap}={gap}{format_number(result)}"
    assert parse_formula(text) == (operation, operands, result)
    with pytest.raises(PromptError, match="wrong arithmetic"):
        parse_formula(f"{text.rpartition('=')[0]}= {format_number(result + 1)}")


@given(st.text(alphabet="0123456789+-*/x=. ", max_size=14))
def test_any_other_text_is_a_prompt_error(text) -> None:
    try:
        operation, operands, result = parse_formula(text)
    except PromptError:
        return
    assert evaluate(operation, operands) == result


@pytest.mark.parametrize("text", ["6 × 7 = 42", "6x7=42", "6 x 7 = 42"])
def test_signs_of_print_are_read(text) -> None:
    assert parse_formula(text) == ("multiplication", (6, 7), 42)
    assert parse_formula("9 − 4 = 5")[0] == "subtraction"
    assert parse_formula("9 ÷ 3 = 3")[0] == "division"


@given(st.fractions())
def test_a_formatted_number_is_exact(value) -> None:
    text = format_number(value)
    assert Fraction(text) == value
    assert "e" not in text and not text.endswith(".")


@pytest.mark.parametrize(
    ("value", "text"),
    [("3", "3"), ("-5/2", "-2.5"), ("1/3", "1/3"), ("1/1000000", "0.000001"), ("1/10000000", "1/10000000"), ("0", "0")],
)
def test_a_decimal_is_used_only_where_it_ends_within_six_places(value, text) -> None:
    assert format_number(Fraction(value)) == text
