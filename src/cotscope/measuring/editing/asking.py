"""What the base and edited models are asked, each once: answers to the same problems in shared batches, the same reference
solutions, the battery of other skills, general text.

What was asked before is not asked again: answers by their condition, the rest by a fingerprint of edit and question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ...data.load import general_text
from ...edits.edit import Edit
from ...runs.files import fingerprint
from ...runs.session import Session
from ...runs.tables import EVALUATION_SCORES, EVALUATION_SKILLS
from ...stats import series_mean
from ..attributing import check_memory
from ..generation import Condition, is_done, solve
from ..problems import TrialData
from ..solutions import fingerprint_of, score_battery, score_roles, solved
from .comparing import BASE, OF_TEXT, part_name, rounding_name

if TYPE_CHECKING:
    from ...lm.interventions import Intervention
    from ...lm.scoring import TextScore


@dataclass(frozen=True)
class Model:
    """A model that is compared: the base, with an edit or without; or one of other weights, whose `session` has them.

    Attributes:
        base: the study itself.
        weights: the hash of other weights as they are held (as bfloat16, `Edit.weights`, two may be one); "": the base's.
    """

    name: str
    base: Session
    session: Session
    edit: Edit | None = None
    weights: str = ""

    @property
    def intervention(self) -> Intervention | None:
        """What is done to the model of the session; to other weights nothing, which hold the edit."""
        edit = self.edit
        return None if edit is None or self.weights else edit.intervention(self.session.loaded.anatomy)

    @property
    def key(self) -> str:
        if self.edit is None:
            return ""
        edit = self.edit
        return edit.key if self.weights in ("", edit.weights) else fingerprint("other weights", edit.key, self.weights)


def ask(models: Sequence[Model], every: Sequence[TrialData], solutions: int, skills: int) -> None:
    """Ask models of one session everything that they have not been asked.

    Args:
        solutions: of each data set, those that the base solved first.
        skills: items per task of the battery.
    """
    session = models[0].session
    solve(
        session,
        [
            Condition("evaluation", session.prompt, d.label, "none" if m.name == BASE else m.name, label=part_name(m.name, d),
                      intervention=m.intervention, problems=d.problems, weights=m.weights)
            for d in every
            for m in models
        ],
        "evaluating edits",
    )  # fmt: skip
    _score_skills(models, skills)
    for data in every:
        _score_solutions(models, data, solutions)


def ask_rounding(session: Session, every: Sequence[TrialData]) -> str:
    """Let the untouched model write the same answers in another precision, where texts differ by near ties.

    Returns: the dtype. Raises: ModelError if the model does not fit into memory a second time.
    """
    from ...edits.fold import stored_dtype

    dtype = other_dtype(session)
    other, name = session.with_dtype(dtype), rounding_name(dtype)
    asked = [
        Condition("evaluation", session.prompt, d.label, name, label=part_name(name, d), problems=d.problems, weights=dtype)
        for d in every
    ]
    if not all(is_done(other, condition) for condition in asked):
        check_rounding(session)
    solve(other, asked, f"untouched in {dtype}")
    stored = stored_dtype(session.config.model)
    if rounded := [d for d in (session.loaded.dtype_name, dtype) if d not in (stored, "float32")]:
        session.run.note(f"The files of the model are {stored}: in {rounded[0]} its weights are rounded, too, so that what "
                         "`--rounding` sets beside the edits is more than near ties.")  # fmt: skip
    return dtype


def check_rounding(session: Session) -> None:
    """Raises: ModelError if the model does not fit into memory a second time, in another precision."""
    from ...lm.loading import DTYPES

    size = session.loaded.parameters() * DTYPES[other_dtype(session)].itemsize
    check_memory(session.loaded, size, "Leave --rounding out.", f", in {other_dtype(session)}")


def other_dtype(session: Session) -> str:
    """In which precision the untouched model is asked as well: float32, or of a study in float32 bfloat16."""
    return "bfloat16" if session.loaded.dtype_name == "float32" else "float32"


def _score_solutions(models: Sequence[Model], data: TrialData, count: int) -> None:
    """The base's reference solutions, scored."""
    session = models[0].session
    run = session.run
    given = solved(session, f"evaluation.{part_name(BASE, data)}", data.problems, count)
    with session.bar(f"reference solutions of {data.label}", len(models), "edit") as bar:
        for m in models:
            part = part_name(m.name, data)
            of = fingerprint(m.key, fingerprint_of(given), session.prompt.text(""))
            if run.done(f"evaluation_scores/{part}", of) is None:
                rows = [
                    {"edit": m.name, "data": data.label, "problem_id": s.problem.id, "role": role, "tokens": len(tokens),
                     "log_prob": fmean(t.log_prob for t in tokens)}
                    for s, roles in zip(given, score_roles(session.engine, session.prompt, given, m.intervention)
                                        if given else (), strict=True)
                    for role, tokens in roles.items()
                ]  # fmt: skip
                run.write(EVALUATION_SCORES, rows, part, of)
            bar.update()


BLOCK = 64
"""Tokens of general text that are taken to go together, and to be independent of the next ones."""


def _of_text(score: TextScore | None, base: bool) -> dict[str, float | None]:
    """Columns of `evaluation_skills`: perplexity, its ratio to the base's with an interval over blocks of tokens, KL."""
    if score is None:
        return dict.fromkeys(OF_TEXT)
    ratios = (1.0, 1.0, 1.0) if base else [math.inf if x >= 700 else math.exp(x) for x in series_mean(score.rises, BLOCK)]
    return dict(zip(OF_TEXT, (score.perplexity, score.kl, *ratios), strict=True))


def skills_of(key: str, unread: bool, skills: int) -> str:
    """The fingerprint of a part of `evaluation_skills`.

    Args:
        key: of the edit, `Edit.key`; of other weights with their hash.
        unread: it is of generated tokens only, and does nothing to a text that is only read.
        skills: items per task.
    """
    return fingerprint(key, skills, *(["unread"] if unread else []))


def _score_skills(models: Sequence[Model], count: int) -> None:
    """The battery's items, and general text, scored."""
    from ...lm.scoring import text_scores, windows

    session, text = models[0].session, general_text()
    run = session.run
    # A text that is only read has no generated tokens: an edit of these does nothing there.
    unread = {m.name for m in models if m.edit is not None and m.edit.scope == "generated"}
    of = {m.name: skills_of(m.key, m.name in unread, count) for m in models}
    missing = [m for m in models if run.done(f"evaluation_skills/{m.name}", of[m.name]) is None]
    if missing:
        total = len(missing) * (windows(session.loaded, text) + 1)
        with session.bar("other skills and general text", total, "pass") as bar:
            done = {m.name: m.session.loaded if m.weights else m.intervention for m in missing if m.name not in unread}
            texts: dict[str, TextScore] = text_scores(models[0].base.loaded, text, done, bar.update) if done else {}
            for m in missing:
                about = _of_text(texts.get(m.name), m.name == BASE)
                rows = [
                    {"edit": m.name, "task": h.task, "item": h.item, "hit": h.hit} | about
                    for h in score_battery(session.engine, count, m.intervention)
                ]  # fmt: skip
                run.write(EVALUATION_SKILLS, rows, m.name, of[m.name])
                bar.update()
