"""Options on the command line, made from the fields of options classes (`runs/options.py`)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Any


def number(kind: type, least: float, below: float, expected: str) -> Callable[[str], Any]:
    """A converter for argparse that says what was expected."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"expected {expected}; got {text[:60]}")
        return value

    return convert


KINDS: dict[str, Callable[[str], Any]] = {
    "natural": number(int, 0, 2**63, "a whole number, 0 or more"),
    "positive": number(int, 1, 2**63, "a whole number, 1 or more"),
    "seconds": number(float, 1e-9, math.inf, "seconds, more than 0"),
    "amount": number(float, 0, math.inf, "an amount, 0 or more"),
    "share": number(float, 0, 1, "a share, from 0 to below 1"),
}
_METAVAR = {"natural": "N", "positive": "N", "seconds": "S", "amount": "X", "share": "X", "path": "FILE"}


def flag(f: Field[Any]) -> str:
    """How an option is called on the command line."""
    return str(f.metadata["flag"]) or f"--{f.name.replace('_', '-')}"


def described(f: Field[Any]) -> str:
    """An option's help, with its default unless that is none, or is said there."""
    text = str(f.metadata["help"])
    plain = f.default is None or isinstance(f.default, bool | tuple) or "(default" in text
    return (
        text
        if plain
        else f"{text} (default {f.default:g})"
        if isinstance(f.default, float)
        else f"{text} (default {f.default})"
    )


def of_class(options: type, begins: bool) -> list[Field[Any]]:
    """The options of a class that a command offers which begins a study, or one which works on a run that exists."""
    return [f for f in fields(options) if f.metadata["where"] != ("command" if begins else "study")]


def add(parser: argparse._ActionsContainer, found: Iterable[Field[Any]]) -> None:
    """Offer options; those that are not given are not in the namespace."""
    for f in found:
        kind, about = f.metadata["kind"], {"dest": f.name, "help": described(f).replace("%", "%%")}
        if isinstance(f.default, bool):
            parser.add_argument(flag(f), action="store_true", default=argparse.SUPPRESS, **about)
            continue
        if isinstance(f.default, tuple):
            about["action"] = "append"
        if f.metadata["choices"]:
            about["choices"] = f.metadata["choices"]
        else:
            about["metavar"] = _METAVAR.get(kind) or f.name.split("_")[-1].upper()
        parser.add_argument(flag(f), type=KINDS.get(kind, str), default=argparse.SUPPRESS, **about)


def given(arguments: argparse.Namespace, found: Iterable[Field[Any]]) -> dict[str, Any]:
    """The options that were given."""
    return {f.name: getattr(arguments, f.name) for f in found if hasattr(arguments, f.name)}
