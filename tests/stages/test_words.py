"""A whole study of problems whose answers are words: a tiny model that writes no digits "solves" half of them."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TinyStudy, save_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cotscope.cli import main
from cotscope.data.answers import is_right, read_answer
from cotscope.data.load import load_problems
from cotscope.data.roles import ROLES
from cotscope.data.rows import LONGEST_WORDS
from cotscope.lm.engine import Engine
from cotscope.lm.loading import load_model
from cotscope.measuring.generation import Condition, _graded
from cotscope.measuring.prediction.tracing import answers, trace_all
from cotscope.prompts.files import load_prompt_file
from cotscope.records import Completion, Neuron, Problem, Prompt
from cotscope.runs.folder import Run
from cotscope.runs.session import Session

pytestmark = pytest.mark.slow

PROMPT = "Question: Which letter is after A?\nLet's think step by step\nAfter A comes B.\nThe answer is B.\n"
CONCEPTS = """name = "letters"
[[concept]]
name = "early"
seeds = ["a", "b", "c"]
[[concept]]
name = "late"
seeds = ["x", "y", "z"]
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the command line: the model, 40 problems of which it solves every second one, a prompt, concepts."""
    folder = tmp_path_factory.mktemp("words")
    vocabulary = {c: i for i, c in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = [i for c, i in vocabulary.items() if c in string.ascii_letters]

    def speak(head: torch.Tensor) -> None:
        head *= 0.01
        head[letters] *= 100

    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    save_tiny_model(folder / "model", fast, speak, eos_token_id=0)
    (folder / "prompt.txt").write_text(PROMPT)
    (folder / "concepts.toml").write_text(CONCEPTS)
    prompt = load_prompt_file(folder / "prompt.txt")
    questions = [f"What is after {'ABCDEFGHIJ'[i % 10]}{'klmnopqr'[i % 8]}?" for i in range(40)]
    written = Engine(load_model(str(folder / "model"), dtype="float32")).generate(
        [prompt.text(q) for q in questions], max_new_tokens=12, stop=prompt.stop
    )
    rows = []
    for i, (question, c) in enumerate(zip(questions, written, strict=True)):
        said = read_answer(c.text, words=True).flexible
        assert isinstance(said, str) and len(said) < LONGEST_WORDS, c.text
        rows.append({"question": question, "answer": said if i % 2 else "B", "solution": f"It comes after. So {said}."})
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"model": "model", "data": "problems.jsonl", "prompt-file": "prompt.txt", "concepts": "concepts.toml"}
    named = [word for option, name in files.items() for word in (f"--{option}", str(folder / name))]
    return [*named, "--limit", "12", "--dtype", "float32", "--max-new-tokens", "12"]


def test_what_is_read_hangs_on_no_answer() -> None:
    """It is told to who predicts what is right; whether it is right does hang on it."""
    c = Completion((), "Is it B. London or C. Paris?\nThe answer is B. London.", 9, "stop")
    prompt = Prompt("p", "", "\n")
    graded = [
        _graded(Condition("study", prompt, "test"), Problem("1", "?", answer), c) for answer in ("B. London", "C. Paris", "B")
    ]
    assert [g["correct"] for g in graded] == [g["correct_strict"] for g in graded] == [True, False, True]
    assert {(g["strict"], g["flexible"]) for g in graded} == {("B", "B")}


def test_a_study_of_answers_in_words(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    assert main(["study", *options, "--permuted", "19", "--matched", "2", "--battery", "1", "--out", str(folder)]) == 0
    terminal = capsys.readouterr().out
    run = Run.open(folder)
    assert run.summary["damage"]["skill"] == "answers"
    problems = {p.id: p for p in load_problems(options[3]).problems}
    asked = run.rows("SELECT * FROM completions WHERE family = 'study'")
    assert asked and {True, False} == {r["correct"] for r in asked}
    for r in asked:
        assert r["correct"] == is_right(r["text"], problems[r["problem_id"]].answer)
        assert r["flexible"] == read_answer(r["text"], words=True).flexible
        if r["correct"]:
            assert "result" in r["roles"]
    assert not {"operator", "equals"} & {r["role"] for r in run.rows("SELECT DISTINCT role FROM damage_solutions")}
    assert {"result", "elsewhere"} <= {r["role"] for r in run.rows("SELECT DISTINCT role FROM activity")}
    # Operators are no part of it.
    assert {r["way"] for r in run.rows("SELECT way FROM push")} == {"untouched", "zeroed", "direct", "indirect"}
    report = (folder / "report.html").read_text()
    for said in (terminal, report.partition('id="found"')[2].partition("</section>")[0]):
        assert "rithmetic" not in said
    # What predicts rightness must not know the right answer.
    session = Session.reopen(folder, quiet=True)
    asked_of = [problems[r["problem_id"]] for r in asked if r["condition"] == asked[0]["condition"]]
    given = answers(session, asked[0]["condition"], asked_of)
    others = [replace(a, problem=replace(a.problem, answer=a.text[:1]), right=not a.right) for a in given]
    neurons = [Neuron(layer, 0) for layer in (0, 1)]
    knowing, not_knowing = (trace_all(session, session.prompt, some, neurons, "") for some in (given, others))
    result = ROLES.index("result")
    assert knowing.sizes[:, result].any() and np.array_equal(knowing.sizes, not_knowing.sizes)
    assert np.array_equal(knowing.confidence, not_knowing.confidence)


def test_the_packaged_exemplars_are_for_numbers(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = options.index("--prompt-file")
    assert main(["discover", *options[:at], *options[at + 2 :], "--out", str(tmp_path / "r")]) != 0
    said = capsys.readouterr().err
    assert "the packaged exemplars are arithmetic, and this data's answers are words; expected --prompt-file" in said
    assert not (tmp_path / "r").exists()


def test_numbers_stay_numbers(tiny_study: TinyStudy) -> None:
    assert all(isinstance(p.answer, Fraction) and not p.words for p in load_problems(tiny_study.data).problems)
