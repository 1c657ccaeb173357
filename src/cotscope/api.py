"""A study, or one command of it, from Python: what the command line does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .edits.edit import Edit
from .errors import UserError
from .executors.local import Listener, run_study, run_verb
from .measuring.choosing import REASONING, Choice, choose_poles, reservation
from .measuring.choosing import choose as choose_neurons
from .measuring.editing.methods import Tuning
from .measuring.editing.scaling import scaled
from .measuring.editing.steering import Search
from .measuring.editing.steering import steer as search_factor
from .measuring.editing.tuning import tune as train_factors
from .report.text import visible
from .runs.config import StudyConfig
from .runs.folder import Run
from .runs.progress import State
from .runs.session import Session
from .runs.stage import Stage, options_of
from .stages.registry import IN_STUDY, STAGES, VERBS, beyond, choose, chosen_by

if TYPE_CHECKING:
    from .lm.interventions import Scope

T = TypeVar("T")
Folder = str | os.PathLike[str]
"""A run folder, or a `Run`, which is the path of its folder."""


def study(out: str | Path, *, rows: int | None = None, quiet: bool | None = None, **options: Any) -> Run:
    """Run every stage of a study and write its report.

    Args:
        out: the run folder; a study that was stopped goes on there.
        rows: rows per batch; None: from the memory that is free.
        quiet: no progress bars; None: only on a terminal.
        options: fields of `StudyConfig`, and options of stages (docs/cli.md).

    Returns: the run: `summary`, `query`, `folder / "report.html"`.
    """
    session = begin(Path(out), options, rows=rows, quiet=quiet)
    run_study(session, Listener())
    return session.run


def begin(
    out: Path,
    options: Mapping[str, Any],
    *,
    rows: int | None = None,
    quiet: bool | None = None,
    command: tuple[str, ...] = (),
) -> Session:
    """Begin a study or go on with it: its options, and those of its stages, in one mapping. Raises: UserError."""
    options = {k: _paths_as_text(v) for k, v in options.items()}
    known = {f.name for f in fields(StudyConfig)}
    asked = by_stage({k: v for k, v in options.items() if k not in known}, IN_STUDY, "command")
    given = {k: v for k, v in options.items() if k in known}
    config = StudyConfig(**given)
    checked = [(s, options_of(s, asked[s.name])) for s in STAGES if s.name in asked]
    checks = [lambda inputs, model, s=s, o=o: s.check(inputs, model, o) for s, o in checked]
    return Session.create(config, out, options=asked, rows=rows, quiet=quiet, command=command, checks=checks)


def _paths_as_text(value: Any) -> Any:
    """A path as text, alone or in a list."""
    if isinstance(value, tuple | list):
        return tuple(map(_paths_as_text, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def by_stage(options: Mapping[str, Any], stages: tuple[Stage, ...], but: str) -> dict[str, dict[str, Any]]:
    """Options by the stage that has them.

    Args:
        but: where those are offered that are not meant: what a study does not do would be done whenever the stage runs later.

    Raises: UserError if none has.
    """
    names = {s.name: {f.name for f in fields(s.options) if f.metadata["where"] != but} for s in stages}
    known = sorted(set().union(*names.values()))
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"there is no option {unknown[0]!r}", expected=f"one of {', '.join(known)}" if known else "none")
    asked = {s: {k: v for k, v in options.items() if k in found} for s, found in names.items()}
    return {stage: found for stage, found in asked.items() if found}


def _verb(verb: str) -> Callable[..., Run]:
    def call(run: Folder, *, rows: int | None = None, quiet: bool | None = None, **options: Any) -> Run:
        options = {k: _paths_as_text(v) for k, v in options.items()}
        words = {flag: options.pop(name) for flag in chosen_by(verb) if (name := flag.lstrip("-")) in options}
        stages, by_words = choose(verb, {flag: [w] if isinstance(w, str) else list(w) for flag, w in words.items()})
        session = Session.reopen(Path(run), rows=rows, quiet=quiet)
        asked = beyond(by_words, session.run.manifest["options"])
        for stage, own in by_stage(options, VERBS[verb], "study").items():
            asked.setdefault(stage, {}).update(own)
        run_verb(session, verb, asked, stages, Listener())
        return session.run

    call.__name__ = verb
    call.__doc__ = f"""{"; ".join(s.about for s in VERBS[verb])}.

    Args:
        run: the run folder, or the run.
        rows: rows per batch; None: what the study began with.
        quiet: no progress bars; None: only on a terminal.
        options: as of `cotscope {verb}` (docs/cli.md), the words that choose among its stages too (`outcomes="solutions"`).
    """
    return call


annotate = _verb("annotate")
ablate = _verb("ablate")
attribute = _verb("attribute")
sweep = _verb("sweep")
measure = _verb("measure")
correlate = _verb("correlate")
predict = _verb("predict")
cascade = _verb("cascade")
calibrate = _verb("calibrate")
evaluate = _verb("evaluate")


def discover(out: str | Path, *, rows: int | None = None, quiet: bool | None = None, **options: Any) -> Run:
    """Begin a study: find the poles that are active when problems are solved. Arguments as of `study`."""
    session = begin(Path(out), options, rows=rows, quiet=quiet)
    run_verb(session, "discover", {}, None, Listener())
    return session.run


def edit(
    run: Folder,
    to: str | Path,
    factor: float,
    *,
    scope: Scope = "all",
    poles: bool = False,
    name: str = "",
    quiet: bool | None = None,
    **options: Any,
) -> Edit:
    """Make an edit: one factor for neurons that a run has found.

    Args:
        run: the run folder, or the run.
        to: the edit file to write.
        factor: what coefficients are multiplied by; 0 zeroes.
        scope: at which tokens, "all", "prompt" or "generated".
        poles: each neuron at one sign of its coefficient only.
        name: of the edit; "": after the file.
        quiet: nothing is said.
        options: fields of `measuring/choosing.py: Choice`; `by` is "reasoning" if it is not given.

    Raises: UserError as `cotscope edit` says.
    """
    _all_known(options, Choice)
    choice = _made({"by": REASONING, **options}, Choice)
    session = Session.reopen(Path(run), quiet=True)
    made = scaled(session, Path(to), lambda: (choose_poles if poles else choose_neurons)(session, choice), factor, scope=scope,
                  name=name)  # fmt: skip
    if reserved := reservation(made.chosen):
        _say(quiet)(reserved)
    return made


def steer(run: Folder, to: str | Path, *, null: bool = False, quiet: bool | None = None, **options: Any) -> Edit:
    """Search one factor of the neurons that a run has found which solves more, or less, of its tuning problems.

    Args:
        run: the run folder, or the run.
        to: the edit file to write.
        null: if nothing is gained, write an edit that changes nothing: the result of a control.
        quiet: no progress bars, and nothing is said; None: bars only on a terminal.
        options: fields of `measuring/choosing.py: Choice` and `measuring/editing/steering.py: Search`.

    Raises: UserError as `cotscope steer` says.
    """
    _all_known(options, Choice, Search)
    choice, search = _made(options, Choice), _made(options, Search)
    return search_factor(Session.reopen(Path(run), quiet=quiet), Path(to), choice, search, null=null, say=_say(quiet))


def tune(run: Folder, to: str | Path, *, null: bool = False, quiet: bool | None = None, **options: Any) -> Edit:
    """Train factors or vectors of the neurons that a run has found, and nothing else, on worked problems; or adapters, or all.

    Args:
        run: the run folder, or the run.
        to: the edit file to write, or the model folder (`method`).
        null: if nothing is gained, write an edit that changes nothing: the result of a control.
        quiet: no progress bars, and nothing is said; None: bars only on a terminal.
        options: fields of `measuring/choosing.py: Choice` (`by` may be "all") and `measuring/editing/methods.py: Tuning`.

    Raises: UserError as `cotscope tune` says.
    """
    _all_known(options, Choice, Tuning)
    choice, settings = _made(options, Choice), _made(options, Tuning)
    return train_factors(Session.reopen(Path(run), quiet=quiet), Path(to), choice, settings, null=null, say=_say(quiet))


def _say(quiet: bool | None) -> Callable[[str], object]:
    """What is worth knowing on the way (what so few problems can show, memory, time, problems that are left out) is printed."""
    return (lambda text: None) if quiet else (lambda text: print(visible(text)))


def _made(options: Mapping[str, Any], of: type[T]) -> T:
    """An options class with those of the options that are its own."""
    names = {f.name for f in fields(of)}  # type: ignore[arg-type]
    return of(**{k: _paths_as_text(v) for k, v in options.items() if k in names})


def _all_known(options: Mapping[str, Any], *classes: type) -> None:
    known = sorted(f.name for of in classes for f in fields(of))
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"there is no option {unknown[0]!r}", expected=f"one of {', '.join(known)}")


def status(run: Folder) -> dict[str, State]:
    """What is done, stale, stopped or missing in a run folder, by stage."""
    opened = Run.open(run)
    return {stage.name: opened.state(stage.name) for stage in STAGES}
