"""Options: dataclass fields that the command line offers, of the study and of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def option(default: Any, help: str, *, kind: str = "", flag: str = "", choices: tuple[str, ...] = (), where: str = "") -> Any:
    """A field of an options class that the command line offers.

    Args:
        help: for the command line; the default is added to it.
        kind: "natural" (0, 1, …), "positive" (1, 2, …), "seconds", "amount" (0 and more), "share" (0 to below 1), "path";
            empty: a text, or for a bool a switch. A tuple may be given several times.
        flag: empty: `--` and the field's name.
        choices: the values allowed.
        where: "command": only the stage's own command has it; "study": only commands that begin a study.
    """
    about = {"help": help, "kind": kind, "flag": flag, "choices": choices, "where": where}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class NoOptions:
    """Of a stage that has none."""
