"""What becomes of a run when something changes: another annotator, an interruption, an error, other options, a new one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import TinyStudy, assert_same, flat, hashes, manifest_of, times

import cotscope
from cotscope.cli import main
from cotscope.errors import JudgeError, RunError, UserError
from cotscope.judge.annotators import BUILT_IN
from cotscope.judge.lexicon import LexiconAnnotator
from cotscope.lm.engine import Engine
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.stage import Stage, run_stage
from cotscope.runs.tables import ABLATION, CANDIDATES, COMPLETIONS, POLES
from cotscope.stages.registry import BY_NAME, STAGES

pytestmark = pytest.mark.slow

GIVEN = ["--given", "2"]
FEW = ["--matched", "2", "--permuted", "2", "--battery", "1"]
BUILT_ON = ("keystones", "sets", "ablate", "damage", "push", "operations", "measure", "correlate")
"""The stages of a small study that build on the annotations."""
PARTS = (
    "conditions",
    "matching",
    "damage-table",
    "effects-table",
    "specific-table",
    "prompt-table",
    "prompt-concepts",
    "prompt-roles",
    "stability",
)
"""Of the report: those which hold their figures."""


class Half(LexiconAnnotator):
    """Accepts candidates of even index."""

    name = "half"

    def annotate(self, found: Any) -> list[Any]:
        return [replace(a, accepted=a.pole.index % 2 == 0, annotator=self.name) for a in super().annotate(found)]


@pytest.fixture(autouse=True)
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "half", lambda setting: Half())


@pytest.fixture(scope="module")
def command(tiny_study: TinyStudy) -> Callable[..., list[str]]:
    return lambda out, *more: ["study", *tiny_study.options(), *GIVEN, *more, "--out", str(out)]


@pytest.fixture(scope="module")
def lexicon(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished study with the lexicon's word."""
    out = tmp_path_factory.mktemp("runs") / "lexicon"
    assert main(command(out, *FEW)) == 0
    return Run.open(out)


@pytest.fixture(scope="module")
def fresh(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with the other annotator's word from the beginning."""
    out = tmp_path_factory.mktemp("runs") / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILT_IN, "half", lambda setting: Half())
        assert main(command(out, *FEW, "--annotator", "half")) == 0
    return Run.open(out)


@pytest.fixture
def out(lexicon: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lexicon.folder, tmp_path / "run"))


def figures(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.summary.items() if key != "timing"}


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Stage → what was said of it, its time left out: "done" where it was not run again."""
    said = re.findall(r"^\[ *(\d+ s|done) \] (\w+):|^\[ *(\d+) s\] (\w+):", capsys.readouterr().out, re.MULTILINE)
    return {done_stage or stage: "done" if done_stage else "ran" for _, done_stage, _, stage in said}


def assert_same_run(one: Run, other: Run) -> None:
    """The same figures, the same files, the same tables."""
    assert_same(figures(one), figures(other))
    assert hashes(one.folder).keys() == hashes(other.folder).keys()
    for table in (
        "annotations",
        "keystones",
        "sets",
        "ablation",
        "damage",
        "damage_solutions",
        "push",
        "prompts",
        "phenomena",
        "judged",
    ):
        rows = [run.rows(f"SELECT * FROM {table} ORDER BY ALL") for run in (one, other)]
        assert_same(*rows)


# -- (1) another annotator --------------------------------------------------------------------------------------------


def test_after_another_annotator_what_is_built_on_the_first_is_stale(
    out: Path, lexicon: Run, fresh: Run, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    page = (out / "report.html").read_text()
    assert all(f'id="{part}"' in page for part in PARTS) and "stale" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert main(["annotate", str(out), "--annotator", "half"]) == 0
    capsys.readouterr()

    # Status, for people and for programs.
    assert main(["status", str(out), "--json"]) == 0
    rows = {r["stage"]: r for r in json.loads(capsys.readouterr().out)}
    assert list(rows) == [s.name for s in STAGES]
    why = {
        "keystones": "annotations changed",
        "sets": "stage keystones is stale",
        "ablate": "stage sets is stale",
        "damage": "stage sets is stale",
        "push": "stage ablate is stale",
        "operations": "annotations changed",
        "measure": "annotations changed",
        "correlate": "stage measure is stale",
    }
    assert {s: (r["status"], r["why"]) for s, r in rows.items() if s in BUILT_ON} == {s: ("stale", w) for s, w in why.items()}
    assert {rows[s]["status"] for s in ("discover", "annotate")} == {"done"}
    assert {rows[s]["status"] for s in ("variants", "attribute", "sweep", "calibrate")} == {"missing"}
    assert {s: (found.status, found.why) for s, found in cotscope.status(out).items() if s in why} == {
        s: ("stale", w) for s, w in why.items()
    }  # fmt: skip
    assert main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    for stage, because in why.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"{stage} ")]
        assert " stale " in line and line.endswith(because)
        assert lexicon.manifest["stages"][stage]["finding"] not in text
    assert re.search(r"To make them again: `cotscope ablate [^`]*`, `cotscope measure [^`]*`.*`cotscope study` with", text)

    # The summary and the report hold no figure of theirs.
    run = Run.open(out)
    assert set(lexicon.summary) - set(run.summary) == {
        "baseline", "ablation", "keystones", "sets", "damage", "push", "prompts", "correlation", "stability", "phenomena"
    } & set(lexicon.summary)  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == run.summary
    assert set(run.summary["timing"]) == {"discover_s", "annotate_s", "generate_s"}
    assert run.summary["neurons"] | {"annotator": "half"} == fresh.summary["neurons"]
    page = (out / "report.html").read_text()
    assert not [part for part in PARTS if f'id="{part}"' in page]
    for stage in ("ablate", "damage", "measure", "correlate"):
        assert f"stale: {why[stage]}; again with <code>cotscope {BY_NAME[stage].verb} RUN</code>" in page
    for stage in BUILT_ON:
        assert f"<td>stale ({why[stage]})</td>" in page
        assert lexicon.manifest["stages"][stage]["finding"] not in page
        for note in lexicon.manifest["stages"][stage]["notes"]:
            assert note not in page
    assert any(lexicon.manifest["stages"][stage]["notes"] for stage in BUILT_ON)
    assert "No accuracy has been measured in this run yet" in page
    known = {
        str(value) for value in flat([run.summary["neurons"], run.summary["judge"], run.rows("SELECT * FROM audit")]).values()
    }
    assert set(re.findall(r'<data value="([^"]*)"', page)) <= known and page.count("<svg") == 1, "the poles by layer"

    # A verb refuses, a study makes all of them again, and nothing that was there already.
    assert main(["correlate", str(out)]) == 2
    assert "stage 'measure', which 'correlate' builds on, is stale: annotations changed" in capsys.readouterr().err
    before = times(out, "completions", "activity", "poles", "candidates", "annotations")
    kept = {f"{table}/{part}" for table in ("completions", "activity") for part in ("discovery.plain", "study.plain")}
    kept |= {"poles", "candidates", "annotations"}
    assert main(command(out)) == 0
    assert lines(capsys) == {"discover": "done", "annotate": "done"} | dict.fromkeys(BUILT_ON, "ran")
    after = times(out)
    assert {name for name in kept if after[name] != before[name]} == set()
    assert_same_run(Run.open(out), fresh)
    page = (out / "report.html").read_text()
    assert all(f'id="{part}"' in page for part in PARTS) and 'class="missing stale"' not in page


def test_the_same_word_again_makes_nothing_stale(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = figures(Run.open(out))
    assert main(["annotate", str(out)]) == 0
    assert "annotate" in lines(capsys)
    run = Run.open(out)
    assert figures(run) == before and all(found.current for found in run.states().values())


# -- (2) interruptions and errors -------------------------------------------------------------------------------------


def test_an_interrupted_annotator_is_gone_on_with(
    out: Path,
    fresh: Run,
    command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    went: list[str] = []

    class Interrupted(Half):
        def annotate(self, found: Any) -> list[Any]:
            went.append(self.name)
            if len(went) == 1:
                raise KeyboardInterrupt
            return super().annotate(found)

    monkeypatch.setitem(BUILT_IN, "half", lambda setting: Interrupted())
    assert main(["annotate", str(out), "--annotator", "half", "--concurrency", "3"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    run = Run.open(out)
    assert run.state("annotate").status == "stopped"
    assert run.manifest["options"]["annotate"] == {"annotator": "half", "concurrency": 3}
    assert run.manifest["stages"]["annotate"]["options"]["annotator"] == "half"
    assert {s: run.state(s).status for s in BUILT_ON} == dict.fromkeys(BUILT_ON, "stale")
    assert run.state("measure").why == "stage annotate is stopped"
    assert "total" not in run.summary["neurons"] and "ablation" not in run.summary
    assert main(["measure", str(out)]) == 2
    assert "stage 'annotate', which 'measure' builds on, was stopped" in capsys.readouterr().err
    assert main(command(out)) == 0
    assert went == ["half", "half"]
    assert lines(capsys) == {"discover": "done", "annotate": "ran"} | dict.fromkeys(BUILT_ON, "ran")
    run = Run.open(out)
    assert run.manifest["stages"]["annotate"]["options"] == run.manifest["stages"]["annotate"]["options"] | {
        "annotator": "half", "concurrency": 3
    }  # fmt: skip
    assert_same_run(run, fresh)


@pytest.mark.parametrize("what", ["judge", "nothing accepted", "unknown"])
def test_an_error_leaves_the_first_word_done(
    out: Path,
    what: str,
    command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing(Half):
        name = "failing"

        def annotate(self, found: Any) -> list[Any]:
            if what == "judge":
                raise JudgeError("the judge is asleep")
            return [replace(a, accepted=False) for a in super().annotate(found)]

    if what != "unknown":
        monkeypatch.setitem(BUILT_IN, "failing", lambda setting: Failing())
    before, manifest = Run.open(out), json.loads((out / "manifest.json").read_text())
    assert main(["annotate", str(out), "--annotator", "failing", "--audit", "2"]) == 2
    said = {"judge": "asleep", "nothing accepted": "annotator failing accepted none of", "unknown": "unknown annotator"}[what]
    assert said in capsys.readouterr().err
    run = Run.open(out)
    assert all(found.current for found in run.states().values())
    assert run.rows("SELECT * FROM annotations") == before.rows("SELECT * FROM annotations")
    for part in ("stages", "options", "summary", "notes"):
        assert run.manifest[part] == manifest[part]
    assert run.summary == before.summary
    assert json.loads((out / "summary.json").read_text()) == before.summary
    assert hashes(out).items() >= hashes(before.folder).items()
    assert main(command(out)) == 0
    assert set(lines(capsys).values()) == {"done"}


def test_a_word_that_a_study_refuses_is_not_kept(
    out: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Run.open(out).summary
    assert main([*command(out), "--annotator", "lllm", "--matched", "1"]) == 2
    assert "unknown annotator" in capsys.readouterr().err
    run = Run.open(out)
    assert all(found.current for found in run.states().values()) and run.summary == before
    assert json.loads((out / "summary.json").read_text()) == before
    assert main(command(out)) == 0
    assert set(lines(capsys).values()) == {"done"}


def test_an_error_without_options_is_one_line(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The run keeps no options for annotate; the concept file is another one now."""
    other = tmp_path / "other.toml"
    with manifest_of(out) as manifest:
        assert "annotate" not in manifest["options"]
        other.write_text(Path(manifest["config"]["concepts"]).read_text().replace('"4"', '"7"'))
        manifest["config"]["concepts"] = str(other)
    assert main(["annotate", str(out)]) == 2
    assert "not what it was when" in capsys.readouterr().err
    assert "annotate" not in Run.open(out).manifest["options"]
    assert all(found.current for found in Run.open(out).states().values())


def test_a_stage_that_stopped_goes_on_after_an_error_too(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that was never finished is not restored by a later error."""

    def failing(error: BaseException) -> None:
        class Failing(Half):
            def annotate(self, found: Any) -> list[Any]:
                raise error

        monkeypatch.setitem(BUILT_IN, "half", lambda setting: Failing())

    failing(KeyboardInterrupt())
    assert main(["annotate", str(out), "--annotator", "half"]) == 130
    failing(JudgeError("asleep"))
    assert main(["annotate", str(out), "--annotator", "half", "--audit", "3"]) == 2
    run = Run.open(out)
    assert run.state("annotate").status == "stopped"
    assert run.state("measure") == ("stale", "stage annotate is stopped")


# -- (3) options that an old folder does not know ---------------------------------------------------------------------


def test_a_new_option_with_its_default_is_no_other_study(
    out: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with manifest_of(out) as manifest:
        for key in ("kernels", "tune_limit", "seed"):  # as if they were new
            del manifest["config"][key]
        for stage, key in (("sets", "unmatched"), ("discover", "discover_prompts"), ("annotate", "concurrency")):
            del manifest["stages"][stage]["options"][key]
        for options in (manifest["stages"]["damage"]["options"], manifest["options"]["damage"]):
            options["withdrawn"] = 3  # and this one old
    before = times(out)
    assert main(command(out)) == 0
    assert set(lines(capsys).values()) == {"done"}
    assert main(["ablate", str(out), "--matched", "2", "--outcomes", "accuracy"]) == 0
    assert lines(capsys)["ablate"] == "done"
    assert {name for name, at in times(out).items() if before[name] != at} <= {"problems"}
    assert main([*command(out), "--seed", "1"]) == 2
    assert 'another study: config differ; expected config = {"seed": 1}; got {"seed": 0}' in capsys.readouterr().err


# -- (4) other options ------------------------------------------------------------------------------------------------


def test_one_more_matched_set_runs_one_more_condition(
    out: Path, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[int] = []
    run_jobs = Engine.run
    monkeypatch.setattr(Engine, "run", lambda engine, these, *rest: jobs.append(len(these)) or run_jobs(engine, these, *rest))
    parts = (
        "completions",
        "activity",
        "text_scores",
        "solution_scores",
        "battery",
        "keystones",
        "prompts",
    )
    before, made_of = times(out, *parts), hashes(out)
    assert main(command(out, "--matched", "3")) == 0
    again = {"sets", "ablate", "damage", "push"}
    assert lines(capsys) == {s: "ran" if s in again else "done" for s in ("discover", "annotate", *BUILT_ON)}
    assert jobs[0] == 1, "the third set's completions"
    after = times(out, *parts)
    new = {f"{table}/{part}" for table, part in (
        ("completions", "ablation.matched_2"), ("text_scores", "matched_2"), ("solution_scores", "matched_2"),
        ("battery", "matched_2"),
    )}  # fmt: skip
    assert after.items() >= before.items() and after.keys() - before.keys() == new
    assert {n for n, h in hashes(out).items() if made_of.get(n) != h} == new | {
        "sets", "matching", "ablation", "damage", "damage_solutions"
    }  # fmt: skip
    run = Run.open(out)
    assert len(run.summary["ablation"]["matched_each"]) == 3
    assert run.manifest["options"]["sets"] == {"matched": 3}
    assert run.manifest["stages"]["sets"]["options"] == {"matched": 3, "unmatched": 2}


def test_an_option_of_a_command_leaves_the_others_what_they_were(out: Path) -> None:
    for more in (["--unmatched", "1"], ["--matched", "3"]):
        assert main(["ablate", str(out), "--outcomes", "accuracy", *more]) == 0
    run = Run.open(out)
    assert run.manifest["stages"]["sets"]["options"] == run.manifest["options"]["sets"] == {"matched": 3, "unmatched": 1}
    kinds = [r["kind"] for r in run.rows("SELECT kind FROM ablation")]
    assert (kinds.count("matched"), kinds.count("unmatched")) == (3, 1)
    before = times(out)
    assert main(["ablate", str(out), "--outcomes", "accuracy", "--unmatched", "1"]) == 0
    assert times(out) == before, "what is asked for is what it has"


def test_a_study_says_which_commands_of_their_own_do_not_hold_any_more(
    out: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(out), "--runs", "1", "--problems", "1"]) == 0
    assert main(command(out)) == 0
    assert "is no part of this study" not in capsys.readouterr().out
    assert main(["annotate", str(out), "--annotator", "half"]) == 0
    assert main(command(out)) == 0
    said = capsys.readouterr().out.splitlines()[-2]
    assert (
        said.startswith("calibrate is no part of this study and is stale (") and f"`cotscope calibrate {out}` makes it" in said
    )
    assert main(["calibrate", str(out), "--runs", "1"]) == 0
    assert main(command(out)) == 0
    assert "is no part of this study" not in capsys.readouterr().out


def test_an_option_is_remembered_before_its_stage_has_run(
    out: Path, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for and was never run is what a later command does."""

    def stopped(session: Session, options: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cotscope.stages.registry.STAGES", STAGES)
        patch.setattr("cotscope.executors.local.STAGES", tuple(replace(s, run=stopped) for s in STAGES))
        assert main(command(out, "--matched", "1")) == 130
    run = Run.open(out)
    assert run.state("sets").status == "stopped" and run.state("damage") == ("stale", "stage sets is stopped")
    assert main(["ablate", str(out)]) == 0
    run = Run.open(out)
    assert len(run.summary["ablation"]["matched_each"]) == 1
    assert not [name for name in hashes(out) if "matched_1" in name and "unmatched" not in name], "nothing is left of it"
    assert all(found.current for found in run.states().values())


# -- (5) what a stage may see -----------------------------------------------------------------------------------------


def probe(out: Path, run: Callable[[Session, Any], str], **declared: Any) -> Run:
    """Run a made-up stage."""
    session = Session.reopen(out, quiet=True)
    with session.run.writing():
        run_stage(session, Stage("probe", "probe", "", run, **declared))
    return session.run


def test_a_stage_sees_and_writes_what_it_declares_and_nothing_else(lexicon: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(lexicon.folder, tmp_path / "run"))
    reads = (POLES, "completions/study.")
    seen: dict[str, Any] = {}

    def query(sql: str) -> Callable[[Session, Any], str]:
        def run(session: Session, options: Any) -> str:
            seen["rows"] = session.run.rows(sql)
            return "seen"

        return run

    run = probe(out, query("SELECT DISTINCT condition FROM completions CROSS JOIN poles"), reads=reads)
    assert seen["rows"] == [{"condition": "study.plain"}], "of the table the declared part only"
    assert run.state("probe").current
    for sql in ("SELECT * FROM annotations", "SELECT * FROM poles JOIN candidates USING (layer, index, sign)"):
        with pytest.raises(AssertionError, match="annotations is not declared|candidates is not declared"):
            probe(out, query(sql), reads=reads)
        assert Run.open(out).state("probe").status == "stopped"
    rows = lexicon.rows("SELECT * FROM completions WHERE condition = 'study.plain'")
    before = hashes(out)
    for table, part in ((ABLATION, ""), (COMPLETIONS, "study.plain")):
        with pytest.raises(AssertionError, match=r"(ablation|completions/study.plain) is not declared"):
            probe(out, lambda session, options, t=table, p=part: session.run.write(t, rows if p else [], p) or "", reads=reads)
    with pytest.raises(AssertionError, match="has no columns {'colour'}"):
        probe(out, lambda session, options: session.run.write(CANDIDATES, [{"colour": "red"}]) or "", writes=(CANDIDATES,))
    assert hashes(out) == before and Run.open(out).whole == lexicon.whole


def test_a_stage_sees_of_its_own_only_what_it_has_found_done(lexicon: Run, tmp_path: Path) -> None:
    """Parts of an earlier attempt are no figures of this one, and are gone at its end."""
    out = Path(shutil.copytree(lexicon.folder, tmp_path / "run"))
    writes = ("completions/variant.",)
    rows = pa.Table.from_pylist([], schema=COMPLETIONS.schema)

    def first(session: Session, options: Any) -> str:
        for part in ("variant.a", "variant.b"):
            session.run.write(COMPLETIONS, [{"condition": part, "family": "variant"}], part, "same")
        return ""

    def second(session: Session, options: Any) -> str:
        run, sql = session.run, "SELECT condition FROM completions"
        assert run.rows(sql) == [] and not run.has(COMPLETIONS)
        assert run.done("completions/variant.a", "other") is None
        assert run.done("completions/variant.a", "same") is not None
        assert run.rows(sql) == [{"condition": "variant.a"}]
        run.write(COMPLETIONS, rows, "variant.c", "same")
        return ""

    assert set(probe(out, first, writes=writes).manifest["stages"]["probe"]["wrote"]) == {
        "completions/variant.a", "completions/variant.b"
    }  # fmt: skip
    before = times(out)
    run = probe(out, second, writes=writes)
    assert set(run.manifest["stages"]["probe"]["wrote"]) == {"completions/variant.a", "completions/variant.c"}
    assert "completions/variant.b" not in times(out) and "completions/variant.b" not in hashes(out)
    assert times(out)["completions/variant.a"] == before["completions/variant.a"]
    (out / "tables/completions/variant.c.parquet").write_bytes(b"damaged")
    assert Run.open(out).state("probe") == ("stale", "completions/variant.c changed")


def test_every_declared_pattern_means_something(lexicon: Run) -> None:
    """What a stage declares is a table or a part of one, and what it reads is written by a stage that comes before."""
    written: set[str] = set()
    for stage in STAGES:
        tables = {t.name for which in ("reads", "writes") for t in stage.tables(which)}
        assert {str(p).partition("/")[0] for p in (*stage.reads, *stage.writes)} - {"arrays"} == tables, stage.name
        assert {t.name for t in stage.tables("reads")} <= written | {t.name for t in stage.tables("writes")}, stage.name
        assert all(BY_NAME[name] in STAGES[: STAGES.index(stage)] for name in (*stage.after, *stage.beside))
        written |= {t.name for t in stage.tables("writes")}
        assert all(f.metadata["help"] for f in stage.options.__dataclass_fields__.values())


# -- Python -----------------------------------------------------------------------------------------------------------


def test_from_python_what_cannot_be_is_said(out: Path) -> None:
    before = times(out)
    with pytest.raises(UserError, match="there is no option 'colour'; expected one of battery, matched, permuted, unmatched"):
        cotscope.ablate(out, colour="red")
    with pytest.raises(RunError, match="is not a run folder"):
        cotscope.measure(out / "nowhere")
    run = cotscope.annotate(out, annotator="half")
    assert run.summary["neurons"]["annotator"] == "half" and run.state("ablate").status == "stale"
    with pytest.raises(RunError, match="'measure', which 'correlate' builds on, is stale"):
        cotscope.correlate(out)
    assert {name for name, at in times(out).items() if before.get(name) != at} <= {
        "annotations", "audit", *(name for name in times(out) if name.startswith(("judgements/", "contexts/")))
    }  # fmt: skip
