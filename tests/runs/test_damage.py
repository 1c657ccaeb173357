"""No figure is wrong in silence: whatever happens to a file of a run is said, its stage is stale, and comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broken_runs import REMADE, Command, Told, figures, files

from cotscope.cli import main
from cotscope.runs.folder import Run
from cotscope.runs.places import path_of
from cotscope.runs.progress import matches

pytest_plugins = ("small_study",)
pytestmark = pytest.mark.slow
CHOSEN = ("tables/poles.parquet", "tables/completions/discovery.plain.parquet", "tables/activity/study.plain.parquet",
          "tables/text_scores/none.parquet", "tables/forced/study.plain.parquet", "tables/problems.parquet",
          "summary.json", "report.html")  # fmt: skip
"""Files that are brought back in every run of the tests: one of each kind."""


def gone(path: Path) -> None:
    path.unlink()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def linked(path: Path) -> None:
    """The content is as it was, but lies elsewhere: whoever holds that could change it at any time."""
    root = next(p for p in path.parents if p.name == "run").parent
    elsewhere = root / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


Damage = Callable[[Path], None]
DAMAGE: tuple[Damage, ...] = (gone, halved, flipped, linked)


@contextmanager
def restored(folder: Path, whole: Path) -> Iterator[None]:
    """The folder is as the whole one again afterwards."""
    yield
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)


def concerned(run: Run, name: str) -> set[str]:
    """Stages that wrote a file or read it."""
    stages = run.manifest["stages"].items()
    return {s for s, record in stages if name in record["wrote"] or matches(name, record["reads"])}


def check_that_it_is_said(folder: Path, file: str, how: Damage, told: Told) -> None:
    """Damage a file: every command says so, the stages concerned are stale, and the report shows nothing of them."""
    before, name = Run.open(folder), file.removeprefix("tables/").removesuffix(".parquet")
    assert all(found.current for found in before.states().values())
    how(folder / file)
    for command in ("status", "report"):
        code, said = told(command, str(folder))
        if how is linked and file in REMADE:  # a writer could be led elsewhere: nothing is done at all
            assert code == 2 and f"{file} is a link" in said
            continue
        assert code == 0
        assert name in said or file in REMADE, f"{command} does not name it"
    if how is linked and file in REMADE:
        return
    after = Run.open(folder)
    states = after.states()
    stale = {s for s, found in states.items() if found.status == "stale"}
    assert all(found.status in ("done", "stale") for found in states.values())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(after.summary))
    if file in REMADE or name == "problems":  # `problems` is for readers: no figure is made from it
        assert not stale
        return
    stages = concerned(before, name)
    assert stages and stages <= stale
    assert "stale" in page
    # Nothing that a stale stage has found is among the figures, unless one that is current has found it too.
    current = [record["summary"] for s, record in after.manifest["stages"].items() if s not in stale]
    for stage in stale:
        assert f"{stage}_s" not in after.summary.get("timing", {})
        for section, values in after.manifest["stages"][stage]["summary"].items():
            known = {key for summary in current for key in summary.get(section, {})} | set(after.manifest["summary"])
            assert not set(values) & set(after.summary.get(section, {})) - known


def bring_back(folder: Path, command: list[str], expected: dict[str, Any], how: Damage, file: str) -> None:
    """The study's own command makes it whole again, with the same figures."""
    if how is linked and file in REMADE:
        assert main(command) == 2
        (folder / file).unlink()
    assert main(command) == 0
    assert figures(folder) == expected
    run = Run.open(folder)
    assert run.whole == set(run.manifest["files"])
    assert all(found.current for found in run.states().values())
    assert not any((folder / f).is_symlink() for f in files(folder))


def one_of_each(names: list[str]) -> list[str]:
    """One file of each table; of tables whose parts begin with a family, one of each family."""

    def kind(name: str) -> tuple[str, str]:
        folder, _, file = name.rpartition("/")
        family, _, rest = file.removesuffix(".parquet").partition(".")
        return (folder, family if rest else "") if folder.count("/") else (name, "")

    return list({kind(name): name for name in reversed(names)}.values())


@pytest.mark.parametrize("how", DAMAGE)
def test_what_happens_to_a_file_is_said(small_run: Path, small_copy: Path, how: Damage, told: Told) -> None:
    names = files(small_run)
    recorded = {path_of(small_run, n) for n in Run.open(small_run).manifest["files"]}
    assert recorded == {small_run / n for n in names if n not in REMADE}  # every file is known, and no other
    chosen = one_of_each(names)
    assert len(chosen) > 30 and {".lock", *CHOSEN[:3], *CHOSEN[-2:]} <= set(chosen)
    for file in chosen:
        with restored(small_copy, small_run):
            check_that_it_is_said(small_copy, file, how, told)


@pytest.mark.parametrize(("file", "how"), [(f, DAMAGE[i % 4]) for i, f in enumerate(CHOSEN)])
def test_the_same_command_brings_it_back(
    small_run: Path, small_copy: Path, small_command: Command, file: str, how: Damage, told: Told
) -> None:
    check_that_it_is_said(small_copy, file, how, told)
    bring_back(small_copy, small_command(small_copy), figures(small_run), how, file)


@pytest.mark.faults
@pytest.mark.parametrize("how", DAMAGE)
def test_the_same_command_brings_any_file_back(
    small_run: Path, small_copy: Path, small_command: Command, how: Damage, told: Told
) -> None:
    for file in files(small_run):
        with restored(small_copy, small_run):
            check_that_it_is_said(small_copy, file, how, told)
            bring_back(small_copy, small_command(small_copy), figures(small_run), how, file)


# -- the manifest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [gone, halved, linked])
def test_without_its_manifest_a_folder_is_left_alone(
    small_run: Path, small_copy: Path, small_command: Command, how: Damage, told: Told
) -> None:
    how(small_copy / "manifest.json")
    before = {f: (small_copy / f).read_bytes() for f in files(small_copy)}
    words = {gone: "is not a run folder", halved: "manifest.json is damaged", linked: "manifest.json is a link"}[how]
    for command in (["status", str(small_copy)], ["report", str(small_copy)], ["measure", str(small_copy)]):
        code, said = told(*command)
        assert code == 2 and words in said
    code, said = told(*small_command(small_copy))
    assert code == 2 and (words if how is not gone else "is not empty and is no run folder") in said
    assert {f: (small_copy / f).read_bytes() for f in files(small_copy)} == before


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value of a JSON document that is no object and no list, by its keys."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))
    else:
        yield path


def other(value: Any) -> Any:
    """A value of the same type that differs a little."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "x" if value is None else f"{value}x"


def changed_by_hand(folder: Path, path: tuple[Any, ...]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    inner = manifest
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other(inner[path[-1]])
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


FIGURE = ("stages", "ablate", "summary", "baseline", "accuracy")


@pytest.mark.parametrize(
    "path",
    [FIGURE, ("stages", "damage", "finding"), ("stages", "ablate", "wrote", "ablation"), ("files", "poles", "sha256"),
     ("files", "completions/study.plain", "of"), ("options", "sets", "matched"), ("summary", "data", "test"), ("sha256",)],
)  # fmt: skip
def test_a_manifest_changed_by_hand_makes_every_stage_stale(
    small_run: Path, small_copy: Path, small_command: Command, path: tuple[Any, ...], told: Told
) -> None:
    changed_by_hand(small_copy, path)
    for command in ("status", "report"):
        code, said = told(command, str(small_copy))
        assert code == 0 and ("manifest.json is not as cotscope wrote it" in said or command == "report")
        assert {found.status for found in Run.open(small_copy).states().values()} == {"stale"}
    page = (small_copy / "report.html").read_text(encoding="utf-8")
    assert "manifest.json changed" in page and "No accuracy has been measured" in page
    if path in (FIGURE, ("files", "poles", "sha256"), ("options", "sets", "matched")):  # the others: under `faults`
        bring_back(small_copy, small_command(small_copy), figures(small_run), flipped, "manifest.json")


def test_one_changed_by_hand_is_never_taken_for_another_study(small_copy: Path, small_command: Command, told: Told) -> None:
    changed_by_hand(small_copy, ("config", "seed"))
    code, said = told(*small_command(small_copy))
    assert code == 2 and "holds another study: config differ" in said


@pytest.mark.faults
def test_any_value_of_the_manifest_changed_by_hand(
    small_run: Path, small_copy: Path, small_command: Command, told: Told
) -> None:
    """The same figures come back, or the study is said to be another one, or the manifest to be damaged."""
    manifest = json.loads((small_run / "manifest.json").read_text(encoding="utf-8"))
    for path in list(places(manifest))[::23]:
        if path[0] == "schema":
            continue
        with restored(small_copy, small_run):
            changed_by_hand(small_copy, path)
            code, said = told(*small_command(small_copy))
            if code:
                assert any(w in said for w in ("another study", "is damaged", "not what it was when", "compiled kernels")), path
            else:
                assert figures(small_copy) == figures(small_run), path
