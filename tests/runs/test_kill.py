"""A study that is killed goes on with the same command, and says the same in the end."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from broken_runs import Command, figures

from cotscope.cli import main
from cotscope.runs.folder import Run
from cotscope.stages.registry import STAGES

pytest_plugins = ("small_study",)
pytestmark = pytest.mark.slow
MOMENTS = 50
LIMIT = 120.0  # seconds for a study of seconds


def begin(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cotscope", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill it; whether it was still running."""
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def reached(folder: Path, stage: str, file: str) -> bool:
    """Whether a stage has begun, and a file has been written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return stage in manifest["stages"] and (not file or file in manifest["files"])


def check_that_it_goes_on(folder: Path, command: list[str], whole: Path) -> None:
    """The same command again: the same figures, nothing left over, nothing stopped."""
    assert main(command) == 0
    assert figures(folder) == figures(whole)
    assert not list(folder.rglob("*.part"))
    run = Run.open(folder)
    assert {s: found.status for s, found in run.states().items()} == dict.fromkeys(Run.open(whole).states(), "done")
    assert run.whole == set(run.manifest["files"]) == set(Run.open(whole).manifest["files"])
    assert main(["report", str(folder)]) == 0


@pytest.mark.parametrize(
    ("stage", "file"), [("discover", ""), ("ablate", "completions/ablation.matched_0"), ("measure", "forced/study.plain")]
)
def test_it_goes_on_where_it_was_killed(
    small_run: Path, small_command: Command, tmp_path: Path, stage: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command = tmp_path / "run", small_command(tmp_path / "run")
    process, deadline = begin(command), time.monotonic() + LIMIT
    while not reached(folder, stage, file):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    assert kill(process)
    found = Run.open(folder).states()
    names = [s.name for s in STAGES]
    before = [s for s in found if names.index(s) < names.index(stage)]
    assert all(found[s].current for s in before)
    files = set(Run.open(folder).whole)
    # What it was writing when it was killed.
    (folder / "tables/.poles.parquet-0.part").write_bytes(b"half")
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    check_that_it_goes_on(folder, command, small_run)
    said = capsys.readouterr().out
    for done in before:  # is not done again
        assert f"[  done ] {done}:" in said
    manifest = Run.open(folder).manifest["files"]
    assert files <= set(manifest)


def test_it_is_killed_while_it_goes_on(small_run: Path, small_command: Command, tmp_path: Path) -> None:
    folder, command = tmp_path / "run", small_command(tmp_path / "run")
    for stage in ("annotate", "damage"):
        process, deadline = begin(command), time.monotonic() + LIMIT
        while not reached(folder, stage, ""):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        assert kill(process)
    check_that_it_goes_on(folder, command, small_run)


@pytest.mark.faults
def test_it_may_be_killed_at_any_moment(small_run: Path, small_command: Command, tmp_path: Path) -> None:
    """At moments drawn over the whole of a study: each an attempt of its own."""
    began = time.monotonic()
    assert begin(small_command(tmp_path / "timed")).wait() == 0
    seconds = time.monotonic() - began
    draw, killed = random.Random(7), 0
    for i in range(MOMENTS):
        folder = tmp_path / str(i)
        process = begin(small_command(folder))
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        killed += kill(process)
        check_that_it_goes_on(folder, small_command(folder), small_run)
    assert killed >= MOMENTS // 2
