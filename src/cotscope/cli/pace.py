"""How much of a comparison is left, and about how long that takes by what is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..edits.edit import Edit


def name_of(to: Path) -> str:
    """Of an edit, by its file or folder."""
    return to.name.removesuffix(".json")


def kind_of(name: str) -> str:
    """Of an edit, without its seed."""
    return name.rpartition("-")[0]


def left(every: Sequence[Path], problems: int, untouched: int = 1) -> str:
    """What there is to do, in words, and after the first training its time: a pass as long as one of another seed's took, or as
    they did on average; an evaluation as long as writing the answers to the validation problems did.

    Args:
        every: where each edit goes.
        problems: on which each is evaluated, of all data sets.
        untouched: models beside the edits that write answers to them.
    """
    done = {name_of(to): Edit.read(to).chosen.get("tuned", {}) for to in every if to.exists()}
    done = {name: tuned for name, tuned in done.items() if "validating" in tuned}  # older files have not all of it
    missing = [name_of(to) for to in every if not to.exists()]
    trainings = "1 training is" if len(missing) == 1 else f"{len(missing)} trainings are"
    what = f"{trainings} left, and the evaluation of {len(every)} edit{'s' * (len(every) > 1)} on {problems} problems"
    if not done:
        return f"{what}; how long that takes is said after the first"
    # Of every rate a pass, of the best one more.
    passes = {name: (len(t.get("rates", ())) or 1) - 1 + max(len(t["curve"]) - 1, 1) for name, t in done.items()}
    of_a_pass = {name: tuned["seconds"] / passes[name] for name, tuned in done.items()}
    of_a_kind, mean = {kind_of(name): seconds for name, seconds in of_a_pass.items()}, fmean(of_a_pass.values())
    searched, asked = max(passes.values()), max(t["passes"] for t in done.values())
    training = sum(of_a_kind.get(kind_of(name), mean) * (searched if name.endswith("-0") else asked) for name in missing)
    writing = (len(every) + untouched) * problems * fmean(t["validating"] / t["validation"] for t in done.values())
    return f"{what}: about {_time(training)} and {_time(writing)}"


def _time(seconds: float) -> str:
    return f"{max(seconds / 60, 1):.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
