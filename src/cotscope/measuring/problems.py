"""Problems that a finished study is tried on: its own test problems, or another source's that it has not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.load import PARTS, load_problems
from ..data.rows import question_key
from ..errors import UserError, shown
from ..prompts.shown import shows
from ..records import Problem
from ..runs.config import STUDY
from ..runs.files import fingerprint
from ..runs.inputs import made_with
from ..runs.session import Session

_LONGEST = 160  # bytes of a label, beside which a table's name has an edit's


@dataclass(frozen=True)
class TrialData:
    """Problems of one source.

    Attributes:
        label: what it is called: "study", or the file's stem (not as a part of the study's own problems).
        source: as it was asked for.
    """

    label: str
    source: str
    sha256: str
    problems: tuple[Problem, ...]


def trial_data(session: Session, sources: Sequence[str], count: int | None, noted: bool = True) -> list[TrialData]:
    """Test problems of several sources; without any the study's own.

    Args:
        noted: a note says what is left out.

    Raises: UserError if two have one name, or as `_trial_data`.
    """
    every = [_trial_data(session, source, count, noted) for source in dict.fromkeys(sources or (STUDY,))]
    labels = [data.label for data in every]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError("two files of problems have one name", expected="different names", got=shown(twice))
    return every


def _trial_data(session: Session, source: str, count: int | None, noted: bool) -> TrialData:
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
    new = [p for p in loaded.problems if question_key(p.question) not in used and not shows(session.prompt, p.question)]
    if seen := made_with(config.model):
        new = [p for p in new if fingerprint(question_key(p.question)) not in seen]
    if noted and (left := len(loaded.problems) - len(new)):
        used_for = "to find neurons or to make the model" if seen else "to find neurons"
        session.run.note(f"{left} problems of {source} were used {used_for}, or stand in the prompt: they are left out.")
    if not new:
        raise UserError(f"{source} has no problem that the study has not used", expected="at least one")
    label = (Path(source).stem if Path(source).suffix else source.replace("/", "_")).lstrip(".") or "data"
    if len(label.encode("utf-8", "replace")) > _LONGEST:
        raise UserError("the name of a data set is too long to name parts of a run", expected=f"at most {_LONGEST} bytes",
                        got=shown(label, 60), remedy="Give the file a shorter name.")  # fmt: skip
    if label in (STUDY, *PARTS):
        label = f"{label} (file)"
    return TrialData(label, source, loaded.sha256, tuple(new[:count]))
