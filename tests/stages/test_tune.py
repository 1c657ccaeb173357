"""`cotscope tune` and `compare` on a tiny study: edits and models whose validation loss is the engine's, gone on with after a
kill."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TinyStudy
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

import cotscope
from cotscope.cli import compare, main, pace
from cotscope.cli.commands import build_parser
from cotscope.data.answers import is_right, parse_flexible, written_answer
from cotscope.data.load import load_problems
from cotscope.data.numbers import format_number
from cotscope.data.rows import question_key
from cotscope.edits.edit import Base, Edit
from cotscope.errors import ModelError
from cotscope.lm import cpu
from cotscope.lm.engine import Engine
from cotscope.lm.loading import LoadedModel, load_model
from cotscope.lm.scoring import Given, score
from cotscope.lm.trained import Factors, lora_numbers
from cotscope.lm.training import Training
from cotscope.measuring.editing import courses
from cotscope.measuring.editing import worked as writing
from cotscope.measuring.editing.contrasting import grouped, unpaired
from cotscope.measuring.editing.courses import Course, Plan, next_rate, search
from cotscope.measuring.editing.methods import Tuning
from cotscope.measuring.editing.trainer import Trainer
from cotscope.measuring.editing.worked import ended, parted, tuning_problems, worked_problems
from cotscope.predicting.templates import masked, templates
from cotscope.prompts.derive import render_solution
from cotscope.records import Completion, Neuron, Problem, Prompt
from cotscope.runs.files import fingerprint, held
from cotscope.runs.folder import Run
from cotscope.runs.session import Session

pytestmark = pytest.mark.slow
COUNTS = ["--train", "3", "--validation", "1", "--batch", "2", "--passes", "2"]
RATE = {"factors": "0.05", "values": "0.01", "rows": "0.01", "lora": "0.01", "ia3": "0.05", "full": "0.003"}
FEW = [*COUNTS, "--rate", "0.05"]
MODELS = [method for method in RATE if method != "factors"]


@pytest.fixture(scope="module")
def run(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 6 test and 6 discovery problems: 8 are left for tuning, 6 of them with solutions."""
    out = tmp_path_factory.mktemp("runs") / "tune"
    options = [*tiny_study.options(), "--limit", "6", "--discover-limit", "6", "--tune-limit", "8"]
    assert main(["discover", *options, "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), "--outcomes", "accuracy", "--matched", "1", "--unmatched", "0"]) == 0
    return out


@pytest.fixture(scope="module")
def half(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in bfloat16 of a model whose files are float32; in 16 bits it solves nothing, and finds no neurons."""
    out = tmp_path_factory.mktemp("runs") / "half"
    options = [*tiny_study.options(), "--dtype", "bfloat16", "--limit", "6", "--discover-limit", "6", "--tune-limit", "8"]
    assert main(["discover", *options, "--out", str(out)]) == 2
    return out


def tune(run: Path, to: Path, method: str = "factors", *more: str) -> list[str]:
    rate = [] if "--rate" in more else ["--rate", RATE[method]]
    return ["tune", str(run), "--by", "reasoning", "--method", method, *COUNTS, *rate, "--to", str(to), *more]


def tuned(run: Path, to: Path, method: str = "factors", *more: str) -> dict[str, Any]:
    assert main(tune(run, to, method, *more)) == 0
    return dict(Edit.read(to).chosen["tuned"])


def worked(session: Session, count: int = 4) -> list[Problem]:
    """The first tuning problems with a solution: of four the last one validates."""
    return [p for p in session.inputs.split.tuning if p.steps or p.solution.strip()][:count]


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Ctrl-C before the training step of that number. Returns: how many have begun, in a list."""
    steps, step = [0], Training.step

    def stopped(self: Training, *args: object, **more: object) -> list[float]:
        steps[0] += 1
        if steps[0] == at:
            raise KeyboardInterrupt
        return step(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "step", stopped)
    return steps


def loss(session: Session, problem: Problem, edit: Edit | None = None, said: str = "") -> float:
    """Of a problem's solution, or of what is `said` in it only, as the engine scores it."""
    tokens = ended(session.loaded, session.prompt, render_solution(problem))
    intervention = None if edit is None else edit.intervention(session.loaded.anatomy)
    [scores] = score(session.engine, Given((session.prompt.text(problem.question),), (tokens,), intervention=intervention))
    pieces = [session.loaded.piece(token) for token in tokens]
    at, log_probs = 0, []
    for piece, scored in zip(pieces, scores, strict=True):
        if not said or any(m.start() < at + len(piece) and at < m.end() for m in re.finditer(said, "".join(pieces))):
            log_probs.append(scored.log_prob)
        at += len(piece)
    return -sum(log_probs) / len(log_probs)


def test_the_loss_may_be_of_formulas_and_answers_only(run: Path, tmp_path: Path) -> None:
    curve = tuned(run, tmp_path / "tuned.json", "factors", "--loss", "formulas")["curve"]
    session = Session.reopen(run, quiet=True)
    last = worked(session)[3]
    formulas = r"\d+ ?[-+*/] ?\d+ ?= ?\d+"  # a tiny model's tokenizer has no blanks, and so no "answer is"
    assert curve[0]["validation"] == pytest.approx(loss(session, last, said=formulas), abs=1e-3)
    assert abs(curve[0]["validation"] - loss(session, last)) > 1e-2


def test_the_validation_loss_is_the_engines(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "tuned.json"
    found = tuned(run, to)
    edit, session = Edit.read(to), Session.reopen(run, quiet=True)
    assert set(edit.neurons) and not (set(tmp_path.iterdir()) - {to})  # the state is gone
    last, curve = worked(session)[3], found["curve"]
    assert len(curve) == 3
    for edited, point in ((None, curve[0]), (edit, curve[found["taken"]])):
        assert point["validation"] == pytest.approx(loss(session, last, edited), abs=1e-3)
    assert curve[found["taken"]]["validation"] < curve[0]["validation"]
    assert all(0 <= point["solved"] <= 1 for point in curve)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_validation_problems_are_solved_with_the_parameters_of_the_moment(
    run: Path, tmp_path: Path, checkpointing: bool
) -> None:
    session = Session.reopen(run, quiet=True)
    model = load_model(session.config.model, dtype="float32", differentiable=True)
    neurons = [Neuron(layer, i) for layer in range(model.anatomy.layers) for i in range(0, model.anatomy.width, 2)]
    training = Training(model, Factors(model, neurons), checkpointing)
    questions = [f"What is {i} and {2 * i}, and then?" for i in range(24)]

    def written(factor: float) -> list[Fraction | None]:
        edit = Edit("e", Base.of(session.loaded, "tiny"), dict.fromkeys(neurons, (factor, factor)))
        prompts = [session.prompt.text(q) for q in questions]
        every = session.engine.generate(
            prompts, max_new_tokens=session.config.new_tokens(session.prompt), stop=session.prompt.stop,
            intervention=edit.intervention(session.loaded.anatomy),
        )  # fmt: skip
        return [parse_flexible(c.text) for c in every]

    base, trained = written(1.0), written(3.0)
    # Right is what is written with the factors, but for every third question.
    answers = [Fraction(123456) if t is None or i % 3 == 0 else t for i, t in enumerate(trained)]
    given = [(Problem(str(i), q, a), "1 + 1 = 2") for i, (q, a) in enumerate(zip(questions, answers, strict=True))]
    solves = Trainer(session, tmp_path / "x", neurons, {}, given, Tuning(validation=24), print)._solver(training)
    for factor, said in ((1.0, base), (3.0, trained), (1.0, base)):
        for p in training.trained.parameters.values():
            p.data.fill_(factor)
        assert solves() == sum(s == a for s, a in zip(said, answers, strict=True))
    assert sum(t == a for t, a in zip(trained, answers)) > sum(b == a for b, a in zip(base, answers))
    assert not checkpointing or any(layer.training for layer in model.model.modules()), "it goes on with checkpointing"


@pytest.mark.parametrize("method", ["factors", "values", "lora", "full"])
def test_where_16_bits_are_fast_gradients_are_computed_in_them(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """But where weights are written that the base's files have in float32, and elsewhere, in float32."""
    ran, step, source = [], Training.step, Session.reopen(half, quiet=True).config.model

    def watched(self: Training, *args: object, **more: object) -> list[float]:
        ran.append(self.loaded.dtype_name)
        return step(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "step", watched)
    words = ["tune", str(half), "--by", "all", "--method", method, *COUNTS, "--rate", RATE[method], "--null"]
    for instructions in ("some", None):
        monkeypatch.setattr(cpu, "bfloat16_instructions", lambda known=instructions: known)
        to = tmp_path / str(instructions)
        assert main([*words, "--to", str(to)]) == 0
        dtype = "bfloat16" if instructions and method == "factors" else "float32"
        told = Edit.read(to).chosen["tuned"]
        assert told["dtype"] == dtype and set(ran) == {dtype}
        assert not told["taken"] or ("written" in told) == (dtype == "float32")  # the files are float32
        ran.clear()
        if to.is_dir() and method != "full":
            base, made = (load_file(Path(folder) / "model.safetensors") for folder in (source, to))
            assert all(torch.equal(base[name], made[name]) for name in base if "norm" in name or "embed" in name)
            assert any(not torch.equal(base[name], made[name]) for name in base)


def test_loras_rank_is_told_and_where_no_rank_is_near(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = lora_numbers(Session.reopen(run, quiet=True).loaded)
    for wanted, rank in ((one // 3, 1), (round(2.2 * one), 2)):
        words = ["tune", str(run), "--method", "lora", "--trainable", str(wanted), *COUNTS, "--rate", RATE["lora"], "--null"]
        to = tmp_path / str(rank)
        assert main([*words, "--by", "all", "--to", str(to)]) == 0
        told = Edit.read(to).chosen["tuned"]
        assert (told["rank"], told["numbers"]) == (rank, rank * one)
        far = f"LoRA of rank {rank} at every linear layer is {rank * one:,} numbers, and {wanted:,} are asked for\n"
        assert (far in capsys.readouterr().out) == (rank == 1)


def test_a_rate_without_a_pass_is_not_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the second rate's first step keeps the first; what the base came to is no figure of the second."""
    interrupt(monkeypatch, at=3)
    found = tuned(run, tmp_path / "tuned.json", "factors", "--rate", "auto")
    assert found["taken"] == 1 and [rate for rate, *_ in found["rates"]] == [found["rate"]]


@pytest.mark.parametrize("method", MODELS)
def test_a_trained_model_is_a_plain_folder_that_says_what_was_trained(run: Path, tmp_path: Path, method: str) -> None:
    to = tmp_path / method
    found = tuned(run, to, method)
    edit, session = Edit.read(to), Session.reopen(run, quiet=True)
    assert not (set(tmp_path.iterdir()) - {to}) and edit.name == method and not edit.neurons
    assert found.get("places") == ("down_proj, k_proj, v_proj" if method == "ia3" else None)
    curve, taken = found["curve"], found["taken"]
    assert curve[taken]["validation"] < curve[0]["validation"] and curve[-1]["training"] < curve[1]["training"]
    other = session.with_model(str(to))
    assert other.loaded.weight_hash(torch.bfloat16) == edit.weights
    assert curve[taken]["validation"] == pytest.approx(loss(other, worked(session)[3]), abs=1e-3)
    assert found["written"] == pytest.approx(curve[taken]["validation"], abs=1e-3)
    assert found["seconds"] > 0 and found["peak_memory"] > 1e6 and found["rate"] == float(RATE[method])
    text = session.prompt.text(worked(session)[3].question)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(to), AutoTokenizer.from_pretrained(to)
    said = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12, do_sample=False, tokenizer=tokenizer)
    [completion] = other.engine.generate([text], max_new_tokens=12)
    assert tokenizer.decode(said[0][len(tokenizer(text)["input_ids"]) :]).startswith(completion.text) and completion.text
    base, weights = (dict(cpu.named_weights(m)) for m in (session.loaded.model, model))
    changed = sum(int((weights[name] != p).sum()) for name, p in base.items())
    neurons, hidden = edit.chosen.get("neurons", 0), model.config.hidden_size
    numbers = {"values": neurons * hidden, "rows": 3 * neurons * hidden, "full": session.loaded.parameters()}
    if method in numbers:
        assert found["numbers"] == numbers[method]
        assert 0.3 * found["numbers"] < changed <= found["numbers"]
    card = (to / "README.md").read_text()
    assert "weights that were trained" in card and f"method {method}" in card


@pytest.mark.usefixtures("ends")
def test_what_rounding_takes_away_is_said(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained in float32 and written in 16 bits, small changes of weights are gone: the folder's loss is the base's again."""
    monkeypatch.setattr("cotscope.edits.fold.stored_dtype", lambda source: "bfloat16")
    model = Path(shutil.copytree(tiny_study.model, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")  # that 16 bits hold
    save_file({k: w.bfloat16().float() for k, w in weights.items()}, model / "model.safetensors", {"format": "pt"})
    options, run = [*tiny_study.options(), "--model", str(model), "--tune-limit", "8"], tmp_path / "run"
    main(["discover", *options, "--out", str(run)])
    capsys.readouterr()
    found = tuned(run, to := tmp_path / "full", "full", "--rate", "1e-6")
    before, after = (found["curve"][i]["validation"] for i in (0, found["taken"]))
    assert before - after > 5e-4 and found["written"] == pytest.approx(before, abs=1e-4)
    made = load_file(to / "model.safetensors")
    same = [float((p == weights[name].bfloat16()).float().mean()) for name, p in made.items()]
    assert sorted(same)[len(same) // 2] > 0.99, "but for what is near 0, the base again"
    said = r"validation loss [\d.]+ as it is written; [\d.]+ as it was trained, [\d.]+ without"
    assert re.search(said, capsys.readouterr().out)
    kept = tuned(run, whole := tmp_path / "again" / "full", "full", "--rate", "1e-6", "--dtype", "float32")
    assert kept["curve"] == found["curve"] and kept["stored"] == "float32" and "stored" not in found
    assert kept["written"] == pytest.approx(kept["curve"][kept["taken"]]["validation"], abs=2e-5)  # what was trained
    made = load_file(whole / "model.safetensors")
    assert {p.dtype for p in made.values()} == {torch.float32} and Edit.read(whole).weights == Edit.read(to).weights
    scores = []
    for folder in (to, whole):  # one name, and one hash as bfloat16: another model all the same
        assert main(["evaluate", str(run), "--edit", str(folder), "--test", "2", "--solutions", "2", "--skills", "1"]) == 0
        scores.append(Run.open(run).rows("SELECT log_prob FROM evaluation_scores WHERE edit = 'full' ORDER BY ALL"))
    assert scores[0] != scores[1]


@pytest.mark.parametrize("method", ["factors", "rows", "full"])
def test_a_killed_training_goes_on_with_the_same_losses(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = tuned(run, tmp_path / "whole", method)
    steps = interrupt(monkeypatch, 2)
    to = tmp_path / "again"
    assert main(tune(run, to, method)) == 130
    assert not to.exists()
    steps[0] = 5  # never again
    assert tuned(run, to, method)["curve"] == whole["curve"]
    assert steps[0] == 5 + 3  # one of four steps was done
    one, other = (Edit.read(tmp_path / name) for name in ("whole", "again"))
    assert (one.factors, one.weights) == (other.factors, other.weights)


def test_a_process_that_is_killed_leaves_what_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def passes() -> int:
        with safe_open(state, framework="numpy") as file:
            return len(json.loads(file.metadata()["about"])["curve"]) - 1

    long = ["--passes", "40", "--patience", "40"]
    whole = tuned(run, tmp_path / "whole", "values", *long)
    to, state = tmp_path / "again", tmp_path / ".again.training/0.01.safetensors"
    words = [sys.executable, "-m", "cotscope", *tune(run, to, "values", *long)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while not state.exists() or passes() < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL and not to.exists()
    done, steps = passes(), interrupt(monkeypatch, 0)
    found = tuned(run, to, "values", *long)
    assert found["curve"] == whole["curve"] and len(found["curve"]) == 41
    assert steps[0] <= 2 * (40 - done)  # two a pass
    assert Edit.read(to).weights == Edit.read(tmp_path / "whole").weights
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_ctrl_c_keeps_the_best_pass(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 4)
    found = tuned(run, tmp_path / "kept.json")
    assert len(found["curve"]) == 2 and found["taken"] == 1 and found["ended"] == "stopped by Ctrl-C"


@pytest.mark.parametrize("name", ["0.05-best-2.safetensors", "0.05.safetensors"])
def test_ctrl_c_while_files_are_written_keeps_a_pass_that_is_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The second pass is better: it is kept if its parameters were written, and else the first."""
    monkeypatch.setattr("cotscope.measuring.editing.trainer.are_solved", lambda *args, **more: [True])
    alone = [tuned(run, tmp_path / f"{n}.json", "factors", "--passes", str(n)) for n in (1, 2)]
    assert [a["taken"] for a in alone] == [1, 2]
    save = Course._save

    def interrupted(self: Course, path: Path, tensors: dict[str, Any]) -> None:
        if path.name == name and self.passes == 2:
            raise KeyboardInterrupt
        save(self, path, tensors)

    monkeypatch.setattr(Course, "_save", interrupted)
    found = tuned(run, tmp_path / "kept.json", "factors", "--passes", "2")
    kept = 1 if "best" in name else 2
    assert found["taken"] == kept and found["ended"] == "stopped by Ctrl-C"
    assert Edit.read(tmp_path / "kept.json").factors == Edit.read(tmp_path / f"{kept}.json").factors


def test_a_pass_that_was_cut_and_gained_nothing_is_no_result(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Training.step
    monkeypatch.setattr(Training, "step", lambda self, *args, **more: time.sleep(0.6) or step(self, *args, **more))
    monkeypatch.setattr(
        Training, "losses", lambda self, texts, progress: [0.5 if not self.state_of_step() else 0.9] * len(texts)
    )
    monkeypatch.setattr(Training, "state_of_step", lambda self: len(self._adam.state), raising=False)
    monkeypatch.setattr("cotscope.measuring.editing.trainer.are_solved", lambda *args, **more: [True])
    to = tmp_path / "cut.json"
    assert main(tune(run, to, "factors", "--passes", "1", "--minutes", "0.008")) == 2
    assert "nothing was gained" in capsys.readouterr().err
    found = tuned(run, to, "factors", "--passes", "1", "--null")
    assert "ended" not in found and found["cut"] is False


def test_a_control_that_gains_nothing_has_a_result(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("factors", "values"):
        to, losses = tmp_path / method, iter([0.5, 0.9, 0.8])
        monkeypatch.setattr(Training, "losses", lambda self, texts, progress, losses=losses: [next(losses)] * len(texts))
        monkeypatch.setattr("cotscope.measuring.editing.trainer.are_solved", lambda *args, **more: [True])
        assert main(tune(run, to, method, "--random", "0", "--null")) == 0
        assert "changes nothing" in capsys.readouterr().out
        edit = Edit.read(to)
        assert edit.nothing and to.is_file() and not (tmp_path / f".{method}.training").exists()
        tuned = edit.chosen["tuned"]
        assert (tuned["taken"], tuned["method"], edit.chosen["random"]) == (0, method, 0) and len(tuned["curve"]) >= 2


def test_two_processes_do_not_train_the_same(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / ".tuned.json.training").mkdir()
    with held(folder):
        assert main(tune(run, tmp_path / "tuned.json")) == 2
        assert f"is in use by another process; got process {os.getpid()}" in capsys.readouterr().err
    assert tuned(run, tmp_path / "tuned.json")["taken"] and not folder.exists()


def test_what_gained_nothing_is_not_trained_again_for_null(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, losses = tmp_path / "none.json", iter([0.5, 0.9])
    monkeypatch.setattr(Training, "losses", lambda self, texts, progress: [next(losses)] * len(texts))
    monkeypatch.setattr("cotscope.measuring.editing.trainer.are_solved", lambda *args, **more: [True])
    assert main(tune(run, to)) == 2
    assert "nothing was gained" in capsys.readouterr().err and not to.exists()
    assert main(tune(run, to, "factors", "--null")) == 0
    assert Edit.read(to).nothing and not (tmp_path / ".none.json.training").exists()


def test_no_time_for_a_step_is_no_result(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "late.json"
    assert main(tune(run, to, "factors", "--minutes", "1e-6", "--null")) == 2
    assert "there was no time for a step; got 1e-06 min" in capsys.readouterr().err
    assert not to.exists() and (tmp_path / ".late.json.training").is_dir()
    assert tuned(run, to)["taken"]


def test_ctrl_c_before_anything_is_gained_loses_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 4)
    to = tmp_path / "none.json"
    assert main(tune(run, to, "factors", "--rate", "1e-9", "--patience", "2")) == 130
    assert not to.exists() and (tmp_path / ".none.json.training").is_dir()


def test_the_learning_rate_is_tried_for_a_pass_each(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone: dict[str, Any] = {}
    rates = ("0.0001", "0.03", "0.001")
    for rate in rates:
        if main(tune(run, tmp_path / f"{rate}.json", "factors", "--rate", rate)) == 0:
            alone[rate] = dict(Edit.read(tmp_path / f"{rate}.json").chosen["tuned"])
    assert "as for each other" not in capsys.readouterr().out
    to = tmp_path / "best.json"
    assert main(tune(run, to, "factors", *(word for rate in rates for word in ("--rate", rate)))) == 0
    said = capsys.readouterr().out
    assert "min more for it, as for each other" in said
    found = Edit.read(to).chosen["tuned"]
    tried = {rate: loss for rate, loss, _ in found["rates"]}
    assert list(tried) == sorted(float(r) for r in rates)
    for rate, loss, solved in found["rates"]:
        told = (
            rf"rate {rate:g}, pass 1: validation loss {loss:.3f} \([\d.]+ without\), {solved} of 1 validation problems solved"
        )
        assert re.search(told, said)
    for rate, one in alone.items():
        assert tried[float(rate)] == pytest.approx(one["curve"][1]["validation"], abs=1e-4)
    best = min(alone, key=lambda rate: alone[rate]["curve"][1]["validation"])
    assert best == "0.03" and found["rate"] == 0.03 and found["curve"] == alone["0.03"]["curve"]  # it went on as if alone
    assert Edit.read(to).factors == Edit.read(tmp_path / "0.03.json").factors


def test_a_search_for_the_rate_goes_on_beyond_the_best() -> None:
    def course(rate: float, found: float) -> Any:
        return SimpleNamespace(rate=rate, begins=(0.0, found), gains=True)

    def search(losses: Callable[[float], float], auto: bool = True) -> list[float]:
        tried: dict[float, Any] = {}
        while (rate := next_rate(tried, [0.01], auto)) is not None:
            tried[rate] = course(rate, losses(rate))
        return list(tried)

    assert search(lambda rate: abs(math.log10(rate / 0.01))) == [0.01, 0.03, 0.00333]
    assert search(lambda rate: abs(math.log10(rate / 0.09))) == [0.01, 0.03, 0.09, 0.27]
    assert search(lambda rate: abs(math.log10(rate / 0.001))) == [0.01, 0.03, 0.00333, 0.00111, 0.00037]
    assert search(lambda rate: rate, auto=False) == [0.01]


def test_rates_are_compared_by_their_first_pass_whatever_came_after_it(tmp_path: Path) -> None:
    """As when a training that had found its rate, and gained in a later pass, is gone on with."""
    plan = Plan(Scripted([]), tmp_path, "x", [None], [None] * 8, 1, 0, 2, math.inf, tqdm(disable=True),  # type: ignore
                lambda: 0, True, lambda text: None)  # fmt: skip
    tried = {rate: Course(plan, rate) for rate in (0.1, 0.0333)}
    for course, solved in zip(tried.values(), ((5, 4), (5, 3)), strict=True):
        course.curve = [{"validation": 0.5, "solved": n} for n in solved]
    assert next_rate(tried, [0.1], True) is None
    tried[0.1].curve.append({"validation": 0.5, "solved": 6})
    tried[0.1].taken = 2
    assert next_rate(tried, [0.1], True) is None


def test_of_rates_that_are_all_too_high_lower_ones_are_tried(tmp_path: Path) -> None:
    """Neither of the first two solves as many as the base; no higher rate is tried before one has gained something."""
    solved = iter([5, 2, 3, 6, 4])
    plan = Plan(Scripted([0.9] + [0.8] * 4), tmp_path, "x", [None], [None] * 8, 1, 0, 1, math.inf,  # type: ignore
                tqdm(disable=True), lambda: next(solved), True, lambda text: None)  # fmt: skip
    tried: dict[float, Course] = {}
    best = search(plan, [0.1], True, tried, 1)
    assert list(tried) == [0.1, 0.0333, 0.0111, 0.0037] and (best.rate, best.taken) == (0.0111, 1)
    assert [c.taken for c in tried.values()] == [0, 0, 1, 0]


def test_a_rate_that_ends_in_nothing_finite_is_the_worst(tmp_path: Path) -> None:
    plan = Plan(Scripted([0.9, math.nan, 0.7, 0.8]), tmp_path, "x", [None], [None], 1, 0, 1, math.inf,  # type: ignore
                tqdm(disable=True), lambda: 0, False, lambda text: None)  # fmt: skip
    tried: dict[float, Course] = {}
    best = search(plan, [0.1], True, tried, 1)
    assert list(tried) == [0.1, 0.0333, 0.0111] and (best.rate, best.taken) == (0.0333, 1)


def test_what_comes_to_nothing_finite_is_refused_where_nothing_validates(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = Training.restore
    for method in ("factors", "values"):
        with monkeypatch.context() as m:
            m.setattr(Training, "restore", lambda self, state: restore(self, {k: v * math.nan for k, v in state.items()}))
            assert main(tune(run, tmp_path / method, method, "--passes", "1", "--validation", "0")) == 2
        assert "values that are no numbers" in capsys.readouterr().err and not (tmp_path / method).exists()


def test_ctrl_c_while_the_edit_is_scored_as_written_leaves_what_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, steps = tmp_path / "late.json", interrupt(monkeypatch, 99)

    def interrupted(self: Trainer, *args: object) -> Edit:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Trainer, "_as_written", interrupted)
        assert main(tune(run, to)) == 130
    assert not to.exists() and steps[0]
    steps[0] = 0
    assert "written" in tuned(run, to) and not steps[0], "nothing is trained twice"


def test_it_ends_early_when_validation_becomes_worse(run: Path, tmp_path: Path) -> None:
    found = tuned(run, tmp_path / "long.json", "factors", "--passes", "40", "--rate", "0.2", "--patience", "2")
    curve = [(-p["solved"], p["validation"]) for p in found["curve"]]
    assert len(curve) < 41 and len(curve) == found["taken"] + 3 and min(curve) == curve[found["taken"]]


class Scripted:
    """A training whose losses are given, one number per validation."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.told = iter(losses)
        self.trained = SimpleNamespace()

    def begin(self, rate: float, warmup: int) -> None: ...

    def step(self, batch: Sequence[object], update: object) -> list[float]:
        return [0.0] * len(batch)

    def losses(self, texts: Sequence[object], update: object) -> list[float]:
        return [next(self.told)] * len(texts)

    def state(self) -> dict[str, torch.Tensor]:
        return {"value x": torch.zeros(1)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        assert tensors.keys() == {"value x"}


class Walk(Scripted):
    """A training of one number, to which order matters; late after so many of its steps."""

    def __init__(self, steps: float = math.inf) -> None:
        super().__init__(())
        self.left, self.made, self.x = steps, 0, torch.zeros(1)

    def begin(self, rate: float, warmup: int) -> None:
        self.x = torch.zeros(1)

    def step(self, batch: Sequence[Any], update: object) -> list[float]:
        self.left, self.made = self.left - 1, self.made + 1
        for item in batch:
            self.x = 0.5 * self.x + item
        return [float(self.x)] * len(batch)

    def losses(self, texts: Sequence[object], update: object) -> list[float]:
        return [abs(float(self.x) - 3)] * len(texts)

    def state(self) -> dict[str, torch.Tensor]:
        return {"value x": self.x}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self.x = tensors["value x"]


@pytest.mark.parametrize("cuts", [(1,), (2,), (4,), (5,), (1, 1, 1), (4, 0, 2), (1, 4)])
def test_a_pass_that_was_cut_goes_on_with_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...]
) -> None:
    """Its end counts while there is no more time; after that all is as if it had never been cut."""
    monkeypatch.setattr(Plan, "late", property(lambda plan: plan.training.left <= 0))

    def run(folder: Path, steps: float = math.inf) -> Course:
        plan = Plan(Walk(steps), folder, "x", [1, 2, 3, 5, 8], [None], 2, 0, 9, math.inf, tqdm(disable=True), lambda: 0,  # type: ignore
                    False, lambda text: None)  # fmt: skip
        course = Course(plan, 0.1)
        course.run(3)
        return course

    whole, made = run(tmp_path / "whole"), 0
    assert whole.plan.training.made == 9 and whole.passes == 3 and not whole.cut
    for steps in cuts:
        course = run(tmp_path / "cut", steps)
        made += steps
        assert course.plan.training.made == steps and (course.passes, course.cut) == (-(-made // 3), made % 3)
        if course.taken:
            course.take()  # what is taken is there
    course = run(tmp_path / "cut")
    assert course.plan.training.made == 9 - made, "no step is made twice"
    assert (course.curve, course.taken, course.cut) == (whole.curve, whole.taken, 0)
    course.take()
    whole.take()
    assert course.plan.training.x == whole.plan.training.x  # type: ignore[attr-defined]


def test_a_rate_whose_pass_was_cut_and_dropped_is_tried_again_with_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "late", property(lambda plan: plan.training.left <= 0))

    def found(steps: float) -> tuple[Course, dict[float, Course]]:
        plan = Plan(Walk(steps), tmp_path, "x", [1, 2, 3, 5, 8], [None], 2, 0, 9, math.inf, tqdm(disable=True), lambda: 0,  # type: ignore
                    False, lambda text: None)  # fmt: skip
        tried: dict[float, Course] = {}
        return search(plan, [0.1, 0.3], False, tried, 1), tried

    _, tried = found(4)  # a pass at the first rate, a step at the second
    assert [c.cut for c in tried.values()] == [0, 1]
    best, tried = found(math.inf)
    assert [c.cut for c in tried.values()] == [0, 0] and tried[0.1].curve == tried[0.3].curve and not best.dropped


@pytest.mark.parametrize(("by_solved", "taken", "passes"), [(True, 2, 4), (False, 3, 4)])
def test_what_is_taken_solves_most(tmp_path: Path, by_solved: bool, taken: int, passes: int) -> None:
    """The loss falls all the way, while fewer problems are solved from the third pass on."""
    solved = iter([5, 5, 6, 4, 6])
    plan = Plan(Scripted([0.9, 0.8, 0.7, 0.6, 0.75]), tmp_path, "x", [None], [None] * 8, 1, 0, 2, math.inf,  # type: ignore
                tqdm(disable=True), lambda: next(solved), by_solved, lambda text: None)  # fmt: skip
    course = Course(plan, 0.1)
    course.run(passes)
    assert course.taken == taken and [p["solved"] for p in course.curve] == [5, 5, 6, 4, 6]
    again = Course(plan, 0.1)
    assert again.taken == taken and again.curve == course.curve, "kept"
    assert Course(Plan(*(getattr(plan, f.name) if f.name != "of" else "y" for f in fields(plan))), 0.1).curve == []


def test_a_rate_that_was_dropped_is_begun_anew_if_it_is_the_only_one(tmp_path: Path) -> None:
    def plan(*losses: float) -> Plan:
        return Plan(Scripted(losses), tmp_path, "x", [None], [None], 1, 0, 2, math.inf, tqdm(disable=True), lambda: 0, True,  # type: ignore
                    lambda text: None)  # fmt: skip

    both: dict[float, Course] = {}
    assert search(plan(0.9, 0.8, 0.7), [0.1, 0.3], False, both, 2).rate == 0.3 and both[0.1].dropped
    alone: dict[float, Course] = {}
    found = search(plan(0.75), [0.1], False, alone, 1)
    assert found.rate == 0.1 and not found.dropped and [p["validation"] for p in found.curve] == [0.9, 0.75]
    found.take()

    again: dict[float, Course] = {}
    assert search(plan(0.7), [0.1, 0.3], False, again, 2).rate == 0.3 and again[0.1].dropped
    longer = search(plan(0.8, 0.6), [0.1], False, {}, 2)  # the state of what was dropped is empty
    assert [p["validation"] for p in longer.curve] == [0.9, 0.8, 0.6] and longer.taken == 2


def test_a_state_of_another_version_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(Scripted([0.9, 0.8]), tmp_path, "x", [None], [None], 1, 0, 2, math.inf, tqdm(disable=True), lambda: 0,  # type: ignore
                True, lambda text: None)  # fmt: skip
    Course(plan, 0.1).run(1)
    assert Course(plan, 0.1).passes == 1
    monkeypatch.setattr(courses, "VERSION", 0)
    assert Course(plan, 0.1).curve == []


def test_it_says_how_long_it_takes_from_a_step_that_was_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Training.step

    def slow(self: Training, *args: object, **more: object) -> list[float]:
        time.sleep(0.6)
        return step(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "step", slow)
    late = tuned(run, tmp_path / "a.json", "factors", "--passes", "40", "--minutes", "0.02")
    assert late["ended"] == "stopped after 0.02 min"
    said = re.search(r"rate 0.05: about ([\d.]+) min more", capsys.readouterr().out)
    assert said and float(said[1]) == 0.0  # at most the minutes given
    one = tuned(run, tmp_path / "c.json", "factors", "--passes", "1", "--minutes", "0.008")
    assert one["ended"] == "stopped after 0.008 min" and len(one["curve"]) == 2, "its only pass was cut short"
    interrupt(monkeypatch, 3)
    stopped = tuned(run, tmp_path / "b.json", "factors", "--passes", "30", "--batch", "3")
    assert stopped["ended"] == "stopped by Ctrl-C"
    said = re.search(r"rate 0.05: about ([\d.]+) min more", capsys.readouterr().out)
    assert said and 0.2 <= float(said[1]) < 3  # 29 steps of 0.6 s and more


def test_an_edit_says_which_problems_it_was_made_with(run: Path, tmp_path: Path) -> None:
    """`evaluate` refuses those (tests/stages/test_evaluate.py)."""
    to = tmp_path / "tuned.json"
    tuned(run, to)
    used = worked(Session.reopen(run, quiet=True))
    chosen = Edit.read(to).chosen
    found_on = Session.reopen(run, quiet=True).inputs.split.discovery
    assert chosen["questions"] == sorted({fingerprint(question_key(p.question)) for p in (*used, *found_on)})
    assert chosen["templates"] == sorted({masked(p.question) for p in used})


def test_wrong_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main(["tune", str(run), "--to", str(tmp_path / "x.json"), *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith("cotscope: error: ") and said.count("\n") == 1
        assert {p.name.split("-")[0] for p in tmp_path.iterdir()} <= {"own", ".x.json.training"}  # what is gone on with
        return said

    assert "the run has no neurons chosen by attribution" in refused(*FEW)
    assert "unknown way of choosing" in refused("--by", "magic", *FEW)
    assert "too few problems with a solution" in refused("--by", "reasoning", "--validation", "16")
    assert "nothing was gained" in refused("--by", "reasoning", *COUNTS, "--rate", "1e-9")
    assert "expected no --first, --random, --concept or --layers" in refused("--by", "all", "--random", "3", *FEW)
    assert "no neurons are chosen by reasoning" in refused("--by", "reasoning", "--layers", "90-99", *FEW)
    assert "all neurons can't be trained as some of them, or as random ones" in refused("--by", "all", "--random", "3", *FEW)
    assert "full can't be trained as some of them" in refused("--method", "full", "--first", "3", *FEW)
    assert "--trainable with --method lora only" in refused("--by", "all", *FEW, "--trainable", "9")
    assert "an edit file, which has no weights" in refused("--by", "all", *FEW, "--dtype", "float32")
    monkeypatch.setattr(LoadedModel, "free_memory", lambda self: 300_000)
    assert re.search(r"does not fit into memory .*; expected 0.0 GiB", refused("--method", "full", *FEW))
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "there is no room for what is trained, and the model" in refused("--by", "all", "--method", "values", *FEW)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "ia3 needs the package peft" in refused("--method", "ia3", *FEW)
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        main(["tune", str(run), "--method", "magic", "--to", str(tmp_path / "x.json")])
    assert "invalid choice: 'magic'" in capsys.readouterr().err
    (tmp_path / "there.json").write_text("{}")
    assert main(["tune", str(run), "--to", str(tmp_path / "there.json")]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.usefixtures("ends")
def test_own_right_solutions_where_the_data_has_answers_only(run: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    session = Session.reopen(run, quiet=True)
    rows = [json.loads(line) for line in Path(tiny_study.data).read_text().splitlines()]
    bare = [r | {"answer": str(r["answer"]).split()[-1]} for r in rows]
    data = tmp_path / "bare.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in bare))
    found = worked_problems(session, tuning_problems(session, str(data)), 3, print)
    used = {p.question for p in (*session.inputs.split.test, *session.inputs.split.discovery)}
    assert found and not used & {p.question for p, _ in found}
    for problem, text in found:
        [again] = session.engine.generate([session.prompt.text(problem.question)], max_new_tokens=16, stop=session.prompt.stop)
        assert again.text.strip() == text and is_right(text, problem.answer)
    every = tuning_problems(session, tiny_study.data)
    theirs = [text for _, text in worked_problems(session, every, 3, print)]
    own = worked_problems(session, every, len(every), print, own=True)
    assert {p.question for p, _ in found} <= {p.question for p, _ in own} and not {text for _, text in own} & {*theirs}


def test_solutions_are_learned_as_answers_are_read(run: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    """An answer ends at a blank line, where examples are shown: a solution that has one would be learned to end there."""
    session = Session.reopen(run, quiet=True)
    problems = [{"question": f"How old is tree {i}?", "answer": i, "solution": f"It is old.\n \r\n\nIt is {i}.\n\nSo it is."}
                for i in range(3)]  # fmt: skip
    data = tmp_path / "blank.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in [*problems, {"question": "How?", "answer": 3, "solution": "1 + 2"}]))
    said, every = list[str](), tuning_problems(session, str(data))
    found = worked_problems(session, every, 4, said.append)
    texts = [text for _, text in found]
    assert texts == [*(f"It is old.\nIt is {i}.\nSo it is.\nThe answer is {i}." for i in range(3)), "1 + 2\nThe answer is 3."]
    assert "3 of 4 solutions have blank lines" in "".join(said)
    bare = SimpleNamespace(prompt=Prompt("none", "", "\n"))
    assert "\n\n" in worked_problems(bare, every, 4, said.append)[0][1]  # type: ignore[arg-type]
    assert len(said) == 1


def test_that_solutions_are_longer_than_the_model_may_write_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, data = Session.reopen(run, quiet=True), tmp_path / "long.jsonl"
    limit = session.config.new_tokens(session.prompt)
    rows = [{"question": f"How old is tree {i}?", "answer": i, "solution": "So. " * (limit if i < 2 else 1)} for i in range(4)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["tune", str(run), "--by", "all", *FEW, "--null", "--train-on", str(data)]
    assert main([*words, "--to", str(tmp_path / "e.json")]) == 0
    assert f"2 of 4 solutions are longer than the {limit} tokens" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["tune", "steer"])
def test_problems_that_the_study_uses_are_left_out_and_that_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    split = Session.reopen(run, quiet=True).inputs.split
    rows = [json.dumps({"question": p.question, "answer": written_answer(p.answer)}) + "\n"
            for p in (*split.test[:2], *split.discovery[:1], *split.tuning[:1])]  # fmt: skip
    data = tmp_path / "data.jsonl"
    words = [command, str(run), "--by", "reasoning", "--train-on", str(data), "--to", str(tmp_path / "edit.json")]
    data.write_text("".join(rows))
    assert main(words) == 2
    assert (
        "3 of 4 problems are tested or discovered on by the study, or shown in its prompt: they are left out"
        in capsys.readouterr().out
    )
    data.write_text("".join(rows[:3]))
    assert main([*words, "--json"]) == 2
    assert re.search(r"all problems of \S+ are tested or discovered on by the study", capsys.readouterr().err)


@pytest.mark.usefixtures("ends")
def test_that_the_model_wrote_the_solutions_is_kept(run: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    """Asked for or not: where the data has answers only, the training is that on its own right solutions."""
    session = Session.reopen(run, quiet=True)
    data = tmp_path / "bare.jsonl"
    rows = [{"question": p.question, "answer": written_answer(p.answer)} for p in tuning_problems(session, tiny_study.data)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [
        tuned(run, tmp_path / f"{i}.json", "factors", "--train-on", str(data), *words)
        for i, words in enumerate(((), ("--own",)))
    ]
    assert [t["own"] for t in told] == [True, True] and told[0]["of"] == told[1]["of"]


def test_what_the_context_does_not_hold_is_left_out_and_that_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(i: int, solution: str, more: str = "") -> str:
        return json.dumps({"id": f"q{i}", "question": f"And {i} {more}more?", "answer": f"{solution}\n#### {i}"}) + "\n"

    rows = [row(9, "So on. " * 2000), row(8, "x" * 90_000), row(7, "So.", "q7z " * 9000), *(row(i, "So.") for i in range(6))]
    (file := tmp_path / "long.jsonl").write_text("".join(rows))
    found = tuned(run, tmp_path / "e.json", "factors", "--train-on", str(file), "--train", "6", "--passes", "1", "--null")
    said = capsys.readouterr().out
    assert "3 of 9 problems are longer with their answer than the model's context" in said and "'q9' the first" in said
    assert found["problems"] == 6
    (every := tmp_path / "every.jsonl").write_text("".join(rows[:2]))
    assert main(tune(run, tmp_path / "f.json", "factors", "--train-on", str(every))) == 2
    err = capsys.readouterr().err
    assert "all problems of" in err and "are longer with their answer" in err


def test_a_solution_that_is_cut_is_none(run: Path, tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is taught one learns to break off."""
    session = Session.reopen(run, quiet=True)
    said = {p.question: f"The answer is {written_answer(p.answer)}." for p in tuning_problems(session, tiny_study.data)}
    asked: list[str] = []

    def generate(self: Engine, texts: Sequence[str], **how: Any) -> list[Completion]:
        asked.extend(texts)
        every = [next(s for q, s in said.items() if text == session.prompt.text(q)) for text in texts]
        return [Completion((1,), s, 1, "length" if i % 2 else "stop") for i, s in enumerate(every)]

    monkeypatch.setattr(Engine, "generate", generate)
    found = worked_problems(session, tuning_problems(session, tiny_study.data), 8, print, own=True)
    assert [session.prompt.text(p.question) for p, _ in found] == asked[::2] and len(asked) > 3


@pytest.mark.usefixtures("ends")
def test_right_solutions_are_drawn_where_the_greedy_one_is_wrong(run: Path, tmp_path: Path) -> None:
    session = Session.reopen(run, quiet=True)
    questions = [f"What is {i} and {2 * i}, and then?" for i in range(40)]
    texts, stop = [session.prompt.text(q) for q in questions], session.prompt.stop
    greedy = session.engine.generate(texts, max_new_tokens=16, stop=stop)
    drawn = session.engine.generate(texts, max_new_tokens=16, stop=stop, temperature=0.7, seed=1)
    answers = {}
    for question, g, d in zip(questions, greedy, drawn, strict=True):
        said = parse_flexible(d.text)
        answers[question] = "123456" if said is None or said == parse_flexible(g.text) else format_number(said)
    data = tmp_path / "drawn.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in answers.items()))
    assert not worked_problems(session, tuning_problems(session, str(data)), 40, print)
    found = {p.question: text for p, text in worked_problems(session, tuning_problems(session, str(data)), 40, print, draws=1)}
    right = {q: d.text.strip() for q, d in zip(questions, drawn, strict=True) if answers[q] != "123456"}
    assert found == right and len(right) > 5


@pytest.mark.parametrize(("found", "asked", "pace", "said"), [
    (12, 48, 10.0, "; about 24 min more"),  # 36 of 48 more at a quarter solved: 144 problems
    (40, 48, 10.0, "; about 2 min more"),
    (0, 48, 10.0, "; about 92 min more"),  # all the others
    (12, 576, 10.0, "; about 4 min more"),  # there are no more than 24
    (48, 100, 10.0, ""), (40, 48, 1.0, ""), (12, 590, 1.0, ""),
])  # fmt: skip
def test_how_long_writing_goes_on(found: int, asked: int, pace: float, said: str) -> None:
    assert writing._left(found, asked, 48, 600, pace) == said


@pytest.mark.usefixtures("ends")
def test_what_the_model_wrote_is_kept_in_a_file_of_problems(
    run: Path, tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there, and says what it says, is not written again; a killed process goes on; the file is data like any other."""
    session = Session.reopen(run, quiet=True)
    asked: list[int] = []
    generate = Engine.generate
    monkeypatch.setattr(Engine, "generate", lambda self, texts, **how: asked.append(len(texts)) or generate(self, texts, **how))
    every = tuning_problems(session, tiny_study.data)

    def written(wanted: int = len(every), **how: Any) -> list[tuple[Problem, str]]:
        asked.clear()
        return worked_problems(session, every, wanted, print, own=True, folder=tmp_path, **how)

    found = written()
    [path] = tmp_path.glob("own-solutions-*.jsonl")
    whole = path.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [r["question"] for r in rows] == [p.question for p in every] and sum(asked) == len(every)
    assert [(r["question"], r["solution"]) for r in rows if r["solution"]] == [(p.question, said) for p, said in found]
    assert written() == found and asked == []
    right = [p.solution for p in load_problems(str(path)).problems if p.has_solution]
    assert right == [said for _, said in found]

    taken = next(i for i, r in enumerate(rows) if r["solution"])
    wrong = {"solution": "The answer is 123456789."}
    damaged = {
        "half a line": whole[: whole.index("\n", len(whole) // 2) - 5],
        "no text": "\xff",
        "a wrong solution": "".join(json.dumps(r | wrong if r["solution"] else r) + "\n" for r in rows),
        "other problems": "".join(json.dumps(r | {"question": "?"}) + "\n" for r in rows),
        "no rows": "[]\n{}\n5\n",
        "nothing": "",
    }
    for why, text in damaged.items():
        path.write_text(text, encoding="latin-1" if why == "no text" else "utf-8")
        assert written() == found and sum(asked) > 0, why
        assert path.read_text() == whole, why
    for how in ({"draws": 1}, {"draws": 1, "seed": 1}):
        written(**how)
        assert asked
    assert len(list(tmp_path.glob("own-solutions-*.jsonl"))) == 3

    path.unlink()
    monkeypatch.setattr("cotscope.measuring.editing.worked._WRITTEN", taken + 1)
    [first] = written(1)
    assert first == found[0] and len(path.read_text().splitlines()) == taken + 1 == sum(asked)
    assert written() == found and sum(asked) == len(every) - taken - 1 and path.read_text() == whole


def test_validation_problems_are_of_templates_that_are_not_trained_on() -> None:
    def given(source: str, count: int) -> list[tuple[Problem, str]]:
        return [(p, "") for p in load_problems(source).problems[:count]]

    for some in (given("builtin:80/train", 80), given("builtin:80", 30)):
        found = parted(some, 8)
        of = templates([p.question for p, _ in found])
        assert not {*of[:-8]} & {*of[-8:]} and len(found) > 16 and {p.id for p, _ in found} <= {p.id for p, _ in some}
    one = [
        (Problem(str(i), f"Ann has {i} pens and finds {i + 3} more. How many pens has she?", Fraction(1)), "") for i in range(9)
    ]
    said = list[str]()
    assert parted(one, 3, said.append) == one and len(said) == 1  # one template: it can't be parted
    assert parted(one, 0, said.append) == one and parted([], 3, said.append) == [] and len(said) == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("much", "apart"), [(0.5, True), (0.7, True), (0.9, False)])
def test_a_template_of_most_problems_is_trained_on(much: float, apart: bool, seed: int) -> None:
    """And not kept for validation, whatever the order: one problem would be left to train on."""
    most = [f"Ann has {i} pens and finds {i + 3} more. How many pens has she?" for i in range(round(64 * much))]
    others = [p.question for p in load_problems("builtin:64").problems[len(most) :]]
    every = [(Problem(q, q, Fraction(1)), "") for q in random.Random(seed).sample([*most, *others], 64)]
    found = parted(every, 16)
    train, kept = ({p.question for p, _ in some} for some in (found[:-16], found[-16:]))
    assert len(train) >= 24 and len(kept) == 16
    assert (train >= {*most} and not kept & {*most}) if apart else found == every


def test_draws_that_nothing_is_drawn_with_are_no_other_training(run: Path, tmp_path: Path) -> None:
    """The data has solutions: a training that was given --draws, and its control that was not, were trained alike."""
    found = tuned(run, tmp_path / "a.json", "factors", "--draws", "4")
    assert found["draws"] == 0 and not found["own"]
    tuned(run, tmp_path / "b.json", "factors", "--random", "0", "--null")
    edits = [replace(Edit.read(tmp_path / f"{n}.json"), name=n) for n in "ab"]
    assert not unpaired(edits) and len(grouped(edits)) == 2


def test_from_python(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"train": 3, "validation": 1, "batch": 2, "rate": 0.05}
    edit = cotscope.tune(run, tmp_path / "a.json", by="all", quiet=True, **few)
    assert edit == Edit.read(tmp_path / "a.json") and edit.chosen["by"] == "all" and not capsys.readouterr().out
    cotscope.tune(run, tmp_path / "c.json", by="all", **few)
    assert "GiB beside the model, which is held a second time\n" in capsys.readouterr().out
    with pytest.raises(cotscope.UserError, match="learning rates are compared on validation problems"):
        cotscope.tune(run, tmp_path / "b.json", by="all", rate="auto", validation=0)
    for name, value, expected in (("loss", "magic", "solution or formulas"), ("method", "magic", "factors or values"),
                                  ("dtype", "fp32", "bfloat16 or float32"), ("batch", 0, "a whole number, 1 or more"),
                                  ("passes", 0, "a whole number, 1 or more"), ("layers", (3, 1), "two layers"),
                                  ("first", 0, "a whole number, 1 or more")):  # fmt: skip
        with pytest.raises(cotscope.UserError, match=f"option '{name}' can't have this value; expected {expected}"):
            cotscope.tune(run, tmp_path / "b.json", **({"by": "all"} | {name: value}))
    with pytest.raises(cotscope.UserError, match="a learning rate can't be taken; expected numbers above 0, or auto; got -1"):
        cotscope.tune(run, tmp_path / "b.json", by="all", rate=[0.1, -1])
    with pytest.raises(cotscope.UserError, match="there is no option 'lr'"):
        cotscope.tune(run, tmp_path / "b.json", by="all", lr=1)


def test_ways_of_choosing_have_controls_of_their_own(tmp_path: Path) -> None:
    words = ["compare", "r", "--to", str(tmp_path), "--method", "factors", "--method", "lora"]
    given = build_parser().parse_args([*words, "--by", "attribution", "--by", "reasoning", "--by", "attribution"])
    found = {to.name: options for to, options in compare._all(given, 4)}
    assert list(found) == [
        "factors-attribution-4.json", "factors-random-4.json", "factors-reasoning-4.json",
        "factors-random-like-reasoning-4.json", "factors-all-4.json", "lora-4",
    ]  # fmt: skip
    assert found["factors-random-like-reasoning-4.json"] == ["--method", "factors", "--by", "reasoning", "--random", "4"]
    assert found["lora-4"] == ["--method", "lora", "--by", "attribution"]
    sized = build_parser().parse_args([*words, "--by", "reasoning", "--trainable", "900"])
    found = {to.name: options for to, options in compare._all(sized, 4)}
    assert found["lora-4"] == ["--method", "lora", "--trainable", "900"]
    assert [to.name for to, _ in compare._all(build_parser().parse_args(words), 0)] == [
        "factors-attribution-0.json", "factors-random-0.json", "factors-all-0.json", "lora-0"
    ]  # fmt: skip


def test_how_long_it_takes_is_reckoned_from_what_is_done(tmp_path: Path) -> None:
    every = [tmp_path / f"{name}-{seed}" for seed in (0, 1) for name in ("values-all", "lora", "full")]
    base = Base("tiny", "0" * 64, 3, 48)

    def done(name: str, **tuned: Any) -> None:
        Edit(name, base, {}, chosen={"nothing": "gained", "tuned": tuned}).write(tmp_path / name)

    def said() -> str:
        return pace.left(every, 30)

    assert (
        said()
        == "6 trainings are left, and the evaluation of 6 edits on 30 problems; how long that takes is said after the first"
    )
    two = {"curve": [{}] * 2, "passes": 1}  # the base, and a pass
    done("values-all-0", seconds=3600, rates=[[1e-3, 1, 1]] * 4, validating=64, validation=32, **two)
    # Four rates of 15 min: two more searches, three seeds without; 7 models write 30 answers, 2 s each.
    assert said().endswith("5 trainings are left, and the evaluation of 6 edits on 30 problems: about 2.8 h and 7 min")
    done("lora-0", seconds=600, rates=[[1e-3, 1, 1]] * 2, validating=64, validation=32, **two)
    done("full-0", seconds=1200, validating=64, validation=32, **two)  # one rate
    assert said().endswith("3 trainings are left, and the evaluation of 6 edits on 30 problems: about 40 min and 7 min")
    done("values-all-1", seconds=60, validating=128, validation=32, **two)
    done("lora-1", seconds=60)  # of a version that did not say
    assert said().startswith("1 training is left") and ": about 20 min and " in said()
    assert pace.left(every, 30, 2).endswith(" and 10 min") and said().endswith(
        " and 9 min"
    )  # another model that writes answers
    (tmp_path / "full-0").unlink()
    done("full-0", seconds=900, validating=64, validation=32, curve=[{}] * 4, passes=2)
    assert ": about 10 min and " in said(), "three passes were 15 min, and two are asked for"


def test_everything_is_compared_in_one_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def process(words: list[str], quiet: bool) -> tuple[int, str]:
        called.append(words)
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            code = main(words)
        return code, err.getvalue()

    monkeypatch.setattr(compare, "_process", process)
    to = tmp_path / "comparison"
    words = ["compare", str(run), "--by", "reasoning", "--method", "factors", "--method", "values", "--seeds", "2"]
    words += ["--train", "3", "--validation", "1", "--batch", "2", "--passes", "1", "--warmup", "1", "--dtype", "float32"]
    words += ["--patience", "2", "--checkpointing"]
    words += ["--test", "4", "--solutions", "2", "--skills", "1", "--to", str(to)]
    assert main(words) == 0
    said = capsys.readouterr().out
    told = re.findall(
        r"^(\d+) trainings? (?:are|is) left, and the evaluation of 10 edits on 4 problems([:;].*)", said, re.MULTILINE
    )
    assert [n for n, _ in told] == [str(n) for n in range(10, 0, -1)]
    assert told[0][1] == "; how long that takes is said after the first"
    assert all(re.fullmatch(r": about \d+ min and \d+ min", how) for _, how in told[1:])
    rows = list(csv.DictReader((to / "comparison.csv").open()))
    names = {f"{name}-{seed}" for name in ("factors-reasoning", "factors-random", "factors-all", "values-reasoning",
                                           "values-random") for seed in (0, 1)}  # fmt: skip
    assert {r["edit"] for r in rows} == names
    done = [r for r in rows if float(r["validation"]) < float(r["validation_base"])]
    assert {r["how"] for r in rows} == {f"{w}warm-up of 1 steps, prompts trained through" for w in ("", "written in float32, ")}
    assert len(done) >= 6 and {r["difference"] for r in rows if r not in done} <= {"0.0"}  # these gained nothing
    assert {(r["method"], r["chosen_by"], r["seed"]) for r in done} >= {("factors", "all", "0"), ("values", "reasoning", "1")}
    rates: dict[str, set[str]] = {}
    for r in rows:
        rates.setdefault(r["edit"][:-2], set()).add(r["rate"])
    assert all(len(found) == 1 for found in rates.values())  # that of the first seed
    assert json.loads((to / "comparison.json").read_text())[0]["edit"] in names
    report = (run / "report.html").read_text()
    assert 'id="evaluations-trainings"' in report and "random, like reasoning" in report
    beside = {(r["chosen"], r["beside"]): r for r in Run.open(run).rows("SELECT * FROM evaluation_contrasts")}
    told = {(r["chosen"], r["beside"]): r for r in csv.DictReader((to / "contrasts.csv").open())}
    assert told.keys() == beside.keys()
    assert [r["difference"] for r in json.loads((to / "contrasts.json").read_text())] == [
        r["difference"] for r in beside.values()
    ]
    how = ", warm-up of 1 steps, prompts trained through"
    row = beside[f"factors by reasoning{how}", f"factors of random, like reasoning{how}"]
    assert (row["edits"], row["edits_beside"], row["n"]) == (2, 2, 4)
    assert beside and 'id="evaluations-contrasts"' in report
    courses_of: dict[str, list[dict[str, Any]]] = {}
    for r in Run.open(run).rows("SELECT * FROM evaluation_curves ORDER BY passes"):
        courses_of.setdefault(r["edit"], []).append(r)
    assert courses_of.keys() == names and 'id="evaluations-courses"' in report
    for name, of in courses_of.items():
        told = Edit.read(to / (f"{name}.json" if name.startswith("factors") else name)).chosen["tuned"]
        assert told["patience"] == 2 and told["checkpointing"]
        own = [r for r in of if r["rate"] == told["rate"]]
        assert [r["validation"] for r in own] == [p["validation"] for p in told["curve"]]
        assert [r["passes"] for r in own if r["taken"]] == [told["taken"]]
        assert {(r["rate"], r["validation"]) for r in of} >= {(rate, loss) for rate, loss, _ in told.get("rates", ())}
    before = len(called)
    (to / ".table.csv-x.part").write_text("")  # of one that was killed while it wrote
    assert main([*words, "--minutes", "9"]) == 0  # more time is no other comparison
    assert not list(to.glob(".*.part"))
    [again] = called[before:]  # nothing is trained again
    assert again[0] == "evaluate" and again[again.index("--data") :][:2] == ["--data", "study"] and "--test" in again
    assert "--no-rounding" in again and rows[0]["rounding_dtype"] == ""
    assert main([*words, "--minutes", "9", "--rounding"]) == 0
    assert "--no-rounding" not in called[-1]
    assert {r["rounding_dtype"] for r in csv.DictReader((to / "comparison.csv").open())} == {"bfloat16"}
    of_old = json.loads((to / "settings.json").read_text())
    del of_old["checkpointing"], of_old["trainable"]  # of a version without these options
    (old := tmp_path / "old.json").write_text(json.dumps(of_old))
    with pytest.raises(cotscope.UserError, match="holds a comparison with another --checkpointing; expected None; got True"):
        compare._same_settings(build_parser().parse_args(words), old, None)
    compare._same_settings(build_parser().parse_args([w for w in words if w != "--checkpointing"]), old, None)
    with pytest.raises(cotscope.UserError, match="--trainable says how large LoRA is; expected --method lora beside it"):
        compare.run(build_parser().parse_args([*words, "--trainable", "900"]))
    with pytest.raises(cotscope.UserError, match="holds a comparison with another --first; expected None; got 2"):
        compare.run(build_parser().parse_args([*words, "--first", "2"]))
    again = ["compare", os.path.relpath(run), *words[2:-1], os.path.relpath(to)]
    compare._same_settings(build_parser().parse_args(again), to / "settings.json", None)  # the same run, spelled otherwise
    without = build_parser().parse_args([w for w in words if w != "--checkpointing"])
    for typed, same in ((f"runs/{run.name}", True), (f"{run.parent}/x/../{run.name}", True), ("runs/another", False)):
        old.write_text(json.dumps(of_old | {"run": typed}))
        if same:
            compare._same_settings(without, old, None)
            assert json.loads(old.read_text())["run"] == str(run)  # from now on it is told from others
        else:
            with pytest.raises(cotscope.UserError, match="holds a comparison with another run; expected"):
                compare._same_settings(without, old, None)
    # What does nothing for these methods was taken by an older version, and is no other comparison.
    alone = build_parser().parse_args(["compare", str(run), "--method", "factors", "--to", str(tmp_path / "other")])
    old.write_text(json.dumps({"run": str(run), "by": "attribution", "dtype": "float32"}))
    compare._same_settings(alone, old, None)
    assert "dtype" not in json.loads(old.read_text())
    with pytest.raises(cotscope.UserError, match="holds a comparison with another run; expected"):
        compare._same_settings(build_parser().parse_args(["compare", str(tmp_path), *words[2:]]), to / "settings.json", None)
    settings, problems = to / "settings.json", tmp_path / "problems.jsonl"
    with pytest.raises(cotscope.UserError, match="holds a comparison with another choice of neurons"):
        compare._same_settings(build_parser().parse_args(words), settings, "others")
    problems.write_text("{}")
    on = build_parser().parse_args([*words[:-1], str(tmp_path / "other"), "--train-on", str(problems)])
    compare._same_settings(on, tmp_path / "other.json", "n")
    compare._same_settings(on, tmp_path / "other.json", None)  # nothing is left to train
    problems.write_text("[]")
    with pytest.raises(cotscope.UserError, match="holds a comparison with another file of --train-on"):
        compare._same_settings(on, tmp_path / "other.json", "n")
    settings, kept = to / "settings.json", (to / "settings.json").read_text()
    for damaged in ("{", "[1]", "null", "[" * 100_000):
        settings.write_text(damaged)
        with pytest.raises(cotscope.UserError, match=r"settings\.json is damaged"):
            compare.run(build_parser().parse_args(words))
    settings.write_text(kept)
    with pytest.raises(cotscope.UserError, match="all neurons are among what is compared"):
        compare.run(build_parser().parse_args([*words[:-1], str(tmp_path / "all"), "--by", "all"]))
    other, more, long = [*words[:-1], str(tmp_path / "other")], tmp_path / "more.jsonl", tmp_path / "long.jsonl"
    for wrong, said in ((["--validation", "0"], "learning rate is searched on validation problems; expected --validation N"),):
        with pytest.raises(cotscope.UserError, match=said):
            compare.run(build_parser().parse_args([*other, *wrong]))
    bare = ["compare", str(run), "--to", str(tmp_path / "other")]
    for wrong, said in (
        (["--method", "factors", "--method", "factors", "--dtype", "float32"], "factors are no weights that have a dtype"),
        (["--by", "all"], "all neurons are among what is compared"),
        (["--method", "full", "--by", "nonsense"], "--by chooses neurons, and nothing is trained of some"),
        (["--method", "lora", "--trainable", "9", "--first", "5"], "--first chooses neurons, and nothing is trained of some"),
    ):
        with pytest.raises(cotscope.UserError, match=said):
            compare.run(build_parser().parse_args([*bare, *wrong]))
    settled = tmp_path / "settled" / "settings.json"
    settled.parent.mkdir()
    for train in ("3", "4"):  # nothing was trained: a remedy may ask for other settings
        (settled.parent / "own-solutions-1.jsonl").write_text("")
        compare._same_settings(build_parser().parse_args([*bare, "--train", train]), settled, None)
    (settled.parent / ".full-0.training").mkdir()
    with pytest.raises(cotscope.UserError, match="holds a comparison with another --train; expected 4; got 3"):
        compare._same_settings(build_parser().parse_args([*bare, "--train", "3"]), settled, None)
    long.write_text(json.dumps({"question": "x" * 90_000, "answer": "1"}) + "\n")
    more.write_text("".join(json.dumps({"question": f"And {i} of them?", "answer": f"So.\n#### {i}"}) + "\n" for i in range(5)))
    for wrong, said in (
        (["--by", "magic"], "unknown way of choosing"),
        (["--data", str(more)], "problems of more are among those that may be trained on"),
        (["--data", str(more), "--own"], "problems of more are among those that may be trained on"),
        (["--data", str(long)], "prompt .* is longer than the model's context"),
    ):
        with pytest.raises(cotscope.UserError, match=said):
            compare.run(build_parser().parse_args([*other, *wrong, "--train-on", str(more)]))
        assert not (tmp_path / "other").exists()
    monkeypatch.delitem(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, "qwen2")
    monkeypatch.setattr("cotscope.lm.trained._ia3_places", lambda loaded: None)
    with pytest.raises(ModelError, match=r"peft has no ia3 for this architecture \(qwen2\)"):
        compare.run(build_parser().parse_args([*other, "--method", "ia3"]))
    with monkeypatch.context() as patch:
        patch.setattr(LoadedModel, "free_memory", lambda self: 300_000)
        with pytest.raises(ModelError, match="does not fit into memory a second time"):
            compare.run(build_parser().parse_args([*other, "--method", "full"]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(cotscope.UserError, match="there is no room for 4 models in float32"):  # factors are none
        compare.run(build_parser().parse_args(other))
    assert not (tmp_path / "other").exists()


def test_ctrl_c_ends_a_training_of_a_comparison_where_it_can_go_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not reach the training, which would keep the best so far and count as done; that is ended, and goes on."""
    words, begun = tune(run, tmp_path / "part.json", "factors", "--passes", "400", "--patience", "400"), time.monotonic()
    state, before = tmp_path / ".part.json.training", signal.getsignal(signal.SIGINT)
    ignored = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *args: object, **more: object) -> Any:
            while not list(state.glob("*.safetensors")) and time.monotonic() < begun + 60:
                time.sleep(0.05)
            self.send_signal(signal.SIGINT)
            time.sleep(0.2)
            ignored.append(self.poll() is None)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare._process(words, True)
    assert ignored == [True] and list(state.glob("*.safetensors")) and not (tmp_path / "part.json").exists()
    assert signal.getsignal(signal.SIGINT) is before is not None


def test_the_end_of_a_solution_is_learned_too() -> None:
    class Characters:
        """A model whose tokens are characters, and 0 the end."""

        tokenizer = SimpleNamespace(eos_token_id=0)

        def encode(self, text: str) -> list[int]:
            return [1, *map(ord, text)]

        following = LoadedModel.following

    loaded: Any = Characters()
    said = "The answer is 8."
    few = Prompt("few", "Question: a\n\n", "\n")
    assert ended(loaded, few, said) == (*map(ord, said + "\n\n"),)
    assert ended(loaded, Prompt("none", "", "\n"), said) == (*map(ord, said), 0)
    loaded.tokenizer = SimpleNamespace(eos_token_id=None)
    assert ended(loaded, Prompt("none", "", "\n"), said) == (*map(ord, said),)
