"""What of a run is done, stale, stopped or missing: read off its manifest and the files that are whole.

A stage's record says what it declared to read and write (patterns), the digests of both when it ended, those of files outside
the run that its options name, the stages that had to be done before it, and its options. It is stale as soon as one of these is
not what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from .files import digest_of

Manifest = Mapping[str, Any]


class State(NamedTuple):
    """What became of a stage.

    Attributes:
        status: "done"; "stale": what it read or wrote has changed; "stopped": it did not end; "missing": it never began.
        why: what has changed, for a stale one, in words.
    """

    status: Literal["done", "stale", "stopped", "missing"]
    why: str = ""

    @property
    def current(self) -> bool:
        """Whether its figures hold."""
        return self.status == "done"


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file's name is meant by one of the patterns: a name; a table, for all its parts; or parts by how they
    begin, where a pattern ends in a dot (`completions/study.`)."""
    return any(
        name == p or (p.endswith(".") and name.startswith(p)) or ("/" not in p and name.startswith(f"{p}/")) for p in patterns
    )


def digest(manifest: Manifest, pattern: str, whole: Collection[str]) -> str:
    """Of the content of all whole files that a pattern means."""
    found = sorted((n, manifest["files"][n]["sha256"]) for n in whole if matches(n, [pattern]))
    return sha256(repr(found).encode()).hexdigest()[:16]


def state(manifest: Manifest, stage: str, whole: Collection[str], known: dict[str, State] | None = None) -> State:
    """What became of a stage.

    Args:
        known: what became of others; is added to.
    """
    known = {} if known is None else known
    if stage not in known:
        known[stage] = State("stale", "it builds on itself")  # says who asks for it while it is looked at
        known[stage] = _state(manifest, stage, whole, known)
    return known[stage]


def _state(manifest: Manifest, stage: str, whole: Collection[str], known: dict[str, State]) -> State:
    record = manifest["stages"].get(stage)
    if record is None:
        return State("missing")
    if record["status"] != "done":
        return State("stopped")
    if record.get("unsealed"):
        return State("stale", "manifest.json changed")
    for earlier in (*record["after"], *record["beside"]):
        found = state(manifest, earlier, whole, known)
        if not found.current and not (found.status == "missing" and earlier in record["beside"]):
            return State("stale", f"stage {earlier} is {found.status}")
    if (name := lost(manifest, record, whole)) is not None:
        return State("stale", f"{name} changed")
    for pattern, before in record["read"].items():
        if digest(manifest, pattern, whole) != before:
            return State("stale", f"{pattern.rstrip('.')} changed")
    for name, before in (record.get("outside") or {}).items():
        if digest_of(name) not in (before, None):  # what is gone can't be asked; the figures are of what it was
            return State("stale", f"{name} changed")
    options = record["options"]
    changed = [k for k, v in manifest["options"].get(stage, {}).items() if k in options and options[k] != v]
    return State("stale", f"option {changed[0]} changed") if changed else State("done")


def lost(manifest: Manifest, record: Mapping[str, Any], whole: Collection[str]) -> str | None:
    """A file that a stage wrote and that is missing or another one now; None if there is none."""
    return next((n for n, h in record["wrote"].items() if n not in whole or manifest["files"][n]["sha256"] != h), None)


def states(manifest: Manifest, whole: Collection[str]) -> dict[str, State]:
    """What became of every stage that has begun."""
    known: dict[str, State] = {}
    return {stage: state(manifest, stage, whole, known) for stage in manifest["stages"]}


def summary_of(manifest: Manifest, whole: Collection[str], running: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The figures of the study and of all stages that are current, or running, by section."""
    summary: dict[str, Any] = copy.deepcopy(manifest["summary"])
    timing: dict[str, float] = {}
    known = states(manifest, whole)
    for name, record in manifest["stages"].items():
        if record is not running and not known[name].current:
            continue
        for section, values in record["summary"].items():
            summary.setdefault(section, {}).update(copy.deepcopy(values))
        timing[f"{name}_s"] = record["seconds"]
    recorded = [r["seconds"] for n, r in manifest["files"].items() if n in whole and r.get("recorded")]
    if recorded:
        timing["generate_s"] = round(sum(recorded), 2)
    if timing:
        summary["timing"] = timing
    return summary
