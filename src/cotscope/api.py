"""A whole study from Python: what `cotscope study` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .executors.local import run_stages
from .report.build import write_report
from .runs.folder import Run
from .runs.session import Session, StudyConfig


def study(out: str | Path, *, quiet: bool | None = None, **config: Any) -> Run:
    """Run every stage of a study and write its report.

    Args:
        out: the run folder; a study that was stopped goes on there.
        quiet: no progress bars; None: only on a terminal.
        config: fields of `StudyConfig`.

    Returns: the run: `summary`, `query`, `folder / "report.html"`.
    """
    session = Session.create(StudyConfig(**config), Path(out), quiet=quiet)
    run_stages(session)
    write_report(session.run.folder)
    return session.run
