"""A stage: one record beside its function, from which command line, executor, status, report and docs follow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UserError
from .config import STUDY
from .files import digest_of, json_values
from .options import NoOptions, check
from .progress import State
from .tables import TABLES, Table

if TYPE_CHECKING:
    from .inputs import Inputs
    from .model import StudyModel
    from .session import Session


def never(options: Any) -> bool:
    """Of a stage that is no part of a study."""
    return False


@dataclass(frozen=True)
class Stage:
    """One stage of a study.

    Attributes:
        name: unique; the key of its record, and of its seconds (`timing.<name>_s`).
        verb: the command that runs it. Stages of one verb run one after another.
        about: what it does, in a line.
        run: does it, with the options; returns its finding in a line.
        options: the class of its options, each made by `option`.
        after: stages that must be done before.
        beside: stages that need not have run; but if one has begun, it must be done.
        reads, writes: tables, parts of them (`completions/study.`) or arrays (`arrays/reference`); `{first}` is the name
            of the study's first prompt. A stage sees nothing else, and is stale when any of it changes.
            What an option names that `reads` is looked at too.
        units: what the keys of its part of the summary mean.
        chosen_by: which words after a flag of the verb choose it (`{"--prompts": {"variants": {"variants": 40}}}`), each
            with the options that the word sets where the user did not.
        always: whatever is chosen of the verb's stages, it runs before.
        repeats: running it again when nothing has changed is of use.
        wanted: whether `cotscope study` runs it with these options.
        idle: whether these options ask for nothing: if it has run, it has only to take away what it wrote.
        check: raises UserError, before a study's folder is made, if the options can't be had.
        instead: does something else if the options ask for it; returns what it did, or None.
        instead_by, instead_with: the options that ask for it, one at a time; those that may stand beside them.
        example: of the verb, for its help; one of the verb's stages has it.
    """

    name: str
    verb: str
    about: str
    run: Callable[[Session, Any], str]
    options: type = NoOptions
    after: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    reads: tuple[Table | str, ...] = ()
    writes: tuple[Table | str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    chosen_by: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    always: bool = False
    repeats: bool = False
    wanted: Callable[[Any], bool] = lambda options: True
    idle: Callable[[Any], bool] = lambda options: False
    check: Callable[[Inputs, StudyModel, Any], None] = lambda inputs, model, options: None
    instead: Callable[[Session, Any], str | None] = lambda session, options: None
    instead_by: tuple[str, ...] = ()
    instead_with: tuple[str, ...] = ()
    example: str = ""

    def tables(self, which: str) -> list[Table]:
        """The tables that it reads, or writes, whole or in part."""
        names = (str(pattern).partition("/")[0] for pattern in getattr(self, which))
        return [TABLES[name] for name in dict.fromkeys(names) if name in TABLES]


def options_of(stage: Stage, stored: Mapping[str, Any]) -> Any:
    """A stage's options from what is stored of them; keys that it does not have are left alone. Raises: UserError."""
    mine = [f for f in fields(stage.options) if f.name in stored]
    for f in mine:
        check(f, stored[f.name])
    return stage.options(**{f.name: tuple(v) if isinstance(v := stored[f.name], list) else v for f in mine})


def require(session: Session, stage: Stage, verbs: Mapping[str, str]) -> None:
    """Raise RunError unless all that must be done before a stage is. `verbs`: stage → its command."""
    for earlier in (*stage.after, *stage.beside):
        found = session.run.state(earlier)
        if not found.current and not (found.status == "missing" and earlier in stage.beside):
            said = {"missing": "has not run", "stopped": "was stopped", "stale": f"is stale: {found.why}"}[found.status]
            raise RunError(
                f"{session.run.folder}: stage {earlier!r}, which {stage.name!r} builds on, {said}",
                remedy=f"Run {again_with(earlier, session.run.folder, verbs)} first.",
            )


def run_stage(session: Session, stage: Stage, asked: Mapping[str, Any] | None = None) -> str:
    """Run a stage and keep its record. Returns its finding. What was done of it earlier is not done again.

    Args:
        asked: options that are asked for; the others stay what the run has for it.

    Raises: UserError as the stage does; options are what they were then, and if the stage was done before and what it wrote
        stands, so is the stage.
    """
    run = session.run
    earlier, before = run.manifest["stages"].get(stage.name), run.manifest["options"].get(stage.name)
    if asked is not None:
        run.manifest["options"][stage.name] = (before or {}) | json_values(dict(asked))
    options = options_of(stage, run.manifest["options"].get(stage.name, {}))
    record = fresh_record(session, stage, options)
    if earlier and earlier["status"] != "done":
        record["seconds"] = earlier["seconds"]  # of an attempt that was stopped, and is gone on with
    run.manifest["stages"][stage.name] = record
    run.manifest["units"].update(stage.units)
    run.save()
    began = time.monotonic()
    try:
        with run.working(record):
            finding = stage.run(session, options)
        record["status"], record["finding"] = "done", finding
    except UserError:
        run.manifest["options"].pop(stage.name, None)  # what was refused is not asked for again
        run.manifest["options"] |= {} if before is None else {stage.name: before}
        if earlier and earlier["status"] == "done" and run.stands(earlier):
            run.manifest["stages"][stage.name] = earlier
        raise
    finally:
        record["seconds"] = round(record["seconds"] + time.monotonic() - began, 2)
        run.save()
        run.write_summary()
    return finding


def run_instead(session: Session, stage: Stage, options: Any) -> str | None:
    """What a stage does instead of running, if its options ask for it; what it has written stays."""
    record = session.run.manifest["stages"].get(stage.name) or fresh_record(session, stage, options)
    with session.run.amending(stage.name, record):
        return stage.instead(session, options)


def fresh_record(session: Session, stage: Stage, options: Any) -> dict[str, Any]:
    """The record of a stage that begins."""
    first = session.prompt.name
    return {
        "status": "started",
        "seconds": 0.0,
        "options": json_values(asdict(options)),
        "after": list(stage.after),
        "beside": list(stage.beside),
        "reads": [str(p).format(first=first) for p in stage.reads],
        "writes": [str(p).format(first=first) for p in stage.writes],
        "read": {},
        "wrote": {},
        "outside": _outside(options),
        "summary": {},
        "notes": [],
    }


def _outside(options: Any) -> dict[str, str]:
    """Files that the options name and the stage is about to read, and what is in them."""
    values = (getattr(options, f.name) for f in fields(options) if f.metadata.get("reads"))
    named = [
        os.path.abspath(name) for value in values for name in (value if isinstance(value, tuple) else (value,)) if name != STUDY
    ]
    return {name: digest for name in named if (digest := digest_of(name)) is not None}


def again_with(stage: str, folder: Path, verbs: Mapping[str, str]) -> str:
    """The command that makes a stage again. The one that begins a study wants its options too."""
    verb = verbs[stage]
    return f"`cotscope {verb} … --out {folder}`" if verb == "discover" else f"`cotscope {verb} {folder}`"


def stale_because(found: State) -> str:
    """A state in words."""
    return f"{found.status} ({found.why})" if found.why else found.status
