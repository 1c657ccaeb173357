"""A run folder from someone else: nothing outside it is touched, none of its texts is run, and no traceback ends a command."""

from __future__ import annotations

import copy as copying
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_runs import Command, Told, reseal

from cotscope.cli import main
from cotscope.errors import RunError
from cotscope.runs.files import hash_of
from cotscope.runs.folder import Run
from cotscope.runs.places import path_of
from cotscope.stages.registry import VERBS

pytest_plugins = ("small_study",)
pytestmark = pytest.mark.slow
WRONG: tuple[Any, ...] = (None, [], {}, 1, "x", 10**30, -1, 0.5, True)
SQL = "x'; COPY (SELECT 1) TO '{}'; --"


def every_command(folder: Path, study: Command) -> list[list[str]]:
    """All commands that take a run, and the one that began it."""
    verbs = [[verb, str(folder)] for verb in VERBS if verb not in ("discover", "calibrate", "sweep")]
    return [["status", str(folder)], ["report", str(folder)], *verbs, study(folder)]


# -- links and other things in the place of files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [".lock", "manifest.json", "summary.json", "report.html"])
def test_a_link_in_the_place_of_a_file(small_copy: Path, small_command: Command, tmp_path: Path, name: str, told: Told) -> None:
    target = tmp_path / "target"
    shutil.copyfile(small_copy / name, target)
    before = target.read_bytes()
    (small_copy / name).unlink()
    (small_copy / name).symlink_to(target)
    for command in every_command(small_copy, small_command):
        code, said = told(*command)
        assert code == 2 and f"{name} is a link" in said
    assert target.read_bytes() == before and (small_copy / name).is_symlink()


@pytest.mark.parametrize("name", ["tables", "arrays", "tables/completions", "tables/sets"])
def test_a_link_in_the_place_of_a_folder(
    small_copy: Path, small_command: Command, tmp_path: Path, name: str, told: Told
) -> None:
    target = tmp_path / "target"
    if (small_copy / name).is_dir():
        (small_copy / name).rename(target)
    else:
        target.mkdir()
    (target / "precious.txt").write_text("mine")
    (target / ".precious-x.part").write_text("mine")
    before = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    (small_copy / name).symlink_to(target)
    for command in every_command(small_copy, small_command):
        code, said = told(*command)
        assert code == 2 and f"{name} is a link" in said
    assert {p: p.read_bytes() for p in target.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("file", ["poles", "completions/study.plain", "ablation"])
def test_a_link_in_the_place_of_a_table(
    small_copy: Path, small_command: Command, tmp_path: Path, file: str, told: Told
) -> None:
    """It is no part of the run; where the table is made again, the link goes and not what it leads to."""
    path, target = path_of(small_copy, file), tmp_path / "target"
    path.rename(target)
    before = target.read_bytes()
    path.symlink_to(target)
    code, said = told("status", str(small_copy))
    assert code == 0 and f"{file} changed" in said
    code, said = told(*small_command(small_copy))
    assert code == 0 and file in said
    assert target.read_bytes() == before and not path.is_symlink() and path.is_file()


def test_a_part_file_that_is_a_link(small_copy: Path, small_command: Command, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (small_copy / "tables/.poles.parquet-0.part").symlink_to(tmp_path / "target")
    assert main(small_command(small_copy)) == 0
    assert (tmp_path / "target").read_text() == "mine"
    assert not list(small_copy.rglob("*.part"))


@pytest.mark.parametrize("name", [".lock", "manifest.json", "summary.json", "report.html", "tables", "tables/sets"])
@pytest.mark.parametrize("what", ["folder", "pipe", "file"])
def test_something_else_in_their_place(small_copy: Path, small_command: Command, name: str, what: str, told: Told) -> None:
    """A reader must not wait at a pipe, nor fail at a folder."""
    path = small_copy / name
    expected_folder = name.startswith("tables")
    if what == ("folder" if expected_folder else "file"):
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("mine")
    for command in every_command(small_copy, small_command)[:3]:
        code, said = told(*command)
        assert code == 2 and f"{name} is in the way" in said


@pytest.mark.parametrize("what", ["folder", "pipe", "forbidden"])
def test_something_else_in_the_place_of_a_table(small_copy: Path, small_command: Command, what: str, told: Told) -> None:
    path = path_of(small_copy, "ablation")
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("mine")
        path.chmod(0)
    for command in ("status", "report"):
        code, said = told(command, str(small_copy))
        assert code == 0 and "ablation" in said
    code, said = told(*small_command(small_copy))
    if what == "folder":
        assert code == 2 and "ablation.parquet can't be used; got something else in its place" in said
    else:
        assert code == 0 and path.is_file()


@pytest.mark.parametrize("content", [{".lock": ""}, {"manifest.json": ""}, {"tables": ""}])
def test_a_study_is_not_begun_through_a_link(
    small_command: Command, tmp_path: Path, content: dict[str, str], told: Told
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in content:
        (folder / name).symlink_to(tmp_path / "target")
    code, said = told(*small_command(folder))
    assert code == 2 and ("is a link" in said or "is not empty" in said)
    assert not (tmp_path / "target").exists()


def test_a_folder_that_is_a_link(small_command: Command, small_copy: Path, tmp_path: Path, told: Told) -> None:
    """One that leads to a run folder is taken for it; one that leads nowhere is not."""
    (tmp_path / "link").symlink_to(small_copy)
    assert told("status", str(tmp_path / "link"))[0] == 0
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    code, said = told(*small_command(tmp_path / "nowhere"))
    assert code == 2 and "nowhere" in said
    assert not (tmp_path / "absent").exists()


# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../poles", "poles/../../x", "completions/..", "completions/../x", "completions/.hidden", "/etc/passwd", "", "/", ".",
     "..", "arrays/../../x", "arrays", "arrays/", "completions", "poles/part", "completions//etc", "nothing", "nothing/x",
     "completions/a\0b", "completions/a/b", f"completions/{'x' * 300}", "completions/\ud800/"],
)  # fmt: skip
def test_names_that_are_none_of_a_run(small_copy: Path, small_command: Command, name: str, told: Told) -> None:
    with pytest.raises(ValueError, match="no file of a run"):
        path_of(small_copy, name)
    manifest = Run.open(small_copy).manifest
    manifest["files"][name] = dict(manifest["files"]["poles"])
    manifest["stages"]["ablate"]["wrote"][name] = "x"
    reseal(small_copy, manifest)
    for command in every_command(small_copy, small_command):
        code, said = told(*command)
        assert code == 2 and "manifest.json is damaged; expected names of a run's own files" in said


@pytest.mark.parametrize("part", [SQL, '"; DROP TABLE poles; --', "a[1]*?", "ü y", "x" * 200, "$(touch x)", "\x1b[2J", "\n"])
def test_a_part_of_any_name_is_only_a_file(
    small_copy: Path, small_command: Command, tmp_path: Path, part: str, told: Told
) -> None:
    """Its name is no pattern and no SQL; a stage that has not asked for the part removes it."""
    part, run = part.replace("{}", "out").replace("/", "_"), Run.open(small_copy)
    name = f"text_scores/{part}"
    path = path_of(small_copy, name)
    shutil.copyfile(path_of(small_copy, "text_scores/none"), path)
    run.manifest["files"][name] = dict(run.manifest["files"]["text_scores/none"])
    reseal(small_copy, run.manifest)
    before = {p.name for p in Path.cwd().iterdir()}
    run = Run.open(small_copy)
    assert run.rows("SELECT count(*)::INT AS n FROM text_scores WHERE neuron_set = 'none'") == [{"n": 2}]
    for command in (["status", str(small_copy)], ["report", str(small_copy)]):
        code, said = told(*command)
        assert code == 0 and "\x1b" not in said
    path_of(small_copy, "text_scores/none").unlink()
    assert told(*small_command(small_copy))[0] == 0
    assert not (tmp_path / "out").exists() and {p.name for p in Path.cwd().iterdir()} == before
    assert name not in Run.open(small_copy).manifest["files"] and not path.exists()


def test_a_table_of_other_columns_is_none_of_the_run(small_copy: Path, told: Told) -> None:
    run = Run.open(small_copy)
    shutil.copyfile(path_of(small_copy, "sets"), path_of(small_copy, "ablation"))
    run.manifest["files"]["ablation"] = dict(run.manifest["files"]["sets"])
    run.manifest["stages"]["ablate"]["wrote"]["ablation"] = hash_of(path_of(small_copy, "sets"))
    reseal(small_copy, run.manifest)
    for command in ("status", "report"):
        code, said = told(command, str(small_copy))
        assert code == 0 and "ablation" in said
    assert Run.open(small_copy).state("ablate") == ("stale", "ablation changed")


# -- the manifest ---------------------------------------------------------------------------------------------------------


def test_a_manifest_of_an_older_version(small_copy: Path, small_command: Command, told: Told) -> None:
    for schema in (3, 2, 5, "6", None, [6], 10**400, "\x1b[2J"):
        manifest = Run.open(small_copy).manifest if schema == 3 else json.loads((small_copy / "manifest.json").read_text())
        (small_copy / "manifest.json").write_text(json.dumps(manifest | {"schema": schema}))
        for command in every_command(small_copy, small_command):
            code, said = told(*command)
            words = "was written by another version of cotscope; expected format 6; got"
            assert code == 2 and (words in said or "is damaged; expected JSON" in said)
            assert "\x1b" not in said and said.strip().count("\n") == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"{}", b'{"schema": 6}', b'{"schema": NaN}', b"[" * 100_000, b'{"a": ' * 5000,
     b'{"schema": 6, "stages": ' + b'{"a": ' * 400 + b"1" + b"}" * 401, b"\0" * 100, b'{"schema": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_manifest_that_is_none(small_copy: Path, small_command: Command, content: bytes, told: Told) -> None:
    (small_copy / "manifest.json").write_bytes(content)
    for command in every_command(small_copy, small_command):
        code, said = told(*command)
        assert code == 2 and said.strip().count("\n") == 0 and len(said) < 1200


def test_nested_deeply_where_anything_may_stand(small_copy: Path, told: Told) -> None:
    for depth in (100, 300, 450, 900):
        text = (small_copy / "manifest.json").read_text()
        deep = text.replace('"config": {', '"config": {"deep": ' + "[" * depth + "]" * depth + ",", 1)
        (small_copy / "manifest.json").write_text(deep)
        for command in ("status", "report"):
            assert told(command, str(small_copy))[0] in (0, 2)
        (small_copy / "manifest.json").write_text(text)


def test_stages_that_build_on_themselves(small_copy: Path, told: Told) -> None:
    manifest = Run.open(small_copy).manifest
    manifest["stages"]["discover"]["after"] = ["correlate"]
    record = manifest["stages"]["discover"]
    for i in range(60):  # each on all before it: looked at once each
        manifest["stages"][f"s{i}"] = record | {"after": [*(f"s{j}" for j in range(i)), "annotate"]}
    reseal(small_copy, manifest)
    for command in ("status", "report"):
        assert told(command, str(small_copy))[0] == 0
    assert not any(found.current for found in Run.open(small_copy).states().values())


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value of a JSON document, by its keys; of lists the first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from spots(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from spots(value[0], (*path, 0))


def replaced(manifest: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copying.deepcopy(manifest)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def without(manifest: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = copying.deepcopy(manifest)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def different(manifest: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every place whose like is not among them already: one file's record, one table's hash, and so on."""

    def kind(path: tuple[Any, ...]) -> tuple[Any, ...]:
        if path[0] == "files" and len(path) > 1:
            return ("files", "*", *path[2:])
        if path[0] == "stages" and len(path) > 3 and path[2] in ("read", "wrote", "options"):
            return ("stages", "*", *path[2:3], "*")
        return ("stages", "*", *path[2:]) if path[0] == "stages" and len(path) > 1 and path[2:3] != ("summary",) else path

    return list({kind(path): path for path in spots(manifest)}.values())


def test_no_value_of_another_type_ends_in_a_traceback(small_copy: Path, told: Told) -> None:
    manifest = Run.open(small_copy).manifest
    draw, places = random.Random(3), different(manifest)
    assert len(places) > 150
    for path in draw.sample(places, 45):
        for value in draw.sample(WRONG, 1):
            reseal(small_copy, replaced(manifest, path, value))
            for command in ("status", "report"):
                assert told(command, str(small_copy))[0] in (0, 2), (path, value)


def test_commands_that_work_on_such_a_run_end_in_a_line(small_copy: Path, small_command: Command, told: Told) -> None:
    """Four commands on each, and the study's: under `faults` all of them."""
    manifest, draw = Run.open(small_copy).manifest, random.Random(7)
    for path, value in [
        (("model", "rows_per_batch"), "x"), (("model", "layers"), 10**6), (("config", "limit"), "x"), (("config", "k"), [1]),
        (("config", "prompt_files"), "plain.txt"), (("options", "sets"), {"matched": "x"}), (("options", "damage"), []),
        (("stages", "discover", "seconds"), 10**30), (("stages", "ablate", "finding"), {}), (("judge",), {"x": {"cost": "x"}}),
        (("prompts", 0, "name"), 7), (("model", "dtype"), "float8"), (("stages", "annotate", "reads"), {"poles": 1}),
    ]:  # fmt: skip
        reseal(small_copy, replaced(manifest, path, value) if path != ("judge",) else manifest | {"judge": value})
        *others, study = every_command(small_copy, small_command)
        for command in [*draw.sample(others, 4), study]:
            code, said = told(*command)
            assert code in (0, 2), (path, command)
        if path[0] != "options":
            assert code == 2 and "manifest.json is damaged" in said, path


@pytest.mark.faults
def test_no_value_of_the_manifest_ends_in_a_traceback(
    small_run: Path, small_copy: Path, small_command: Command, told: Told
) -> None:
    manifest = Run.open(small_copy).manifest
    draw = random.Random(5)
    for path in different(manifest):
        for value in WRONG:
            reseal(small_copy, replaced(manifest, path, value))
            for command in ("status", "report"):
                assert told(command, str(small_copy))[0] in (0, 2), (path, value)
        reseal(small_copy, without(manifest, path))
        for command in ("status", "report"):
            assert told(command, str(small_copy))[0] in (0, 2), path
    for path in draw.sample(different(manifest), 40):  # commands that work on it
        reseal(small_copy, replaced(manifest, path, draw.choice(WRONG)))
        for command in every_command(small_copy, small_command):
            assert told(*command)[0] in (0, 2), (path, command)
        shutil.rmtree(small_copy)
        shutil.copytree(small_run, small_copy)


def test_open_says_what_is_wrong_and_where(small_copy: Path) -> None:
    manifest = Run.open(small_copy).manifest
    for path, value, words in [
        (("files", "poles", "bytes"), "x", r"expected files\.poles\.bytes to be a whole number; got 'x'"),
        (("stages", "ablate", "after"), ["annotate", 1], r"expected stages\.ablate\.after\[1\] to be a text; got 1"),
        (("stages", "ablate", "summary", "baseline"), 1, r"expected stages\.ablate\.summary\.baseline to be an object"),
        (("config", "limit"), 0, r"expected config\.limit to be a whole number, 1 or more and below 2\^53; got 0"),
        (("model", "kernels"), "own", "expected model.kernels to be compiled or pytorch"),
    ]:
        reseal(small_copy, replaced(manifest, path, value))
        with pytest.raises(RunError, match=words):
            Run.open(small_copy)
