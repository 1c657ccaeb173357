"""Run the stages of a study one after another, in this process, and write the report after each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import RunError, UserError
from ..report.build import write_report
from ..runs.folder import Run
from ..runs.options import flag_of
from ..runs.session import Session
from ..runs.stage import Stage, options_of, require, run_instead, run_stage
from ..stages.registry import BY_NAME, STAGES, VERB_OF, VERBS

Asked = Mapping[str, Mapping[str, Any]]
"""Stage → the options that are asked for; all others stay what the run has for it."""


class Listener:
    """Is told what happens. This one says nothing.

    Attributes:
        findings: of the stages that ended or stand.
    """

    def __init__(self) -> None:
        self.findings: dict[str, str] = {}

    def begins(self, stage: Stage) -> None:
        """A stage begins."""

    def keeps(self, stage: Stage, kept: Mapping[str, Any]) -> None:
        """Options of a stage that the command has not given and are not the defaults: an earlier one gave them."""

    def ends(self, stage: Stage, finding: str) -> None:
        """A stage has ended."""

    def stands(self, stage: Stage, finding: str) -> None:
        """A stage need not run: it is done, and nothing that it read has changed."""


def wanted(session: Session) -> tuple[Stage, ...]:
    """The stages of a study with the options that its run has, in order."""
    stored = session.run.manifest["options"]
    return tuple(s for s in STAGES if s.wanted(options_of(s, stored.get(s.name, {}))))


def run_study(session: Session, listener: Listener) -> None:
    """Run every stage that is missing, stale or was stopped, while holding the run folder."""
    with session.run.writing():
        reported, mine = False, wanted(session)
        for stage in STAGES:
            if stage in mine or _takes_away(session.run, stage):
                try:
                    reported |= _run(session, stage, None, listener)
                except UserError:
                    _refused(session.run, stage)
                    raise
        if not reported:
            write_report(session.run)


def _refused(run: Run, stage: Stage) -> None:
    """A study has its stages' options from when it was given them. Where a stage that was done does not take them, what it and
    those after it found with others before has to stand."""
    records, left = run.manifest["stages"], STAGES[STAGES.index(stage) :]
    if records.get(stage.name, {}).get("status") != "done":
        return
    for later in left:
        if records.get(later.name, {}).get("status") == "done":
            run.manifest["options"][later.name] = records[later.name]["options"]
    run.save()
    run.write_summary()
    write_report(run)


def run_verb(session: Session, verb: str, asked: Asked, stages: Sequence[Stage] | None, listener: Listener) -> None:
    """Run the stages of a command, while holding the run folder.

    Args:
        stages: which; None: all that the options want.

    Raises: RunError if what they build on is missing or stale.
    """
    run = session.run
    _check_used(run, verb, asked, stages)
    with run.writing():
        _check_order(run, asked, stages or ())
        reported = False
        for stage in VERBS[verb] if stages is None else stages:
            mine = asked.get(stage.name)
            options = options_of(stage, {**run.manifest["options"].get(stage.name, {}), **(mine or {})})
            if mine and _instead(session, stage, mine):
                listener.ends(stage, run_instead(session, stage, options) or "")
                reported = False
            elif stages is not None or len(VERBS[verb]) == 1 or stage.wanted(options) or _takes_away(run, stage, mine):
                default = stage.options()
                offered = [f.name for f in fields(options) if f.metadata["where"] != "study" and f.name not in (mine or {})]
                kept = {name: getattr(options, name) for name in offered}
                listener.keeps(stage, {k: v for k, v in kept.items() if v != getattr(default, k)})
                reported |= _run(session, stage, mine, listener, again=stage.repeats)
        if not reported:
            write_report(run)


def _takes_away(run: Run, stage: Stage, mine: Mapping[str, Any] | None = None) -> bool:
    """Whether a stage has begun of which nothing is asked any more: what builds on it waits until its parts are gone."""
    options = options_of(stage, {**run.manifest["options"].get(stage.name, {}), **(mine or {})})
    return stage.name in run.manifest["stages"] and stage.idle(options)


def _instead(session: Session, stage: Stage, mine: Mapping[str, Any]) -> bool:
    """Whether the options that are asked for ask for something else than the stage.

    Raises: UserError for others beside them; RunError if what it builds on is missing or stale.
    """
    asks = [name for name in mine if name in stage.instead_by and mine[name] is not None]
    if not asks:
        return False
    if others := [name for name in mine if name not in (asks[0], *stage.instead_with)]:
        flags = {f.name: flag_of(f) for f in fields(stage.options)}
        other, beside = (f"{name!r} ({flags[name]})" for name in (others[0], asks[0]))
        raise UserError(f"option {other} does nothing beside {beside}", remedy="Give them one after the other.")
    require(session, stage, VERB_OF)
    return True


def _check_used(run: Run, verb: str, asked: Asked, stages: Sequence[Stage] | None) -> None:
    """Raises: UserError for an option of a stage that the command leaves out."""
    for stage in VERBS[verb]:
        mine = asked.get(stage.name)
        if not mine or len(VERBS[verb]) == 1:
            continue
        options = options_of(stage, {**run.manifest["options"].get(stage.name, {}), **mine})
        runs = stage in stages if stages is not None else stage.wanted(options) or _takes_away(run, stage, mine)
        if not runs:
            raise UserError(
                f"option {next(iter(mine))!r} is of the stage {stage.name}, which does not run with these options",
                remedy=f"See `cotscope {verb} --help`.",
            )


def _check_order(run: Run, asked: Asked, chosen: Sequence[Stage]) -> None:
    """Raises: RunError if one of the chosen stages would make another stale that a later chosen one builds on: that one would
    be refused when figures are lost already."""
    redone = set[str]()
    for stage in chosen:
        for between in (BY_NAME[name] for name in stage.after if BY_NAME[name] not in chosen):
            if redo := redone.intersection(between.after):
                raise RunError(
                    f"{run.folder}: {stage.name!r} builds on {between.name!r}, which is stale once {min(redo)!r} is done again",
                    remedy=f"Run `cotscope {between.verb} {run.folder}` with the same options for all of it.",
                )
        record = run.manifest["stages"].get(stage.name)
        mine = {**run.manifest["options"].get(stage.name, {}), **asked.get(stage.name, {})}
        if record and (not run.state(stage.name).current or options_of(stage, mine) != options_of(stage, record["options"])):
            redone.add(stage.name)


def _run(session: Session, stage: Stage, asked: Mapping[str, Any] | None, listener: Listener, again: bool = False) -> bool:
    """Run a stage unless it is done, and write the report; whether it ran."""
    run = session.run
    if not again and run.state(stage.name).current:
        record = run.manifest["stages"][stage.name]
        if asked is None or options_of(stage, record["options"] | asked) == options_of(stage, record["options"]):
            listener.stands(stage, record.get("finding", ""))
            return False
    require(session, stage, VERB_OF)
    listener.begins(stage)
    finding = run_stage(session, stage, asked)
    write_report(run)
    listener.ends(stage, finding)
    return True
