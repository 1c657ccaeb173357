"""Reading problems from files, the hub and the generator; errors that say where; the split."""

import hashlib
import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotscope.data.load import Loaded, Split, general_text, load_problems, load_questions, split
from cotscope.data.rows import question_key
from cotscope.errors import DataError
from cotscope.records import Problem

GSM = {"question": "How many?", "answer": "He has 2 * 3 = <<2*3=6>>6 eggs.\nHe sells <<6*2=12>>12.\n#### 1,012"}


def write(folder: Path, *rows: object, name: str = "set.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def problems(n: int) -> list[Problem]:
    return [Problem(f"p{i}", f"Question {i}?", Fraction(i)) for i in range(n)]


def test_gsm8k_form(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path, GSM)).problems
    expected = Problem("set-0", "How many?", Fraction(1012), solution="He has 2 * 3 = 6 eggs.\nHe sells 12.")
    assert problem == expected


@pytest.mark.parametrize(
    ("answer", "value"),
    [(7, 7), (-7, -7), (0.1, "1/10"), (2.0, 2), (1e21, 10**21), ("$1,200", 1200), ("3/4", "3/4"), ("seven", 7),
     ("8 apples.", 8), ("#### 5", 5)],
)  # fmt: skip
def test_plain_answers(tmp_path: Path, answer: object, value: object) -> None:
    (problem,) = load_problems(write(tmp_path, {"question": "q?", "answer": answer})).problems
    assert problem.answer == Fraction(value)


def test_ids_and_solutions(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [{"id": "x", "question": "a?", "answer": 1, "solution": "s"}, {"id": 5, "question": "b?", "answer": 1}]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\ufeff" + "\n\n".join(lines) + '\r\n{"id": null, "question": "c\u2028?", "answer": 1}\n')
    loaded = load_problems(str(path))
    assert [(p.id, p.question, p.solution) for p in loaded.problems] == [
        ("x", "a?", "s"),
        ("5", "b?", ""),
        ("set-3", "c\u2028?", ""),
    ]
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.source == str(path)


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "set.JSON"
    path.write_text(json.dumps([GSM, {"question": "Why?", "answer": 2}], indent=1))
    assert [p.id for p in load_problems(str(path)).problems] == ["set-0", "set-1"]


def test_repeated_questions(tmp_path: Path) -> None:
    rows = [{"question": q, "answer": 1} for q in ("How  many?", "Why?", " how MANY ?", "How many")]
    loaded = load_problems(write(tmp_path, *rows))
    assert [p.id for p in loaded.problems] == ["set-0", "set-1"]
    assert loaded.duplicates == (("set-2", "set-0"), ("set-3", "set-0"))
    assert question_key("“Why, Ann?”") == "why, ann"


@pytest.mark.parametrize(
    ("name", "content", "messages"),
    [
        ("a.jsonl", "", ["a.jsonl has no problems"]),
        ("a.jsonl", " \n\n", ["no problems"]),
        ("a.json", "", ["no problems"]),
        ("a.json", "[]", ["no problems"]),
        ("a.json", "{}", ["not a list"]),
        ("a.json", "[\n{]", ["a.json: not JSON", "line 2"]),
        ("a.json", "[1]", ["a.json, item 1: not an object"]),
        ("a.jsonl", '{"question": "a?", "answer": 1}\n\n{"question"', ["a.jsonl, line 3: not JSON", "column"]),
        ("a.jsonl", "[1, 2]", ["line 1: not an object"]),
        ("a.jsonl", "9" * 5000, ["line 1: can't read", "4300 digits"]),
        ("a.jsonl", "[" * 100_000, ["line 1: can't read", "nested too deeply"]),
        ("a.jsonl", '{"query": "a?", "target": 1}', ["line 1: no field question or answer", "query, target"]),
        ("a.jsonl", '{"question": "a?"}', ["line 1: no field answer"]),
        ("a.jsonl", "{}", ["no field"]),
        ("a.jsonl", '{"question": " ?", "answer": 1}', ["line 1: the question is empty"]),
        ("a.jsonl", '{"question": 3, "answer": 1}', ["line 1: question is no text"]),
        ("a.jsonl", '{"question": "\\ud800?", "answer": 1}', ["line 1: question is not valid Unicode"]),
        ("a.jsonl", '{"id": "", "question": "a?", "answer": 1}', ["line 1: the id is empty"]),
        ("a.jsonl", '{"id": [1], "question": "a?", "answer": 1}', ["line 1: id is no text"]),
        ("a.jsonl", '{"id": 1, "question": "a?", "answer": 1}\n{"id": "1", "question": "b?", "answer": 1}',
         ["line 2: the id '1' is used twice", "line 1"]),
        ("a.txt", "text", ["unknown kind", ".jsonl"]),
        *(
            ("a.jsonl", f'{{"question": "a?", "answer": {answer}}}', ["line 1: the answer is no number"])
            for answer in ("null", "true", "NaN", "-Infinity", "1e999", "[1]", '""', '"?!"', '"3 or 4"', '"' + "a " * 50 + '"',
                           '"\\ud800"', '"' + "9" * 4400 + '"')
        ),
    ],
)  # fmt: skip
def test_malformed(tmp_path: Path, name: str, content: str, messages: list[str]) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_problems(str(path))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    for message in messages:
        assert message in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "a?", "answer": 1}\n\xff\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        load_problems(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("source", ["missing.jsonl", "a/missing.json", "./data", "/no/such", "multiarith", "", "a/b/c"])
def test_no_such_source(source: str) -> None:
    with pytest.raises(DataError, match="no such problem file"):
        load_problems(source)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder"):
        load_problems(str(tmp_path))


def test_builtin() -> None:
    loaded = load_problems("builtin:40", seed=2)
    assert len(loaded.problems) == 40 and not loaded.duplicates
    assert loaded.problems[0].id == "builtin-2-0"
    assert loaded == load_problems("builtin:40", seed=2)
    assert loaded.sha256 != load_problems("builtin:40", seed=3).sha256
    assert len(load_problems("builtin").problems) == 600


@pytest.mark.parametrize("source", ["builtin:", "builtin:0", "builtin:x", "builtin:-3", "builtin:9999999999"])
def test_builtin_count(source: str) -> None:
    with pytest.raises(DataError, match="builtin:N"):
        load_problems(source)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("gsm8k", ("openai/gsm8k", "main", "test")),
        ("openai/gsm8k:main@test[:200]", ("openai/gsm8k", "main", "test[:200]")),
        ("someone/gsm8k", ("someone/gsm8k", None, "test")),
        ("someone/gsm8k@train", ("someone/gsm8k", None, "train")),
        ("someone/gsm8k:socratic", ("someone/gsm8k", "socratic", "test")),
    ],
)
def test_hub(monkeypatch: pytest.MonkeyPatch, source: str, call: tuple) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict]:
        calls.append((name, config, split))
        return [GSM]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    loaded = load_problems(source)
    assert calls == [call]
    assert [(p.id, p.answer) for p in loaded.problems] == [("gsm8k-0", 1012)]
    assert isinstance(loaded, Loaded) and len(loaded.sha256) == 64


def test_hub_rows_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(load_dataset=lambda *_, **__: [{"text": "x"}])
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(DataError, match="row 1: no field question or answer.*got text"):
        load_problems("a/b")


def test_hub_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets.*builtin"):
        load_problems("gsm8k")


def test_hub_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match="could not load a/b from the hub; got ConnectionError: no route"):
        load_problems("a/b")


@pytest.mark.parametrize(
    ("n", "limit", "discover", "test", "discovery", "halved"),
    [
        (300, None, None, 96, 96, False),
        (300, 200, None, 200, 96, False),
        (300, 20, None, 20, 20, False),
        (300, 20, 5, 20, 5, False),
        (300, 20, 280, 20, 280, False),
        (300, 20, 281, 20, 150, True),
        (100, None, None, 50, 50, True),
        (101, None, 10, 51, 10, True),
        (3, None, None, 2, 1, True),
        (2, None, None, 1, 1, True),
        (2, 1, 1, 1, 1, False),
    ],
)
def test_split(n: int, limit: int | None, discover: int | None, test: int, discovery: int, halved: bool) -> None:
    found = problems(n)
    result = split(found, limit, discover)
    assert (len(result.test), len(result.discovery), result.halved) == (test, discovery, halved)
    start = (n + 1) // 2 if halved else test
    assert list(result.test) == found[:test]
    assert list(result.discovery) == found[start : start + discovery]


@given(
    st.integers(2, 60),
    *(st.none() | st.integers(1, 40) for _ in range(3)),
    st.none() | st.integers(1, 40),
)
def test_split_parts_are_disjoint(n: int, limit: int | None, discover: int | None, tune: int | None, other: int | None) -> None:
    given = problems(n)
    result = split(given, limit, discover, tune)
    ids = [p.id for part in result.parts().values() for p in part]
    assert len(set(ids)) == len(ids) <= n
    keys = [question_key(p.question) for part in result.parts().values() for p in part]
    assert len(set(keys)) == len(keys)
    # How many problems are for tuning changes neither of the others.
    again = split(given, limit, discover, other)
    assert (result.test, result.discovery, result.halved) == (again.test, again.discovery, again.halved)
    wanted = tune or discover or min(limit or 96, 96)
    left = n - len(result.test) - len(result.discovery)
    assert len(result.tuning) == min(wanted, left)
    assert result.tuning_short == (left < wanted)


def test_tuning_follows_discovery() -> None:
    given = problems(50)
    assert list(split(given, 10, 8, 5).tuning) == given[18:23]
    assert list(split(given, 10, 8).tuning) == given[18:26]
    assert list(split(given, 40).tuning) == []  # halved: 25 and 25
    # Halves cut to their limits leave some of both: those after discovery come first.
    assert list(split(problems(10), 9, 2, 9).tuning) == problems(10)[7:]
    assert list(split(problems(10), 3, 9, 9).tuning) == problems(10)[3:5]


def test_a_split_that_overlaps_is_refused() -> None:
    a, b, c = problems(3)
    for test, discovery, tuning in (((a, b), (b,), (c,)), ((a,), (b,), (a,)), ((a,), (b, c), (c,))):
        with pytest.raises(DataError, match="overlap"):
            Split(test, discovery, tuning, halved=False)
    same = replace(c, question=f"  {a.question.upper()}?")
    assert question_key(same.question) == question_key(a.question)
    with pytest.raises(DataError, match="test and tuning problems overlap"):
        Split((a,), (b,), (same,), halved=False)


@pytest.mark.parametrize(("n", "limit", "discover"), [(0, None, None), (1, None, None), (9, 0, None), (9, 3, 0)])
def test_split_refuses(n: int, limit: int | None, discover: int | None) -> None:
    with pytest.raises(DataError):
        split(problems(n), limit, discover)
    with pytest.raises(DataError, match="too low"):
        split(problems(9), 3, 3, 0)


@pytest.mark.parametrize(("use", "words"), [("measuring", 1300), ("searching", 600), ("choosing", 240)])
def test_general_text(use: str, words: int) -> None:
    text = general_text(use)
    assert words <= len(text.split()) <= words + 100
    assert not any(character.isdigit() for character in text)


def test_no_general_text_has_a_paragraph_of_another() -> None:
    texts = [general_text(use).strip().split("\n\n") for use in ("measuring", "searching", "choosing")]
    every = [paragraph for text in texts for paragraph in text]
    assert len(set(every)) == len(every) and [len(text) for text in texts[1:]] == [5, 2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("-5 + 3 = ?", "5 + 3 = ?", False),
        (".5 + 3?", "5 + 3?", False),
        ("What is 5!", "What is 5?", False),
        ("What is 5! ", "what is 5!.", True),
        ("“How many?”", "how  many", True),
        ("How many!!", "How many...", True),
    ],
)
def test_questions_that_count_as_the_same(one: str, other: str, same: bool) -> None:
    assert (question_key(one) == question_key(other)) is same


def test_questions_without_labels_are_all_there(tmp_path: Path) -> None:
    questions = write(tmp_path, *({"question": q, "answer": 1} for q in ("How many?", "how many ?")))
    assert [p.question for p in load_questions(questions)] == ["How many?", "how many ?"]
    assert len(load_problems(questions).problems) == 1


@pytest.mark.parametrize("answer", ["- 5", "(5)", "2.5 million", "5K", "5k", "3 dozen", "3½", "5²", "√2", r"\sqrt{2}", "2π",
                                    "x^2", "x + 5", "5 * y", "5!", "-(5)", "B2", "half of 6", "6 and a half"])  # fmt: skip
def test_a_number_that_is_another_one_is_refused(tmp_path: Path, answer: str) -> None:
    with pytest.raises(DataError, match="no number"):
        load_problems(write(tmp_path, {"question": "a?", "answer": answer}))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("minus 5", -5),
        ("negative 5", -5),
        ("5 m", 5),
        ("5 (in all)", 5),
        ("a million? no: 5", 5),
        ("3 - the same", 3),
        ("\u20105", -5),
        ("Answer - 5", 5),
        ("x=5", 5),
        ("+5", 5),
        ("Rs500", 500),
        ("USD500", 500),
        (r"90^\circ", 90),
        (r"90^{\circ}", 90),
        ("8^{th}", 8),
        ("5+ years", 5),
        ("*5* apples", 5),
        (r"\boxed5", 5),
        (r"\dfrac12", Fraction(1, 2)),
    ],
)
def test_a_number_with_words_beside_it(tmp_path: Path, answer: str, value: int | Fraction) -> None:
    [problem] = load_problems(write(tmp_path, {"question": "a?", "answer": answer})).problems
    assert problem.answer == value


def test_words_behind_the_marker(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "#### Friday"}, {"question": "b?", "answer": "We count on 2 days.\n#### Sunday"}]
    first, second = load_problems(write(tmp_path, *rows)).problems
    assert (first.answer, first.solution) == ("Friday", "")
    assert (second.answer, second.solution) == ("Sunday", "We count on 2 days.")


def test_a_solutions_calculator_is_left_out(tmp_path: Path) -> None:
    row = {"question": "a?", "answer": 24, "solution": "She has 48/2=<<48/2=24>>24."}
    assert load_problems(write(tmp_path, row)).problems[0].solution == "She has 48/2=24."
