"""A study that is gone on with from another folder than that in which it was begun."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.errors import UserError
from cotscope.runs.session import Session


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
