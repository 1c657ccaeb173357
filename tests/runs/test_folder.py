"""The run folder: atomic, resumable, one writer, and honest about whose it is."""

from __future__ import annotations

import errno
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from cotscope.errors import RunError
from cotscope.runs.config import StudyConfig
from cotscope.runs.files import digest_of, fingerprint, replacing, write_text
from cotscope.runs.folder import Run
from cotscope.runs.inputs import Inputs
from cotscope.runs.model import StudyModel
from cotscope.runs.session import Session
from cotscope.runs.stage import NoOptions, Stage, fresh_record, require, run_stage
from cotscope.runs.tables import BATTERY, DAMAGE, KEYSTONES, SWEEP_TEXT
from cotscope.stages import annotate

STUDY: dict[str, Any] = {
    "model": {"name": "m", "weight_sha256": "a", "parameters": 9, "layers": 2, "neurons_per_layer": 3, "dtype": "float32",
              "dtype_why": "asked for", "kernels": "pytorch", "device": "cpu", "rows_per_batch": 4},
    "config": {"limit": 4, "prompt_files": []},
    "data": {"source": "d", "sha256": "b", "test": 4, "discovery": 4, "tuning": 0, "duplicates": [], "halved": False},
    "concepts": {"source": "c", "sha256": "c"},
    "prompts": [{"name": "plain", "source": "p", "sha256": "d", "tokens": 1}],
}  # fmt: skip


def begun(folder: Path, study: dict[str, Any] = STUDY, defaults: dict[str, Any] | None = None) -> Run:
    return Run.create(folder, study, defaults or {})


def row(layer: int) -> dict[str, Any]:
    return {"layer": layer, "index": 0, "kl": 0.5}


def working(run: Run) -> Session:
    """A session whose inputs and model nothing asks for."""
    inputs = Inputs(StudyConfig(prompt_files=("absent.txt",)))
    inputs.__dict__["prompts"] = (type("Named", (), {"name": "plain"})(),)
    return Session(inputs, StudyModel(inputs), run, quiet=True)


def test_the_same_study_goes_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.write(KEYSTONES, [row(1)], of="x")
    again = begun(tmp_path / "r")
    assert again.done("keystones", "x") is not None
    assert again.rows("SELECT layer FROM keystones") == [{"layer": 1}]


def test_another_study_is_refused(tmp_path: Path) -> None:
    begun(tmp_path / "r")
    other = STUDY | {"config": {"limit": 5, "prompt_files": []}}
    with pytest.raises(RunError, match=r'another study: config differ; expected config = {"limit": 5}; got {"limit": 4}'):
        begun(tmp_path / "r", other)


def test_an_option_that_is_new_had_its_default(tmp_path: Path) -> None:
    begun(tmp_path / "r")
    newer = STUDY | {"config": STUDY["config"] | {"colour": "grey"}}
    assert begun(tmp_path / "r", newer, {"colour": "grey"}).folder == tmp_path / "r"
    with pytest.raises(RunError, match="another study: config differ"):
        begun(tmp_path / "r", newer, {"colour": "red"})


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="not empty and is no run folder"):
        begun(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a run folder"),
        ("{half", "is damaged"),
        ('{"schema": 1}', "written by another version of cotscope; expected format 6; got 1. Run the study again"),
        ('{"schema": 3, "stages": {}}', "written by another version of cotscope; expected format 6; got 3. Run the study"),
    ],
)
def test_opening_what_is_no_run(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=words):
        Run.open(tmp_path)


def test_where_a_file_system_has_no_locks_one_goes_on_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, error = begun(tmp_path / "r"), OSError(errno.ENOLCK, "No locks available")

    def flock(*_: object) -> None:
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    (part := run.folder / ".x-y.part").write_text("of another process, perhaps")
    with run.writing():
        assert "has no locks (No locks available)" in caplog.text and part.exists()
    error = BlockingIOError(errno.EAGAIN, "it is held")
    with pytest.raises(RunError, match="is in use by another process"), run.writing():
        pass


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    with run.writing():
        code = (
            "import sys; from pathlib import Path; from cotscope.runs.folder import Run; from cotscope.errors import RunError\n"
            "try:\n    with Run.open(Path(sys.argv[1])).writing(): print('held')\n"
            "except RunError as error: print(error)"
        )
        out = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True, check=True)
    assert "is in use by another process; got process" in out.stdout
    with Run.open(tmp_path / "r").writing():
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, 7)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_table_leaves_the_old_one(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.write(KEYSTONES, [row(1)], of="x")
    with pytest.raises(ZeroDivisionError), run.writer(KEYSTONES, of="y"):
        raise ZeroDivisionError
    assert run.done("keystones", "x") is not None and run.done("keystones", "y") is None
    assert [p.name for p in (run.folder / "tables").iterdir()] == ["keystones.parquet"]


def test_tables_and_their_parts(tmp_path: Path) -> None:
    run = begun(tmp_path / "it's a run")
    run.write(KEYSTONES, [row(1), row(2)])
    run.write(SWEEP_TEXT, [{"neuron_set": "one", "kl": 1.0}], "one")
    run.write(SWEEP_TEXT, [{"neuron_set": "two", "kl": 2.0}], "two")
    assert run.rows("SELECT sum(layer)::INT AS s FROM keystones WHERE layer > ?", [1]) == [{"s": 2}]
    assert run.rows("SELECT count(*) AS n FROM sweep_text") == [{"n": 2}]
    assert run.rows("SELECT count(*) AS n FROM damage") == [{"n": 0}]  # not written: empty, with its columns
    assert run.has(SWEEP_TEXT) and not run.has(DAMAGE)
    assert run.manifest["files"]["sweep_text/one"] == {
        "sha256": run.manifest["files"]["sweep_text/one"]["sha256"], "rows": 1, "of": "",
        "bytes": (run.folder / "tables/sweep_text/one.parquet").stat().st_size,
    }  # fmt: skip


def test_nothing_is_written_that_has_other_columns(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    with pytest.raises(AssertionError, match="keystones has no columns"):
        run.write(KEYSTONES, [{"colour": 1}])
    with pytest.raises(AssertionError):
        run.write(KEYSTONES, [row(1)], "part")
    with pytest.raises(AssertionError):
        run.write(SWEEP_TEXT, [])
    run.write(KEYSTONES, [row(1)])
    assert run.query("SELECT * FROM keystones").schema.names == KEYSTONES.schema.names


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    failing = [True]

    def stage(session: Session, options: NoOptions) -> str:
        if failing:
            raise ZeroDivisionError
        return "all is well"

    discover = Stage("discover", "discover", "", stage, units={"x": "metres"})
    annotate = Stage("annotate", "annotate", "", stage, after=("discover",))
    session, verbs = working(run), {"discover": "discover"}
    with pytest.raises(RunError, match=r"'discover', which 'annotate' builds on, has not run\. Run `cotscope discover"):
        require(session, annotate, verbs)
    with pytest.raises(ZeroDivisionError):
        run_stage(session, discover)
    assert run.state("discover").status == "stopped"
    with pytest.raises(RunError, match=r"'discover', which 'annotate' builds on, was stopped\. Run `cotscope discover"):
        require(session, annotate, verbs)
    failing.clear()
    assert run_stage(session, discover) == "all is well"
    require(session, annotate, verbs)
    assert Run.open(tmp_path / "r").state("discover").current
    assert run.summary["timing"]["discover_s"] >= 0
    assert Run.open(tmp_path / "r").manifest["units"] == {"x": "metres"}


def test_summary_has_no_nan(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.summarise("correlation", {"spearman": float("nan"), "ci": [float("nan"), 1.0]})
    run.summarise("correlation", {"prompts": 2})
    run.save()
    run.write_summary()
    text = (tmp_path / "r/summary.json").read_text()
    assert json.loads(text) == {"correlation": {"spearman": None, "ci": [None, 1.0], "prompts": 2}}
    assert Run.open(tmp_path / "r").summary == json.loads(text)


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.write(KEYSTONES, [row(1)])
    run.write(SWEEP_TEXT, [{"neuron_set": "one"}], "one")
    leftovers = [run.folder / "tables/.keystones.parquet-x.part", run.folder / "tables/sweep_text/.one.parquet-y.part"]
    leftovers.append(run.folder / ".manifest.json-z.part")
    for path in leftovers:
        path.write_bytes(b"half")
    assert run.rows("SELECT layer, neuron_set FROM keystones, sweep_text") == [{"layer": 1, "neuron_set": "one"}]
    with run.writing():
        assert not any(path.exists() for path in leftovers)


def test_a_path_with_glob_characters(tmp_path: Path) -> None:
    run = begun(tmp_path / "a[1]*?")
    run.write(SWEEP_TEXT, [{"neuron_set": "one"}], "o[n]e*?")
    run.write(SWEEP_TEXT, [{"neuron_set": "two"}], "one")
    assert run.rows("SELECT neuron_set FROM sweep_text ORDER BY ALL") == [{"neuron_set": "one"}, {"neuron_set": "two"}]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(RunError, match="a file of that name"):
            begun(path)
        with pytest.raises(RunError, match="not a run folder"):
            Run.open(path)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.write(KEYSTONES, [row(1)])
    plain = tmp_path / "plain"
    plain.write_text("")
    for name in ("manifest.json", "tables/keystones.parquet"):
        assert (run.folder / name).stat().st_mode == plain.stat().st_mode


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    assert run.arrays("reference", "this") is None
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    run.write_arrays("reference", {"across": values.T, "index": np.array([7], np.int32)}, {"said": "so"}, "this")
    assert run.arrays("reference", "that") is None
    arrays, metadata = run.arrays("reference", "this")
    assert metadata == {"said": "so"}
    np.testing.assert_array_equal(arrays["across"], values.T)
    assert arrays["index"].dtype == np.int32
    (run.folder / "arrays/.reference.safetensors-x.part").write_text("half")
    with run.writing():
        assert [p.name for p in (run.folder / "arrays").iterdir()] == ["reference.safetensors"]


# -- what counts as done --------------------------------------------------------------------------------------------------


def test_a_changed_file_is_no_part_of_the_run(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    run.write(KEYSTONES, [row(1)], of="x")
    run.write(SWEEP_TEXT, [{"neuron_set": "one"}], "one", of="x")
    path = run.folder / "tables/keystones.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = Run.open(run.folder)
    assert again.whole == {"sweep_text/one"}
    assert again.done("keystones", "x") is None and again.done("sweep_text/one", "x") is not None
    assert again.rows("SELECT * FROM keystones") == []


def staged(name: str, reads: tuple[Any, ...], writes: tuple[Any, ...], run: Any, **more: Any) -> Stage:
    return Stage(name, name, "", run, reads=reads, writes=writes, **more)


def test_a_stage_sees_only_what_it_declares(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    session = working(run)
    run.write(KEYSTONES, [row(1)])

    def reads(session: Session, options: NoOptions) -> str:
        return str(session.run.rows("SELECT count(*)::INT AS n FROM keystones"))

    def writes(session: Session, options: NoOptions) -> str:
        session.run.write(DAMAGE, [])
        return ""

    assert run_stage(session, staged("a", (KEYSTONES,), (), reads)) == "[{'n': 1}]"
    with pytest.raises(AssertionError, match="keystones is not declared"):
        run_stage(session, staged("b", (), (), reads))
    with pytest.raises(AssertionError, match="damage is not declared"):
        run_stage(session, staged("c", (), (KEYSTONES,), writes))


def test_a_stage_is_stale_when_what_it_read_or_wrote_changes(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    session = working(run)
    run.write(KEYSTONES, [row(1)])
    write = staged("w", (KEYSTONES,), (DAMAGE,), lambda s, o: str(s.run.write(DAMAGE, [{"neuron_set": "x"}])))
    after = staged("a", (), (), lambda s, o: "", after=("w",))
    beside = staged("b", (), (), lambda s, o: "", beside=("w", "never"))
    for stage in (write, after, beside):
        run_stage(session, stage)
    assert all(found.current for found in run.states().values())
    run.write(KEYSTONES, [row(2)])
    assert run.states() == {
        "w": ("stale", "keystones changed"), "a": ("stale", "stage w is stale"), "b": ("stale", "stage w is stale"),
    }  # fmt: skip
    assert set(run.summary) == set()  # a stale stage's seconds are no figures either
    run_stage(session, write)
    assert all(found.current for found in run.states().values())
    (run.folder / "tables/damage.parquet").unlink()
    assert Run.open(run.folder).state("w") == ("stale", "damage changed")


def test_a_part_that_was_not_asked_for_goes(tmp_path: Path) -> None:
    run = begun(tmp_path / "r")
    session, sets = working(run), ["one", "two"]

    def score(session: Session, options: NoOptions) -> str:
        for name in sets:
            if session.run.done(f"battery/{name}", name) is None:
                session.run.write(BATTERY, [{"neuron_set": name}], name, name)
        return ", ".join(r["neuron_set"] for r in session.run.rows("SELECT neuron_set FROM battery ORDER BY ALL"))

    stage = staged("s", (), (BATTERY,), score)
    assert run_stage(session, stage) == "one, two"
    sets[:] = ["two", "three"]
    assert run_stage(session, stage) == "three, two"  # while it runs it does not see what it did not ask for
    assert sorted(run.manifest["files"]) == ["battery/three", "battery/two"]
    assert sorted(p.stem for p in (run.folder / "tables/battery").iterdir()) == ["three", "two"]


def test_a_full_disk_is_one_whoever_notices_it(tmp_path: Path) -> None:
    """The command line says it in a line, which wants an OSError; safetensors has an error of its own."""
    with pytest.raises(OSError) as error, replacing(tmp_path / "state.safetensors"):  # noqa: PT011
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # as on a full tmpfs
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="another"), replacing(tmp_path / "state.safetensors"):
        raise ValueError("another")


def test_a_judges_prompt_is_looked_at_too(tmp_path: Path) -> None:
    """By its stage's record; `tests/stages/test_evaluate.py` has what comes of that."""
    session, path = working(begun(tmp_path / "r")), tmp_path / "mine.txt"
    path.write_text("{tokens} {question}")
    record = fresh_record(session, annotate.STAGE, annotate.Options(judge_prompt=str(path)))
    assert record["outside"] == {str(path): digest_of(str(path))} and digest_of(str(tmp_path / "absent")) is None
    assert fresh_record(session, annotate.STAGE, annotate.Options())["outside"] == {}


def test_fingerprints_tell_apart() -> None:
    assert fingerprint("a", "b") != fingerprint("ab") != fingerprint(("a", "b"))
    assert fingerprint("\ud800")  # half a character, as a damaged file may have
