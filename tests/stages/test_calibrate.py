"""The calibration on a tiny model: its runs, its rate, and adding runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyStudy, as_if_written, hashes, times, tiny_model

from cotscope.cli import main
from cotscope.concepts.sets import load_concepts
from cotscope.lm.engine import Engine
from cotscope.lm.families import value_matrix
from cotscope.lm.interventions import scale, shuffled
from cotscope.measuring.neurons import active_neurons
from cotscope.records import Neuron
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.tables import ANNOTATIONS, KEYSTONES
from cotscope.stages import calibrate
from cotscope.stages.calibrate import KINDS, PACKAGED, PERMUTED, TEN, Options, _plan
from cotscope.stats import LEAST_EFFECT, LEAST_MARGIN, MATTERS, NOT_SHOWN, PUSH, wilson
from cotscope.stats.random_sets import Matched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tested(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "run"
    assert main(["discover", *tiny_study.options(), "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["calibrate", str(out)]) == 2  # it wants keystones
    assert main(["ablate", str(out), "--by", "operation"]) == 0
    assert main(["calibrate", str(out), "--runs", "3", "--problems", "2"]) == 0
    return out


def test_fewer_runs_are_a_beginning_of_more() -> None:
    assert _plan(100)[: len(_plan(13))] == _plan(13)
    kinds = [kind for kind, _ in _plan(Options().runs)]
    assert len(set(_plan(100))) == len(kinds) == 110
    assert {k: kinds.count(k) for k in KINDS if k in kinds} == {
        "occurring": 30, "lexicon": 30, "labels": 30, "vectors": 10, "study": 10,
    }  # fmt: skip
    assert _plan(11, True)[:3] == [("study", 0), ("attribution", 0), ("occurring", 0)]
    assert [run for run in _plan(30, True) if run[0] != "attribution"] == _plan(30)
    assert len(TEN) == 10


def test_runs_are_added_and_none_is_made_again(tested: Path) -> None:
    before = {r["run"]: r for r in Run.open(tested).rows("SELECT * FROM calibration")}
    assert set(before) == {"study_0", "occurring_0", "lexicon_0", "labels_0"}
    assert Run.open(tested).manifest["stages"]["calibrate"]["options"] == {"runs": 3, "problems": 2, "shuffles": 20}
    files = times(tested, "calibration_runs")
    assert set(files) == {f"calibration_runs/{name}" for name in before}
    assert main(["calibrate", str(tested), "--runs", "10", "--problems", "2"]) == 0
    run = Run.open(tested)
    rows = {r["run"]: r for r in run.rows("SELECT * FROM calibration")}
    assert len(rows) == 11
    assert times(tested, "calibration_runs").items() > files.items()
    assert all(rows[name] == row for name, row in before.items())
    for r in rows.values():
        if r["kind"] in PACKAGED:  # this model's tokens are single characters: no packaged concept has any
            assert (r["verdict"], r["compared"]) == ("nothing found", 0)
            assert len(r["concepts"]) == 4
            continue
        assert r["verdict"] == (MATTERS if r["matters"] else PUSH if r["pushes"] else NOT_SHOWN)
        for claim, least in (("pushes", LEAST_EFFECT), ("matters", LEAST_MARGIN)):
            change, mean, p, beyond = (r[f"{claim}_{v}"] for v in ("change", "permuted_mean", "p_value", "p_beyond"))
            assert 1 / (PERMUTED + 1) <= p <= 1
            assert r[claim] == (max(p, beyond) <= 0.05 and mean - change >= least)
        assert 0 < r["compared"] <= r["neurons"]
        assert (r["solved"] is None) == (r["kind"] != "vectors")
    summary = run.summary["placebo"]
    asked = [r for r in rows.values() if r["kind"] != "study" and r["compared"]]
    assert 0 < len(asked) < 10  # of those where nothing was found nothing can be said
    said = [r["verdict"] == "matters" for r in asked]
    assert (summary["runs"], summary["said"], summary["rate"]) == (len(asked), sum(said), sum(said) / len(asked))
    assert summary["ci"] == list(wilson(sum(said), len(asked)))
    for claim in ("pushes", "matters"):
        assert summary["claims"][claim]["said"] == sum(r[claim] for r in asked)
    assert summary["by_kind"]["study"]["runs"] == 1 and summary["by_kind"]["lexicon"]["rate"] is None
    page = (tested / "report.html").read_text()
    assert "How often would it have said yes" in page and 'id="placebo-title"' in page


def test_other_problems_begin_anew(tested: Path) -> None:
    assert main(["calibrate", str(tested), "--runs", "2", "--problems", "3"]) == 0
    for table in ("calibration", "calibration_runs"):  # and none of other problems is left
        rows = Run.open(tested).rows(f"SELECT * FROM {table}")
        assert {r["run"] for r in rows} == {"study_0", "occurring_0", "lexicon_0"}
        assert {r["problems"] for r in rows} == {3}
    assert json.loads((tested / "summary.json").read_text())["placebo"]["runs"] == 0  # nothing found


def test_fewer_runs_are_counted_and_the_others_kept(tested: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(tested, out)
    problems = str(Run.open(out).manifest["stages"]["calibrate"]["options"]["problems"])
    before = times(out, "calibration_runs")
    assert main(["calibrate", str(out), "--runs", "1", "--problems", problems]) == 0
    run = Run.open(out)
    assert {r["run"] for r in run.rows("SELECT run FROM calibration")} == {"study_0", "occurring_0"}
    assert run.summary["placebo"]["runs"] == 0  # nothing found
    assert times(out, "calibration_runs") == before and run.state("calibrate").current


def test_other_keystones_begin_anew(tested: Path, tmp_path: Path) -> None:
    """Keystones are in no set: with other ones every run is another."""
    out = tmp_path / "run"
    shutil.copytree(tested, out)
    run = Run.open(out)
    options = run.manifest["stages"]["calibrate"]["options"]
    rows = run.rows("SELECT * FROM keystones")
    now = {(r["layer"], r["index"]) for r in rows if not r["keystone"]}
    changed = [r | {"keystone": not r["keystone"]} for r in rows]
    as_if_written(out, KEYSTONES, changed, unread=("calibrate",))
    before = times(out, "calibration_runs")
    assert main(["calibrate", str(out), "--runs", "1", "--problems", str(options["problems"])]) == 0
    run = Run.open(out)
    assert set(times(out, "calibration_runs")) == {"calibration_runs/study_0", "calibration_runs/occurring_0"}
    assert not times(out, "calibration_runs").items() & before.items()
    suspects = {(r["layer"], r["index"]) for r in run.rows("SELECT * FROM candidates")}
    assert run.rows("SELECT neurons FROM calibration WHERE run = 'study_0'") == [{"neurons": len(suspects - now)}]


def test_the_study_s_own_neurons_are_those_that_the_annotator_accepted(tested: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(tested, out)
    rows = Run.open(out).rows("SELECT * FROM annotations")
    run = as_if_written(out, ANNOTATIONS, [r | {"accepted": r["accepted"] and r["index"] % 3 == 0} for r in rows])
    known = active_neurons(run)
    assert 0 < len(known.reasoning) < len(known.reasoning) + len(known.rejected)
    assert main(["calibrate", str(out), "--runs", "1", "--problems", "2"]) == 0
    run = Run.open(out)
    assert run.rows("SELECT neurons FROM calibration WHERE run = 'study_0'") == [{"neurons": len(known.reasoning)}]


def test_concepts_of_solutions_leave_the_study_s_candidates_out_and_every_run_has_sets_of_its_own(
    tested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[set[Neuron], set[Neuron], list[int]]] = []

    def permuted(targets: set[Neuron], pool: dict[Neuron, Any], traits: Any, seeds: list[int]) -> Matched:
        drawn.append((targets, set(pool), seeds))
        return Matched((), ())

    digits = load_concepts(Run.open(tested).manifest["config"]["concepts"])
    monkeypatch.setattr(calibrate, "load_concepts", lambda name: digits)  # as if solutions' words were the study's concepts
    monkeypatch.setattr(calibrate, "permuted_sets", permuted)
    bench = calibrate._Bench(Session.reopen(tested, quiet=True), 1)
    for kind, number in (("occurring", 0), ("occurring", 1), ("lexicon", 0), ("labels", 0), ("study", 0)):
        assert bench.run(kind, number, lambda: None)["verdict"] == "nothing found"
    suspects = {*bench.known.reasoning, *bench.known.rejected}
    assert suspects
    for targets, pool, _ in drawn[:3]:
        assert not targets and pool == set(bench.known.pool)
    for targets, pool, _ in drawn[3:]:
        assert targets and targets | pool == set(bench.known.traits) - bench.known.keystones
    seeds = [seed for _, _, own in drawn for seed in own]
    assert len(set(seeds)) == len(seeds) == 5 * PERMUTED


def test_it_is_stale_with_other_reasoning_neurons(tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rate is no figure of the run any more."""
    out = tmp_path / "run"
    shutil.copytree(tested, out)
    before = hashes(out)
    run = Run.open(out)
    assert run.state("calibrate").current and "placebo" in run.summary
    as_if_written(out, ANNOTATIONS, run.rows("SELECT * FROM annotations")[:-3], unread=("keystones", "operations", "calibrate"))
    run = Run.open(out)
    assert run.state("calibrate") == ("stale", "stage keystones is stale")
    assert "placebo" not in run.summary
    assert main(["calibrate", str(out)]) == 2
    assert "stage 'keystones', which 'calibrate' builds on, is stale: annotations changed" in capsys.readouterr().err
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert 'id="placebo-title"' not in page and "stale: stage keystones is stale" in page
    assert {n: h for n, h in hashes(out).items() if before[n] != h}.keys() == {"annotations"}


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt", "gemma3"])
def test_shuffled_is_the_model_with_its_columns_shuffled(family: str) -> None:
    """Float32, against a copy whose down-projections' columns were moved; then neurons of that copy zeroed."""
    loaded, copy = tiny_model(family), tiny_model(family)
    rng = np.random.default_rng(2)
    orders = {i: rng.permutation(loaded.anatomy.width) for i in range(loaded.anatomy.layers)}
    targets = [Neuron(1, 3), Neuron(1, 7), Neuron(2, 0)]
    with torch.no_grad():
        for layer, order in orders.items():
            columns = value_matrix(copy.anatomy.down[layer])  # (hidden, neurons), a view of the weight
            moved = torch.empty_like(columns)
            moved[:, torch.as_tensor(order)] = columns  # neuron order[i] writes v[i]
            for target in targets:
                if target.layer == layer:
                    moved[:, order[target.index]] = 0
            columns.copy_(moved)
    prompts = [f"the same start and {word}" for word in ("a", "bcd", "xyzz")]
    zeroed = scale(loaded.anatomy, targets, 0.0)
    got = Engine(loaded).generate(prompts, max_new_tokens=12, intervention=shuffled(loaded.anatomy, orders, zeroed))
    plain = Engine(loaded).generate(prompts, max_new_tokens=12)
    want = Engine(copy).generate(prompts, max_new_tokens=12)
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
    assert [c.token_ids for c in got] != [c.token_ids for c in plain]
