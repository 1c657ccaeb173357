"""Options on the command line, made from the fields of options classes (`runs/options.py`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Any

from ..errors import shown
from ..runs.options import KINDS, Kind


def number(kind: Kind) -> Callable[[str], Any]:
    """A converter for argparse that says what was expected."""

    def convert(text: str) -> Any:
        try:
            value = kind.of(text)
        except (ValueError, OverflowError):
            value = None
        if not kind.holds(value):
            raise argparse.ArgumentTypeError(f"expected {kind.expected}; got {shown(text)[1:-1]}")
        return value

    return convert


NUMBERS: dict[str, Callable[[str], Any]] = {name: number(kind) for name, kind in KINDS.items()}
DTYPES = ("bfloat16", "float32", "float16")  # `lm/loading.py` has their tensors, and loads PyTorch
_METAVAR = {"natural": "N", "sets": "N", "positive": "N", "seconds": "S", "amount": "X", "share": "X", "path": "FILE"}


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
        kind = f.metadata["kind"]
        about: dict[str, Any] = {"dest": f.name, "help": described(f).replace("%", "%%")}
        if isinstance(f.default, bool):
            # `--no-…` too: a run keeps its options, so one that is on must have a way off.
            parser.add_argument(flag(f), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, **about)
            continue
        if isinstance(f.default, tuple):
            about["action"] = "append"
        if f.metadata["choices"]:
            about["choices"] = f.metadata["choices"]
        else:
            about["metavar"] = _METAVAR.get(kind) or f.name.split("_")[-1].upper()
        parser.add_argument(flag(f), type=NUMBERS.get(kind, str), default=argparse.SUPPRESS, **about)


def given(arguments: argparse.Namespace, found: Iterable[Field[Any]]) -> dict[str, Any]:
    """The options that were given."""
    return {f.name: getattr(arguments, f.name) for f in found if hasattr(arguments, f.name)}


def add_some(command: argparse.ArgumentParser) -> None:
    """Offer to choose among neurons: by concept, by layer."""
    command.add_argument("--concept", action="append", default=[], metavar="NAME",
                         help="of reasoning neurons only this concept's; may be given several times")  # fmt: skip
    command.add_argument("--layers", type=_layers, metavar="A-B", help="only those of layers A to B, counted from 0")


def _layers(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and len(text) < 12 and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected two layers, as in 0-7; got {shown(text)[1:-1]}")
    return int(first), int(last)
