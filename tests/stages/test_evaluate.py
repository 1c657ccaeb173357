"""The stage that says what edits do, on a tiny model: its figures against the engine's, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from conftest import AsWritten, TinyStudy, assert_same, hashes, times
from scipy.stats import binomtest

import cotscope
from cotscope.cli import main
from cotscope.data.answers import is_correct, parse_flexible
from cotscope.data.load import general_text
from cotscope.data.reckoning import first_result
from cotscope.data.rows import question_key
from cotscope.edits.edit import Base, Edit
from cotscope.edits.made import candidates, curves, rounded_away, search
from cotscope.lm.loading import load_model
from cotscope.lm.scoring import Given, score, text_scores
from cotscope.measuring.editing.worked import made_with
from cotscope.measuring.solutions import solution
from cotscope.predicting.templates import templates
from cotscope.prompts.derive import render_solution
from cotscope.records import Neuron, Pole
from cotscope.runs.files import fingerprint
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages import evaluate as stage
from cotscope.stats import clustered_p, clustered_proportions, series_mean

pytestmark = pytest.mark.slow

MANY = [Neuron(layer, i) for layer in range(3) for i in range(0, 48, 2)]
FEW = ["--solutions", "3", "--skills", "1"]
KEPT = ("completions", "evaluation_scores", "evaluation_skills")


@pytest.fixture(scope="module")
def place(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder `run`, edits `same.json` and `gone.json`, problems `more.jsonl`, all evaluated."""
    place = tmp_path_factory.mktemp("evaluate")
    assert main(["discover", *tiny_study.options(), "--out", str(place / "run")]) == 0
    session = Session.reopen(place / "run")
    base = Base.of(session.loaded, session.config.model)
    Edit.scaled("same", base, MANY, 1.0).write(place / "same.json")
    poles = [Pole(n.layer, n.index, 1) for n in MANY[::5]]
    gone = Edit.scaled("gone", base, [*MANY[1::5], *poles], 0.0, chosen={"questions": ["of others"]})
    replace(gone, offsets={MANY[3]: 0.5}).write(place / "gone.json")
    used = session.inputs.split.discovery[:3]
    rows = [{"id": p.id, "question": f" {p.question.upper()} ", "answer": str(p.answer)} for p in used]
    rows += [
        {"id": f"new{i}", "question": f"Is {i} new?", "answer": "7", "solution": f"So 3 + 4 = 7.\n#### {7}"} for i in range(5)
    ]
    (place / "more.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(evaluate(place)) == 0
    return place


def evaluate(place: Path, *more: str) -> list[str]:
    edits = ["--edit", str(place / "same.json"), "--edit", str(place / "gone.json")]
    return ["evaluate", str(place / "run"), *edits, "--data", "study", "--data", str(place / "more.jsonl"), *FEW, *more]


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(place, tmp_path / "copy"))


def rows_of(place: Path) -> dict[tuple[str, str], dict]:
    return {(r["edit"], r["data"]): r for r in Run.open(place / "run").rows("SELECT * FROM evaluations")}


def refused(capsys: pytest.CaptureFixture[str], place: Path, *arguments: str) -> str:
    """The one line that a command ends with; nothing was written before it."""
    capsys.readouterr()
    before = hashes(place / "run")
    assert main(["evaluate", str(place / "run"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("cotscope: error: ") and not any("Traceback" in line for line in lines)
    assert hashes(place / "run") == before
    return lines[-1]


def test_texts_and_figures_are_those_of_the_engine_asked_apart(place: Path) -> None:
    session, rows = Session.reopen(place / "run"), rows_of(place)
    assert list(rows) == [("same", "study"), ("gone", "study"), ("same", "more"), ("gone", "more")]
    more = [p for p in cotscope.load_problems(str(place / "more.jsonl")).problems if p.id.startswith("new")]
    text, prompt = general_text(), session.prompt
    edits = {name: Edit.read(place / f"{name}.json").intervention(session.loaded.anatomy) for name in ("same", "gone")}
    general = text_scores(session.loaded, text, {"base": None} | edits)
    for label, problems in (("study", session.inputs.split.test), ("more", more)):
        right: dict[str, list[bool]] = {}
        wrote: dict[str, list[str]] = {}
        for name, intervention in ({"base": None} | edits).items():
            asked = session.engine.generate(
                [prompt.text(p.question) for p in problems], max_new_tokens=session.config.new_tokens(prompt), stop=prompt.stop,
                intervention=intervention,
            )  # fmt: skip
            wrote[name] = [c.text for c in asked]
            right[name] = [is_correct(parse_flexible(c.text), p.answer) for p, c in zip(problems, asked, strict=True)]
            if name != "base":
                found = Run.open(place / "run").rows(
                    "SELECT * FROM evaluations_by_problem WHERE edit = ? AND data = ?", [name, label]
                )
                assert [(r["problem_id"], r["text"], r["correct"], r["correct_base"]) for r in found] == [
                    (p.id, c.text, r, b) for p, c, r, b in zip(problems, asked, right[name], right["base"], strict=True)
                ]
        for name in edits:
            row, before, after = rows[name, label], right["base"], right[name]
            assert row["n"] == len(problems) and row["accuracy"] == fmean(after) and row["accuracy_base"] == fmean(before)
            of = templates([p.question for p in problems])
            found = tuple(row[f"difference{end}"] for end in ("", "_low", "_high"))
            assert found == clustered_proportions(before, after, of)[:3] and row["templates"] == len(set(of))
            assert row["templates_trained_on"] is None  # nobody says with what these were made
            assert row["gained"] - row["lost"] == sum(after) - sum(before)
            for outcome in ("right", "wrong", "missing"):
                assert row[f"first_{outcome}_base"] == [first_result(t) for t in wrote["base"]].count(outcome)
                assert row[f"first_{outcome}"] == [first_result(t) for t in wrote[name]].count(outcome)
            assert row["p_value"] == clustered_p(before, after, of) <= row["p_holm"]
            assert row["perplexity"] == pytest.approx(general[name].perplexity, rel=1e-5)
            assert row["perplexity_ratio"] == pytest.approx(general[name].perplexity / general["base"].perplexity, rel=1e-5)
            ends = [math.exp(x) for x in series_mean(general[name].rises, 64)[1:]]
            assert [row["perplexity_ratio_low"], row["perplexity_ratio_high"]] == pytest.approx(ends, rel=1e-5)
            assert row["kl"] == pytest.approx(general[name].kl, abs=1e-5)
            assert row["neurons"] == {"same": len(MANY), "gone": 31}[name] == len(Edit.read(place / f"{name}.json").neurons)


def test_what_an_edit_was_asked_is_kept_while_others_are(copy: Path) -> None:
    """An edit that comes back is not asked again; the tables are of those that were named last."""
    run, gone, same = copy / "run", copy / "gone.json", copy / "same.json"
    before = rows_of(copy)["gone", "study"]
    assert main(["evaluate", str(run), "--edit", str(same), *FEW]) == 0
    assert {edit for edit, _ in rows_of(copy)} == {"same"}
    made = times(run)
    assert main(["evaluate", str(run), "--edit", str(gone), "--edit", str(same), *FEW]) == 0
    again = times(run)
    parts = [n for n in made if n.startswith(("completions/evaluation.", "evaluation_scores/", "evaluation_skills/"))]
    assert len(parts) >= 9 and all(again[n] == made[n] for n in parts)
    assert rows_of(copy)["gone", "study"] == before | {"p_holm": rows_of(copy)["gone", "study"]["p_holm"]}


def test_an_edit_of_generated_tokens_says_nothing_of_a_text_that_is_read(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = replace(Edit.read(copy / "gone.json"), name="late", scope="generated")
    edit.write(copy / "late.json")
    assert main(["evaluate", str(copy / "run"), "--edit", str(copy / "late.json"), *FEW]) == 0
    assert "perplexity" not in capsys.readouterr().out.split("late on study")[1].split("\n")[0]
    row = rows_of(copy)["late", "study"]
    assert row["perplexity"] is row["perplexity_ratio"] is row["kl"] is None and row["perplexity_base"] > 1
    assert Edit.read(copy / "late.json").measured[-1]["kl"] is None
    assert 'id="evaluations-skills"' in (copy / "run/report.html").read_text()


def test_reference_solutions_are_scored_as_the_engine_scores_them(place: Path) -> None:
    session, row = Session.reopen(place / "run"), rows_of(place)["gone", "more"]
    problems = [p for p in cotscope.load_problems(str(place / "more.jsonl")).problems if p.id.startswith("new")][:3]
    intervention = Edit.read(place / "gone.json").intervention(session.loaded.anatomy)
    changes, results = [], []
    for p in problems:
        s = solution(session.loaded, p, "gold", render_solution(p))
        means = []
        for change in (intervention, None):
            [tokens] = score(session.engine, Given((session.prompt.text(p.question),), (s.tokens,), intervention=change))
            means.append((fmean(t.log_prob for t in tokens), fmean(tokens[i].log_prob for i in s.results)))
        changes.append(means[0][0] - means[1][0])
        results.append(means[0][1] - means[1][1])
    assert row["solutions"] == 3
    assert row["log_prob"] == pytest.approx(fmean(changes), abs=1e-3)
    assert row["result"] == pytest.approx(fmean(results), abs=1e-3)
    assert row["log_prob_low"] <= row["log_prob"] <= row["log_prob_high"]


def test_factors_of_one_change_nothing_and_zeroing_much_does(place: Path) -> None:
    rows = rows_of(place)
    for label in ("study", "more"):
        same, gone = rows["same", label], rows["gone", label]
        assert same["difference"] == same["gained"] == same["lost"] == 0 and same["p_value"] == 1 and same["detectable"] is None
        assert same["log_prob"] == same["log_prob_low"] == same["log_prob_high"] == 0
        assert same["perplexity_ratio"] == 1 and same["kl"] == pytest.approx(0, abs=1e-6)
        assert same["battery"] == same["battery_base"] == gone["battery_base"] and same["battery_p"] == 1
        assert gone["kl"] > 0.01 and abs(math.log(gone["perplexity_ratio"])) > 0.001 and gone["log_prob"] != 0
    each = Run.open(place / "run").rows("SELECT edit, text = text_base AS alike FROM evaluations_by_problem")
    assert all(r["alike"] for r in each if r["edit"] == "same")
    assert not all(r["alike"] for r in each if r["edit"] == "gone")


def test_other_skills_are_asked_of_the_edited_model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six items four say what the base writes, two what it writes with the edit."""
    session = Session.reopen(copy / "run", quiet=True)
    edit = Edit.read(copy / "gone.json").intervention(session.loaded.anatomy)
    prompts = [f"w: {i}\nx:" for i in range(40)]
    wrote = [session.engine.generate(prompts, max_new_tokens=1, intervention=i) for i in (None, edit)]
    differ = [(p, *(c.text for c in both)) for p, *both in zip(prompts, *wrote, strict=True)]
    differ = [(p, a, b) for p, a, b in differ if a != b and a.isalnum() and b.isalnum()][:6]
    made = AsWritten("made", tuple((p, a if i < 4 else b) for i, (p, a, b) in enumerate(differ)))
    monkeypatch.setattr("cotscope.measuring.solutions.load_battery", lambda: (made,))
    asked = ["evaluate", str(copy / "run"), "--edit", str(copy / "gone.json"), "--test", "4", "--solutions", "2"]
    assert main([*asked, "--skills", "6"]) == 0
    row = rows_of(copy)["gone", "study"]
    assert (row["items"], row["battery_base"], row["battery"]) == (6, 4 / 6, 2 / 6)
    assert row["battery_p"] == pytest.approx(binomtest(2, 6).pvalue)


def test_problems_that_neurons_were_found_with_are_left_out_and_it_is_said(place: Path) -> None:
    each = Run.open(place / "run").rows("SELECT DISTINCT problem_id FROM evaluations_by_problem WHERE data = 'more'")
    assert sorted(r["problem_id"] for r in each) == [f"new{i}" for i in range(5)]
    assert any("3 problems of" in n and "left out" in n for n in Run.open(place / "run").notes)


def test_what_was_measured_stands_in_the_edits_file_once(copy: Path) -> None:
    rows = rows_of(copy)
    before = {name: Edit.read(copy / f"{name}.json") for name in ("same", "gone")}
    for name, edit in before.items():
        assert [(Path(m["data"]).stem, m["n"], m["dtype"]) for m in edit.measured] == [
            ("problems", 8, "float32"), ("more", 5, "float32")
        ]  # fmt: skip
        for m, label in zip(edit.measured, ("study", "more"), strict=True):
            assert {k: rows[name, label][k] for k in m if k in rows[name, label] and k != "data"} == {
                k: v for k, v in m.items() if k in rows[name, label] and k != "data"
            }
    assert before["gone"].chosen == {"questions": ["of others"]} and before["gone"].offsets == {MANY[3]: 0.5}
    assert main(evaluate(copy)) == 0
    again = {name: Edit.read(copy / f"{name}.json") for name in ("same", "gone")}
    for name, edit in again.items():  # the copied file of problems is another place, the study's is the same one
        assert len(edit.measured) == 3
        assert edit.key == before[name].key
    assert main(evaluate(copy)) == 0
    assert {name: Edit.read(copy / f"{name}.json") for name in again} == again


def test_an_edits_file_may_have_any_name(copy: Path) -> None:
    """What was measured is written into it, and is no reason to measure again; nor is half a character in it one to fail."""
    run, other = copy / "run", copy / "gone"
    edit = Edit.read(copy / "gone.json")
    told = {"tuned": {"data": "prob\udcff.jsonl", "places": "\udcff", "ended": "\udcff", "method": "factors"}, "by": "\udcff"}
    told["steered"] = {"tried": [["first \udcff", 0.5, 1.0, None, None, None, 3]], "goal": "worse", "group": "first \udcff"}
    told["steered"] |= {"candidates": 1, "factor": 0.5, "solved": 3, "untouched": 4, "problems": 8}
    replace(edit, chosen=edit.chosen | told).write(other)
    assert main(["evaluate", str(run), "--edit", str(other), "--data", "study", *FEW]) == 0
    assert Edit.read(other).measured and Run.open(run).state("evaluate").status == "done"
    [row] = Run.open(run).rows("SELECT * FROM evaluations")
    assert (row["trained_on"], row["chosen_by"], row["how"]) == ("prob?.jsonl", "?", "at ?, ?")
    assert row["search"].startswith("searched to be worse, the best of 1 candidates: first ?, factor 0.5")
    assert [r["neurons"] for r in Run.open(run).rows("SELECT * FROM evaluation_candidates")] == ["first ?"]


def test_what_is_done_is_found_again(place: Path) -> None:
    before, kept = times(place / "run", *KEPT), rows_of(place)
    files = {name: (place / f"{name}.json").read_text() for name in ("same", "gone")}
    assert main(evaluate(place)) == 0
    assert times(place / "run", *KEPT) == before
    assert_same(rows_of(place), kept)
    assert {name: (place / f"{name}.json").read_text() for name in files} == files


def test_what_rounding_alone_changes_is_what_the_untouched_model_writes_in_another_precision(copy: Path) -> None:
    answers = times(copy / "run", *KEPT)
    assert main(evaluate(copy, "--rounding")) == 0
    after = times(copy / "run", *KEPT)
    new = {name for name in after if name not in answers}
    assert {name: after[name] for name in answers} == answers and len(new) == 2  # nothing else is asked again, or scored
    session = Session.reopen(copy / "run")
    assert session.loaded.dtype_name == "float32"
    engine, prompt = session.with_dtype("bfloat16").engine, session.prompt
    assert engine.loaded.model.dtype == torch.bfloat16
    asked = engine.generate(
        [prompt.text(p.question) for p in session.inputs.split.test], max_new_tokens=session.config.new_tokens(prompt),
        stop=prompt.stop,
    )  # fmt: skip
    run = Run.open(copy / "run")
    texts = run.rows("SELECT text FROM completions WHERE condition = 'evaluation.base in bfloat16 on study' ORDER BY ALL")
    assert sorted(r["text"] for r in texts) == sorted(c.text for c in asked)
    right = [is_correct(parse_flexible(c.text), p.answer) for p, c in zip(session.inputs.split.test, asked, strict=True)]
    for row in rows_of(copy).values():
        assert row["rounding_dtype"] == "bfloat16"
        assert row["data"] != "study" or row["rounding_accuracy"] == pytest.approx(fmean(right))
        assert row["less_rounding"] == pytest.approx(row["accuracy"] - row["rounding_accuracy"])
    assert "Untouched, but in bfloat16, the model solves" in (copy / "run/report.html").read_text()
    assert main(["evaluate", str(copy / "run"), "--no-rounding"]) == 0
    assert {row["rounding_accuracy"] for row in rows_of(copy).values()} == {None}
    assert 'class="rounding-says"' not in (copy / "run/report.html").read_text()


def test_from_python_it_is_in_the_run_and_the_report(copy: Path) -> None:
    """Options of several values are tuples there, and lists in what the run has written."""
    run = cotscope.evaluate(copy / "run", edit=(copy / "gone.json",), data=("study",), test=2)
    assert run.states()["evaluate"].current and list(run.summary["evaluations"]) == ["gone"]
    assert Run.open(copy / "run").summary == run.summary
    report = (copy / "run/report.html").read_text()
    assert 'id="evaluations"' in report and "same.json" not in report
    with pytest.raises(cotscope.UserError, match="there is no option 'edit'"):
        cotscope.study(copy / "other", edit=("gone.json",))


def test_what_16_bits_took_away_of_a_training() -> None:
    def trained(written: object, after: float = 0.1, weights: str = "ab" * 32) -> Edit:
        tuned = {"curve": [{"validation": 0.2}, {"validation": after}], "taken": 1, "validation": 4, "written": written}
        return Edit(
            "e", Base("m", "cd" * 32, 3, 48), {} if weights else {MANY[0]: (2.0, 2.0)}, chosen={"tuned": tuned}, weights=weights
        )

    assert rounded_away(trained(0.15)) == pytest.approx(0.5) and rounded_away(trained(0.1)) == 0
    assert (
        rounded_away(trained(None)) is rounded_away(trained(0.2, after=0.3)) is rounded_away(trained(0.15, weights="")) is None
    )


def test_it_says_which_options_are_those_of_before(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = str(copy / "more.jsonl")
    assert main(["evaluate", str(copy / "run"), "--skills", "1", "--data", more]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "as last given" in line)
    assert said.startswith("evaluate: as last given: --edit ") and said.endswith("gone.json --solutions 3")
    assert main(["evaluate", str(copy / "run"), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["summary"]["evaluations"]["same"]) == ["more"]


def test_an_edit_that_changed_is_measured_again_and_only_it(copy: Path) -> None:
    before = times(copy / "run", *KEPT)
    edit = Edit.read(copy / "gone.json")
    replace(edit, factors=dict.fromkeys(edit.factors, (0.5, 0.5))).write(copy / "gone.json")
    assert main(evaluate(copy)) == 0
    after = times(copy / "run", *KEPT)
    assert before.keys() == after.keys()
    differ = {name for name in after if after[name] != before[name]}
    assert differ == {f"completions/evaluation.gone on {d}" for d in ("study", "more")} | {
        f"evaluation_scores/gone on {d}" for d in ("study", "more")
    } | {"evaluation_skills/gone"}
    kl = rows_of(copy)["gone", "study"]["kl"]
    assert kl > 0 and kl != rows_of(copy)["same", "study"]["kl"]


def test_a_solution_that_is_too_long_is_named_before_anything_is_asked(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": "endless", "question": "How many?", "answer": "7", "solution": "3 + 4 = 7. " * 3000 + "\n#### 7"}
    (more := copy / "more.jsonl").write_text(json.dumps(row) + "\n" + more.read_text())
    monkeypatch.setattr(stage, "ask", lambda *args: pytest.fail("it was asked"))
    capsys.readouterr()
    assert main(evaluate(copy)) == 2
    assert "solution of problem endless is longer than the model's context" in capsys.readouterr().err


def test_it_is_stale_when_an_edit_or_a_file_of_problems_changes(copy: Path) -> None:
    """What an edit was measured to do is no change of it; a file that is gone leaves the figures what they were."""
    assert main(evaluate(copy)) == 0

    def found() -> tuple[str, str]:
        return Run.open(copy / "run").state("evaluate")

    assert found().status == "done"
    edit, path = Edit.read(copy / "gone.json"), copy / "gone.json"
    edit.with_measured({"data": "elsewhere", "n": 3}).write(path)
    assert found().status == "done"
    changed = replace(edit, factors=dict.fromkeys(edit.factors, (0.5, 0.5)))
    changed.write(path)
    assert found() == ("stale", f"{path} changed")
    edit.write(path)
    with (more := copy / "more.jsonl").open("a") as file:
        file.write("\n")
    assert found() == ("stale", f"{more} changed")
    more.unlink(), path.unlink()
    assert found().status == "done"
    (path.mkdir(), changed.write(path / "edit.json"))  # a model's folder in its place
    assert found() == ("stale", f"{path} changed")


def test_what_changes_while_it_runs_was_not_what_it_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = stage.scored_skills

    def meanwhile(*given: object) -> object:
        with (copy / "more.jsonl").open("a") as file:
            file.write("\n")
        return scored(*given)

    monkeypatch.setattr(stage, "scored_skills", meanwhile)
    assert main(evaluate(copy)) == 0
    assert Run.open(copy / "run").state("evaluate") == ("stale", f"{copy / 'more.jsonl'} changed")


def test_an_edits_file_is_written_as_it_is_by_then(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = copy / "gone.json", copy / "run"
    elsewhere = {"data": "of another run", "n": 1}
    file.rename(copy / "real.json")
    file.symlink_to("real.json")
    compared = stage.contrasts

    def meanwhile(change: Callable[[Edit], Edit]) -> None:
        def during(*given: object) -> object:
            change(Edit.read(file)).write(copy / "real.json")
            return compared(*given)

        monkeypatch.setattr(stage, "contrasts", during)
        assert main(["evaluate", str(run), "--edit", str(file), *FEW, "--test", "3"]) == 0

    meanwhile(lambda edit: edit.with_measured(elsewhere))
    assert elsewhere in Edit.read(file).measured and 3 in [m["n"] for m in Edit.read(file).measured]
    assert file.is_symlink() and Run.open(run).state("evaluate").status == "done"
    other = Edit.scaled("gone", Edit.read(file).base, MANY[:1], 0.5)
    meanwhile(lambda edit: other)
    assert Edit.read(file) == other and "gone.json changed" in Run.open(run).state("evaluate").why
    assert "holds another edit by now" in " ".join(Run.open(run).manifest["stages"]["evaluate"]["notes"])


def test_an_edit_that_can_not_be_written_is_evaluated_all_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    before = (copy / "gone.json").read_bytes()
    monkeypatch.setattr(Edit, "write", denied)
    assert main(["evaluate", str(copy / "run"), "--edit", str(copy / "gone.json"), *FEW, "--test", "3"]) == 0
    run = Run.open(copy / "run")
    assert run.state("evaluate").status == "done" and rows_of(copy)["gone", "study"]["n"] == 3
    assert (copy / "gone.json").read_bytes() == before
    assert "What was measured of gone is not in its file" in " ".join(run.notes)


def test_a_command_that_is_stopped_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    edit = Edit.read(copy / "gone.json")
    replace(edit, factors=dict.fromkeys(edit.factors, (0.25, 0.25)), measured=()).write(copy / "gone.json")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "scored_skills", stop)
        assert main(evaluate(copy)) == 130
    assert Run.open(copy / "run").state("evaluate").status == "stopped" and not Edit.read(copy / "gone.json").measured
    before = times(copy / "run", "completions")
    assert main(evaluate(copy)) == 0
    assert times(copy / "run", "completions") == before
    assert len(Edit.read(copy / "gone.json").measured) == 2


def test_a_renamed_copy_does_the_same(copy: Path) -> None:
    replace(Edit.read(copy / "gone.json"), name="twin", measured=()).write(copy / "twin.json")
    edits = ["--edit", str(copy / "gone.json"), "--edit", str(copy / "twin.json")]
    assert main(["evaluate", str(copy / "run"), *edits, "--data", "study", *FEW, "--test", "5"]) == 0
    rows = rows_of(copy)
    assert list(rows) == [("gone", "study"), ("twin", "study")] and rows["gone", "study"]["n"] == 5
    one, other = ({k: v for k, v in rows[n, "study"].items() if k != "edit"} for n in ("gone", "twin"))
    assert_same(one, other)


def test_a_search_says_who_was_left_and_what_may_be_luck() -> None:
    steered = {"goal": "worse", "group": "the first 3", "candidates": 6, "factor": 0.0, "solved": 5, "untouched": 9}
    steered |= {"problems": 16, "shown": False}
    steered["survivors"] = [["the first 3", 0.0, 5], ["all 9", 0.5, 7], ["x" * 99, 1, 1], ["y", True, 1], ["z"], 4]
    edit = Edit("e", Base("m", "0" * 64, 3, 48), {MANY[0]: (0.0, 0.0)}, chosen={"steered": steered})
    assert search(edit) == (
        "searched to be worse, the best of 6 candidates: the first 3, factor 0 (5 of 16 tuning problems solved, 9 without); "
        "the other last candidates: all 9 × 0.5: 7; a difference is not shown on so few problems"
    )
    tried = [
        ["the first 3", 0.0, 1.1, -2.0, None, None, 5],
        ["x" * 199, 1, 1, 1, 1, 1, 1],
        ["y", True, "1", {}, 2.0**60, 1, 2.5],
        ["z"],
        4,
    ]
    rows = candidates(replace(edit, chosen={"steered": steered | {"tried": tried, "group": "the first 3", "factor": 0.0}}))
    assert [list(r.values())[1:] for r in rows] == [
        ["the first 3", 0.0, 1.1, -2.0, None, None, 5, True], ["x" * 120, 1, 1, 1, 1, 1, 1, False],
        ["y", None, None, None, None, 1, None, False],
    ]  # fmt: skip
    assert (
        candidates(replace(edit, chosen={"steered": {"tried": "x"}})) == candidates(replace(edit, chosen={"steered": 7})) == []
    )
    plain = replace(edit, chosen={"steered": steered | {"survivors": 7, "shown": True}})
    assert search(plain).endswith("9 without)")
    assert "random ones for the first 3, factor 0" in search(replace(plain, chosen={**plain.chosen, "random": 0}))


def test_a_control_that_gained_nothing_counts_as_the_base(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Edit.read(copy / "gone.json")
    steered = {"goal": "worse", "data": "study", "problems": 4, "candidates": 6, "groups": ["all 3"]}
    found = {"group": "all 3", "factor": 0.0, "solved": 1, "untouched": 3}
    chosen = {"by": "size", "steered": steered | found}
    replace(gone, name="own", chosen=chosen, measured=()).write(copy / "own.json")
    control = {"by": "size", "random": 0, "steered": steered, "nothing": "no candidate is worse"}
    Edit("control", gone.base, {}, chosen=control).write(copy / "control.json")
    assert (
        main(["evaluate", str(copy / "run"), "--edit", str(copy / "own.json"), "--edit", str(copy / "control.json"), *FEW]) == 0
    )
    run, rows = Run.open(copy / "run"), rows_of(copy)
    own, none = rows["own", "study"], rows["control", "study"]
    assert none["accuracy"] == none["accuracy_base"] == own["accuracy_base"] and none["p_value"] == none["p_mcnemar"] == 1
    assert none["log_prob"] == 0 and none["kl"] == pytest.approx(0, abs=1e-6)
    assert "evaluation.control on study" not in {r["condition"] for r in run.rows("SELECT DISTINCT condition FROM completions")}
    [beside] = run.rows("SELECT * FROM evaluation_contrasts WHERE data = 'study'")
    assert (beside["chosen"], beside["beside"]) == ("steered to be worse by size", "steered to be worse of random, like size")
    assert beside["difference"] == pytest.approx(own["difference"])
    assert own["search"].endswith("all 3, factor 0 (1 of 4 tuning problems solved, 3 without)")
    assert own["search"] in (copy / "run/report.html").read_text()
    assert Edit.read(copy / "control.json").measured[0]["difference"] == 0
    assert search(Edit.read(copy / "control.json")) == "searched to be worse: none of 6 candidates was"
    for wrong in ({"factor": "2"}, {"factor": None}, {"group": 3}, {"goal": ["x"]}, {"solved": 10**400}, {"group": "x" * 100}):
        assert search(replace(gone, chosen={"steered": steered | found | wrong})) == ""
    odd = {
        "rate": 0.1,
        "taken": "1",
        "validation": 10**400,
        "curve": [{"validation": "<b>"}, 7, {"solved": 2.5, "training": 1}],
    }
    points = curves(replace(gone, chosen={"tuned": odd | {"rates": [[0.1, 1, 2], [1], "x", [{}, 0.5, 3]]}}))
    assert [(p["rate"], p["passes"], p["training"], p["validation"], p["solved"]) for p in points] == [
        (0.1, 0, None, None, None), (0.1, 2, 1, None, None), (None, 1, None, 0.5, 3)
    ]  # fmt: skip
    assert not any(p["taken"] or p["problems"] for p in points)
    assert curves(replace(gone, chosen={"tuned": odd | {"curve": "x", "rates": {}}})) == curves(gone) == []


def alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two models do the same."""
    for key in ("n", "accuracy", "gained", "lost", "log_prob", "operator", "battery", "perplexity", "perplexity_base", "kl"):
        assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


def test_a_model_of_its_own_weights_is_compared_as_an_edit_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of an exported edit, as if it had been trained, does what the edit does; and other weights are another's."""
    gone = replace(Edit.read(copy / "gone.json"), name="folded", offsets={}, measured=())
    gone = replace(gone, factors=dict.fromkeys(gone.factors, (-0.5, -0.5)))  # not 0, which twice is as once
    cotscope.export(gone, copy / "model")
    gone.write(copy / "folded.json")
    both = ["--edit", str(copy / "folded.json"), "--edit", str(copy / "model"), *FEW]
    assert main(["evaluate", str(copy / "run"), *both]) == 0
    alike(rows_of(copy)["folded@model", "study"], rows_of(copy)["folded", "study"])
    assert Edit.read(copy / "folded.json").measured[0].items() < Edit.read(copy / "model").measured[0].items()
    assert "the edit on the base" not in (copy / "model/README.md").read_text()
    for path in (copy / "model").glob("*.safetensors"):  # the folder's weights are asked, and not its factors
        shutil.copy(Path(gone.base.model) / path.name, path)
    capsys.readouterr()
    assert main(["evaluate", str(copy / "run"), *both]) == 2
    assert "are not those of edit folded@model" in capsys.readouterr().err
    gone.write(copy / "model")  # as an older cotscope wrote it: whose weights those are is not known
    assert main(["evaluate", str(copy / "run"), *both]) == 0
    base = rows_of(copy)["folded@model", "study"]
    assert base["kl"] == 0 < rows_of(copy)["folded", "study"]["kl"] and base["gained"] == base["lost"] == 0
    assert base["log_prob"] == pytest.approx(0, abs=1e-5) and base["battery"] == base["battery_base"]
    shutil.rmtree(copy / "model")
    cotscope.export(gone, copy / "model")
    weights = load_model(str(copy / "model"), dtype="float32").weight_hash(torch.bfloat16)
    curve = [{"validation": 0.5}, {"validation": 0.25, "training": 0.3}]
    tuned = {"method": "values", "numbers": 64, "rate": 0.1, "seed": "<b>", "curve": curve, "taken": 1, "seconds": 90}
    chosen = {"by": "size", "random": 3, "neurons": 2, "tuned": tuned}
    edit = Edit("trained", gone.base, {}, chosen=chosen, weights=weights)
    edit.write(copy / "model")
    assert main(["evaluate", str(copy / "run"), *both]) == 0
    one, other = (rows_of(copy)[name, "study"] for name in ("folded", "trained"))
    alike(other, one)
    assert one["kl"] > 1e-4 and one["method"] is None and one["rate"] is None
    found = {"method": "values", "chosen_by": "size", "random": 3, "numbers": 64, "rate": 0.1, "seed": None, "minutes": 1.5,
             "validation_base": 0.5, "validation": 0.25, "peak_gib": None, "neurons": 2}  # fmt: skip
    assert {key: other[key] for key in found} == found
    assert Edit.read(copy / "model").measured[0]["accuracy"] == other["accuracy"]
    card = (copy / "model/README.md").read_text()
    assert "Nothing yet" not in card and f"{other['accuracy']:.3f}" in card
    written = times(copy / "run", *KEPT)
    assert main(["evaluate", str(copy / "run"), *both]) == 0
    assert times(copy / "run", *KEPT) == written
    with pytest.raises(cotscope.UserError, match="edit trained is weights, and no factors. Load its folder"):
        edit.intervention(Session.reopen(copy / "run").loaded.anatomy)
    replace(edit, weights="ab" * 32, name="wrong").write(copy / "model")
    assert main(["evaluate", str(copy / "run"), "--edit", str(copy / "model"), *FEW]) == 2
    assert "are not those of edit wrong" in capsys.readouterr().err
    replace(edit, base=replace(edit.base, weights="ab" * 32)).write(copy / "model")
    assert main(["evaluate", str(copy / "run"), "--edit", str(copy / "model"), *FEW]) == 2
    assert "edit trained is for another model" in capsys.readouterr().err


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_problems_that_the_edit_was_made_with(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session.reopen(copy / "run")
    problem = session.inputs.split.test[2]
    made_with = {"questions": [fingerprint(question_key(f"{problem.question.upper()}  "))]}
    replace(Edit.read(copy / "gone.json"), chosen=made_with).write(copy / "gone.json")
    said = refused(capsys, copy, "--edit", str(copy / "gone.json"), *FEW)
    assert (
        "edit gone was made, or its neurons were found, with problems of study; expected none of them among the test problems; "
        f"got 1 of 8, {problem.id} the first. Give others: --data FILE." in said
    )
    assert (
        main(["evaluate", str(copy / "run"), "--edit", str(copy / "gone.json"), *FEW, "--data", str(copy / "more.jsonl")]) == 0
    )


def test_problems_of_templates_that_the_edit_was_made_with(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen, new = ([f"{which} {i}?" for i in range(10, 14)] for which in ("Is this old", "Is that new"))
    rows = [{"id": q, "question": q, "answer": "7"} for q in [*seen, *new[:3]]]
    (copy / "both.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    replace(Edit.read(copy / "gone.json"), chosen=made_with({}, ["Is this old 99?"])).write(copy / "gone.json")
    wanted = ["--edit", str(copy / "gone.json"), *FEW, "--data", str(copy / "both.jsonl")]
    assert main(["evaluate", str(copy / "run"), *wanted]) == 0
    [row] = Run.open(copy / "run").rows("SELECT * FROM evaluations")
    assert (row["n"], row["templates"], row["templates_trained_on"], row["new_n"], row["new_templates"]) == (7, 2, 4, 3, 1)
    said = f"4 problems of templates that it was made with; on the 3 others {row['new_difference']:+.3f} ["
    said += f"{row['new_difference_low']:+.3f}, "
    assert said in capsys.readouterr().out
    assert "On the 3 problems of 1 other template it is" in re.sub("<[^>]*>", "", (copy / "run/report.html").read_text())
    assert Edit.read(copy / "gone.json").measured[-1]["new_n"] == 3


def test_edits_that_do_not_fit(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, path = Edit.read(copy / "gone.json"), copy / "other.json"
    for changes, words in (
        ({"base": replace(edit.base, weights="ab" * 32)}, "edit gone is for another model"),
        ({"base": replace(edit.base, layers=7)}, "edit gone is for another model"),
        ({"factors": dict.fromkeys(MANY, (1e38, 1e38))}, "edit gone breaks the model"),
        ({"factors": dict.fromkeys(MANY, (1e300, 1e300)), "scope": "generated"}, "edit gone breaks the model"),
        ({"offsets": dict.fromkeys(MANY, 3e38)}, "edit gone breaks the model"),
        ({"name": "base"}, "two edits have one name"), ({"name": "none"}, "neither base nor none"),
        ({"name": "../up"}, "can't name a file"), ({"name": ".hidden"}, "can't name a file"),
        ({"name": "x" * 300}, "can't name a file"), ({"name": "a\nb"}, "can't name a file"),
        ({"name": "\ud800"}, "can't name a file"),
    ):  # fmt: skip
        replace(edit, **changes).write(path)
        assert words in refused(capsys, copy, "--edit", str(path), *FEW), changes
    shutil.copyfile(copy / "gone.json", path)
    assert "two edits have one name" in refused(capsys, copy, "--edit", str(path), "--edit", str(copy / "gone.json"))
    path.write_text("{")
    assert "is no edit file" in refused(capsys, copy, "--edit", str(path))
    assert "there is no edit file" in refused(capsys, copy, "--edit", str(copy / "none.json"))


def test_nothing_to_evaluate_or_to_evaluate_on(place: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = ["--edit", str(copy / "gone.json")]
    assert "has no problem that the study has not used" in refused(capsys, copy, *edit, "--data", str(used_only(copy)))
    assert "nothing by that name" in refused(capsys, copy, *edit, "--data", str(copy / "nothing.jsonl"))
    (copy / "b").mkdir()
    shutil.copyfile(copy / "more.jsonl", copy / "b" / "more.jsonl")
    twice = ["--data", str(copy / "more.jsonl"), "--data", str(copy / "b" / "more.jsonl")]
    assert "two files of problems have one name" in refused(capsys, copy, *edit, *twice)
    run = Run.open(copy / "run")
    run.manifest["options"].pop("evaluate")
    run.manifest["stages"].pop("evaluate")
    run.save()
    assert "there is nothing to evaluate" in refused(capsys, copy)


def used_only(place: Path) -> Path:
    lines = (place / "more.jsonl").read_text().splitlines(keepends=True)
    (place / "used.jsonl").write_text("".join(lines[:3]))
    return place / "used.jsonl"


def test_a_file_called_as_a_part_of_the_study_is_told_from_it(copy: Path) -> None:
    for name in ("study", "test"):
        shutil.copyfile(copy / "more.jsonl", copy / f"{name}.jsonl")
    assert (
        main(["evaluate", str(copy / "run"), "--edit", str(copy / "gone.json"), *FEW, "--data", str(copy / "test.jsonl")]) == 0
    )
    assert [d for _, d in rows_of(copy)] == ["test (file)"]
    edit = ["--edit", str(copy / "gone.json"), *FEW]
    assert (
        main(["evaluate", str(copy / "run"), *edit, "--data", "study", "--data", str(copy / "study.jsonl"), "--data", "study"])
        == 0
    )
    assert [(d, r["n"]) for (_, d), r in rows_of(copy).items()] == [("study", 8), ("study (file)", 5)]
