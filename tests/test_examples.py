"""The examples, and the Python of the guide, run as they stand; only model, data and prompts are the tiny study's."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import TinyStudy, save_tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import cotscope
from cotscope.cli import main
from cotscope.cli.commands import build_parser
from cotscope.concepts.sets import load_concepts
from cotscope.data.answers import is_right
from cotscope.data.load import load_problems
from cotscope.edits.edit import Edit
from cotscope.predicting.templates import templates
from cotscope.prompts.derive import render_solution
from cotscope.prompts.files import load_prompt_file

ROOT = Path(__file__).resolve().parents[1]
STUDY = 'model="qwen2.5-coder-0.5b", data="builtin", limit=16'
MODEL = '"qwen2.5-coder-0.5b"'


def tiny_options(tiny_study: TinyStudy) -> dict[str, Any]:
    """The fixture's options as the Python API takes them."""
    given = vars(build_parser().parse_args(["study", "--out", "r", *tiny_study.options()]))
    return {k: v for k, v in given.items() if k not in ("command", "out", "rows", "json", "thorough")}


def loaded_script(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_first_study(tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = loaded_script(ROOT / "examples/first_study.py")
    options = example.SMALL | {"permuted": 1, "battery": 1, "matched": 2} | tiny_options(tiny_study)
    run = example.first_study(str(tmp_path / "r"), **options)
    said = capsys.readouterr().out
    assert {stage for stage, found in run.states().items() if found.current} >= {"discover", "annotate", "ablate", "damage"}
    concept = max(run.summary["neurons"]["by_concept"], key=run.summary["neurons"]["by_concept"].get)
    listed = re.findall(r"^layer +(\d+) neuron +(\d+) ([+−])  (.+)$", said.partition(f"poles of {concept}:")[2], re.MULTILINE)
    sql = "SELECT DISTINCT layer, index, sign FROM annotations WHERE accepted AND concept = ?"
    accepted = {tuple(row.values()) for row in run.query(sql, [concept]).to_pylist()}
    assert len(listed) == min(8, len(accepted))
    assert all((int(layer), int(index), 1 if sign == "+" else -1) in accepted for layer, index, sign, _ in listed)
    assert f"Report: {run.folder / 'report.html'}" in said


@pytest.mark.slow
def test_the_python_of_the_guide(tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert any(STUDY in block for block in blocks)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        options = tiny_options(tiny_study) | {"permuted": 1, "battery": 1, "matched": 2}
        code = block.replace(STUDY, f"**{options!r}").replace(MODEL, repr(tiny_study.model))
        exec(compile(code, "docs/guide.md", "exec"), names)
    assert isinstance(names["run"], cotscope.Run)


def test_the_calendar_is_as_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "examples/calendar"
    made = loaded_script(folder / "make_problems.py")
    monkeypatch.setattr(made, "__file__", str(tmp_path / "make_problems.py"))
    made.main()
    for name in ("problems.jsonl", "calendar.txt"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    problems = load_problems(str(folder / "problems.jsonl")).problems
    assert len(set(templates([p.question for p in problems]))) >= 24  # no interval rests on few
    assert len(problems) == 320 and {p.words for p in problems} == {*made.DAYS, *made.MONTHS}
    for p in problems:
        assert is_right(render_solution(p), p.answer) and f"{p.words}.\nThe answer is" in render_solution(p)
    prompt = load_prompt_file(folder / "calendar.txt")
    assert prompt.cue == "\nLet's think step by step\n" and not any(p.question in prompt.prefix for p in problems)
    concepts = load_concepts(str(folder / "concepts.toml")).concepts
    assert {d.lower() for d in made.DAYS} < {*concepts[0].seeds} and {m.lower() for m in made.MONTHS} < {*concepts[1].seeds}


@pytest.mark.slow
def test_the_calendar_is_studied_end_to_end(tmp_path: Path) -> None:
    """Its problems, prompt and concepts as they are, on a tiny model whose tokens are their words, and which writes days."""
    folder = ROOT / "examples/calendar"
    texts = [(folder / name).read_text() for name in ("problems.jsonl", "calendar.txt", "concepts.toml")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([*texts, *texts[2].split('"')], trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    ))  # fmt: skip
    days = [tokenizer.token_to_id(f"\u0120{day}") for day in ("Monday", "Friday", "May", "June")]

    def speak(head: torch.Tensor) -> None:
        head *= 0.01
        head[days] *= 100

    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    save_tiny_model(tmp_path / "model", fast, speak, eos_token_id=0)
    few = {
        "study": [f"--model={tmp_path / 'model'}", "--limit=24", "--discover-limit=48", "--max-new-tokens=6", "--dtype=float32",
                  "--given=4", "--matched=1", "--unmatched=1", "--permuted=19", "--battery=1"],
        "attribute": ["--solutions", "4"],
        "steer": ["--problems", "8", "--survivors", "1"],
        "tune": ["--train", "4", "--validation", "2", "--batch", "2", "--passes", "1"],
        "evaluate": ["--solutions", "2", "--skills", "1"],
    }  # fmt: skip
    block = re.search(r"```\n(E=examples.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert block is not None
    tables: list[dict[str, dict[str, Any]]] = []
    for line in block[1].splitlines():  # as they stand, but for the model and how much is asked
        if words := shlex.split(line.replace("$E", str(folder)), comments=True)[1:]:
            words = [str(tmp_path / word) if word.startswith("runs/") else word for word in words]
            assert main([*words, *few.get(words[0], [])]) == 0, line
            if words[0] == "evaluate":
                asked = cotscope.Run.open(tmp_path / "runs/calendar").rows("SELECT * FROM evaluations")
                tables.append({row["edit"]: row for row in asked})
    run = cotscope.Run.open(tmp_path / "runs/calendar")
    assert all(found.current for found in run.states().values())
    assert set(run.summary["neurons"]["by_concept"]) == {"day", "month", "order"} and run.summary["neurons"]["total"] > 3
    assert run.summary["damage"]["skill"] == "answers" and run.summary["damage"]["headline"]["sets"] == 19
    report = (run.folder / "report.html").read_text()
    assert "answers" in report.partition("</h1>")[0].rpartition("<h1>")[2]
    assert "It is one matched set" in report and "with its interval over problems, and its rank" in report
    edits = {path.stem: Edit.read(path) for path in (tmp_path / "runs").glob("*.json")}
    every, last = tables
    assert every.keys() == edits.keys() and {row["n"] for row in every.values()} == {24}
    assert edits["words"].chosen["by"] == "reasoning" and edits["answers"].chosen["by"] == "attribution"
    assert len(edits["words"].neurons) == len(edits["answers"].neurons) == run.summary["neurons"]["total"]
    for name in ("", "answers-"):
        own = edits["answers" if name else "words"]
        control = edits["answers-random-0" if name else "random"]
        assert control.neurons and not {*own.neurons} & {*control.neurons}
    for name in ("worse", "worse-random"):
        assert edits[name].chosen["steered"]["goal"] == "worse" and edits[name].chosen["by"] == "attribution"
    assert edits["tuned"].chosen["tuned"]["numbers"] == 3 * 48
    # The folder's own weights, apart, say what its file says.
    assert last.keys() == {"words", "words@calendar-model"} and last["words"]["accuracy"] == every["words"]["accuracy"]
    assert last["words@calendar-model"]["accuracy"] == last["words"]["accuracy"]
    made = tmp_path / "runs/calendar-model"
    edited, base = (transformers.AutoModelForCausalLM.from_pretrained(p) for p in (made, tmp_path / "model"))
    changed = [n for n, p in base.named_parameters() if not torch.equal(p, edited.get_parameter(n))]
    assert changed and all("down_proj" in name for name in changed)
