"""Options on the command line, made from the fields of options classes (`runs/options.py`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from ..errors import shown
from ..runs.options import KINDS, Kind, flag_of

T = TypeVar("T")


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
_METAVAR = {"natural": "N", "sets": "N", "positive": "N", "minutes": "M", "seconds": "S", "amount": "X", "share": "X",
            "path": "FILE", "layers": "A-B", "train_on": "DATA"}  # fmt: skip


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


def add_controls(parser: argparse._ActionsContainer) -> None:
    """Offer `--controls`, for commands that make something of chosen neurons."""
    parser.add_argument("--controls", type=NUMBERS["natural"], default=0, metavar="N", help="do the same with N random sets of "
                        "neurons like these, --random 0 and on, into files beside it: edit-random-0.json, …; files that are "
                        "there already, the edit's too, are left as they are (default 0)")  # fmt: skip


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
            parser.add_argument(flag_of(f), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, **about)
            continue
        if isinstance(f.default, tuple):
            about |= {"action": "extend", "nargs": "+"} if f.metadata["several"] else {"action": "append"}
        if f.metadata["choices"]:
            about["choices"] = f.metadata["choices"]
        else:
            about["metavar"] = _METAVAR.get(kind or f.name) or flag_of(f).split("-")[-1].upper()
        parser.add_argument(
            flag_of(f), type=_layers if kind == "layers" else NUMBERS.get(kind, str), default=argparse.SUPPRESS, **about
        )


def given(arguments: argparse.Namespace, found: Iterable[Field[Any]]) -> dict[str, Any]:
    """The options that were given."""
    return {f.name: getattr(arguments, f.name) for f in found if hasattr(arguments, f.name)}


def words(of: type, values: Mapping[str, Any]) -> list[str]:
    """Values of options as they would be given on the command line."""
    found = list[str]()
    for f in fields(of):
        if isinstance(value := values.get(f.name), bool):
            found.append(flag_of(f) if value else f"--no-{flag_of(f)[2:]}")
        elif f.metadata["kind"] == "layers" and value is not None:
            found += [flag_of(f), "-".join(map(str, value))]
        elif value is not None:
            found += [word for v in (value if isinstance(value, tuple) else (value,)) for word in (flag_of(f), str(v))]
    return found


def offered(of: type) -> list[Field[Any]]:
    """The fields of an options class that the command line offers."""
    return [f for f in fields(of) if f.metadata]


def made(of: type[T], arguments: argparse.Namespace, **more: Any) -> T:
    """An options class with what was given. Raises: UserError."""
    found = given(arguments, offered(of))
    return of(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} | more)


def _layers(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and len(text) < 12 and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected two layers, as in 0-7; got {shown(text)[1:-1]}")
    return int(first), int(last)
