"""Variants and sentences on a tiny model: tables recomputed independently, growing, going on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import TinyStudy, killed_after
from scipy import stats as scipy_stats

from cotscope.cli import main
from cotscope.executors.local import stages_of
from cotscope.lm.loading import load_model
from cotscope.runs.folder import Run
from cotscope.runs.session import StudyConfig
from cotscope.stats import partial_spearman, wilson
from cotscope.stats.verdicts import RULE


def exemplar_file(folder: Path) -> str:
    path = folder / "exemplars.toml"
    path.write_text(
        "".join(
            f'[[mixed]]\nquestion = "What is {a} and {b}?"\nsteps = ["So it is {{{a} {s} {b} = {c}}}."]\nanswer = {c}\n'
            for a, b, s, c in ((4, 2, "+", 6), (6, 2, "-", 4), (5, 3, "*", 15), (9, 3, "+", 12))
        )
    )
    return str(path)


def options(tiny_study: TinyStudy, folder: Path, *more: str) -> list[str]:
    return [*tiny_study.options(), "--limit", "14", "--discover-limit", "6", "--exemplars", exemplar_file(folder),
            "--given", "14", "--variant-limit", "6", "--matched", "1", "--unmatched", "0", "--battery", "1", *more]  # fmt: skip


def find_first(run: Run) -> None:
    """As if every third pole had been found under another prompt than the first alone."""
    table = run.query("SELECT * FROM poles ORDER BY layer, index, sign")
    prompts = [["full"] if i % 3 == 0 else ["plain", "full"] for i in range(len(table))]
    table = table.drop_columns([c for c in ("prompts",) if c in table.column_names]).append_column("prompts", [prompts])
    pq.write_table(table, run.folder / "tables/poles.parquet")


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["discover", *options(tiny_study, out.parent, "--variants", "9", "--sentences"), "--out", str(out)]) == 0
    for stage in ("annotate", "measure"):
        if stage == "measure":
            find_first(Run.open(out))
        assert main([stage, str(out)]) == 0
    assert main(["variants", str(out)]) == 0
    assert main(["explain", str(out)]) == 0
    return Run.open(out)


def test_every_prompt_is_measured_on_the_first_problems(finished: Run) -> None:
    rows = finished.rows("SELECT * FROM variants")
    assert [r["family"] for r in rows] == ["variant"] * 9 + ["sentence"] * 18
    problems = [r["problem_id"] for r in finished.rows("SELECT problem_id FROM problems WHERE split = 'test'")][:6]
    for row in rows:
        done = finished.rows(
            "SELECT problem_id, correct, correct_strict FROM completions WHERE condition = ?", [f"variant.{row['prompt']}"]
        )
        assert [d["problem_id"] for d in done] == problems
        right = sum(d["correct"] for d in done)
        assert (row["n"], row["correct"], row["accuracy"]) == (6, right, right / 6)
        assert (row["low"], row["high"]) == wilson(right, 6)
        assert row["accuracy_strict"] == pytest.approx(fmean(d["correct_strict"] for d in done))
    assert {r["kind"] for r in rows[:9]} >= {"full", "text_only", "answer_only", "addition_only"}
    assert {r["exemplars"] for r in rows[:9]} <= {2, 3, 4} and {r["exemplars"] for r in rows[9:]} == {0}
    loaded = load_model(finished.manifest["config"]["model"], dtype="float32")
    assert rows[-1]["prompt_tokens"] == len(loaded.encode("Question: \n"))
    room = finished.rows(
        """SELECT family, max(tokens) AS most
           FROM completions JOIN variants ON condition = 'variant.' || variants.prompt
           GROUP BY family ORDER BY family"""
    )
    assert room == [{"family": "sentence", "most": 24}, {"family": "variant", "most": 16}]
    assert finished.summary["variants"] == {"variants": 9, "sentences": 18, "problems": 6, "solutions": 8}


def accepted(run: Run) -> dict[tuple[int, int, int], bool]:
    """Reasoning poles, and whether the first prompt found them."""
    of = {(r["layer"], r["index"], r["sign"]): "plain" in r["prompts"] for r in run.rows("SELECT * FROM poles")}
    return {
        pole: of[pole]
        for r in run.rows("SELECT * FROM annotations WHERE accepted")
        for pole in [(r["layer"], r["index"], r["sign"])]
    }


@pytest.mark.parametrize(("stage", "table"), [("measure", "prompts"), ("variant", "variants")])
def test_activity_is_counted_for_all_poles_and_for_those_of_the_first_prompt(finished: Run, stage: str, table: str) -> None:
    poles = accepted(finished)
    assert {True, False} == set(poles.values())
    own: dict[tuple[str, bool], float] = defaultdict(float)
    written = {(r["condition"], r["problem_id"]): r["tokens"] for r in finished.rows("SELECT * FROM completions")}
    for r in finished.rows("SELECT * FROM activity"):
        if (first := poles.get((r["layer"], r["index"], r["sign"]))) is not None:
            own[r["condition"], first] += r["steps"] / written[r["condition"], r["problem_id"]]
    given = defaultdict(int)
    for r in finished.rows("SELECT * FROM continuations"):
        given[r["problem_id"]] += r["tokens"]
    fixed: dict[tuple[str, bool], float] = defaultdict(float)
    fixed_table = {"measure": "fixed", "variant": "variant_fixed"}[stage]
    for r in finished.rows(f"SELECT * FROM {fixed_table}"):
        if (first := poles.get((r["layer"], r["index"], r["sign"]))) is not None:
            fixed[r["prompt"], first] += r["steps"] / given[r["problem_id"]]
    assert len(given) > 8
    solutions = {"measure": len(given), "variant": 8}[stage]
    for row in finished.rows(f"SELECT * FROM {table}"):
        key = f"{stage}.{row['prompt']}"
        assert row["poles_per_token_first"] == pytest.approx(own[key, True] / row["n"])
        assert row["poles_per_token"] == pytest.approx((own[key, True] + own[key, False]) / row["n"])
        assert row["fixed_activity_first"] == pytest.approx(fixed[row["prompt"], True] / solutions)
        both = fixed[row["prompt"], True] + fixed[row["prompt"], False]
        assert row["fixed_activity"] == pytest.approx(both / solutions)
        if stage == "measure":
            entry = finished.summary["prompts"][row["prompt"]]
            assert entry["own_activity_first"] == row["poles_per_token_first"] < entry["own_activity"]
            assert entry["fixed_activity_first"] == row["fixed_activity_first"] < entry["fixed_activity"]


def test_correlations_are_those_of_the_tables(finished: Run) -> None:
    found = {(r["family"], r["activity"], r["poles"], r["given"]): r for r in finished.rows("SELECT * FROM correlations")}
    columns = {("own", "all"): "poles_per_token", ("fixed", "first"): "fixed_activity_first"}
    families = {"variant": "variants WHERE family = 'variant'", "sentence": "variants WHERE family = 'sentence'",
                "study": "prompts"}  # fmt: skip
    defined = 0
    for family, source in families.items():
        rows = finished.rows(f"SELECT * FROM {source}")
        accuracy = [r["accuracy"] for r in rows]
        for (activity, poles), column in columns.items():
            values = [r[column] for r in rows]
            row = found[family, activity, poles, "nothing"]
            assert row["prompts"] == len(rows)
            if len(set(accuracy)) > 1:
                defined += 1
                assert row["spearman"] == pytest.approx(scipy_stats.spearmanr(values, accuracy).statistic)
                assert row["low"] <= row["spearman"] <= row["high"]
        if family != "study":
            lengths = [[r["prompt_tokens"], r["tokens_per_problem"]] for r in rows]
            expected = partial_spearman([r["poles_per_token"] for r in rows], accuracy, lengths)[0]
            assert found[family, "own", "all", "length"]["spearman"] == pytest.approx(expected, nan_ok=True)
        section = finished.summary["correlation"]
        section = section if family == "study" else section[f"{family}s"]
        assert section["prompts"] == len(rows)
        assert section["first"]["spearman"] == pytest.approx(found[family, "own", "first", "nothing"]["spearman"])
        assert ("within" in section) == (family != "study")
        assert section["random"] is None or section["random"]["sets"] <= 100
    assert defined >= 4
    assert {r["family"] for r in finished.rows("SELECT * FROM random_correlations")} == set(families)


def test_kinds_of_sentences(finished: Run) -> None:
    rows = finished.rows("SELECT * FROM sentence_kinds")
    assert [r["kind"] for r in rows] == ["instructive", "misleading", "irrelevant", "none"]
    prompts = finished.rows("SELECT * FROM variants WHERE family = 'sentence'")
    for row in rows:
        own = [p for p in prompts if p["kind"] == row["kind"]]
        assert row["prompts"] == len(own)
        for name, column in (("accuracy", "accuracy"), ("activity", "poles_per_token"), ("fixed", "fixed_activity")):
            assert row[name] == pytest.approx(fmean(p[column] for p in own))
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert (row["accuracy_n"], row["fixed_n"]) == (6, 8)


def test_phenomena_have_a_verdict_on_either_activity(finished: Run) -> None:
    assert finished.manifest["rules"] == {"phenomena": RULE}
    prompts = finished.summary["prompts"]
    rows = finished.rows("SELECT * FROM phenomena")
    [given] = finished.rows("SELECT count(DISTINCT problem_id) AS n FROM continuations")
    assert "without_formulas" in {r["phenomenon"] for r in rows}
    for row in rows:
        for name, key in (("activity", "own_activity"), ("fixed", "fixed_activity"), ("accuracy", "accuracy")):
            for end in ("", "_first") if name != "accuracy" else ("",):
                after = fmean(prompts[p][f"{key}{end}"] for p in row["prompts"])
                assert row[f"{name}{end}_change"] == pytest.approx(after - prompts["plain"][f"{key}{end}"])
                assert row[f"{name}{end}_p"] <= row[f"{name}{end}_p_holm"] <= 1
        assert (row["activity_n"], row["fixed_n"]) == (14, given["n"])
        summary = finished.summary["phenomena"][row["phenomenon"]]
        assert {k: row[k] for k in ("verdict", "verdict_fixed", "fixed_change")}.items() <= summary.items()


def test_a_rule_that_was_not_written_down_is_said(finished: Run, tmp_path: Path) -> None:
    assert not any("rule" in note for note in finished.manifest["notes"])
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    changed = tmp_path / "run"
    changed.mkdir()
    (changed / "manifest.json").write_text(json.dumps(manifest | {"rules": {"phenomena": "another"}}))
    shutil.copytree(finished.folder / "tables", changed / "tables")
    assert main(["explain", str(changed)]) == 0
    assert any("not one that was written down" in note for note in Run.open(changed).manifest["notes"])


def test_more_variants_keep_those_that_are_done(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)  # with the files' times
    before = {p.name: p.stat().st_mtime_ns for p in (run / "tables/completions").iterdir()}
    tables = {name: pq.read_table(run / f"tables/{name}.parquet") for name in ("variants", "variant_problems")}
    assert main(["variants", str(run), "--variants", "20"]) == 0
    after = {p.name: p.stat().st_mtime_ns for p in (run / "tables/completions").iterdir()}
    assert before.items() <= after.items() and len(after) == len(before) + 11
    grown = pq.read_table(run / "tables/variants.parquet")
    assert grown.num_rows == 20 + 18
    old = grown.filter(pc.is_in(grown["prompt"], tables["variants"]["prompt"])).to_pylist()
    assert sorted(old, key=str) == sorted(tables["variants"].to_pylist(), key=str)
    assert main(["variants", str(run), "--variants", "3"]) == 0  # never fewer than there are
    assert pq.read_table(run / "tables/variants.parquet").num_rows == 38
    assert main(["explain", str(run)]) == 0
    within = Run.open(run).summary["correlation"]["variants"]["within"]
    assert set(within) == {"spearman", "low", "high", "p_value"}


def test_alone_it_measures_what_a_thorough_study_does(tiny_study: TinyStudy, tmp_path: Path) -> None:
    assert "variants" not in stages_of(StudyConfig())
    assert "variants" in stages_of(StudyConfig(variants=1)) and "variants" in stages_of(StudyConfig(sentences=True))
    assert stages_of(StudyConfig(variants=1)).index("variants") == stages_of(StudyConfig(variants=1)).index("explain") - 1
    out = tmp_path / "run"
    assert main(["discover", *options(tiny_study, tmp_path, "--variant-limit", "1"), "--out", str(out)]) == 0
    for stage in ("annotate", "measure", "explain"):
        assert main([stage, str(out)]) == 0
    assert "variants" not in Run.open(out).summary["correlation"]
    assert main(["variants", str(out)]) == 0
    assert Run.open(out).summary["variants"] | {"solutions": 0} == {
        "variants": 40, "sentences": 18, "problems": 1, "solutions": 0,
    }  # fmt: skip


def test_too_many_and_too_long_are_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tiny_study: TinyStudy, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["study", *options(tiny_study, tmp_path, "--variants", "100000"), "--out", str(out)]) == 2
    assert "do not allow that many prompt variants; expected at most" in capsys.readouterr().err
    long = tmp_path / "long"
    long.mkdir()
    arguments = [*tiny_study.options(), "--exemplars", exemplar_file(long), "--variants", "40", "--out", str(out)]
    text = (long / "exemplars.toml").read_text()
    (long / "exemplars.toml").write_text(text.replace("What is", "x" * 2500 + " What is"))
    assert main(["study", *arguments]) == 2
    assert "is longer than the model's context" in capsys.readouterr().err
    assert not out.exists()


def test_changed_exemplars_are_noticed(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Run) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    manifest = json.loads((run / "manifest.json").read_text())
    name = next(iter(manifest["extra_prompts"]))
    manifest["extra_prompts"][name] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["variants", str(run)]) == 2
    assert f"prompt {name}: not what it was when" in capsys.readouterr().err


def test_a_killed_study_goes_on_to_the_same_result(tiny_study: TinyStudy, tmp_path: Path) -> None:
    study = options(tiny_study, tmp_path, "--variants", "12", "--sentences")
    command = [sys.executable, "-m", "cotscope", "study", *study, "--rows", "4", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    kept = [c for c in killed_after("variant.", command, tmp_path / "killed") if c.startswith("variant.")]
    assert 0 < len(kept) < 30
    files = {c: (tmp_path / f"killed/tables/completions/{c}.parquet").stat().st_mtime_ns for c in kept}
    out = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    whole, killed = (Run.open(tmp_path / name) for name in ("whole", "killed"))
    for table in ("variants", "variant_problems", "sentence_kinds", "correlations", "phenomena"):
        one, other = (run.rows(f"SELECT * FROM {table} ORDER BY ALL") for run in (whole, killed))
        assert len(one) == len(other) > 0
        for a, b in zip(one, other):  # update sizes depend on the batch, in their last digits
            numbers = {k for k, v in a.items() if isinstance(v, float)}
            assert {k: b[k] for k in numbers} == pytest.approx({k: a[k] for k in numbers}, nan_ok=True), table
            assert {k: b[k] for k in a if k not in numbers} == {k: a[k] for k in a if k not in numbers}
    assert whole.summary["correlation"] == killed.summary["correlation"]
    assert {c: (killed.folder / f"tables/completions/{c}.parquet").stat().st_mtime_ns for c in kept} == files
