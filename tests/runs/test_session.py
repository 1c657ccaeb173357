"""Where a study begins, or goes on; from another folder than that in which it was begun, and with another model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.data.rows import question_key
from cotscope.errors import RunError, UserError
from cotscope.runs.config import StudyConfig
from cotscope.runs.files import fingerprint
from cotscope.runs.inputs import Inputs
from cotscope.runs.model import StudyModel
from cotscope.runs.session import Session

pytest_plugins = ("small_study",)


@pytest.mark.slow
def test_relative_paths_are_found_from_elsewhere(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    for path in (tiny_study.data, tiny_study.prompt, tiny_study.concepts):
        (here / Path(path).name).write_bytes(Path(path).read_bytes())
    os.symlink(tiny_study.model, here / "model")
    monkeypatch.chdir(here)
    options = [word if Path(word).name == word else Path(word).name for word in tiny_study.options()]
    assert main(["discover", *options, "--out", "run"]) == 0
    monkeypatch.chdir(elsewhere)
    session = Session.reopen(here / "run")
    assert session.inputs.data.problems and session.prompt.name == "plain" and session.loaded.anatomy.layers
    assert main(["annotate", str(here / "run")]) == 0
    (elsewhere / Path(tiny_study.data).name).write_text('{"question": "Another?", "answer": 1}\n')
    with pytest.raises(UserError, match="not what it was"):  # what is here comes first, and is compared
        _ = Session.reopen(here / "run").inputs.data


@pytest.mark.slow
def test_a_folder_is_refused_before_data_or_a_model_are_loaded(small_run: Path, tmp_path: Path) -> None:
    """Neither is there: who asks for them fails otherwise."""
    config = StudyConfig(model="absent/model", data="absent.jsonl")
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="not empty and is no run folder"):
        Session.create(config, tmp_path)
    with pytest.raises(RunError, match="another study: config differ"):
        Session.create(config, small_run)
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        Session.create(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_another_model_runs_on_the_kernels_that_suit_it(small_run: Path) -> None:
    session = Session.reopen(small_run)
    settled = session.run.manifest["model"] | {"kernels": "compiled"}
    session.run.manifest["model"] = settled
    model = settled["name"] if Path(settled["name"]).is_absolute() else session.config.model
    other = session.with_model(model)
    assert other.model._began["kernels"] == session.config.kernels == "auto"
    assert other.loaded.kernels == "pytorch"  # of sizes that compiled kernels don't multiply
    with pytest.raises(UserError, match="compiled kernels can't run this model"):
        _ = StudyModel(Inputs(session.config), {**settled, "weight_sha256": "x"}).loaded


@pytest.mark.slow
def test_a_model_that_was_made_with_test_problems_is_noted(tiny_study: TinyStudy, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_study.model, tmp_path / "model"))
    rows = [json.loads(line) for line in Path(tiny_study.data).read_text().splitlines()]
    prints = [fingerprint(question_key(row["question"])) for row in rows]
    for said, noted in ({"chosen": {"questions": prints}}, True), ({"chosen": {"questions": 7}}, False), (["?"], False):
        (model / "edit.json").write_text(json.dumps(said))
        given = {"data": tiny_study.data, "concepts": tiny_study.concepts, "prompt_files": (tiny_study.prompt,), "limit": 6}
        notes = Inputs(StudyConfig(model=str(model), **given)).notes()
        assert any("6 of the test problems are among those that this model was made with" in n for n in notes) == noted


def test_problems_that_the_prompt_shows_are_noted(tiny_study: TinyStudy, tmp_path: Path) -> None:
    """However their lines are broken, with the blank lines at which answers end."""
    question = json.loads(Path(tiny_study.data).read_text().splitlines()[0])["question"]
    prompt = tmp_path / "mine.txt"
    prompt.write_text(f"Question: {question.upper().replace(' ', chr(10), 1)}\n\nThe answer is 3.\n")
    given = {"data": tiny_study.data, "concepts": tiny_study.concepts, "limit": 6}
    for file, noted in ((str(prompt), True), (tiny_study.prompt, False)):
        notes = Inputs(StudyConfig(model=tiny_study.model, prompt_files=(file,), **given)).notes()
        assert any(n.startswith("1 test or discovery problems stand in the prompt mine") for n in notes) == noted
        assert any(n.startswith("1 blank lines stand within worked examples of the prompt mine") for n in notes) == noted
