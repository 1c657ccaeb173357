"""Try it: a question, and what the model writes as it is and with neurons changed, token by token with its activity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from ..edits.edit import Base, Edit, found_anywhere
from ..errors import UserError
from ..measuring.choosing import Choice, choose
from ..records import Neuron, Pole
from ..runs.folder import Run
from ..runs.session import Session
from .solutions import Marks, as_arrays, prompt_of

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.interventions import Scope

SIDES = ("base", "changed")
MOST_TOKENS = 600


class Change(BaseModel):
    """What is done to the model, as the page asks for it.

    Attributes:
        by: "nothing"; "reasoning" or another way of choosing (`measuring/choosing.py`); "list": `poles`; "edit": `edit`.
        concepts: of "reasoning"; empty: all.
        first: the first so many that were chosen.
        poles: (layer, index, sign); sign 0 is the neuron at either sign.
        factor: what coefficients are multiplied by; 0 switches off.
        scope: at which tokens.
        edit: the content of an edit file.
    """

    by: str = "nothing"
    concepts: list[str] = []
    first: int | None = Field(default=None, ge=1)
    poles: list[tuple[int, int, int]] = []
    factor: float = Field(default=0.0, allow_inf_nan=False)
    scope: Literal["all", "prompt", "generated"] = "all"
    edit: dict[str, Any] = {}

    def made(self, session: Session) -> Edit | None:
        """It as an edit; None for no change. Raises: UserError as `choose` and `Edit`."""
        if self.by == "nothing":
            return None
        if self.by == "edit":
            edit = Edit.parsed(self.edit, "the edit file")
            edit.check(session.loaded)
            return edit
        if self.by == "list":
            targets: Sequence[Neuron | Pole] = [Pole(*p) for p in self.poles]
            chosen: dict[str, Any] = {"by": "list", "run": session.run.folder.name}
        else:
            targets, chosen = choose(session, Choice(self.by, first=self.first, concepts=tuple(self.concepts)))
        return edit_of(self.by, base_of(session.run, session), targets, self.factor, self.scope, chosen)


def edit_of(
    name: str, base: Base, targets: Sequence[Neuron | Pole], factor: float, scope: Scope, chosen: dict[str, Any]
) -> Edit:
    """One factor for poles and neurons; a pole of sign 0 is its neuron. Raises: EditError."""
    plain = [Neuron(t.layer, t.index) if isinstance(t, Pole) and not t.sign else t for t in targets]
    return Edit.scaled(name, base, plain, factor, scope=scope, chosen=chosen)


def needs_model(run: Run) -> bool:
    """Whether an edit's base can only be told from the model: its hash is of the weights in bfloat16."""
    return bool(run.manifest["model"]["dtype"] != "bfloat16")


def base_of(run: Run, session: Session | None = None) -> Base:
    """The base of a run's edits; the session is needed where `needs_model`."""
    model, source = run.manifest["model"], str(run.manifest["config"]["model"])
    if needs_model(run):
        assert session is not None
        return Base.of(session.loaded, source)
    return Base(found_anywhere(source), model["weight_sha256"], model["layers"], model["neurons_per_layer"])


class Stopped(Exception):
    """Somebody does not want to read on."""


def write(
    session: Session,
    engine: Engine,
    *,
    question: str,
    prompt: str,
    change: Change,
    tokens: int,
    marks: Marks,
    tell: Callable[[dict[str, Any]], None],
    stop: Event,
) -> None:
    """Let the model write as it is and, if something is changed, beside it with the change.

    Args:
        tell: gets {"concepts"}, then for each token {"side", "token", "active": poles by concept and last of all}, then
            for each side {"side", "text", "finish"}.
        stop: ends it as soon as it is set.

    Raises: UserError for a question that does not fit, an unknown prompt, or a change that can't be made; Stopped.
    """
    from ..lm.jobs import Job
    from ..lm.recorders import ActivePoles

    if not question.strip():
        raise UserError("there is no question", remedy="Type one.")
    asked, edit = prompt_of(session, prompt), change.made(session)
    anatomy = session.loaded.anatomy
    jobs = []
    for side, done in zip(SIDES, (None, edit) if edit else (None,)):
        recorder = ActivePoles(anatomy, session.config.k)
        jobs.append(
            Job(
                (asked.text(question.strip()),),
                min(tokens, MOST_TOKENS),
                asked.stop,
                recorder,
                None if done is None else done.intervention(anatomy),
                watch=_Watch(session, recorder, side, marks, tell, stop),
            )
        )
    tell({"concepts": marks.concepts, "changed": 0 if edit is None else len(edit.neurons)})
    for side, [completion] in zip(SIDES, engine.run(jobs)):
        tell({"side": side, "text": completion.text, "finish": completion.finish})


class _Watch:
    """Tells of each token of one side."""

    def __init__(self, session: Session, recorder: Any, side: str, marks: Marks, tell: Callable[[dict[str, Any]], None],
                 stop: Event) -> None:  # fmt: skip
        self.session, self.recorder, self.side, self.marks, self.tell, self.stop = session, recorder, side, marks, tell, stop
        self.step = 0

    def __call__(self, row: int, token: int) -> None:
        if self.stop.is_set():
            raise Stopped
        active = self.marks.count(*as_arrays(self.recorder.at(row, self.step)))
        self.step += 1
        loaded = self.session.loaded
        ends = token in loaded.end_tokens
        self.tell({"side": self.side, "token": "" if ends else loaded.piece(token), "ends": ends, "active": active.tolist()})
