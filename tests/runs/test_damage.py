"""No figure is wrong in silence: whatever happens to a file of a run is said, its stage is stale, and comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broken_runs import FEW, REMADE, Command, Told, figures, files
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.data.answers import parse_flexible
from cotscope.data.numbers import format_number
from cotscope.edits.edit import Base, Edit
from cotscope.records import Neuron
from cotscope.runs.config import StudyConfig
from cotscope.runs.folder import Run
from cotscope.runs.places import path_of
from cotscope.runs.progress import matches
from cotscope.runs.session import Session
from cotscope.runs.tables import TABLES

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
    before, name = Run.open(folder), file.removeprefix("tables/").removesuffix(".parquet").removesuffix(".safetensors")
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


# -- every stage ----------------------------------------------------------------------------------------------------------


Commands = Callable[[Path], list[list[str]]]


@pytest.fixture(scope="module")
def commands(tiny_study: TinyStudy, few_choices: None, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """What runs every stage on a folder but those that need a judge or a larger model."""
    place = tmp_path_factory.mktemp("every")
    given = {"model": tiny_study.model, "data": tiny_study.data, "concepts": tiny_study.concepts}
    config = StudyConfig(**given, prompt_files=(tiny_study.prompt,), limit=8, dtype="float32")
    session = Session.create(config, place / "first")
    questions = [f"Is {i} {' '.join(chr(97 + (i * k) % 26) * 4 for k in (1, 3, 5, 7))} so?" for i in range(40)]
    texts, stop = [session.prompt.text(q) for q in questions], session.prompt.stop
    said = [parse_flexible(c.text) for c in session.engine.generate(texts, max_new_tokens=16, stop=stop)]
    answers = ["123456" if s is None or i % 2 else format_number(s) for i, s in enumerate(said)]
    rows = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    data, edit = place / "more.jsonl", place / "off.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Edit.scaled("off", Base.of(session.loaded, tiny_study.model), [Neuron(2, i) for i in range(9)], 0.0).write(edit)

    def on(folder: Path) -> list[list[str]]:
        run, beyond = str(folder), ["--sweep", "--variants", "3", "--sentences"]
        return [
            ["study", *tiny_study.options(), *FEW, *beyond, "--out", run],
            ["attribute", run, "--solutions", "2", "--checked", "6", "--controls", "2", "--sums", "2", "--skills", "1"],
            ["predict", run, "--data", str(data), "--rests", "3"],
            ["calibrate", run, "--runs", "1", "--problems", "2", "--shuffles", "2"],
            ["evaluate", run, "--edit", str(edit), "--solutions", "2", "--skills", "1"],
        ]

    return on


@pytest.fixture(scope="module")
def every_run(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    for command in commands(folder):
        assert main(command) == 0, command
    return folder


@pytest.mark.faults
@pytest.mark.parametrize("how", DAMAGE)
def test_what_happens_to_a_file_of_any_stage_is_said(
    every_run: Path, small_run: Path, tmp_path: Path, commands: Commands, how: Damage, told: Told
) -> None:
    """And the commands that made it bring it back: each that the small study has not, in one of the four ways."""
    names, others = one_of_each(files(every_run)), set(files(small_run))
    assert len({TABLES[n.split("/")[1].removesuffix(".parquet")] for n in names if n.startswith("tables/")}) > 50
    assert any(name.startswith("arrays/") for name in names)
    copy = Path(shutil.copytree(every_run, tmp_path / "run"))
    for number, file in enumerate(names):
        with restored(copy, every_run):
            check_that_it_is_said(copy, file, how, told)
            if DAMAGE[number % 4] is how and file not in others:
                for command in commands(copy):
                    assert main(command) == 0, (file, command)
                assert figures(copy) == figures(every_run), file
                assert all(found.current for found in Run.open(copy).states().values()), file


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
