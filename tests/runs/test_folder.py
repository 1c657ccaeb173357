"""The run folder: atomic, resumable, one writer, and honest about whose it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cotscope.errors import RunError
from cotscope.runs.folder import Run, write_atomically

STUDY = {"model": {"name": "m", "weight_sha256": "a"}, "config": {"limit": 4, "prompt_files": []}}


def test_the_same_study_goes_on(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
    run.manifest["conditions"]["x"] = {"tokens": 1}
    run.save()
    assert Run.create(tmp_path / "r", STUDY).manifest["conditions"] == {"x": {"tokens": 1}}


def test_another_study_is_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "r", STUDY)
    other = STUDY | {"config": {"limit": 5, "prompt_files": []}}
    with pytest.raises(RunError, match=r'another study: config differ; expected config = {"limit": 5}; got {"limit": 4}'):
        Run.create(tmp_path / "r", other)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="not empty and is no run folder"):
        Run.create(tmp_path, STUDY)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a run folder"),
        ("{half", "is damaged"),
        ('{"schema": 1}', "written by another version of cotscope; expected format 2; got 1. Run the study again"),
    ],
)
def test_opening_what_is_no_run(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=words):
        Run.open(tmp_path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
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
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 7)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tables_and_their_parts(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "it's a run", STUDY)
    run.write_rows("whole", [{"a": 1}, {"a": 2}])
    run.write_rows("parts/one", [{"b": 1}])
    run.write_rows("parts/two", [{"b": 2}])
    assert run.rows("SELECT sum(a)::INT AS s FROM whole WHERE a > ?", [1]) == [{"s": 2}]
    assert run.rows("SELECT count(*) AS n FROM parts") == [{"n": 2}]


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
    with pytest.raises(ZeroDivisionError), run.stage("discover"):
        raise ZeroDivisionError
    assert not run.stage_done("discover")
    with pytest.raises(RunError, match=r"no finished stage 'discover'\. Run `cotscope discover` first"):
        run.require("discover", "cotscope discover")
    with run.stage("discover", {"x": "metres"}):
        pass
    assert Run.open(tmp_path / "r").stage_done("discover")
    assert run.summary["timing"]["discover_s"] >= 0
    assert Run.open(tmp_path / "r").manifest["units"] == {"x": "metres"}


def test_summary_has_no_nan(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
    run.summarise("correlation", {"spearman": float("nan"), "ci": [float("nan"), 1.0]})
    run.summarise("correlation", {"prompts": 2})
    text = (tmp_path / "r/summary.json").read_text()
    assert json.loads(text) == {"correlation": {"spearman": None, "ci": [None, 1.0], "prompts": 2}}


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
    run.write_rows("whole", [{"a": 1}])
    run.write_rows("parts/one", [{"b": 1}])
    leftovers = [run.folder / "tables/.whole.parquet-x.part", run.folder / "tables/parts/.one.parquet-y.part"]
    leftovers.append(run.folder / ".manifest.json-z.part")
    for path in leftovers:
        path.write_bytes(b"half")
    assert run.rows("SELECT a, b FROM whole, parts") == [{"a": 1, "b": 1}]
    with run.writing():
        assert not any(path.exists() for path in leftovers)


def test_a_path_with_glob_characters(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a[1]*?", STUDY)
    run.write_rows("parts/one", [{"b": 1}])
    assert run.rows("SELECT b FROM parts") == [{"b": 1}]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(RunError, match="a file of that name"):
            Run.create(path, STUDY)
        with pytest.raises(RunError, match="not a run folder"):
            Run.open(path)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", STUDY)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (run.folder / "manifest.json").stat().st_mode == plain.stat().st_mode


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"a": 1})
    assert run.arrays("reference") is None
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    run.write_arrays("reference", {"across": values.T, "index": np.array([7], np.int32)}, {"of": "this"})
    arrays, metadata = run.arrays("reference")
    assert metadata == {"of": "this"}
    np.testing.assert_array_equal(arrays["across"], values.T)
    assert arrays["index"].dtype == np.int32
    (run.folder / "arrays/.reference.safetensors-x.part").write_text("half")
    with run.writing():
        assert [p.name for p in (run.folder / "arrays").iterdir()] == ["reference.safetensors"]
