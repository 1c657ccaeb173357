"""What the tests that break run folders share; fixtures of it are in `small_study.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cotscope.runs.folder import Run

FEW = ["--matched", "2", "--unmatched", "1", "--permuted", "0", "--given", "2", "--battery", "1"]
REMADE = ("summary.json", "report.html", ".lock")
"""Files that every command makes again, whatever is in them."""
Command = Callable[[Path], list[str]]
Told = Callable[..., tuple[int, str]]


def figures(folder: Path) -> dict[str, Any]:
    """The summary of a run, but for how long things took."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del summary["timing"]
    return summary


def files(folder: Path) -> list[str]:
    """All files of a run folder but its manifest."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")


def reseal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest as whoever made it would, whatever it holds."""
    Run(folder, manifest).save()
