"""A whole study on a tiny model: its tables and figures, recomputed independently; and going on after a kill."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from conftest import TinyStudy, assert_same, hashes, killed_after, manifest_of, times
from markupsafe import escape

import cotscope
from cotscope.api import begin
from cotscope.cli import main
from cotscope.executors import local
from cotscope.executors.local import Listener, run_study
from cotscope.judge.annotators import BUILT_IN
from cotscope.judge.lexicon import LexiconAnnotator
from cotscope.lm.families import norm_gamma, value_vectors
from cotscope.lm.loading import load_model
from cotscope.records import Neuron
from cotscope.report.build import write_report
from cotscope.runs.folder import Run
from cotscope.runs.stage import Stage
from cotscope.stages import damage
from cotscope.stages.registry import BY_NAME, STAGES
from cotscope.stats import (
    LEAST_EFFECT,
    LEAST_MARGIN,
    LEVEL,
    MATTERS,
    NOT_SHOWN,
    PUSH,
    TOO_FEW,
    in_words,
    jaccard,
    permutation_p,
    rank_correlation,
    wilson,
)
from cotscope.stats.random_sets import CALIPER

pytestmark = pytest.mark.slow

SMALL = {"matched": 2, "unmatched": 1, "permuted": 2, "battery": 1}
FEW = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


def figures(folder: Path) -> dict:
    """All figures but the seconds."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(Run.open(folder).summary))
    return {key: value for key, value in summary.items() if key != "timing"}


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study with a prompt file and, for the phenomena, all derived prompts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    exemplars = out.parent / "exemplars.toml"
    exemplars.write_text(
        "".join(
            f'[[mixed]]\nquestion = "What is {a} and {b}?"\nsteps = ["So it is {{{a} {s} {b} = {c}}}."]\nanswer = {c}\n'
            for a, b, s, c in ((4, 2, "+", 6), (6, 2, "-", 4), (5, 3, "*", 15), (8, 2, "/", 4), (9, 3, "+", 12))
        )
    )
    command = ["study", *tiny_study.options(), "--exemplars", str(exemplars), "--battery", "4", "--out", str(out)]
    assert main(command) == 0
    return Run.open(out)


@pytest.fixture(scope="module")
def small(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study with one prompt and few sets, begun from Python."""
    return cotscope.study(
        tmp_path_factory.mktemp("runs") / "python", model=tiny_study.model, data=tiny_study.data,
        prompt_files=(tiny_study.prompt,), concepts=tiny_study.concepts, limit=8, dtype="float32", max_new_tokens=16,
        zero_shot_tokens=24, given=4, **SMALL,
    )  # fmt: skip


def test_every_stage_is_done_and_the_report_stands(finished: Run) -> None:
    wanted = {"discover", "annotate", "keystones", "sets", "ablate", "damage", "push", "operations", "measure", "correlate"}
    assert {stage for stage, found in cotscope.status(finished).items() if found.current} == wanted
    assert {found.status for stage, found in cotscope.status(finished.folder).items() if stage not in wanted} == {"missing"}
    page = (finished.folder / "report.html").read_text()
    assert "<html" in page[:200]
    for stage in wanted:  # each with its finding
        assert finished.manifest["stages"][stage]["finding"]


def test_the_report_is_written_after_each_stage(tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: dict[str, str] = {}
    written: list[Run] = []
    monkeypatch.setattr(local, "write_report", lambda run: written.append(run) or write_report(run))

    class Looks(Listener):
        def ends(self, stage: Stage, finding: str) -> None:
            pages[stage.name] = (tmp_path / "r/report.html").read_text(encoding="utf-8")
            assert str(escape(finding)) in pages[stage.name]

    names = ("model", "data", "concepts")
    options = {name: getattr(tiny_study, name) for name in names} | {"prompt_files": (tiny_study.prompt,), "dtype": "float32"}
    given = options | SMALL | {"limit": 8, "max_new_tokens": 16, "given": 2}
    run_study(begin(tmp_path / "r", given), Looks())
    assert len(pages) >= 9 and len(set(pages.values())) == len(pages) == len(written)
    (tmp_path / "r/report.html").unlink()
    run_study(begin(tmp_path / "r", given), Looks())  # nothing is missing but the report
    assert len(written) == len(pages) + 1 and (tmp_path / "r/report.html").is_file()


def test_records_say_what_was_read_and_written(finished: Run) -> None:
    """Every file of the run but the study's own problems has a stage that wrote it, and no stage wrote anything else."""
    wrote = [name for record in finished.manifest["stages"].values() for name in record["wrote"]]
    assert set(wrote) == hashes(finished.folder).keys() - {"problems"} == finished.whole - {"problems"}
    assert len(times(finished.folder)) == len(finished.whole)
    for stage, record in finished.manifest["stages"].items():
        assert set(record["read"]) == {str(p).format(first="plain") for p in BY_NAME[stage].reads}
        assert record["seconds"] >= 0
        assert finished.summary["timing"][f"{stage}_s"] == record["seconds"]


def test_summary_has_the_keys_of_the_design(finished: Run) -> None:
    summary = finished.summary
    assert set(summary["neurons"]) >= {"total", "by_concept", "by_layer"}
    for name in ("reasoning", "matched_mean", "unmatched_mean"):
        assert set(summary["ablation"][name]) >= {"accuracy", "perplexity"}
    assert summary["model"]["weight_sha256"] == finished.manifest["model"]["weight_sha256"]
    assert summary["data"] | {"source": None, "sha256": None} == {
        "test": 8,
        "discovery": 8,
        "tuning": 4,
        "source": None,
        "sha256": None,
    }
    assert len(summary["ablation"]["matched_each"]) == 5
    assert 1 / 6 <= summary["ablation"]["p_value"] <= 1
    assert set(summary["baseline"]) >= {"accuracy", "ci", "n"}
    assert set(summary["correlation"]) >= {"spearman", "ci", "p_value"}
    for prompt in summary["prompts"].values():
        assert set(prompt) >= {"accuracy", "ci", "own_activity", "fixed_activity"}
    for phenomenon in summary["phenomena"].values():
        assert set(phenomenon) >= {"accuracy_change", "activity_change", "verdict"}
    assert summary["timing"]["generate_s"] > 0
    assert next(iter(summary["prompts"])) == "plain"
    # No exemplar pair of subtraction, multiplication or division: those prompts are left out, and said to be.
    assert "addition_only" in summary["prompts"]
    assert "division_only" not in summary["prompts"]
    assert any("division_only" in note for note in finished.notes)


def test_accuracy_is_what_the_texts_say(finished: Run) -> None:
    rows = finished.rows(
        "SELECT text, answer, correct FROM completions JOIN problems USING (problem_id) WHERE condition = 'study.plain'"
    )
    assert len(rows) == 8
    right = sum(r["correct"] for r in rows)
    assert 0 < right < 8
    for row in rows:
        if row["correct"]:
            assert row["answer"] in row["text"]
    assert finished.summary["baseline"]["accuracy"] == right / 8
    assert finished.summary["baseline"]["ci"] == list(wilson(right, 8))


def test_discovery_and_test_problems_are_disjoint(finished: Run) -> None:
    tables = finished.rows("SELECT split, list(problem_id) AS ids FROM problems GROUP BY split")
    ids = {t["split"]: set(t["ids"]) for t in tables}
    assert {name: len(found) for name, found in ids.items()} == {"test": 8, "discovery": 8, "tuning": 4}
    assert len(set().union(*ids.values())) == 20
    assert any("4 are left for tuning" in note for note in finished.notes)
    seen = finished.rows("SELECT DISTINCT split, family, condition, prompt, neuron_set FROM completions")
    on_test = {(family, "test") for family in ("study", "ablation", "push")}
    assert {(r["family"], r["split"]) for r in seen} == {("discovery", "discovery"), *on_test}
    for r in seen:
        disrupted = r["family"] in ("ablation", "push")
        named = r["neuron_set"] if disrupted else r["prompt"]
        assert r["condition"] == f"{r['family']}.{named}"
        assert (r["neuron_set"] == "none") == (not disrupted)
    assert {f"completions/{r['condition']}" for r in seen} == {n for n in finished.whole if n.startswith("completions/")}


def test_poles_are_found_under_several_prompts(tiny_study: TinyStudy, tmp_path: Path) -> None:
    second, other = tmp_path / "second.txt", tmp_path / "other.txt"
    second.write_text(Path(tiny_study.prompt).read_text())
    other.write_text(Path(tiny_study.prompt).read_text().replace("1 + 2 = 3", "2 + 1 = 3"))
    more = ["--prompt-file", str(second), "--prompt-file", str(other), "--discover-prompts", "2"]
    assert main(["discover", *tiny_study.options(), *more, "--out", str(tmp_path / "run")]) == 0
    run = Run.open(tmp_path / "run")
    assert run.summary["neurons"]["discovery_prompts"] == ["plain", "second"]
    assert {n for n in run.manifest["files"] if n.startswith("completions/")} == {
        "completions/discovery.plain", "completions/discovery.second"
    }  # fmt: skip
    alone: dict[tuple, int] = {}
    for r in run.rows(
        """SELECT layer, index, sign, steps FROM activity JOIN completions USING (condition, problem_id)
           WHERE condition = 'discovery.plain' AND correct"""
    ):
        pole = r["layer"], r["index"], r["sign"]
        alone[pole] = alone.get(pole, 0) + r["steps"]
    poles = run.rows("SELECT * FROM poles")
    assert {(p["layer"], p["index"], p["sign"]): p["steps"] for p in poles} == {p: 2 * n for p, n in alone.items()}
    assert {tuple(p["prompts"]) for p in poles} == {("plain", "second")}


def test_poles_promote_what_their_value_vectors_say(finished: Run) -> None:
    loaded = load_model(finished.manifest["config"]["model"], dtype="float32")
    gamma, _ = norm_gamma(loaded.anatomy.final_norm)
    poles = finished.rows("SELECT * FROM poles")
    assert {p["sign"] for p in poles} == {1, -1}
    for pole in poles[::7]:
        v = value_vectors(loaded.anatomy, pole["layer"])[:, pole["index"]] * gamma * pole["sign"]
        top = (loaded.anatomy.unembedding @ v).topk(20)
        assert pole["promoted"] == [loaded.piece(i) for i in top.indices.tolist()]
        assert torch.tensor(pole["promoted_scores"]) == pytest.approx(top.values, abs=1e-5)
        assert pole["suppressed_scores"] == sorted(pole["suppressed_scores"])
        assert (pole["mean_coefficient"] > 0) == (pole["sign"] > 0)


def test_candidates_hold_two_seeds(finished: Run) -> None:
    seeds = {"small": set("01234"), "large": set("56789")}
    poles = {(p["layer"], p["index"], p["sign"]): p["promoted"] for p in finished.rows("SELECT * FROM poles")}
    found = {(c["layer"], c["index"], c["sign"], c["concept"]) for c in finished.rows("SELECT * FROM candidates")}
    expected = {
        (*pole, concept)
        for pole, promoted in poles.items()
        for concept, tokens in seeds.items()
        if sum(t in tokens for t in promoted) >= 2
    }
    assert found == expected


def test_sets_have_the_same_number_per_layer(finished: Run) -> None:
    rows = finished.rows("SELECT neuron_set, layer, count(DISTINCT index) AS n FROM sets GROUP BY ALL")
    per_layer = {s: {r["layer"]: r["n"] for r in rows if r["neuron_set"] == s} for s in {r["neuron_set"] for r in rows}}
    # Nearly all neurons of the tiny model are candidates: few have a counterpart among the others.
    assert set(per_layer) == {"reasoning", "comparable", *(f"matched_{i}" for i in range(5)), "unmatched_0", "unmatched_1"}
    assert 0 < sum(per_layer["comparable"].values()) < sum(per_layer["reasoning"].values())
    for name, counts in per_layer.items():
        if name.startswith(("matched", "unmatched")):
            assert counts == per_layer["comparable"]
    outside = "SELECT * FROM sets s WHERE kind = 'comparable' AND NOT EXISTS (SELECT 1 FROM sets r WHERE "
    outside += "r.kind = 'reasoning' AND r.layer = s.layer AND r.index = s.index)"
    assert finished.rows(outside) == []
    suspects = "SELECT layer, index FROM candidates"
    matched = f"SELECT count(*) AS n FROM sets WHERE kind = 'matched' AND (layer, index) IN ({suspects})"
    assert finished.rows(matched) == [{"n": 0}]


def test_the_comparison_is_with_what_can_be_matched(finished: Run) -> None:
    summary, rows = finished.summary["ablation"], finished.rows("SELECT * FROM ablation")
    of_set = {r["neuron_set"]: r for r in rows}
    assert summary["target"] == "comparable"
    assert set(summary["comparable"]) == set(summary["reasoning"])
    for key in ("accuracy", "perplexity", "kl", "neurons"):
        assert summary["comparable"][key] == of_set["comparable"][key]
    controls = [r["accuracy"] for r in rows if r["kind"] == "matched"]
    assert summary["p_value"] == permutation_p(of_set["comparable"]["accuracy"], controls)
    drawn = finished.summary["sets"]
    assert drawn["target"] == "comparable"
    assert drawn["of"] == {"reasoning": 1, "comparable": 1, "matched": 5, "unmatched": 2}
    assert drawn["matching"]["caliper"] == CALIPER
    assert drawn["matching"]["by_chance"] < drawn["matching"]["jaccard"] <= 1
    matching = {r["neuron_set"]: r for r in finished.rows("SELECT * FROM matching")}
    assert set(matching) == set(of_set) - {"none"}
    traits = finished.rows(
        """SELECT neuron_set, avg(steps) AS steps FROM sets JOIN
               (SELECT layer, index, sum(steps) AS steps FROM poles GROUP BY ALL) USING (layer, index) GROUP BY ALL"""
    )
    for row in traits:
        assert matching[row["neuron_set"]]["mean_steps"] == pytest.approx(row["steps"])
        assert matching[row["neuron_set"]]["target_mean_steps"] == matching["comparable"]["mean_steps"]
    for row in matching.values():
        assert row["steps_q10"] <= row["steps_q50"] <= row["steps_q90"] <= row["steps_max"]
        if row["kind"] == "matched":
            assert max(abs(row["steps_smd"]), abs(row["update_size_smd"])) <= drawn["matching"]["largest_smd"]
            assert abs(math.log(row["mean_steps"] / row["target_mean_steps"])) <= CALIPER
    assert any("have no counterpart" in note for note in finished.notes)


def test_weights_are_as_before(finished: Run) -> None:
    weights = finished.manifest["weights"]
    assert weights["before_ablation"] == weights["after_ablation"] == finished.manifest["model"]["weight_sha256"]


def test_own_activity_counts_accepted_poles(finished: Run) -> None:
    accepted = {(r["layer"], r["index"], r["sign"]) for r in finished.rows("SELECT * FROM annotations WHERE accepted")}
    tokens = {
        r["problem_id"]: r["tokens"]
        for r in finished.rows("SELECT problem_id, tokens FROM completions WHERE condition = 'study.plain'")
    }
    own = dict.fromkeys(tokens, 0.0)
    for r in finished.rows("SELECT * FROM activity WHERE condition = 'study.plain'"):
        if (r["layer"], r["index"], r["sign"]) in accepted:
            own[r["problem_id"]] += r["steps"] / tokens[r["problem_id"]]
    assert finished.summary["prompts"]["plain"]["own_activity"] == pytest.approx(sum(own.values()) / len(own))
    distinct = finished.rows("SELECT max(distinct_poles) AS n FROM prompt_concepts WHERE prompt = 'plain'")[0]["n"]
    assert 0 < distinct <= finished.summary["prompts"]["plain"]["distinct_poles"]
    # A pole may stand for both concepts, so concepts add up to at least the whole.
    by_concept = finished.rows("SELECT sum(poles_per_token) AS s FROM prompt_concepts WHERE prompt = 'plain'")
    assert by_concept[0]["s"] >= finished.summary["prompts"]["plain"]["own_activity"] - 1e-9


def test_changes_of_phenomena_are_differences_of_prompts(finished: Run) -> None:
    prompts = finished.summary["prompts"]
    row = finished.summary["phenomena"]["without_formulas"]
    for change, key in (("accuracy_change", "accuracy"), ("activity_change", "own_activity")):
        assert row[change] == pytest.approx(prompts["text_only"][key] - prompts["plain"][key])


def test_the_same_command_runs_nothing_again(finished: Run, tiny_study: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    before, made_of, summary = times(finished.folder), hashes(finished.folder), figures(finished.folder)
    records = Run.open(finished.folder).manifest["stages"]
    exemplars = finished.manifest["config"]["exemplars"]
    options = [*tiny_study.options(), "--exemplars", exemplars, "--battery", "4", "--out", str(finished.folder)]
    assert main(["study", *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run"] == str(finished.folder) and printed["findings"]["ablate"] == records["ablate"]["finding"]
    assert main(["study", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = [s.name for s in STAGES if s.name in records]
    assert [line for line in lines if line.startswith("[")] == [
        f"[  done ] {stage}: {records[stage]['finding']}" for stage in wanted
    ]  # fmt: skip
    for command in ("ablate", "measure", "correlate"):
        assert main([command, str(finished.folder)]) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("[")] == [
        f"[  done ] {stage}"
        for stage in ("keystones", "sets", "ablate", "damage", "push", "operations", "measure", "correlate")
    ]  # fmt: skip
    assert {name for name, at in times(finished.folder).items() if before[name] != at} <= {"problems"}
    assert hashes(finished.folder) == made_of
    assert figures(finished.folder) == summary
    assert Run.open(finished.folder).manifest["stages"] == records


@pytest.mark.faults
def test_a_killed_study_goes_on_to_the_same_result(small: Run, tiny_study: TinyStudy, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cotscope", "study", *tiny_study.options(), "--given", "4", *FEW, "--out"]
    kept = killed_after("completions/ablation.", command, tmp_path / "killed")
    assert {"completions/discovery.plain", "annotations", "keystones", "completions/study.plain"} <= set(kept)
    assert "ablation" not in kept
    done = {name: at for name, at in times(tmp_path / "killed", "completions", "activity").items() if name in kept}
    state = cotscope.status(tmp_path / "killed")
    assert (state["annotate"].status, state["ablate"].status, state["damage"].status) == ("done", "stopped", "missing")
    out = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert_same(figures(tmp_path / "killed"), figures(small.folder))
    assert times(tmp_path / "killed").items() >= done.items()
    assert all(found.current for found in Run.open(tmp_path / "killed").states().values())


@pytest.mark.slow
def test_stages_one_by_one_are_the_study(small: Run, tiny_study: TinyStudy, tmp_path: Path) -> None:
    out = tmp_path / "staged"
    assert main(["discover", *tiny_study.options(), "--given", "4", "--out", str(out)]) == 0
    for stage in (
        ["annotate", "--annotator", "lexicon"],
        ["ablate", *FEW],
        ["measure", "--rows", "3"],
        ["correlate"],
        ["report"],
    ):
        assert main([stage[0], str(out), *stage[1:]]) == 0
    assert_same(figures(small.folder), figures(out))
    staged = Run.open(out)
    assert staged.states() == small.states()
    assert hashes(out).keys() == hashes(small.folder).keys()


def test_a_stage_refuses_what_is_missing_or_stale(small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(small.folder, out)

    def refused(*command: str) -> str:
        assert main([command[0], str(out), *command[1:]]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    (out / "tables/annotations.parquet").unlink()
    before = times(out)
    line = refused("correlate")
    assert "stage 'annotate', which 'correlate' builds on, is stale: annotations changed" in line
    assert line.endswith(f"Run `cotscope annotate {out}` first.")
    assert "no part of the run until made again" not in line
    with manifest_of(out) as manifest:
        manifest["stages"].pop("keystones")
    assert "'annotate', which 'keystones' builds on, is stale" in refused("ablate", "--outcomes", "accuracy")
    assert times(out) == before
    assert main(["annotate", str(out)]) == 0  # to the same words: what was stale by them alone is not any more
    capsys.readouterr()
    assert "stage 'keystones', which 'calibrate' builds on, has not run" in refused("calibrate")
    states = Run.open(out).states()
    assert states["measure"].current and states["damage"] == ("stale", "stage sets is stale")
    assert states["sets"] == ("stale", "stage keystones is missing")
    with manifest_of(out) as manifest:
        manifest["stages"]["discover"]["status"] = "started"
    assert "stage 'discover', which 'annotate' builds on, was stopped" in refused("annotate")


@pytest.mark.slow
def test_rejected_candidates_are_disrupted_too_and_are_in_the_pool_of_permuted_sets(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch
) -> None:
    class Half(LexiconAnnotator):
        name = "half"

        def annotate(self, found):
            return [replace(a, accepted=a.pole.index % 2 == 0) for a in super().annotate(found)]

    pools: list[set[Neuron]] = []
    draw = damage.permuted_sets
    monkeypatch.setattr(damage, "permuted_sets", lambda t, pool, *more: pools.append(set(pool)) or draw(t, pool, *more))
    monkeypatch.setitem(BUILT_IN, "half", lambda setting: Half())
    out = tmp_path / "run"
    assert main(["discover", *tiny_study.options(), "--given", "4", "--out", str(out)]) == 0
    assert main(["annotate", str(out), "--annotator", "half"]) == 0
    for stage in (["ablate", *FEW], ["measure"], ["correlate"]):
        assert main([stage[0], str(out), *stage[1:]]) == 0
    run = Run.open(out)
    accepted = "SELECT DISTINCT layer, index FROM annotations WHERE accepted"
    entry = run.summary["ablation"]["rejected"]
    assert set(entry) == set(run.summary["ablation"]["reasoning"])
    rows = run.rows("SELECT * FROM sets WHERE neuron_set = 'rejected'")
    assert {r["kind"] for r in rows} == {"rejected"}
    assert entry["neurons"] == len(rows) > 0
    assert run.rows(f"SELECT * FROM sets SEMI JOIN ({accepted}) USING (layer, index) WHERE neuron_set = 'rejected'") == []
    assert run.rows("SELECT kind FROM matching WHERE neuron_set = 'rejected'") == [{"kind": "rejected"}]
    assert run.rows("SELECT n FROM ablation WHERE neuron_set = 'rejected'") == [{"n": 8}]
    assert run.rows("SELECT * FROM sets WHERE neuron_set = 'rejected' AND index % 2 = 0") == []
    rejected = {Neuron(r["layer"], r["index"]) for r in rows}
    assert all(rejected <= pool for pool in pools) and pools
    matched = {Neuron(r["layer"], r["index"]) for r in run.rows("SELECT * FROM sets WHERE kind = 'matched'")}
    assert not matched & rejected, "an equal stands for no concept"
    both = run.rows("SELECT DISTINCT layer, index FROM sets WHERE kind = 'lexicon' ORDER BY ALL")
    assert both == run.rows("SELECT DISTINCT layer, index FROM sets WHERE kind IN ('reasoning', 'rejected') ORDER BY ALL")
    page = (out / "report.html").read_text()
    assert "rejected candidates" in page
    assert 'id="judged"' in page and "rejected by the judge" in page
    _activity_without_and_with_the_judge(run)


def _activity_without_and_with_the_judge(run: Run) -> None:
    """Tables `judged_activity` and `judged`, counted anew."""
    accepted = {(r["layer"], r["index"], r["sign"]) for r in run.rows("SELECT * FROM annotations WHERE accepted")}
    suspects = {(r["layer"], r["index"], r["sign"]) for r in run.rows("SELECT * FROM candidates")}
    poles = {"lexicon": suspects, "accepted": accepted, "rejected": suspects - accepted}
    assert accepted < suspects
    texts = {(r["prompt"], r["problem_id"]): r["tokens"] for r in run.rows("SELECT * FROM prompt_problems")}
    spots = run.rows("SELECT problem_id, sum(tokens)::INT AS tokens FROM solutions GROUP BY ALL")
    given = {r["problem_id"]: r["tokens"] for r in spots}
    own, fixed = Counter(), Counter()
    for word, chosen in poles.items():
        for r in run.rows("SELECT * FROM activity WHERE family = 'study'"):
            if (r["layer"], r["index"], r["sign"]) in chosen:
                own[word, r["prompt"]] += r["steps"] / texts[r["prompt"], r["problem_id"]]
        for r in run.rows("SELECT * FROM forced WHERE family = 'study'"):
            if (r["layer"], r["index"], r["sign"]) in chosen:
                fixed[word, r["prompt"]] += r["steps"] / given[r["problem_id"]]
    rows = run.rows("SELECT * FROM judged_activity")
    prompts = {r["prompt"]: r for r in run.rows("SELECT * FROM prompts")}
    assert {(r["prompt"], r["poles"]) for r in rows} == {(p, word) for p in prompts for word in poles}
    for r in rows:
        assert r["own_activity"] == pytest.approx(own[r["poles"], r["prompt"]] / 8)
        assert r["fixed_activity"] == pytest.approx(fixed[r["poles"], r["prompt"]] / len(given))
        if r["poles"] == "accepted":
            assert r["own_activity"] == pytest.approx(prompts[r["prompt"]]["poles_per_token"])
            assert r["fixed_activity"] == pytest.approx(prompts[r["prompt"]]["fixed_activity"])
    judged = run.rows("SELECT * FROM judged")
    assert {(r["poles"], r["activity"]) for r in judged} == {(word, way) for word in poles for way in ("own", "fixed")}
    first = run.manifest["prompts"][0]["name"]
    for r in judged:
        activity = {"own": own, "fixed": fixed}[r["activity"]]
        assert r["first"] == pytest.approx(activity[r["poles"], first] / {"own": 8, "fixed": len(given)}[r["activity"]])
        values = [activity[r["poles"], p] for p in prompts]
        expected = rank_correlation(values, [p["accuracy"] for p in prompts.values()])
        assert r["spearman"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.model
def test_the_default_model_on_built_in_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, but real: the direction of the main finding on the real model, through every stage, of whose repetitions few."""
    from cotscope.stages import ablate, keystones, operations, push

    text = " ".join(ablate.general_text().split(" ")[:300])
    monkeypatch.setattr(ablate, "general_text", lambda: text)
    monkeypatch.setattr(keystones, "SCREENED", 4)
    monkeypatch.setattr(keystones, "SCREENED_REASONING", 1)
    monkeypatch.setattr(push, "WAYS", ("indirect", "bias"))
    monkeypatch.setattr(push, "HALVINGS", 3)
    monkeypatch.setattr(operations, "OPERATIONS", ("addition", "subtraction"))
    few = ("--discover-limit", "10", "--matched", "1", "--unmatched", "0", "--given", "2", "--battery", "1", "--permuted", "0")
    options = ["--limit", "12", "--max-new-tokens", "56", *few]
    from cotscope.prompts.derive import derive_prompts
    from cotscope.prompts.exemplars import load_exemplars

    prompt = tmp_path / "worked.txt"
    prefix = derive_prompts(load_exemplars(None))[0].prefix
    prompt.write_text(prefix[: prefix.index("Question:", 1200)])  # three or four exemplars
    assert main(["study", "--prompt-file", str(prompt), *options, "--out", str(tmp_path / "run")]) == 0
    summary = Run.open(tmp_path / "run").summary
    assert summary["baseline"]["accuracy"] > 0.3
    assert summary["ablation"]["reasoning"]["accuracy"] < summary["baseline"]["accuracy"] - 0.2
    assert all(summary["neurons"]["by_concept"].values())
    assert summary["damage"]["battery"]["none"] > 0.5 and {"indirect", "bias"} <= summary["push"].keys()


def test_fixed_activity_counts_the_given_tokens(finished: Run) -> None:
    """The table against the steps: every given token has k active poles per layer, and each place its share."""
    spots = finished.rows("SELECT problem_id, source, role, tokens FROM solutions")
    assert {s["source"] for s in spots} == {"gold", "own"} or {s["source"] for s in spots} == {"gold"}
    assert {s["role"] for s in spots if s["tokens"]} == {"operator", "equals", "result", "elsewhere"}
    layers = finished.manifest["model"]["layers"]
    steps = finished.rows("SELECT prompt, problem_id, role, sum(steps) AS steps FROM forced GROUP BY ALL")
    tokens = {(s["problem_id"], s["role"]): s["tokens"] for s in spots}
    assert len(steps) == len(finished.summary["prompts"]) * sum(t > 0 for t in tokens.values())
    for row in steps:
        assert row["steps"] == tokens[row["problem_id"], row["role"]] * layers * 10
    for name, prompt in finished.summary["prompts"].items():
        [accepted] = finished.rows(
            """SELECT avg(coalesce(steps, 0) / tokens) AS activity
               FROM (SELECT problem_id, sum(tokens) AS tokens FROM solutions GROUP BY ALL)
                    LEFT JOIN (SELECT problem_id, sum(steps) AS steps
                               FROM forced SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
                               WHERE prompt = ? GROUP BY ALL) USING (problem_id)""",
            [name],
        )
        assert prompt["fixed_activity"] == pytest.approx(accepted["activity"])


def test_activity_by_place_against_the_texts(finished: Run) -> None:
    """Own activity at each role, counted anew from tokens' roles and active poles; every token counts once."""
    layers = finished.manifest["model"]["layers"]
    texts = finished.rows("SELECT * FROM completions WHERE family = 'study'")
    assert all(len(t["roles"]) == t["tokens"] for t in texts)
    tokens = {(t["prompt"], t["problem_id"]): Counter(t["roles"]) for t in texts}
    concepts = defaultdict(list)
    for r in finished.rows("SELECT * FROM annotations WHERE accepted"):
        concepts[r["layer"], r["index"], r["sign"]].append(r["concept"])
    steps, active = Counter(), Counter()
    for r in finished.rows("SELECT * FROM activity WHERE family = 'study'"):
        place = (r["prompt"], r["problem_id"], r["role"])
        steps[place] += r["steps"]
        found = concepts[r["layer"], r["index"], r["sign"]]
        for concept in [*found, None] if found else []:
            active[(*place, concept)] += r["steps"]
    for (prompt, problem), places in tokens.items():
        for role, count in places.items():
            assert steps[prompt, problem, role] == count * layers * 10
    rows = finished.rows("SELECT * FROM prompt_roles")
    assert {r["role"] for r in rows} == {"operator", "equals", "result", "elsewhere"}
    assert {r["concept"] for r in rows} == {"small", "large", None}
    assert max(map(len, concepts.values())) == 2, "a pole of two concepts, which is one pole"
    seen = 0
    for row in rows:
        having = [(key, count) for key, c in tokens.items() if key[0] == row["prompt"] and (count := c[row["role"]])]
        if having:
            mean = fmean(active[(*key, row["role"], row["concept"])] / count for key, count in having)
            assert row["own_activity"] == pytest.approx(mean)
            seen += mean > 0
        else:
            assert row["own_activity"] is None
    assert seen > 10


def test_every_set_is_scored(finished: Run) -> None:
    """How its figures come about: tests/stages/test_stage_damage.py."""
    names = {"none", "reasoning", "comparable", *(f"matched_{i}" for i in range(5)), "unmatched_0", "unmatched_1"}
    assert {r["neuron_set"] for r in finished.rows("SELECT * FROM damage")} == names
    rows = finished.rows("SELECT * FROM damage_solutions WHERE path = 'total'")
    assert {r["neuron_set"] for r in rows} == names | {"permutable", "matched_mean", "permuted_mean"}
    assert {r["role"] for r in rows} == {"operator", "equals", "result", "elsewhere"}
    summary = finished.summary["damage"]
    assert summary["target"] == finished.summary["ablation"]["target"]
    page = (finished.folder / "report.html").read_text()
    assert f"Beside it {summary['items']} items about words" in page
    for role in ("operator", "result"):
        change = {r["neuron_set"]: r["log_prob_change"] for r in rows if r["role"] == role}
        specific = summary["specific"]["solutions"][role]["total"]["log_prob"]
        matched = [change[f"matched_{i}"] for i in range(5)]
        assert specific["change"] == pytest.approx(change[summary["target"]] - sum(matched) / 5)
        assert specific["low"] <= specific["change"] <= specific["high"]
        assert specific["p_value"] == permutation_p(change[summary["target"]], matched)


def test_headline_is_the_rule_on_arithmetic_tokens(finished: Run) -> None:
    """20 permuted sets are drawn whatever --matched is (here: 5)."""
    headline = finished.summary["damage"]["headline"]
    names = ["permutable", *(f"permuted_{i}" for i in range(20))]
    parts: dict[tuple, list[tuple[float, float, int]]] = defaultdict(list)
    for r in finished.rows("SELECT * FROM solution_scores"):
        parts[r["neuron_set"], r["path"], r["role"] != "elsewhere", r["problem_id"]].append(
            (r["log_prob"], r["margin"], r["tokens"])
        )

    def mean(name: str, path: str, arithmetic: bool, measure: int) -> float:
        here = [p for key, p in parts.items() if key[:3] == (name, path, arithmetic)]
        return fmean(sum(p[measure] * p[2] for p in tokens) / sum(p[2] for p in tokens) for tokens in here)

    holds = {}
    for claim, path, measure, least in (("pushes", "total", 0, LEAST_EFFECT), ("matters", "indirect", 1, LEAST_MARGIN)):
        change, other = (
            [mean(name, path, arithmetic, measure) - mean("none", "total", arithmetic, measure) for name in names]
            for arithmetic in (True, False)
        )
        found = headline[claim]
        assert found["change"] == pytest.approx(change[0])
        assert found["permuted_mean"] == pytest.approx(fmean(change[1:]))
        assert found["p_value"] == permutation_p(change[0], change[1:])
        beyond = [a - e for a, e in zip(change, other, strict=True)]
        assert found["p_beyond"] == permutation_p(beyond[0], beyond[1:])
        large = found["permuted_mean"] - found["change"] >= least
        holds[claim] = max(found["p_value"], found["p_beyond"]) <= LEVEL and large
        assert found["holds"] == holds[claim]
    assert headline["verdict"] == (MATTERS if holds["matters"] else PUSH if holds["pushes"] else NOT_SHOWN)
    assert (headline["sets"], headline["neurons"] > 0) == (20, True)
    assert in_words(headline["verdict"]) in (finished.folder / "report.html").read_text()


@pytest.mark.slow
def test_too_few_permuted_sets_and_more_of_them(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished.folder, folder := tmp_path / "run")
    scored: list[str] = []
    score_paths = damage.score_paths

    def counted(engine, prompt, given, sets):
        scored.extend(sets)
        return score_paths(engine, prompt, given, sets)

    monkeypatch.setattr(damage, "score_paths", counted)
    query = "SELECT * FROM solution_scores WHERE neuron_set LIKE 'perm%' ORDER BY ALL"
    whole = finished.rows(query)
    others = {n: at for n, at in times(folder, "solution_scores").items() if "perm" not in n}

    def permuted(sets: int, *more: str) -> dict:
        scored.clear()
        assert main(["ablate", str(folder), "--battery", "4", "--permuted", str(sets), *more]) == 0
        names = ["permutable", *(f"permuted_{i}" for i in range(sets))] if sets else []
        assert_same([r for r in whole if r["neuron_set"] in names], Run.open(folder).rows(query))
        return Run.open(folder).summary["damage"]["headline"]

    headline = permuted(0)
    assert (headline["verdict"], headline["sets"], scored) == (TOO_FEW, 0, [])
    assert "0 were drawn: 19 take" in (folder / "report.html").read_text()
    before = times(folder, "battery", "completions", "keystones", "ablation")
    headline = permuted(5)
    assert scored == ["permutable", *(f"permuted_{i}" for i in range(5))]
    assert (headline["verdict"], headline["sets"]) == (TOO_FEW, 5), "19 are needed"
    assert headline == permuted(5, "--outcomes", "solutions") and not scored
    assert permuted(7, "--outcomes", "solutions")["sets"] == 7
    assert scored == ["permuted_5", "permuted_6"], "those that are there are kept"
    assert times(folder, "battery", "completions", "keystones", "ablation") == before
    assert times(folder, "solution_scores").items() >= others.items()


def test_controls_of_the_correlation_and_stability(finished: Run) -> None:
    correlation, stability = finished.summary["correlation"], finished.summary["stability"]
    assert set(correlation["given_length"]) == {"spearman", "low", "high"}
    if correlation["permuted"] is not None:
        assert correlation["permuted"]["sets"] == 999
        assert 1 / 1000 <= correlation["permuted"]["p_value"] <= 1
    active: dict[str, set[tuple[int, int, int]]] = {}
    for r in finished.rows(
        """SELECT problem_id, layer, index, sign FROM activity JOIN completions USING (condition, family, prompt, problem_id)
           WHERE split = 'discovery' AND correct"""
    ):
        active.setdefault(r["problem_id"], set()).add((r["layer"], r["index"], r["sign"]))
    accepted = {(r["layer"], r["index"], r["sign"]) for r in finished.rows("SELECT * FROM annotations WHERE accepted")}
    order = sorted(active)
    halves = [accepted & set().union(*(active[p] for p in some)) for some in (order[::2], order[1::2])]
    assert stability["problems"] == [len(order[::2]), len(order[1::2])] and len(order) >= 2
    assert stability["poles"] == [len(h) for h in halves]
    assert stability["jaccard"] == pytest.approx(jaccard(*halves))
    permuted = stability["permuted"]
    assert 0 <= permuted["quantiles"][0] <= permuted["mean"] <= permuted["quantiles"][1] <= 1
    assert 1 / 1000 <= permuted["p_value"] <= 1


def test_table_of_operations(tiny_study: TinyStudy, tmp_path: Path, finished: Run) -> None:
    assert "operations" not in finished.summary
    assert any("table of operations" in note for note in finished.notes)
    concepts = tmp_path / "concepts.toml"
    text = Path(tiny_study.concepts).read_text()
    concepts.write_text(text.replace('"small"', '"addition"').replace('"large"', '"division"'))
    options = tiny_study.options()
    options[options.index("--concepts") + 1] = str(concepts)
    out = tmp_path / "run"
    assert main(["discover", *options, "--given", "6", "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), "--by", "operation"]) == 0
    run = Run.open(out)
    assert list(run.states()) == ["discover", "annotate", "keystones", "operations"]
    assert all(found.current for found in run.states().values())
    owners = run.rows("SELECT layer, index, list(DISTINCT concept) AS concepts FROM annotations WHERE accepted GROUP BY ALL")
    rows = run.rows("SELECT * FROM operations")
    both = ("addition", "division")
    assert [(r["role"], r["disrupted"], r["operation"]) for r in rows] == [
        (role, i, j) for role in ("operator", "result") for i in both for j in both
    ]
    cells = {}
    for row in rows:
        assert row["neurons"] == sum(o["concepts"] == [row["disrupted"]] for o in owners)
        assert row["problems"] == 3
        [mean] = run.rows(
            """SELECT avg(a.log_prob - b.log_prob) AS change
               FROM operation_problems a JOIN operation_problems b USING (role, operation, problem_id)
               WHERE role = ? AND a.disrupted = ? AND b.disrupted = 'none' AND operation = ?""",
            [row["role"], row["disrupted"], row["operation"]],
        )
        assert row["change"] == pytest.approx(mean["change"])
        assert row["low"] <= row["change"] <= row["high"]
        cells[row["role"], row["disrupted"], row["operation"]] = row["change"]
    a, d = both
    for role in ("operator", "result"):
        contrast = (cells[role, a, a] + cells[role, d, d] - cells[role, a, d] - cells[role, d, a]) / 4
        assert run.summary["operations"][role]["contrast"] == pytest.approx(contrast)
    assert "operations-result" in (out / "report.html").read_text()


def test_prompts_that_cut_completions_are_named(finished: Run) -> None:
    cut = finished.rows(
        """SELECT prompt, avg(CASE WHEN finish = 'length' THEN 1 ELSE 0 END) AS share FROM completions
           WHERE family = 'study' GROUP BY prompt"""
    )
    expected = sorted(r["prompt"] for r in cut if r["share"] > 0.5)
    [note] = [n for n in finished.notes if "were cut at the most tokens allowed" in n] or [""]
    assert note.startswith(f"Under {len(expected)} prompts ({expected[0]}") if expected else not note
