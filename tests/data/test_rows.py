"""Problems that a file spells in ways that JSON allows and a study can't use."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from cotscope.data.load import load_problems
from cotscope.errors import DataError
from cotscope.records import Problem


def short(value: object) -> str:
    """A parameter's place in a test's name."""
    return ascii(value)[:40]


def load(folder: Path, text: str, name: str = "a.jsonl") -> tuple[Problem, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_problems(str(path)).problems


def row(answer: str, question: str = '"Why?"') -> str:
    return f'{{"question": {question}, "answer": {answer}}}'


@pytest.mark.parametrize("field", ["question", "answer", "solution"])
def test_a_text_that_fits_no_model_is_refused_at_once(tmp_path: Path, field: str) -> None:
    texts = {"question": "Why?", "answer": "#### 1", "solution": "So."}
    fits = json.dumps(texts | {field: "1 x" * 33_333 + "y" if field != "answer" else "a" * 99_993 + "####  1"})
    assert len(load(tmp_path, fits)) == 1
    long = json.dumps(texts | {field: "1 x " * 2_500_000})
    began = time.process_time()
    with pytest.raises(DataError) as caught:
        load(tmp_path, '{"question": "How?", "answer": 1}\n' + long)
    assert time.process_time() - began < 3
    assert f"a.jsonl, line 2: the {field} is too long; expected at most 100,000 characters; got 10,000,000, '1 x" in str(
        caught.value
    )


def test_a_long_id_is_refused(tmp_path: Path) -> None:
    for key in ('"' + "i" * 1001 + '"', '"' + "i" * 10**6 + '"'):
        with pytest.raises(DataError, match=r"line 1: the id is too long; expected at most 1,000 characters"):
            load(tmp_path, f'{{"id": {key}, "question": "Why?", "answer": 1}}')


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"question": "a?", "answer": 1, "answer": 2}', "'answer'"),
        ('{"question": "a?", "question": "a?", "answer": 2}', "'question'"),
        ('{"question": "a?", "answer": 2, "more": [{"x": 1, "x": 1}]}', "'x'"),
        ('{"question": "a?", "answer": 2, "\\ud800": 1, "\\ud800": 1}', "'\\ud800'"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, text)
    assert f"line 1: the key {key} stands twice in one object" in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    ["1e400", "-1e400", "1e-400", "1e99999999999999999999", "1e-99999999999999999999", "NaN", "Infinity", "-Infinity",
     '"1e400"', '"' + "9" * 4301 + '"', '".' + "9" * 4300 + '"', '"\\ud800"', "[" * 300 + "]" * 300],
    ids=short,
)  # fmt: skip
def test_what_is_no_number_or_none_that_can_be_held(tmp_path: Path, answer: str) -> None:
    began = time.process_time()
    with pytest.raises(DataError, match=r"line 1: the answer is no number"):
        load(tmp_path, row(answer))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("9" * 4300, 10**4300 - 1),
        ("1e308", 10**308),
        ("1e-320", Fraction(1, 10**320)),
        ("0e999999999", 0),
        ("-0.000", 0),
        ("0.0e-999", 0),
        ("12.50", Fraction(25, 2)),
        ('"' + "9" * 4300 + '"', 10**4300 - 1),
    ],
    ids=["int", "float", "small", "0e", "-0", "0.0e", "decimal", "text"],
)
def test_extreme_numbers_that_are_exact(tmp_path: Path, answer: str, value: Fraction) -> None:
    assert load(tmp_path, row(answer))[0].answer == value


def test_fields_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    text = '{"question": "Why?", "answer": 1, "more": [NaN, 1e400, 1e-99999999999999999999, "\\ud800", ""]}'
    assert load(tmp_path, text)[0].answer == 1


@pytest.mark.parametrize("depth", [900, 960, 980, 1000, 100_000])
def test_deep_nesting_is_one_line(tmp_path: Path, depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"question":' * depth + "1" + "}" * depth, row("[" * depth + "]" * depth)):
        for name in ("a.jsonl", "a.json"):
            with pytest.raises(DataError) as caught:
                load(tmp_path, text, name)
            assert len(str(caught.value)) <= 1000


def test_line_ends_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (row("1") + "\r\n\r\n" + row("2", '"How?"') + "\r\n").encode())
    assert [(p.id, p.answer) for p in load_problems(str(path)).problems] == [("a-0", 1), ("a-2", 2)]


def test_leading_zeros_of_a_count(tmp_path: Path) -> None:
    assert len(load_problems("builtin:" + "0" * 5000 + "3").problems) == 3


def test_answers_may_be_words(tmp_path: Path) -> None:
    problems = load(tmp_path, row('"  blue\\n whale "') + "\n" + row('"ſix"', '"Who?"'))
    assert [(p.answer, p.words) for p in problems] == [("blue whale", "blue whale"), ("ſix", "ſix")]
    assert load(tmp_path, row("3"))[0].words == ""


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["Friday", "One Direction", "two"], ["Friday", "One Direction", "two"]),
        (["seven", "One Direction", "Friday"], ["seven", "One Direction", "Friday"]),
        (["two apples", "3"], [2, 3]),
        (["3", "two apples"], [3, 2]),
        (["two", "three"], [2, 3]),
    ],
)
def test_a_number_in_words_is_what_the_others_are(tmp_path: Path, answers: list[str], expected: list[object]) -> None:
    problems = load(tmp_path, "\n".join(row(json.dumps(a), json.dumps(f"Q{i}?")) for i, a in enumerate(answers)))
    assert [p.answer for p in problems] == expected and [p.id for p in problems] == sorted(p.id for p in problems)


@pytest.mark.parametrize(("first", "second", "said"), [("3", '"many"', "words"), ('"many"', "3", "a number")])
def test_answers_are_of_one_kind(tmp_path: Path, first: str, second: str, said: str) -> None:
    with pytest.raises(DataError, match=f"line 2: the answer is {said}; expected"):
        load(tmp_path, row(first) + "\n" + row(second, '"Who?"'))
