"""The stage that compares disruptions, on a tiny model: its tables recomputed, its reference, and going on after a kill."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from conftest import TinyStudy, as_if_written, assert_same, hashes, killed_after, times

import cotscope
from cotscope.cli import main
from cotscope.data.battery import load_battery
from cotscope.executors.local import wanted
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.loading import load_model
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.tables import COMPLETIONS
from cotscope.runs.tables import SETS as SETS_TABLE
from cotscope.stages import sweep
from cotscope.stages.registry import STAGES
from cotscope.stages.sweep import DISRUPTIONS

pytestmark = pytest.mark.slow
NAMES = {d.name for d in DISRUPTIONS}
ROLES = ("operator", "equals", "result", "elsewhere")
SETS = ("comparable", "matched_0", "matched_1", "unmatched_0")
BATTERY = ["--sweep-battery", "3"]
SIZES = ["--matched", "3", "--unmatched", "2", "--permuted", "0", "--battery", "3"]


@pytest.fixture(scope="module")
def ablated(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as far as `ablate`."""
    out = tmp_path_factory.mktemp("runs") / "ablated"
    assert main(["discover", *tiny_study.options(), "--given", "5", "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), *SIZES, "--by", "set"]) == 0
    return out


@pytest.fixture(scope="module")
def finished(ablated: Path) -> Run:
    out = ablated.parent / "whole"
    shutil.copytree(ablated, out)
    assert main(["sweep", str(out), *BATTERY]) == 0
    return Run.open(out)


def name_of(row: dict) -> str:
    parts = [row["kind"]] + ([] if row["dose"] is None else [f"{row['dose']:g}"])
    return "_".join(parts + ([row["scope"]] if row["scope"] != "all" else []))


def unit_of(row: dict) -> str:
    return f"{row['neuron_set']}.{name_of(row)}"


def items(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for r in run.rows("SELECT * FROM sweep_items"):
        found.setdefault((unit_of(r), r["outcome"]), {})[r["item"]] = r["value"]
    return found


def test_the_table_has_every_set_disruption_and_outcome(finished: Run) -> None:
    rows = finished.rows("SELECT * FROM sweep")
    outcomes = {*ROLES, "battery", "perplexity", "kl"}
    got = {(r["neuron_set"], name_of(r), r["outcome"]) for r in rows}
    assert got == {(s, d, o) for s in SETS for d in NAMES for o in outcomes} | {("none", "none", o) for o in outcomes}
    assert len(got) == len(rows)
    values = items(finished)
    for row in rows:
        if row["outcome"] in ("perplexity", "kl"):
            assert (row["value"] is None) == (row["scope"] == "generated")
            continue
        own, before = values[f"{row['neuron_set']}.{name_of(row)}", row["outcome"]], values["none.none", row["outcome"]]
        assert own.keys() == before.keys()
        assert row["n"] == len(own)
        assert row["value"] == pytest.approx(fmean(own.values()))
        assert row["change"] == pytest.approx(fmean(own[i] - before[i] for i in own), abs=1e-12)
        assert row["low"] - 1e-9 <= row["change"] <= row["high"] + 1e-9
        assert 0 < row["p"] <= 1
        assert row["kind"] != "none" or row["change"] == 0
    assert {r["n"] for r in rows if r["outcome"] == "battery"} == {3 * len(load_battery())}


def test_zeroing_is_what_the_damage_stage_measures(finished: Run) -> None:
    """The same figures from another stage's passes."""
    rows = finished.rows("SELECT * FROM damage_solutions WHERE path = 'total'")
    damage = {(r["neuron_set"], r["role"]): r for r in rows}
    battery = {r["neuron_set"]: r["battery"] for r in finished.rows("SELECT * FROM damage")}
    rows = finished.rows("SELECT * FROM sweep WHERE kind = 'scale' AND dose = 0 AND scope = 'all'")
    for row in rows:
        if row["outcome"] in ROLES:
            other = damage[row["neuron_set"], row["outcome"]]
            assert row["value"] == pytest.approx(other["log_prob"], abs=2e-4)
            ends = [other[f"log_prob_{end}"] for end in ("low", "high", "p")]
            assert [row["low"], row["high"], row["p"]] == pytest.approx(ends, abs=2e-3)
        elif row["outcome"] == "battery":
            assert row["value"] == battery[row["neuron_set"]]


def test_kinds_doses_and_scopes_differ(finished: Run) -> None:
    values = items(finished)
    by_way = {d: tuple(values[f"comparable.{d}", "elsewhere"].values()) for d in NAMES}
    assert len(set(by_way.values())) == len(NAMES)
    kl = {
        name_of(r): r["value"] for r in finished.rows("SELECT * FROM sweep WHERE neuron_set = 'comparable' AND outcome = 'kl'")
    }
    assert kl["scale_0_prompt"] == kl["scale_0"] > kl["scale_0.75"] > 0
    assert kl["noise_3"] > kl["noise_0.5"]


def test_specific_is_the_target_less_the_matched(finished: Run) -> None:
    summary, values = finished.summary["disruptions"], items(finished)
    assert (summary["target"], summary["matched"]) == ("comparable", ["matched_0", "matched_1"])
    assert set(summary["specific"]) == NAMES
    for name, way in summary["specific"].items():
        for outcome in (*ROLES, "battery"):
            mean = {s: fmean(values[f"{s}.{name}", outcome].values()) for s in SETS}
            found = way["outcomes"][outcome]
            expected = mean["comparable"] - (mean["matched_0"] + mean["matched_1"]) / 2
            assert found["change"] == pytest.approx(expected, abs=1e-12)
            assert found["low"] - 1e-9 <= found["change"] <= found["high"] + 1e-9
        assert ("kl" in way["outcomes"]) == (way["scope"] != "generated")


def test_reference_coefficients_are_those_of_right_discovery_completions(finished: Run) -> None:
    arrays, metadata = finished.arrays("reference", finished.manifest["files"]["arrays/reference"]["of"])
    assert finished.arrays("reference", "of other completions") is None
    loaded, session = load_model(finished.manifest["config"]["model"], dtype="float32"), Session.reopen(finished.folder)
    wanted = {(r["layer"], r["index"]) for s in SETS for r in finished.rows("SELECT * FROM sets WHERE neuron_set = ?", [s])}
    neurons = list(zip(arrays["layer"].tolist(), arrays["index"].tolist()))
    assert set(neurons) == wanted and len(neurons) == len(wanted)
    right = {
        r["problem_id"]: r["token_ids"]
        for r in finished.rows("SELECT * FROM completions WHERE condition = 'discovery.plain' AND correct")
    }
    problems = json.loads(metadata["problems"])
    assert set(problems) == set(right) and not set(problems) & {p.id for p in session.inputs.split.test}
    questions = {p.id: p.question for p in session.inputs.split.discovery}
    for number, problem in enumerate(problems):
        start = loaded.encode(session.prompt.text(questions[problem]))
        seen: list[torch.Tensor] = []
        with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, lambda _, m, s=seen: s.append(m[0].clone())):
            loaded.model(input_ids=torch.tensor([start + right[problem]]))
        stacked = torch.stack(seen)[:, len(start) - 1 : -1]  # (layers, positions, neurons)
        expected = np.stack([stacked[layer, :, index].numpy() for layer, index in neurons], axis=1)
        np.testing.assert_allclose(arrays["coefficients"][arrays["problem"] == number], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.faults
def test_a_killed_stage_goes_on_to_the_same_tables(ablated: Path, finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    shutil.copytree(ablated, out)
    before = hashes(out)
    kept = killed_after("sweep_items/", [sys.executable, "-m", "cotscope", "sweep", *BATTERY], out, count=20)
    units = [name for name in kept if name.startswith("sweep_items/")]
    assert 20 <= len(units) < 61
    assert Run.open(out).state("sweep").status == "stopped"
    parts = {name: at for name, at in times(out).items() if name in kept and name != "solutions"}
    assert main(["sweep", str(out), *BATTERY]) == 0
    assert times(out).items() >= parts.items()
    assert hashes(out).items() >= before.items()
    again = Run.open(out)
    assert again.state("sweep").current
    for table in ("sweep", "sweep_items", "sweep_text"):
        assert_same(*(run.rows(f"SELECT * FROM {table} ORDER BY ALL") for run in (again, finished)))
    assert_same(again.summary["disruptions"], finished.summary["disruptions"])


@pytest.fixture
def few_ways(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Fewer ways to disrupt, where all of them would only take longer."""
    names = {"scale_0", "scale_0.5", "mean", "resample", "scale_0_generated"}
    monkeypatch.setattr(sweep, "DISRUPTIONS", tuple(d for d in DISRUPTIONS if d.name in names))
    return names


def test_other_sets_void_what_was_scored(finished: Run, few_ways: set[str], tmp_path: Path) -> None:
    """Another target takes the old one's place, first under the same name; nothing of the old one stays."""
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    rows = finished.rows("SELECT * FROM sets")
    comparable, rest = [r for r in rows if r["kind"] == "comparable"], [r for r in rows if r["kind"] != "comparable"]
    assert len(comparable) > 2
    for left, target in ((comparable[:-1], "comparable"), ([], "reasoning")):
        run = as_if_written(out, SETS_TABLE, rest + left, unread=("sweep",))
        assert run.state("ablate").current and run.state("sweep") == ("stale", "sets changed")
        assert "disruptions" not in run.summary
        before = times(out, "sweep_items", "sweep_text")
        assert main(["sweep", str(out), *BATTERY]) == 0
        run = Run.open(out)
        names = {target, *SETS[1:]}
        assert run.summary["disruptions"]["target"] == target
        assert {r["s"] for r in run.rows("SELECT DISTINCT neuron_set AS s FROM sweep")} == names | {"none"}
        units = {f"sweep_items/{s}.{way}" for s in names for way in few_ways} | {"sweep_items/none.none"}
        assert set(times(out, "sweep_items")) == units
        assert {unit_of(r) for r in run.rows("SELECT * FROM sweep_text")} == {
            u.partition("/")[2] for u in units if not u.endswith("generated")
        }  # fmt: skip
        wanted_neurons = {(r["layer"], r["index"]) for r in run.rows("SELECT * FROM sets") if r["neuron_set"] in names}
        found = run.arrays("reference", run.manifest["files"]["arrays/reference"]["of"]).arrays
        assert set(zip(found["layer"].tolist(), found["index"].tolist())) == wanted_neurons
        after = times(out, "sweep_items", "sweep_text")
        assert all(after[name] != before[name] for name in after.keys() & before.keys() if f"/{target}." in name)


def test_without_a_solved_discovery_problem_there_is_no_reference(ablated: Path, few_ways: set[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ablated, out)
    rows = Run.open(out).rows("SELECT * FROM completions WHERE condition = 'discovery.plain'")
    as_if_written(out, COMPLETIONS, [r | {"correct": False} for r in rows], "discovery.plain")
    assert main(["sweep", str(out), "--sweep-battery", "1"]) == 0
    run = Run.open(out)
    assert set(run.summary["disruptions"]["specific"]) == few_ways - {"mean", "resample"}
    assert any("No discovery problem was solved" in note for note in run.notes)
    assert not (out / "arrays").exists()


def test_a_study_runs_it_only_when_asked(ablated: Path, few_ways: set[str], tiny_study: TinyStudy, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ablated, out)
    every = [s.name for s in STAGES if s.name not in ("attribute", "variants", "evaluate", "predict", "cascade", "calibrate")]
    assert [s.name for s in wanted(Session.reopen(out))] == [s for s in every if s != "sweep"]
    assert every.index("operations") < every.index("sweep") < every.index("measure")
    before = times(out, "completions", "solution_scores", "battery", "text_scores")
    command = ["study", *tiny_study.options(), "--given", "5", *SIZES, *BATTERY, "--sweep", "--out", str(out)]
    assert main(command) == 0
    assert [s.name for s in wanted(Session.reopen(out))] == every
    assert {s for s, found in cotscope.status(out).items() if found.current} == set(every)
    assert times(out).items() >= before.items()


@pytest.mark.slow
def test_without_matched_sets_there_is_nothing_to_compare_with(tiny_study: TinyStudy, tmp_path: Path) -> None:
    few = ["--matched", "0", "--unmatched", "0", "--permuted", "0", "--given", "2", "--battery", "1", "--sweep"]
    assert main(["study", *tiny_study.options(), *few, "--out", str(tmp_path / "run")]) == 0
    run = Run.open(tmp_path / "run")
    assert run.summary["disruptions"]["matched"] == []
    assert "no matched set" in run.manifest["stages"]["sweep"]["finding"]
    assert {r["set_kind"] for r in run.rows("SELECT DISTINCT set_kind FROM sweep")} <= {"none", "comparable", "reasoning"}
