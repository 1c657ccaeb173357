"""Variants and sentences on a tiny model: tables recomputed independently, growing, going on after a kill."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from conftest import TinyStudy, as_if_written, assert_same, hashes, killed_after, manifest_of, times
from scipy import stats as scipy_stats

import cotscope
from cotscope.cli import main
from cotscope.executors.local import Listener, run_study, wanted
from cotscope.lm.loading import load_model
from cotscope.measuring.labels import Labels
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.stage import options_of
from cotscope.runs.tables import MEASURED, POLES
from cotscope.stages import variants
from cotscope.stages.registry import BY_NAME, THOROUGH
from cotscope.stats import partial_spearman, wilson
from cotscope.stats.verdicts import RULE, TOO_FEW_PROBLEMS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """The bootstraps of correlations are most of what `correlate` computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cotscope.stats.ranks.RESAMPLES", 1000)
        yield


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
            "--given", "14", *more]  # fmt: skip


SIX = ["--variant-limit", "6"]
NINE = ["--variants", "9", "--sentences", *SIX, "--rows", "4"]


EXTRA = "SELECT * FROM prompts WHERE family != 'study'"


def find_first(folder: Path) -> None:
    """As if some poles had been found under one prompt of three alone, others under two."""
    rows = Run.open(folder).rows("SELECT * FROM poles ORDER BY layer, index, sign")
    ways = (["full"], ["plain"], ["full", "plain"], ["text_only"], ["plain", "text_only"])
    found = [r | {"prompts": ways[i % len(ways)]} for i, r in enumerate(rows)]
    as_if_written(folder, POLES, found)


@pytest.fixture(scope="module")
def measured(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "measured"
    assert main(["discover", *options(tiny_study, out.parent), "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    find_first(out)
    assert main(["measure", str(out), "--rows", "4"]) == 0
    return out


@pytest.fixture(scope="module")
def finished(measured: Path) -> Run:
    out = measured.parent / "finished"
    shutil.copytree(measured, out)
    assert main(["measure", str(out), *NINE]) == 0
    assert main(["correlate", str(out)]) == 0
    return Run.open(out)


def test_every_prompt_is_measured_on_the_first_problems(finished: Run) -> None:
    rows = finished.rows(EXTRA)
    assert [r["family"] for r in rows] == ["variant"] * 9 + ["sentence"] * 18
    problems = [r["problem_id"] for r in finished.rows("SELECT problem_id FROM problems WHERE split = 'test'")][:6]
    for row in rows:
        done = finished.rows(
            "SELECT problem_id, correct, correct_strict FROM completions WHERE condition = ?",
            [f"{row['family']}.{row['prompt']}"],
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
        """SELECT family, max(tokens) AS most FROM completions JOIN prompts USING (family, prompt)
           WHERE family != 'study' GROUP BY family ORDER BY family"""
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


@pytest.mark.parametrize("family", ["study", "variant", "sentence"])
def test_activity_is_counted_for_all_poles_and_for_those_of_the_first_prompt(finished: Run, family: str) -> None:
    poles = accepted(finished)
    assert {True, False} == set(poles.values())
    own: dict[tuple[str, bool], float] = defaultdict(float)
    written = {(r["condition"], r["problem_id"]): r["tokens"] for r in finished.rows("SELECT * FROM completions")}
    for r in finished.rows("SELECT * FROM activity"):
        if (first := poles.get((r["layer"], r["index"], r["sign"]))) is not None:
            own[r["condition"], first] += r["steps"] / written[r["condition"], r["problem_id"]]
    given = defaultdict(int)
    for r in finished.rows("SELECT * FROM solutions"):
        given[r["problem_id"]] += r["tokens"]
    fixed: dict[tuple[str, bool], float] = defaultdict(float)
    for r in finished.rows("SELECT * FROM forced WHERE family = ?", [family]):
        if (first := poles.get((r["layer"], r["index"], r["sign"]))) is not None:
            fixed[r["prompt"], first] += r["steps"] / given[r["problem_id"]]
    assert len(given) > 8
    solutions = len(given) if family == "study" else 8
    rows = finished.rows("SELECT * FROM prompts WHERE family = ?", [family])
    assert rows
    for row in rows:
        key = f"{family}.{row['prompt']}"
        assert row["poles_per_token_first"] == pytest.approx(own[key, True] / row["n"])
        assert row["poles_per_token"] == pytest.approx((own[key, True] + own[key, False]) / row["n"])
        assert row["fixed_activity_first"] == pytest.approx(fixed[row["prompt"], True] / solutions)
        both = fixed[row["prompt"], True] + fixed[row["prompt"], False]
        assert row["fixed_activity"] == pytest.approx(both / solutions)
        if family == "study":
            entry = finished.summary["prompts"][row["prompt"]]
            assert entry["own_activity_first"] == row["poles_per_token_first"] < entry["own_activity"]
            assert entry["fixed_activity_first"] == row["fixed_activity_first"] < entry["fixed_activity"]


def test_held_out_activity_is_that_of_the_poles_which_other_prompts_found(finished: Run) -> None:
    """Set by set, counted anew: leave a prompt of discovery out, and every pole that no other prompt found."""
    found = {(r["layer"], r["index"], r["sign"]): set(r["prompts"]) for r in finished.rows("SELECT * FROM poles")}
    reasoning = {pole: found[pole] for pole in accepted(finished)}
    looked = set().union(*found.values())
    tokens = {(r["condition"], r["problem_id"]): r["tokens"] for r in finished.rows("SELECT * FROM completions")}
    solutions: dict[str, int] = defaultdict(int)
    for r in finished.rows("SELECT * FROM solutions"):
        solutions[r["problem_id"]] += r["tokens"]
    sums: dict[tuple[str, str, str], float] = defaultdict(float)  # table, prompt, what is left out → sum over problems
    for table in ("activity", "forced"):
        for r in finished.rows(f"SELECT * FROM {table} WHERE family = 'study'"):
            length = tokens[r["condition"], r["problem_id"]] if table == "activity" else solutions[r["problem_id"]]
            for left in looked:
                if reasoning.get((r["layer"], r["index"], r["sign"]), set()) - {left}:
                    sums[table, r["prompt"], left] += r["steps"] / length
    prompts = {r["prompt"]: r for r in finished.rows("SELECT * FROM prompts WHERE family = 'study'")}
    rows = {(r["prompt"], r["left_out"]): r for r in finished.rows("SELECT * FROM held_out")}
    assert looked == {"full", "plain", "text_only"} and rows.keys() == {(p, left) for p in prompts for left in looked}
    for (prompt, left), row in rows.items():
        assert row["poles"] == sum(bool(by - {left}) for by in reasoning.values()) < len(reasoning)
        whole = prompts[prompt]
        assert row["own_activity"] == pytest.approx(sums["activity", prompt, left] / whole["n"])
        assert row["fixed_activity"] == pytest.approx(sums["forced", prompt, left] / len(solutions))
        assert row["own_activity"] < whole["poles_per_token"] and row["fixed_activity"] < whole["fixed_activity"]
    assert 'id="prompt-held-out"' in (finished.folder / "report.html").read_text()


def test_with_one_prompt_of_discovery_nothing_is_held_out(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(measured, out)
    as_if_written(
        out, POLES, [r | {"prompts": ["plain"]} for r in Run.open(out).rows("SELECT * FROM poles")], unread=("measure",)
    )
    assert main(["measure", str(out), "--rows", "4"]) == 0
    assert Run.open(out).rows("SELECT * FROM held_out") == []
    assert 'id="prompt-held-out"' not in (out / "report.html").read_text()


def test_correlations_are_those_of_the_tables(finished: Run) -> None:
    found = {(r["family"], r["activity"], r["poles"], r["given"]): r for r in finished.rows("SELECT * FROM correlations")}
    columns = {("own", "all"): "poles_per_token", ("fixed", "first"): "fixed_activity_first"}
    families = ("variant", "sentence", "study")
    defined = 0
    for family in families:
        rows = finished.rows("SELECT * FROM prompts WHERE family = ?", [family])
        accuracy = [r["accuracy"] for r in rows]
        for (activity, poles), column in columns.items():
            values = [r[column] for r in rows]
            row = found[family, activity, poles, "nothing"]
            assert row["prompts"] == len(rows)
            if len(set(accuracy)) > 1:
                defined += 1
                assert row["spearman"] == pytest.approx(scipy_stats.spearmanr(values, accuracy).statistic)
                if family == "study":
                    assert row["low"] <= row["spearman"] <= row["high"]
            if family != "study":
                assert row["low"] is row["high"] is row["p_value"] is None, "prompts of a kind are not independent"
        if family != "study":
            lengths = [[r["prompt_tokens"], r["tokens_per_problem"]] for r in rows]
            expected = partial_spearman([r["poles_per_token"] for r in rows], accuracy, lengths)[0]
            assert found[family, "own", "all", "length"]["spearman"] == pytest.approx(expected, nan_ok=True)
        section = finished.summary["correlation"]
        section = section if family == "study" else section[f"{family}s"]
        assert section["prompts"] == len(rows)
        assert section["first"]["spearman"] == pytest.approx(found[family, "own", "first", "nothing"]["spearman"])
        assert ("within" in section) == (family != "study")
        assert (section.get("between") is None) == (family != "variant"), "there are four kinds of sentences"
        if len(set(accuracy)) > 1:
            assert section["permuted"]["sets"] == 999
    assert defined >= 4
    sets = finished.rows("SELECT family, count(*) AS n FROM random_correlations GROUP BY family")
    assert {r["family"]: r["n"] for r in sets} == dict.fromkeys(families, 999)


def test_permuted_sets_have_as_many_poles_of_every_stratum_and_are_counted_like_the_reasoning_poles(finished: Run) -> None:
    """Where each pole is alone in its stratum nothing is permuted: the sets' activity is the reasoning poles'."""
    session = Session.reopen(finished.folder)
    labels = Labels.read(session)
    assert 0 < labels.reasoning.sum() == len(accepted(finished)) < len(labels.layer)
    alone = dataclasses.replace(labels)
    alone.__dict__["alike"] = np.arange(len(labels.layer))
    columns = {(False, False): "poles_per_token", (False, True): "poles_per_token_first",
               (True, False): "fixed_activity", (True, True): "fixed_activity_first"}  # fmt: skip
    for (forced, first), column in columns.items():
        own = {r["prompt"]: r[column] for r in finished.rows("SELECT * FROM prompts WHERE family = 'study'")}
        same = alone.permuted_activity("study", forced, first)
        assert {prompt: values.tolist() for prompt, values in same.items()} == {
            prompt: pytest.approx([activity] * 999) for prompt, activity in own.items()
        }
        varied = labels.permuted_activity("study", forced, first)
        assert varied.keys() == own.keys()
        assert all(len(set(np.round(values, 9))) > 1 for values in varied.values())


def test_kinds_of_sentences(finished: Run) -> None:
    rows = finished.rows("SELECT * FROM sentence_kinds")
    assert [r["kind"] for r in rows] == ["instructive", "misleading", "irrelevant", "none"]
    prompts = finished.rows("SELECT * FROM prompts WHERE family = 'sentence'")
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
    [given] = finished.rows("SELECT count(DISTINCT problem_id) AS n FROM solutions")
    assert "without_formulas" in {r["phenomenon"] for r in rows}
    for row in rows:
        for name, key in (("activity", "own_activity"), ("fixed", "fixed_activity"), ("accuracy", "accuracy")):
            for end in ("", "_first") if name != "accuracy" else ("",):
                after = fmean(prompts[p][f"{key}{end}"] for p in row["prompts"])
                assert row[f"{name}{end}_change"] == pytest.approx(after - prompts["plain"][f"{key}{end}"])
                assert row[f"{name}{end}_p"] <= row[f"{name}{end}_p_holm"] <= 1
                if name != "accuracy":
                    assert 2 / 1000 <= row[f"{name}{end}_p_beyond"] <= row[f"{name}{end}_p_beyond_holm"] <= 1
                    assert row[f"{name}{end}_bound"] == pytest.approx(0.05 * prompts["plain"][f"{key}{end}"])
                    assert row[f"{name}{end}_low90"] <= row[f"{name}{end}_change"] <= row[f"{name}{end}_high90"]
        for column in MEASURED.values():
            assert (row[f"{column}_needs"] is not None) == (row[column] == TOO_FEW_PROBLEMS)
            assert row[f"{column}_needs"] is None or row[f"{column}_needs"] > 8
        assert (row["activity_n"], row["fixed_n"]) == (14, given["n"])
        summary = finished.summary["phenomena"][row["phenomenon"]]
        assert {k: row[k] for k in ("verdict", "verdict_fixed", "fixed_change")}.items() <= summary.items()


def test_a_rule_that_was_not_written_down_is_said(finished: Run, tmp_path: Path) -> None:
    assert not any("rule" in note for note in finished.notes)
    changed = tmp_path / "run"
    shutil.copytree(finished.folder, changed)
    with manifest_of(changed) as manifest:
        manifest["stages"].pop("correlate")
        manifest["rules"] = {"phenomena": "another"}
    assert main(["correlate", str(changed)]) == 0
    assert any("not one that was written down" in note for note in Run.open(changed).notes)


def test_more_variants_keep_those_that_are_done(finished: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    tables = ("completions", "activity", "forced", "forced_scores")
    before = times(run, *tables)
    assert main(["measure", str(run), "--variants", "20", "--sentences", *SIX]) == 0
    after = times(run, *tables)
    assert before.items() <= after.items() and len(after) == len(before) + 4 * 11
    grown = Run.open(run)
    for sql in (EXTRA, "SELECT * FROM prompt_problems", "SELECT * FROM forced_problems"):
        old = finished.rows(sql)
        assert [row for row in grown.rows(sql) if row in old] == old
    assert len(grown.rows(EXTRA)) == 20 + 18
    assert grown.state("correlate") == ("stale", "prompts changed") and "correlation" not in grown.summary
    assert main(["correlate", str(run)]) == 0
    within = Run.open(run).summary["correlation"]["variants"]["within"]
    assert set(within) == {"spearman", "low", "high", "p_value"}


def test_fewer_variants_are_what_is_left(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a run is asked for is what it holds: no part of more variants, or of sentences, is left to be mixed in."""
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    before = times(run)
    assert main(["measure", str(run), "--variants", "3", "--no-sentences", *SIX]) == 0
    left = Run.open(run)
    assert left.rows(EXTRA) == finished.rows(EXTRA)[:3]
    assert left.summary["variants"] == {"variants": 3, "sentences": 0, "problems": 6, "solutions": 8}
    names = {r["prompt"] for r in left.rows(EXTRA)}
    for table in ("completions", "activity", "forced", "forced_scores", "prompt_problems", "forced_problems"):
        found = left.rows(f"SELECT DISTINCT family, prompt FROM {table} WHERE family NOT IN ('study', 'discovery')")
        assert sorted(r["prompt"] for r in found) == sorted(names), table
        assert {r["family"] for r in found} == {"variant"}
    kept = {n: at for n, at in times(run).items() if before.get(n) == at}
    assert {f"completions/variant.{name}" for name in names} <= kept.keys()
    assert not [name for name in hashes(run) if "/sentence." in name]
    assert len(times(run)) == len(hashes(run))
    capsys.readouterr()
    assert main(["measure", str(run)]) == 0  # without options: those that the run has
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("[")] == [
        "[  done ] measure", "[  done ] variants"
    ]  # fmt: skip


def test_none_are_a_way_back(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a command and then of the study: what builds on them where they are there goes on without them."""
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    assert main(["measure", str(run), "--variants", "0", "--no-sentences"]) == 0
    left = Run.open(run)
    assert left.state("variants").current and left.rows(EXTRA) == []
    assert not [name for name in hashes(run) if "/variant." in name or "/sentence." in name]
    assert main(["correlate", str(run)]) == 0
    assert "variants" not in Run.open(run).summary["correlation"]
    again = Path(shutil.copytree(finished.folder, tmp_path / "again"))
    session = Session.reopen(again)
    session.run.manifest["options"]["variants"] |= {"variants": 0, "sentences": False}
    run_study(session, Listener())
    assert all(session.run.state(name).current for name in ("variants", "correlate"))


def test_a_word_leaves_the_number_that_was_given(measured: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(measured, tmp_path / "run"))
    for more in (["--variants", "2", *SIX], []):
        assert main(["measure", str(out), "--prompts", "variants", *more]) == 0
        assert Run.open(out).summary["variants"]["variants"] == 2


def test_variants_without_sentences_leave_tables_that_can_be_queried(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(measured, out)
    assert main(["measure", str(out), "--variants", "3", "--prompts", "variants", *SIX]) == 0
    run = Run.open(out)
    assert run.rows("SELECT * FROM sentence_kinds") == []
    assert run.query("SELECT kind, accuracy, fixed_high FROM sentence_kinds").column_names == ["kind", "accuracy", "fixed_high"]
    assert len(run.rows("SELECT * FROM prompts JOIN prompt_problems USING (family, prompt) WHERE family = 'variant'")) == 18
    assert {r["f"] for r in run.rows("SELECT DISTINCT family AS f FROM forced_problems")} == {"study", "variant"}
    assert main(["correlate", str(out)]) == 0
    found = Run.open(out).summary["correlation"]
    assert found["variants"]["prompts"] == 3 and "sentences" not in found
    assert 'id="sentence-kinds"' not in (out / "report.html").read_text()


def test_alone_it_measures_what_a_thorough_study_does(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    shutil.copytree(measured, out)

    def study(**asked: object) -> list[str]:
        session = Session.reopen(out)
        session.run.manifest["options"]["variants"] = asked
        return [s.name for s in wanted(session)]

    assert "variants" not in study()
    assert "variants" in study(variants=1) and "variants" in study(sentences=True)
    assert study(variants=1).index("variants") == study(variants=1).index("correlate") - 1
    assert main(["correlate", str(out)]) == 0
    assert cotscope.status(out)["variants"].status == "missing"
    assert "variants" not in Run.open(out).summary["correlation"]
    monkeypatch.setattr(variants, "SOLUTIONS_USED", 1)
    assert main(["measure", str(out), "--prompts", "variants", "sentences", "--variant-limit", "1"]) == 0
    assert Run.open(out).summary["variants"] == {"variants": 40, "sentences": 18, "problems": 1, "solutions": 1}
    assert (variants.MANY, THOROUGH["variants"]) == (40, {"variants": 40, "sentences": True})
    assert options_of(BY_NAME["variants"], Run.open(out).manifest["options"]["variants"]).sentences


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
    other = tmp_path / "other.toml"
    with manifest_of(run) as manifest:
        text = Path(manifest["config"]["exemplars"]).read_text()
        manifest["config"]["exemplars"] = str(other)
    other.write_text(text)
    assert main(["measure", str(run), "--variants", "9", "--sentences", *SIX]) == 0
    assert "[  done ] variants" in capsys.readouterr().out
    other.write_text(text.replace("So it is", "So it was", 1))
    assert main(["measure", str(run), "--variants", "10", *SIX]) == 2
    assert "prompt full: not what it was when" in capsys.readouterr().err
    assert hashes(run) == hashes(finished.folder)


@pytest.mark.faults
def test_a_killed_command_goes_on_to_the_same_result(measured: Path, finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    shutil.copytree(measured, out)
    command = [sys.executable, "-m", "cotscope", "measure", *NINE]
    kept = [n for n in killed_after("completions/variant.", command, out) if n.startswith("completions/variant.")]
    assert 0 < len(kept) < 9
    assert cotscope.status(out)["variants"].status == "stopped"
    at = {name: when for name, when in times(out, "completions", "activity", "forced", "forced_scores").items() if name in kept}
    run = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert times(out).items() >= at.items()
    assert main(["correlate", str(out)]) == 0
    killed = Run.open(out)
    for table in ("prompts", "prompt_problems", "forced_problems", "sentence_kinds", "correlations", "phenomena"):
        one, other = (run.rows(f"SELECT * FROM {table} ORDER BY ALL") for run in (finished, killed))
        assert len(one) > 0
        assert_same(one, other)  # update sizes depend on the batch, in their last digits
    assert killed.summary["correlation"] == finished.summary["correlation"]
    assert hashes(out).keys() == hashes(finished.folder).keys()
