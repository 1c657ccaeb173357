"""The stage that scores solutions by path, on a tiny model: its figures against plain scoring and against its own rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from conftest import TinyStudy, manifest_of, times

import cotscope
from cotscope.cli import main
from cotscope.data.roles import ROLES
from cotscope.errors import ModelError, UserError
from cotscope.lm.interventions import scale
from cotscope.lm.paths import PathEffects
from cotscope.measuring.neurons import active_neurons, read_sets
from cotscope.measuring.solutions import reference_solutions, score_paths, score_roles
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages import damage
from cotscope.stats import LEAST_EFFECT, LEAST_MARGIN, NOT_SHOWN, UNSPLIT, equivalence, paired_bootstrap
from cotscope.stats.random_sets import permuted_sets

pytestmark = pytest.mark.slow

FEW = ["--matched", "2", "--unmatched", "1", "--permuted", "19", "--given", "3", "--battery", "1"]


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "damage"
    assert main(["study", *tiny_study.options(), *FEW, "--out", str(out)]) == 0
    return Run.open(out)


def plain(finished: Run) -> dict[tuple[str, str, str], float]:
    """(set, problem, role) → mean log-probability, by plain scoring with the sets zeroed; permuted sets drawn here."""
    session = Session.reopen(finished.folder, quiet=True)
    known = active_neurons(session.run)
    targets, permuted = permuted_sets(known.reasoning, known.others, known.traits, range(19))
    sets = {name: s.neurons for name, s in read_sets(session.run).items()}
    sets |= {"none": (), "permutable": targets} | {f"permuted_{i}": neurons for i, neurons in enumerate(permuted)}
    given = reference_solutions(session)
    found = {}
    for name, neurons in sets.items():
        zeroed = scale(session.loaded.anatomy, neurons, 0.0) if neurons else None
        for s, scores in zip(given, score_roles(session.engine, session.prompt, given, zeroed), strict=True):
            for role, tokens in scores.items():
                found[name, s.problem.id, role] = fmean(t.log_prob for t in tokens)
    return found


def test_total_is_plain_scoring_of_every_set(finished: Run) -> None:
    """What the stage measured before it told paths apart."""
    expected = plain(finished)
    rows = finished.rows("SELECT * FROM solution_scores WHERE path = 'total'")
    assert {(r["neuron_set"], r["problem_id"], r["role"]): r["log_prob"] for r in rows} == pytest.approx(expected, abs=2e-4)
    split = finished.rows("SELECT DISTINCT neuron_set, path FROM solution_scores")
    names = {r["neuron_set"] for r in split}
    assert len(split) == 3 * (len(names) - 1) + 1, "the untouched model has one path"


def test_changes_are_paired_with_the_untouched_model(finished: Run) -> None:
    scores = {
        (r["neuron_set"], r["role"], r["path"], r["problem_id"]): r for r in finished.rows("SELECT * FROM solution_scores")
    }
    rows = {(r["neuron_set"], r["role"], r["path"]): r for r in finished.rows("SELECT * FROM damage_solutions")}
    assert {path for _, _, path in rows} == {"total", "direct", "indirect"}
    assert not [name for name, _, _ in rows if name.startswith("permuted_") and name != "permuted_mean"]
    means = {"matched_mean": [f"matched_{i}" for i in range(2)], "permuted_mean": [f"permuted_{i}" for i in range(19)]}
    for (name, role, path), row in rows.items():
        of = means.get(name, [name])
        problems = [key[3] for key in scores if key[:3] == (of[0], role, path)]
        assert row["problems"] == len(problems)
        for measure, bound in (("log_prob", LEAST_EFFECT), ("margin", LEAST_MARGIN)):
            before = {p: scores["none", role, "total", p][measure] for p in problems}
            change = [fmean(scores[s, role, path, p][measure] for s in of) - before[p] for p in problems]
            mean, low, high = paired_bootstrap(change, 0)
            ends = [row[f"{measure}_{end}"] for end in ("change", "low", "high")]
            assert ends == pytest.approx([mean, low, high], abs=1e-9)
            assert row[measure] == pytest.approx(fmean(before.values()) + mean)
            assert row[f"{measure}_within"] == equivalence(change, bound, 0)[2]
    differs = [
        abs(r["log_prob"] - rows[n, role, "total"]["log_prob"]) for (n, role, path), r in rows.items() if path == "direct"
    ]
    assert max(differs) > 0.01


def test_summary_and_report_hold_the_paths(finished: Run) -> None:
    summary = finished.summary["damage"]
    assert set(summary["effects"]) == {"reasoning", summary["target"], "matched_mean", "permuted_mean"}
    rows = {(r["neuron_set"], r["role"], r["path"]): r for r in finished.rows("SELECT * FROM damage_solutions")}
    for name, roles in summary["effects"].items():
        assert set(roles) <= set(ROLES)
        for role, paths in roles.items():
            assert set(paths) == {"total", "direct", "indirect"}
            for path, measures in paths.items():
                for measure, cell in measures.items():
                    assert cell["change"] == rows[name, role, path][f"{measure}_change"]
                    assert cell["low"] <= cell["change"] <= cell["high"]
    target = summary["effects"][summary["target"]]
    for role, paths in summary["specific"]["solutions"].items():
        found = paths["indirect"]["margin"]
        matched = summary["effects"]["matched_mean"][role]["indirect"]["margin"]["change"]
        assert found["change"] == pytest.approx(target[role]["indirect"]["margin"]["change"] - matched)
    page = (finished.folder / "report.html").read_text()
    assert 'id="effects-table"' in page and "permuted, mean" in page and 'id="claims"' in page
    assert "There are only 2 matched sets" in page


def test_sets_that_were_scored_are_not_scored_again(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(finished.folder, "solution_scores", "battery")
    assert main(["ablate", str(finished.folder), "--outcomes", "solutions"]) == 0
    assert "[  done ] damage" in capsys.readouterr().out
    assert times(finished.folder, "solution_scores", "battery") == before


_TOTALS = "SELECT * FROM damage_solutions WHERE path = 'total' AND kind != 'permuted_mean'"


def test_a_model_whose_logits_are_not_understood_has_totals(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its totals are those of plain scoring, the other columns are absent, and a note says why."""
    shutil.copytree(finished.folder, folder := tmp_path / "run")

    def refuse(*_: object) -> None:
        raise ModelError("the logits are something else")

    monkeypatch.setattr(PathEffects, "_check", refuse)
    monkeypatch.setattr(damage, "fingerprint_of", lambda given: "other solutions")  # so that all sets are scored again
    assert main(["ablate", str(folder), "--outcomes", "solutions", "--permuted", "20"]) == 0
    run = Run.open(folder)
    assert run.rows("SELECT DISTINCT path FROM solution_scores") == [{"path": "total"}]
    both = [{(r["neuron_set"], r["role"]): r["log_prob_change"] for r in one.rows(_TOTALS)} for one in (finished, run)]
    assert both[0] == pytest.approx(both[1], abs=2e-4)
    assert any("can't be told apart on this model" in note for note in run.notes)
    headline: Mapping[str, Any] = run.summary["damage"]["headline"]
    assert headline["matters"] is None and headline["verdict"] in (UNSPLIT, NOT_SHOWN)
    page = (folder / "report.html").read_text()
    assert 'id="effects-table"' in page and 'id="claims"' in page


def test_a_base_intervention_is_part_of_the_untouched_model(finished: Run) -> None:
    """Scored with neurons of another set zeroed throughout, against plain scoring of both sets at once."""
    session = Session.reopen(finished.folder, quiet=True)
    given = reference_solutions(session)
    sets = read_sets(session.run)
    base, more = sets["matched_0"].neurons, sets["unmatched_0"].neurons

    def disrupt(neurons: Any) -> Any:
        return scale(session.loaded.anatomy, (*base, *neurons), 0.0)

    found = dict(score_paths(session.engine, session.prompt, given, {"base": (), "both": more}, disrupt))
    for name, neurons in (("base", base), ("both", (*base, *more))):
        expected = score_roles(session.engine, session.prompt, given, scale(session.loaded.anatomy, neurons, 0.0))
        for got, want in zip(found[name]["total"], expected, strict=True):
            assert {r: [t.log_prob for t in ts] for r, ts in got.items()} == {
                r: pytest.approx([t.log_prob for t in ts], abs=2e-4) for r, ts in want.items()
            }
    assert set(found["both"]) == {"total", "direct", "indirect"}


@pytest.mark.parametrize("with_solutions", [True, False])
def test_the_verdict_needs_nothing_generated_but_missing_solutions(
    tiny_study: TinyStudy, tmp_path: Path, with_solutions: bool
) -> None:
    """A large model's: `ablate` has not run. When it has, its accuracies are added, and no figure is another one."""
    rows = [json.loads(line) for line in Path(tiny_study.data).read_text().splitlines()]
    some = [r for r in rows if "####" in str(r["answer"])] if with_solutions else rows
    (data := tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    options = tiny_study.options()
    options[options.index("--data") + 1] = str(data)
    out = tmp_path / "run"
    assert main(["discover", *options, "--given", "3", "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    few = [word for word in FEW if word not in ("--given", "3")]
    assert main(["ablate", str(out), "--outcomes", "solutions", *few]) == 0
    run = Run.open(out)
    assert run.state("ablate").status == "missing" and run.state("damage").current
    families = {r["family"] for r in run.rows("SELECT DISTINCT family FROM completions")}
    assert families == ({"discovery"} if with_solutions else {"discovery", "study"})
    before = run.summary["damage"]
    assert before["headline"]["sets"] == 19
    page = (out / "report.html").read_text()
    assert all(f'id="{part}"' in page for part in ("effects-table", "damage-table", "headline-verdict", "matching"))
    assert "not run yet: <code>cotscope ablate RUN</code>" in page

    record = run.manifest["stages"]["damage"]
    assert main(["ablate", str(out), "--outcomes", "accuracy"]) == 0
    run = Run.open(out)
    assert all(found.current for found in run.states().values())
    assert run.summary["damage"] == before and run.manifest["stages"]["damage"] == record
    found = run.summary["ablation"]
    without = {r["neuron_set"]: r["accuracy"] for r in run.rows("SELECT * FROM ablation")}
    matched = fmean(without[f"matched_{i}"] for i in range(2))
    assert found["specific"]["change"] == pytest.approx(without[found["target"]] - matched)
    assert found["specific"]["low"] <= found["specific"]["change"] <= found["specific"]["high"]


def test_the_verdict_does_not_wait_for_an_ablation_that_was_stopped(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, out := tmp_path / "run")
    with manifest_of(out) as manifest:
        manifest["stages"]["ablate"]["status"] = "started"
    run = Run.open(out)
    assert run.state("ablate").status == "stopped" and run.state("damage").current
    assert main(["ablate", str(out), "--outcomes", "solutions", "--permuted", "20"]) == 0
    assert Run.open(out).state("damage").current


def test_what_would_be_refused_later_is_refused_before_figures_are_lost(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.folder, out := tmp_path / "run")
    before = times(out)
    assert main(["ablate", str(out), "--outcomes", "push", "--matched", "3"]) == 2
    assert "'push' builds on 'ablate', which is stale once 'sets' is done again" in capsys.readouterr().err
    assert times(out) == before and all(found.current for found in Run.open(out).states().values())
    assert (
        cotscope.ablate(Run.open(out), outcomes="solutions", matched=3).state("ablate").status == "stale"
    )  # which was asked for
    with pytest.raises(UserError, match="expected keystones or accuracy or solutions or push or operations"):
        cotscope.ablate(out, outcomes=["colours"])
