"""A finished study of few sets, for the tests that break it in every way: `pytest_plugins = ("small_study",)`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from broken_runs import FEW, Command, Told

from cotscope.cli import main


@pytest.fixture(scope="session")
def small_command(tiny_study: Any) -> Command:
    """The study's command, for a folder."""
    return lambda folder: ["study", *tiny_study.options(), *FEW, "--out", str(folder)]


@pytest.fixture(scope="session")
def small_run(small_command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(small_command(folder)) == 0
    return folder


@pytest.fixture
def small_copy(small_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Told:
    """Runs a command in this process: its exit code, and all that it printed and warned of."""

    def run(*command: str) -> tuple[int, str]:
        caplog.clear()
        capsys.readouterr()
        try:
            code = main(list(command))
        except SystemExit as wrong:  # argparse
            code = int(wrong.code or 0)
        out = capsys.readouterr()
        if code:
            assert code == 2
            assert out.err.strip().splitlines()[-1].startswith("cotscope: error: ")
        return code, f"{out.out}\n{out.err}\n{caplog.text}"

    return run
