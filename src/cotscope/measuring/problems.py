"""Problems that a finished study is tried on: its own test problems, or another source's that it has not used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data.load import load_problems
from ..data.rows import question_key
from ..errors import UserError
from ..records import Problem
from ..runs.session import Session

STUDY = "study"


@dataclass(frozen=True)
class TrialData:
    """Problems of one source.

    Attributes:
        label: what it is called: "study", or the file's stem.
        source: as it was asked for.
    """

    label: str
    source: str
    sha256: str
    problems: tuple[Problem, ...]


def trial_data(session: Session, source: str, count: int | None) -> TrialData:
    """Test problems; of another source those that the study has not used to find neurons, nor shown as exemplars.

    Args:
        count: how many at most; None: all.

    Raises: UserError if none are left.
    """
    inputs, config = session.inputs, session.config
    if source == STUDY:
        return TrialData(STUDY, config.data, inputs.data.sha256, inputs.split.test[:count])
    loaded = load_problems(source, config.seed)
    used = {question_key(p.question) for p in (*inputs.split.discovery, *inputs.split.tuning)}
    shown_before = session.prompt.prefix
    new = [p for p in loaded.problems if question_key(p.question) not in used and p.question not in shown_before]
    if left := len(loaded.problems) - len(new):
        session.run.note(f"{left} problems of {source} were used to find neurons or stand in the prompt: they are left out.")
    if not new:
        raise UserError(f"{source} has no problem that the study has not used", expected="at least one")
    label = Path(source).stem if Path(source).suffix else source.replace("/", "_")
    if label == STUDY:
        label = f"{label} (file)"
    return TrialData(label, source, loaded.sha256, tuple(new[:count]))
