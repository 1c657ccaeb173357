"""The stage that compares disruptions, on a tiny model: its tables recomputed, its reference, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.executors.local import STAGES, stages_of
from cotscope.lm.interventions import coefficient_hooks
from cotscope.lm.loading import load_model
from cotscope.runs.folder import Run
from cotscope.runs.session import Session, StudyConfig
from cotscope.stages.sweep import DISRUPTIONS

NAMES = {d.name for d in DISRUPTIONS}
ROLES = ("operator", "equals", "result", "elsewhere")
SETS = ("comparable", "matched_0", "matched_1", "unmatched_0")


@pytest.fixture(scope="module")
def ablated(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study as far as `damage`."""
    out = tmp_path_factory.mktemp("runs") / "ablated"
    sizes = ["--matched", "3", "--unmatched", "2", "--given", "5", "--battery", "3", "--disruptions"]
    assert main(["discover", *tiny_study.options(), *sizes, "--out", str(out)]) == 0
    for stage in ("annotate", "keystones", "ablate", "damage"):
        assert main([stage, str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def finished(ablated: Path) -> Run:
    out = ablated.parent / "whole"
    shutil.copytree(ablated, out)
    assert main(["disrupt", str(out)]) == 0
    return Run.open(out)


def name_of(row: dict) -> str:
    parts = [row["kind"]] + ([] if row["dose"] is None else [f"{row['dose']:g}"])
    return "_".join(parts + ([row["scope"]] if row["scope"] != "all" else []))


def items(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for r in run.rows("SELECT * FROM disruption_items"):
        found.setdefault((r["unit"], r["outcome"]), {})[r["item"]] = r["value"]
    return found


def test_the_table_has_every_set_disruption_and_outcome(finished: Run) -> None:
    rows = finished.rows("SELECT * FROM disruptions")
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
    assert {r["n"] for r in rows if r["outcome"] == "battery"} == {15}


def test_zeroing_is_what_the_damage_stage_measures(finished: Run) -> None:
    """The same figures from another stage's passes."""
    damage = {(r["neuron_set"], r["role"]): r for r in finished.rows("SELECT * FROM damage_given")}
    battery = {r["neuron_set"]: r["battery"] for r in finished.rows("SELECT * FROM damage")}
    rows = finished.rows("SELECT * FROM disruptions WHERE kind = 'scale' AND dose = 0 AND scope = 'all'")
    for row in rows:
        if row["outcome"] in ROLES:
            other = damage[row["neuron_set"], row["outcome"]]
            assert row["value"] == pytest.approx(other["log_prob"], abs=1e-6)
            assert [row["low"], row["high"], row["p"]] == pytest.approx([other["low"], other["high"], other["p"]], abs=1e-6)
        elif row["outcome"] == "battery":
            assert row["value"] == battery[row["neuron_set"]]


def test_kinds_doses_and_scopes_differ(finished: Run) -> None:
    values = items(finished)
    by_way = {d: tuple(values[f"comparable.{d}", "elsewhere"].values()) for d in NAMES}
    assert len(set(by_way.values())) == len(NAMES)
    kl = {
        name_of(r): r["value"]
        for r in finished.rows("SELECT * FROM disruptions WHERE neuron_set = 'comparable' AND outcome = 'kl'")
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
    arrays, metadata = finished.arrays("reference")
    loaded, session = load_model(finished.manifest["config"]["model"], dtype="float32"), Session.reopen(finished.folder)
    wanted = {(r["layer"], r["index"]) for s in SETS for r in finished.rows("SELECT * FROM sets WHERE neuron_set = ?", [s])}
    neurons = list(zip(arrays["layer"].tolist(), arrays["index"].tolist()))
    assert set(neurons) == wanted and len(neurons) == len(wanted)
    right = {
        r["problem_id"]: r["token_ids"]
        for r in finished.rows("SELECT * FROM completions WHERE condition = 'discover.plain' AND correct")
    }
    problems = json.loads(metadata["problems"])
    assert set(problems) == set(right) and not set(problems) & {p.id for p in session.split.test}
    questions = {p.id: p.question for p in session.split.discovery}
    for number, problem in enumerate(problems):
        start = loaded.encode(session.prompts[0].text(questions[problem]))
        seen: list[torch.Tensor] = []
        with torch.inference_mode(), coefficient_hooks(loaded.anatomy, None, lambda _, m, s=seen: s.append(m[0].clone())):
            loaded.model(input_ids=torch.tensor([start + right[problem]]))
        stacked = torch.stack(seen)[:, len(start) - 1 : -1]  # (layers, positions, neurons)
        expected = np.stack([stacked[layer, :, index].numpy() for layer, index in neurons], axis=1)
        np.testing.assert_allclose(arrays["coefficients"][arrays["problem"] == number], expected, atol=1e-4, rtol=1e-3)


def test_a_killed_stage_goes_on_to_the_same_tables(ablated: Path, finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    shutil.copytree(ablated, out)
    command = [sys.executable, "-m", "cotscope", "disrupt", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, done = time.monotonic() + 120, []
    while len(done) < 20 and time.monotonic() < deadline:
        done = json.loads((out / "manifest.json").read_text()).get("disruptions", {}).get("done", [])
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = json.loads((out / "manifest.json").read_text())["disruptions"]["done"]
    assert 20 <= len(kept) < 61
    parts = {p: p.stat().st_mtime_ns for p in (out / "tables/disruption_items").glob("[!.]*") if p.stem in kept}
    assert len(parts) == len(kept)
    assert main(["disrupt", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in parts} == parts
    again = Run.open(out)
    for table in ("disruptions", "disruption_items"):
        assert again.rows(f"SELECT * FROM {table} ORDER BY ALL") == finished.rows(f"SELECT * FROM {table} ORDER BY ALL")
    assert again.summary["disruptions"] == finished.summary["disruptions"]


def test_other_sets_void_what_was_scored(finished: Run, tmp_path: Path) -> None:
    """A comparable set takes the target's place, and nothing of the old target stays."""
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out)
    run = Run.open(out)
    rows = run.rows("SELECT * FROM sets")
    fewer = [r | {"neuron_set": "comparable", "kind": "comparable"} for r in rows if r["kind"] == "comparable"][:7]
    run.write_rows("sets", rows + fewer)
    assert main(["disrupt", str(out)]) == 0
    run = Run.open(out)
    assert run.summary["disruptions"]["target"] == "comparable"
    assert {r["s"] for r in run.rows("SELECT DISTINCT neuron_set AS s FROM disruptions")} == {"comparable", "none", *SETS[1:]}
    assert not run.rows("SELECT unit FROM disruption_items WHERE unit LIKE 'reasoning%'")


def test_without_a_solved_discovery_problem_there_is_no_reference(ablated: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ablated, out)
    run = Run.open(out)
    rows = run.rows("SELECT * FROM completions WHERE condition = 'discover.plain'")
    run.write_rows("completions/discover.plain", [r | {"correct": False} for r in rows])
    assert main(["disrupt", str(out)]) == 0
    run = Run.open(out)
    assert set(run.summary["disruptions"]["specific"]) == NAMES - {"mean", "resample"}
    assert any("No discovery problem was solved" in note for note in run.manifest["notes"])


def test_a_study_runs_it_only_when_asked(ablated: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    every = tuple(s for s in STAGES if s not in ("variants", "placebo"))
    assert stages_of(StudyConfig(disruptions=True)) == every
    assert stages_of(StudyConfig()) == tuple(s for s in every if s != "disrupt")
    order = list(STAGES)
    assert order.index("operations") < order.index("disrupt") < order.index("measure")
    out = tmp_path / "run"
    shutil.copytree(ablated, out)
    sizes = ["--matched", "3", "--unmatched", "2", "--given", "5", "--battery", "3", "--disruptions"]
    assert main(["study", *tiny_study.options(), *sizes, "--out", str(out)]) == 0
    assert Run.open(out).stage_done("disrupt") and Run.open(out).stage_done("explain")
