"""The stage that predicts which answers are right, on a tiny model: its figures recomputed, its file used, what it refuses."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TinyStudy, manifest_of, times
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from cotscope.cli import main
from cotscope.data.answers import parse_flexible
from cotscope.data.numbers import format_number
from cotscope.data.roles import ROLES, token_roles
from cotscope.lm.engine import Engine
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.loading import load_model
from cotscope.lm.tracing import trace
from cotscope.measuring.choosing import REASONING
from cotscope.measuring.prediction import answering
from cotscope.measuring.prediction.answering import unlike
from cotscope.measuring.prediction.carrying import WAYS
from cotscope.measuring.prediction.predictors import neuron_groups, predictors
from cotscope.measuring.prediction.telling import SHUFFLES
from cotscope.measuring.prediction.tracing import (
    CONFIDENCE,
    PROBED,
    STOPS,
    Answer,
    answers,
    token_probability,
    trace_all,
    traced,
)
from cotscope.measuring.problems import trial_data
from cotscope.predicting.classifier import out_of_fold, unpacked
from cotscope.predicting.shares import correlation_within
from cotscope.predicting.templates import templates
from cotscope.records import Neuron
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages.predict import _against_confidence
from cotscope.stats import clustered_error

pytestmark = pytest.mark.slow

NONSENSE = random.Random(0)
WORDS = ("apples", "boats", "cups", "doors", "eggs", "forks", "gates", "hats", "inks", "jars", "kites", "lamps", "maps", "nets")


def question() -> str:
    """Of words of its own, so that it is a template of its own."""
    return " ".join("".join(NONSENSE.choices("abcdefghilmnoprstu", k=NONSENSE.randint(3, 7))) for _ in range(5)) + "?"


@pytest.fixture(scope="module")
def place(few_choices: None, tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder `run`, and `more.jsonl` and `other.jsonl`, of whose problems the model solves those at which its reasoning
    neurons are more active than at most."""
    place = tmp_path_factory.mktemp("predict")
    assert main(["discover", *tiny_study.options(), "--out", str(place / "run")]) == 0
    assert main(["annotate", str(place / "run")]) == 0
    assert main(["ablate", str(place / "run"), "--outcomes", "operations"]) == 0  # what `calibrate` needs; keystones are beside
    session = Session.reopen(place / "run")
    neurons = neuron_groups(session)["reasoning"]
    for name in ("more", "other"):
        questions = [question() for _ in range(48)]
        texts = [session.prompt.text(q) for q in questions]
        written = session.engine.generate(texts, max_new_tokens=16, stop=session.prompt.stop)
        seen = trace(session.engine, texts, [c.token_ids for c in written], neurons)
        high = np.array([t.updates.mean() for t in seen])
        rows = []
        for i, (q, c) in enumerate(zip(questions, written, strict=True)):
            said = parse_flexible(c.text)
            right = high[i] > np.median(high) and said is not None
            rows.append({"id": f"{name}{i}", "question": q, "answer": format_number(said) if right and said else "123456"})
        (place / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(predict(place, "--samples", "2", "--ask")) == 0
    return place


def seen(kept: list[torch.Tensor]) -> Callable[[int, torch.Tensor], None]:
    return lambda layer, m: kept.append(m[0].clone())


def predict(place: Path, *more: str) -> list[str]:
    data = ["--data", str(place / "more.jsonl"), "--data", str(place / "other.jsonl"), "--rests", "3"]
    return ["predict", str(place / "run"), *data, *more]


def test_every_way_is_there_and_its_figures_hold(place: Path) -> None:
    run = Run.open(place / "run")
    rows = run.rows("SELECT * FROM predictors ORDER BY data, predictor")
    assert {r["data"] for r in rows} == {"more", "other"}
    names = {r["predictor"] for r in rows}
    assert {"reasoning", "concepts", "random 1", "random 2", "random 3", "layers", "confidence", "probe", "question",
            "formulas", "agreement", "says true", "log_prob_mean"} <= names  # fmt: skip
    for r in rows:
        found = run.rows("SELECT * FROM predictions WHERE data = ? AND predictor = ?", [r["data"], r["predictor"]])
        assert len(found) == r["n"] == 48
        right, probability = [p["correct"] for p in found], [p["probability"] for p in found]
        assert r["auroc"] == pytest.approx(roc_auc_score(right, probability))
        assert r["brier"] == pytest.approx(np.mean([(a - b) ** 2 for a, b in zip(right, probability)]))
        assert (r["difference"] is None) == (r["predictor"] == "reasoning")
    assert all(r["auroc"] > 0.7 for r in rows if r["predictor"] == "layers"), "activity was made to tell"
    texts = {(r["data"], r["problem_id"], r["question"]) for r in run.rows("SELECT * FROM predicted")}
    assert texts == {
        (name, r["id"], r["question"]) for name in ("more", "other") for r in map(json.loads, (place / f"{name}.jsonl").open())
    }
    said = run.summary["prediction"]
    assert said["more"]["n"] == 48 and 0.3 <= said["more"]["shuffled"]["mean"] <= 0.7
    assert len(said["rests_on"]) == min(12, len(neuron_groups(Session.reopen(place / "run"))["reasoning"]))
    assert (weights := [n["weight"] for n in said["rests_on"]]) == sorted(weights, reverse=True)
    cause = said["cause"]  # of half of the templates of the study's eight test problems
    zeroed = run.rows("SELECT DISTINCT problem_id FROM completions WHERE condition = 'prediction.zeroed rests'")
    every = Session.reopen(place / "run").inputs.split.test
    of = dict(zip([p.id for p in every], templates([p.question for p in every])))
    assert cause["neurons"] == 3 and cause["n"] == len(zeroed) <= 8
    assert len({of[r["problem_id"]] for r in zeroed}) == (len(set(of.values())) + 1) // 2
    early = run.rows("SELECT * FROM early WHERE data = 'more' AND predictor = 'confidence' ORDER BY stop")
    assert [r["stop"] for r in early] == list(STOPS) and early[0]["tokens"] == 1
    transfers = run.rows("SELECT * FROM transfers WHERE data = 'other'")
    assert all(r["trained_on"] == ["more"] for r in transfers) and len(transfers) == 5
    shares = run.rows("SELECT * FROM shares WHERE family = 'data' AND name = 'more'")
    assert {"reasoning", "confidence", "ATC", "DoC", "as the source"} <= {r["method"] for r in shares}


def test_what_is_kept_knows_how_far_off_such_a_classifier_is(place: Path) -> None:
    session = Session.reopen(place / "run")
    groups = neuron_groups(session)
    every = sorted({n for some in groups.values() for n in some})
    about = unpacked(place / "run/arrays/predictor.safetensors")[1]
    given, features = list[Answer](), []
    for data in trial_data(session, [str(place / f"{name}.jsonl") for name in ("more", "other")], 1000):
        some = answers(session, f"prediction.{data.label}", data.problems)
        given += some
        ways = predictors(session, some, traced(session, data.label, session.prompt, some, every), groups, {})
        features.append(next(w.features for w in ways if w.name == about["told_by"]))
    right, of = [a.right for a in given], templates([a.problem.question for a in given])
    told = out_of_fold(np.vstack(features), right, of, session.config.seed)[0]
    assert about["off"] == pytest.approx(clustered_error(np.array(right, float) - told, of))
    assert about["together"] == pytest.approx(correlation_within(told.tolist(), right, of))


def test_answers_that_were_cut_are_named(place: Path) -> None:
    run = Run.open(place / "run")
    [cut] = [note for note in run.notes if note.startswith("Cut at the most tokens allowed")]
    for name in ("more", "other"):
        ends = [r["finish"] for r in run.rows("SELECT finish FROM completions WHERE condition = ?", [f"prediction.{name}"])]
        share = ends.count("length") / len(ends)
        assert share >= 0.05 and f"answers to {name} {share:.2f}" in cut
        assert run.summary["prediction"][name]["cut"] == pytest.approx(share)


def test_calibrate_puts_the_verdict_to_shuffled_labels(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(place / "run", folder)
    calibrate = ["calibrate", str(folder), "--runs", "1", "--problems", "2", "--shuffles"]
    with manifest_of(folder) as manifest:
        whole = manifest["stages"]["predict"]
        manifest["stages"]["predict"] = whole | {"read": whole["read"] | {"annotations": "changed"}}
    assert main([*calibrate, "10"]) == 2 and "stage 'predict', which 'calibrate' builds on" in capsys.readouterr().err
    with manifest_of(folder) as manifest:
        manifest["stages"]["predict"] = whole
    assert main([*calibrate, "10"]) == 0
    run = Run.open(folder)
    rows = run.rows("SELECT * FROM calibration_shuffles ORDER BY data, shuffle")
    assert [(r["data"], r["shuffle"]) for r in rows] == [(d, i) for d in ("more", "other") for i in range(10)]
    here = [r["auroc"] for r in rows if r["data"] == "more"][:SHUFFLES]
    shuffled = run.summary["prediction"]["more"]["shuffled"]
    assert (np.mean(here), min(here)) == (pytest.approx(shuffled["mean"]), shuffled["least"]), "the same as predict's"
    found = run.summary["placebo"]["shuffled"]
    assert found["said"] == sum(r["low"] > 0.5 for r in rows) and found["shuffles"] == 20 and 0.4 < found["mean"] < 0.6
    assert f"in {found['said']} of 20 shuffles" in " ".join((folder / "report.html").read_text().split())
    before = times(folder, "calibration_shuffles")
    assert set(before) == {"calibration_shuffles/more", "calibration_shuffles/other"}
    assert main([*calibrate, "10"]) == 0 and times(folder, "calibration_shuffles") == before, "not made again"
    assert main([*calibrate, "0"]) == 0 and "shuffled" not in Run.open(folder).summary["placebo"]


def test_what_another_models_answers_teach(place: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    """A model that is nearly the same one answers nearly alike."""
    weights = load_file(Path(tiny_study.model) / "model.safetensors")
    model = shutil.copytree(tiny_study.model, tmp_path / "nearly")
    torch.manual_seed(0)
    save_file({k: v + 1e-3 * torch.randn_like(v) for k, v in weights.items()}, model / "model.safetensors", {"format": "pt"})
    options = [str(model) if o == tiny_study.model else o for o in tiny_study.options()]
    other = tmp_path / "run"
    assert main(["discover", *options, "--out", str(other)]) == 0 and main(["annotate", str(other)]) == 0
    again = ["predict", str(other), *predict(place)[2:]]
    assert main([*again, "--others", str(place / "run")]) == 0
    run = Run.open(other)
    rows = run.rows("SELECT * FROM transfers WHERE model = ?", [Run.open(place / "run").manifest["model"]["name"]])
    assert {(r["data"], r["predictor"]) for r in rows} == {(d, w) for d in ("more", "other") for w in WAYS}
    assert all(set(r["trained_on"]) == {"more", "other"} and r["expected"] is None for r in rows)
    assert "another model" in (other / "report.html").read_text()


def test_traces_are_what_the_model_did(place: Path) -> None:
    """Update sizes and confidence against a plain pass over prompt and answer."""
    session = Session.reopen(place / "run")
    run, loaded = session.run, session.loaded
    record = run.manifest["files"]["arrays/traces.more"]
    stored = run.arrays("traces.more", record["of"])
    assert stored is not None
    neurons = [Neuron(*n) for n in json.loads(stored.metadata["neurons"])]
    ids = json.loads(stored.metadata["answers"])
    rows = {r["problem_id"]: r for r in run.rows("SELECT * FROM completions WHERE condition = 'prediction.more'")}
    questions = {r["id"]: r["question"] for r in map(json.loads, (place / "more.jsonl").read_text().splitlines())}
    for i in (0, 17):
        start = loaded.encode(session.prompt.text(questions[ids[i]]))
        tokens = rows[ids[i]]["token_ids"]
        kept: list[torch.Tensor] = []
        with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, seen(kept)):
            logits = loaded.model(torch.tensor([start + tokens])).logits[0]
        at = slice(len(start) - 1, len(start) + len(tokens) - 1)
        sizes = torch.stack([(kept[n.layer][at, n.index] * loaded.anatomy.norms[n.layer, n.index]).abs() for n in neurons], 1)
        roles = token_roles(loaded, tokens)
        for r, role in enumerate(ROLES):
            here = [t for t, of in enumerate(roles) if of == role]
            expected = sizes[here].mean(0) if here else torch.zeros(len(neurons))
            assert np.allclose(stored.arrays["sizes"][i, r], expected, rtol=2e-3, atol=1e-4)
        assert np.allclose(stored.arrays["so_far"][i, 0], sizes[0], rtol=2e-3, atol=1e-4)
        log_probs = torch.log_softmax(logits[at], -1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        found = dict(zip(CONFIDENCE, stored.arrays["confidence"][i, -1]))
        assert found["log_prob_mean"] == pytest.approx(log_probs.mean().item(), abs=1e-4)
        assert found["log_prob_least"] == pytest.approx(log_probs.min().item(), abs=1e-4)
        assert found["tokens"] == len(tokens)


def test_answers_under_another_prompt_are_told_by_what_was_learned_under_the_first(
    tiny_study: TinyStudy, tmp_path: Path
) -> None:
    """Half of the problems are solved under the one prompt, the others under the other."""
    (second := tmp_path / "second.txt").write_text(Path(tiny_study.prompt).read_text().replace("2", "3"))
    files = ["--prompt-file", str(second), "--data", str(tmp_path / "data.jsonl"), "--limit", "60", "--discover-limit", "8"]
    questions = [question() for _ in range(90)]
    written = []
    for prompt in (Path(tiny_study.prompt), second):
        texts = [f"{prompt.read_text()}\nQuestion: {q}\nLet's think step by step\n" for q in questions]
        engine = Engine(load_model(tiny_study.model, dtype="float32"))
        written.append([parse_flexible(c.text) for c in engine.generate(texts, max_new_tokens=16, stop=("Question:",))])
    rows = [
        {"id": f"q{i}", "question": q, "answer": "123456" if (n := written[i % 2][i]) is None else format_number(n)}
        for i, q in enumerate(questions)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = str(tmp_path / "run")
    assert main(["discover", *tiny_study.options(), *files, "--out", folder]) == 0
    assert main(["annotate", folder]) == 0 and main(["measure", folder, "--prompts", "study"]) == 0
    assert main(["predict", folder, "--data", "study", "--rests", "0"]) == 0
    run = Run.open(Path(folder))
    told = run.rows("SELECT * FROM transfers")
    assert [r["predictor"] for r in told] == ["reasoning", "random 1", "confidence"]
    other = run.rows("SELECT problem_id, correct FROM completions WHERE family = 'study' AND prompt = 'second'")
    right = {r["problem_id"]: r["correct"] for r in other}
    assert len(right) == 60 and 10 < sum(right.values()) < 50
    for r in told:
        assert r["data"] == "study under other prompts (study: 1)" and r["trained_on"] == ["study under plain"] and r["n"] == 60
        assert r["accuracy"] == pytest.approx(np.mean(list(right.values()))) and 0 <= r["low"] <= r["auroc"] <= r["high"] <= 1
    shares = run.rows("SELECT * FROM shares WHERE method = 'confidence' AND problems = 60")
    assert [r["estimated"] for r in shares] == [pytest.approx(told[2]["expected"])]
    assert "under other prompts by what was learned under the first" in (run.folder / "report.html").read_text()


def test_nothing_is_done_twice(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither answers nor samples, traces, or the model's own word."""
    folder = tmp_path / "run"
    shutil.copytree(place / "run", folder)
    arrays = {p.name: p.stat().st_mtime_ns for p in (folder / "arrays").iterdir() if p.name.startswith(("traces", "asked"))}
    before = times(folder, "completions")
    assert len(arrays) >= 3 and before
    for name in ("generate", "run"):
        monkeypatch.setattr(Engine, name, lambda *a, **k: pytest.fail("the model wrote again"))
    monkeypatch.setattr("cotscope.measuring.prediction.tracing.trace_all", lambda *a, **k: pytest.fail("traced again"))
    guess = lambda f, right, *a, **k: (np.full(len(right), np.mean(right)), [None] * len(right))  # noqa: E731
    monkeypatch.setattr("cotscope.stages.predict.out_of_fold", guess)
    monkeypatch.setattr("cotscope.measuring.prediction.telling.out_of_fold", guess)
    assert main(["predict", str(folder), *predict(place, "--samples", "2", "--ask")[2:]]) == 0
    assert times(folder, "completions") == before
    assert {name: (folder / "arrays" / name).stat().st_mtime_ns for name in arrays} == arrays


def test_an_answer_that_ends_at_once_is_told_by_its_end(place: Path) -> None:
    """And not as the surest of all, with a log-probability of 0."""
    session = Session.reopen(place / "run")
    [problem] = session.inputs.split.test[:1]
    end = min(session.loaded.end_tokens)
    given = [Answer(problem, "", tokens, False, None) for tokens in ((), (end,))]
    neurons = neuron_groups(session)[REASONING]
    found = trace_all(session, session.prompt, given, neurons, "tracing")
    for part in ("sizes", "so_far", "layers", "confidence", "residual"):
        at_once, said = getattr(found, part)
        assert (at_once == said).all() and at_once.any(), part
    assert token_probability(found)[0] < 0.99
    layers = session.loaded.anatomy.layers
    assert found.residual.shape[1] == len(range(layers)[PROBED]) == layers // 2 and found.residual.dtype == np.float16


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_questions_without_labels(place: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    questions = tmp_path / "new.jsonl"
    asked = ["=1+1", *(f"How many {w} are {i}?" for i, w in enumerate(WORDS))]
    questions.write_text("".join(json.dumps({"question": q}) + "\n" for q in asked))
    to = tmp_path / f"out{suffix}"
    assert main(["predict", str(place / "run"), "--on", str(questions), "--to", str(to)]) == 0
    assert "expected to be right" in capsys.readouterr().out
    if suffix == ".jsonl":
        rows = list(map(json.loads, to.read_text().splitlines()))
    elif suffix == ".csv":
        rows = list(csv.DictReader(to.open()))
    else:
        rows = pq.read_table(to).to_pylist()
    shown = ["'=1+1" if suffix == ".csv" else "=1+1", *asked[1:]]  # which a spreadsheet would take for a formula
    assert [r["question"] for r in rows] == shown
    assert all(0 < float(r["probability"]) < 1 for r in rows)
    assert Run.open(place / "run").state("predict").current
    assert main(["predict", str(place / "run"), "--on", str(questions), "--to", str(to)]) == 2
    assert "exists already" in capsys.readouterr().err
    to.unlink()
    assert main(["predict", str(place / "run"), "--on", str(questions), "--to", str(to), "--data", "study"]) == 2
    assert "option 'data' (--data) does nothing beside 'on' (--on)" in capsys.readouterr().err and not to.exists()


def test_what_was_answered_is_not_asked_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, to, asked = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", list[int]()
    command = ["predict", str(place / "run"), "--on", str(place / "more.jsonl"), "--to"]
    assert main([*command, str(whole)]) == 0
    generate = Engine.generate

    def killed(self: Engine, prompts: Sequence[str], **more: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return generate(self, prompts, **more)

    monkeypatch.setattr(answering, "TOGETHER", 20)
    monkeypatch.setattr(Engine, "generate", killed)
    assert main([*command, str(to)]) == 130 and asked == [20, 20]
    part = tmp_path / ".out.jsonl.kept"
    assert not to.exists() and part.exists()
    asked[:] = [0]
    assert main([*command, str(to)]) == 0 and asked == [0, 8]
    [ours, theirs] = [list(map(json.loads, file.read_text().splitlines())) for file in (to, whole)]
    for one, other in zip(ours, theirs, strict=True):  # batches of another size round otherwise
        assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-5) and one == other
    assert not part.exists()
    to.unlink()
    with monkeypatch.context() as patch:  # killed when all are answered
        patch.setattr(answering, "_write", lambda path, rows: signal.raise_signal(signal.SIGINT))
        asked[:] = [0] * 3
        assert main([*command, str(to)]) == 130 and asked == [0, 0, 0, 20, 20, 8] and part.exists()
    assert main([*command, str(to)]) == 0 and len(asked) == 6 and not part.exists()
    part.write_text('{"of": "another", "val')  # of other questions, and cut
    to.unlink()
    asked[:] = []
    monkeypatch.setattr(answering, "TOGETHER", 100)
    assert main([*command, str(to)]) == 0 and asked == [48]


def test_a_known_answer_has_the_probability_that_the_kept_classifier_gives(place: Path, tmp_path: Path) -> None:
    to = tmp_path / "again.jsonl"
    assert main(["predict", str(place / "run"), "--on", str(place / "more.jsonl"), "--to", str(to)]) == 0
    rows = list(map(json.loads, to.read_text().splitlines()))
    run = Run.open(place / "run")
    said = {r["problem_id"]: r["text"] for r in run.rows("SELECT * FROM completions WHERE condition = 'prediction.more'")}
    assert {r["id"]: r["text"] for r in rows} == said
    classifier, about = unpacked(run.folder / "arrays" / "predictor.safetensors")
    stored = run.arrays("traces.more", run.manifest["files"]["arrays/traces.more"]["of"])
    assert stored is not None
    neurons = json.loads(stored.metadata["neurons"])
    areas = {
        name: np.mean([r["auroc"] for r in run.rows("SELECT auroc FROM predictors WHERE predictor = ?", [name])])
        for name in ("reasoning", "confidence")
    }
    assert about["told_by"] == run.summary["prediction"]["told_by"] == max(areas, key=lambda name: areas[name])
    sizes = stored.arrays["sizes"][:, :, [neurons.index(n) for n in about["neurons"]]]
    told = sizes.reshape(len(sizes), -1) if about["told_by"] == "reasoning" else stored.arrays["confidence"][:, -1]
    expected = dict(zip(json.loads(stored.metadata["answers"]), classifier.probabilities(told)))
    assert {r["id"]: r["probability"] for r in rows} == pytest.approx(expected, abs=5e-3)


def test_the_finding_begins_with_whether_confidence_is_beaten() -> None:
    def of(difference: float, p: float) -> dict[str, dict[str, dict[str, float]]]:
        return {"predictors": {"confidence": {"difference": difference, "p_holm": p}}}

    said = {"a": of(0.1, 0.01), "b": of(0.1, 0.2), "c": of(-0.1, 0.01), "d": of(0.2, 0.04)}
    assert _against_confidence(said, "reasoning").endswith("more than confidence on a and d")
    assert _against_confidence({"b": said["b"], "c": said["c"]}, "reasoning").endswith("none of the data")
    assert _against_confidence(said, "confidence").startswith("confidence has the larger area (not tested)")


def test_answers_unlike_those_learned_on_are_named() -> None:
    rng = np.random.default_rng(0)
    sure = rng.beta(20, 2, 400)
    assert "mean token probability 0.5" in unlike(np.full(40, 0.5), sure.tolist())
    assert unlike(np.full(7, 0.5), sure.tolist()) == "", "too few to tell"
    alarms = [unlike(rng.beta(20, 2, 60), sure.tolist()) != "" for _ in range(300)]
    assert np.mean(alarms) < 0.03


def test_refusals(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str, folder: Path = place / "run") -> str:
        assert main(["predict", str(folder), *more]) == 2
        return capsys.readouterr().err

    few = tmp_path / "few.jsonl"
    few.write_text("".join((place / "more.jsonl").read_text().splitlines(keepends=True)[:20]))
    assert "at least 30" in refused("--data", str(few))
    assert "share questions" in refused("--data", str(few), "--data", str(place / "more.jsonl"))
    (tmp_path / "others").mkdir()
    (tmp_path / "others/few.jsonl").write_text("".join((place / "more.jsonl").read_text().splitlines(keepends=True)[20:]))
    assert "two files of problems have one name" in refused("--data", str(few), "--data", str(tmp_path / "others/few.jsonl"))
    shutil.copy(place / "more.jsonl", cause := tmp_path / "cause.jsonl")
    assert "have no place in the summary; expected another name of the file; got cause" in refused("--data", str(cause))
    rows = [json.loads(line) for line in (place / "more.jsonl").read_text().splitlines()]
    (wrong := tmp_path / "wrong.jsonl").write_text("".join(json.dumps(r | {"answer": "77777"}) + "\n" for r in rows))
    assert "right" in (said := refused("--data", str(wrong))) and "0 right, 48 wrong" in said
    assert "a folder" in refused("--on", str(tmp_path), "--to", str(tmp_path / "x.csv"))
    assert "a folder" in refused("--on", "") and "a folder" in refused("--on", ".")
    assert "unknown kind" in refused("--on", str(few), "--to", str(tmp_path / "x.txt"))
    (empty := tmp_path / "empty.jsonl").write_text("")
    assert "no problems" in refused("--on", str(empty), "--to", str(tmp_path / "x.csv"))
    (long := tmp_path / "long.jsonl").write_text(
        "".join(json.dumps(r | {"question": r["question"] * (300 if i == 40 else 1)}) + "\n" for i, r in enumerate(rows))
    )
    for on in (["--data", str(long)], ["--on", str(long), "--to", str(tmp_path / "x.csv")]):
        assert "longer than the model's context" in (said := refused(*on)) and rows[40]["id"] in said
    assert "a run of the same model" in refused("--others", str(place / "run"))
    assert "is not a run folder" in refused("--others", str(tmp_path))
    other = tmp_path / "other"
    shutil.copytree(place / "run", other)
    (other / "arrays" / "predictor.safetensors").write_bytes(b"x" * 100)
    assert "no predictor that holds" in refused("--on", str(few), "--to", str(tmp_path / "y.csv"), folder=other)
    assert Run.open(place / "run").state("predict").current, "what was refused leaves what was done"
