"""Options: dataclass fields that the command line offers, of the study and of its stages."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple

from ..errors import UserError, shown


class Kind(NamedTuple):
    """Numbers of one kind: from `least` to below `below`."""

    of: type
    least: float
    below: float
    expected: str

    def holds(self, value: Any) -> bool:
        """Whether a value is such a number."""
        number = isinstance(value, int if self.of is int else int | float) and not isinstance(value, bool)
        return number and self.least <= value < self.below


KINDS: dict[str, Kind] = {
    "natural": Kind(int, 0, 2**53, "a whole number, 0 or more and below 2^53"),
    "positive": Kind(int, 1, 2**53, "a whole number, 1 or more and below 2^53"),
    "sets": Kind(int, 0, 10_001, "a whole number from 0 to 10,000"),
    "rate": Kind(float, 1e-9, math.inf, "a number, 1e-9 or more"),
    "minutes": Kind(float, 1e-9, math.inf, "minutes, 1e-9 or more"),
    "seconds": Kind(float, 1e-9, math.inf, "seconds, 1e-9 or more"),
    "amount": Kind(float, 0, math.inf, "an amount, 0 or more"),
    "share": Kind(float, 0, 1, "a share, from 0 to below 1"),
}
DTYPES = ("bfloat16", "float32", "float16")  # of weights; `lm/loading.py` has their tensors, and loads PyTorch


def option(default: Any, help: str, *, kind: str = "", flag: str = "", choices: tuple[str, ...] = (), where: str = "",
           reads: bool = False, several: bool = False) -> Any:  # fmt: skip
    """A field of an options class that the command line offers.

    Args:
        help: for the command line; the default is added to it.
        kind: one of `KINDS`, "path", or "layers" (a pair); empty: a text, or for a bool a switch. A tuple may be given several
            times.
        flag: empty: `--` and the field's name.
        choices: the values allowed.
        where: "command": only the stage's own command has it; "study": only commands that begin a study.
        reads: its values may name files that the stage reads: it is stale when what is in them changes.
        several: of a tuple: the flag takes more than one value.
    """
    about = {"help": help, "kind": kind, "flag": flag, "choices": choices, "where": where, "reads": reads, "several": several}
    return field(default=default, metadata=about)


def flag_of(f: Field[Any]) -> str:
    """How an option is called on the command line."""
    return str(f.metadata["flag"]) or f"--{f.name.replace('_', '-')}"


def wrong(f: Field[Any], value: Any) -> str:
    """What an option takes, if it does not take this value; else nothing. A list stands for a tuple, as in JSON."""
    if value is None and f.default is None:
        return ""
    if isinstance(f.default, tuple):
        several = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        if several and (choices := f.metadata["choices"]):
            return "" if set(value) <= set(choices) else "some of " + ", ".join(choices)
        return "" if several else "a list of texts"
    if f.metadata["kind"] == "layers":
        pair = isinstance(value, list | tuple) and len(value) == 2 and all(KINDS["natural"].holds(v) for v in value)
        return "" if pair and value[0] <= value[1] else "two layers, the second not below the first"
    if isinstance(f.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if kind := KINDS.get(f.metadata["kind"]):
        return "" if kind.holds(value) else kind.expected
    if choices := f.metadata["choices"]:
        return "" if value in choices else " or ".join(choices)
    return "" if isinstance(value, str) else "a text"


def check(f: Field[Any], value: Any) -> None:
    """Raise UserError if an option does not take a value."""
    if expected := wrong(f, value):
        raise UserError(f"option {f.name!r} can't have this value", expected=expected, got=shown(value))


def check_all(options: Any) -> None:
    """Raise UserError if an instance of an options class has a value that an option does not take."""
    for f in fields(options):
        if f.metadata:
            check(f, getattr(options, f.name))


@dataclass(frozen=True)
class NoOptions:
    """Of a stage that has none."""
