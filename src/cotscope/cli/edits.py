"""`cotscope edit`, `apply` and `export`: make an edit file from a run, try it on a text, fold it into a model's weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..data.reading import decode
from ..edits.edit import Base, Edit
from ..errors import EditError, UserError, shown
from ..measuring.choosing import REASONING, Choice, choose, choose_poles, reservation, with_controls
from ..measuring.editing.scaling import scaled
from ..records import Neuron, Pole
from ..report.text import visible
from ..runs.options import DTYPES
from . import options

COMMANDS = ("edit", "apply", "export")


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer the three commands."""
    edit = command("edit", "make an edit file: a factor for neurons that a run has found")
    edit.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    edit.add_argument("--by", default=REASONING, metavar="BY", help="reasoning, or a way of choosing that `attribute` has "
                      "run (lexicon, words, attribution, contrast, size, paper; default reasoning)")  # fmt: skip
    edit.add_argument("--features", type=Path, metavar="FILE", help="in place of --by: the neurons that Neuronpedia's feature "
                      "files name; a .jsonl, .jsonl.gz or the folder of a source")  # fmt: skip
    options.add(edit, [f for f in fields(Choice) if f.name != "by"])  # an edit is by `reasoning` where nothing is given
    edit.add_argument("--poles", action="store_true", help="poles: each neuron at one sign of its coefficient only")
    edit.add_argument(
        "--factor", type=_factor, required=True, metavar="X", help="what coefficients are multiplied by; 0 zeroes"
    )
    edit.add_argument("--scope", choices=("all", "prompt", "generated"), default="all", help="at which tokens (default all)")
    options.add_controls(edit)
    edit.add_argument("--name", metavar="NAME", help="what the edit is called (default: after the file)")
    edit.add_argument("--to", type=Path, required=True, metavar="FILE", help="the edit file to write")

    apply = command("apply", "write with an edit, beside the base, in memory")
    apply.add_argument("edit", type=Path, metavar="EDIT", help="the edit file")
    apply.add_argument("text", nargs="*", metavar="TEXT", help="texts to go on with (default: standard input, one a line)")
    apply.add_argument("--tokens", type=options.NUMBERS["positive"], default=80, metavar="N", help="at most so many new tokens "
                       "(default 80)")  # fmt: skip
    export = command("export", "fold an edit into the weights: a plain Hugging Face folder")
    export.add_argument("edit", type=Path, metavar="EDIT", help="the edit file")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to make")
    for sub in (apply, export):
        sub.add_argument("--model", metavar="MODEL", help="the base, if it is elsewhere than where the edit was made")
        sub.add_argument("--dtype", choices=DTYPES,
                         help="of the weights (default: " + ("of the base's files)" if sub is export else "what suits this "
                         "machine)"))  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run one of them."""
    {"edit": _edit, "apply": _apply, "export": _export}[arguments.command](arguments)


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number; got {shown(text)[1:-1]}")
    return value


def _edit(arguments: argparse.Namespace) -> None:
    from ..runs.session import Session

    whole = options.made(Choice, arguments, by=arguments.by)
    if arguments.controls and (arguments.poles or arguments.features is not None):
        raise UserError(
            "random ones are drawn for neurons that a run has chosen", expected="--controls without --poles, --features"
        )
    session = Session.reopen(arguments.run, quiet=True)
    for to, choice in with_controls(whole, arguments.to, arguments.controls):

        def choosing(choice: Choice = choice) -> tuple[Sequence[Neuron | Pole], dict[str, Any]]:
            if arguments.features is not None:
                return _of_features(arguments, choice)
            return (choose_poles if arguments.poles else choose)(session, choice)

        name = arguments.name or "" if choice == whole else ""
        if arguments.controls and to.exists():
            made = Edit.scaled(to.stem, Base.of(session.loaded), choosing()[0], arguments.factor, scope=arguments.scope)
            left_as_it_is(to, Edit.read(to).key == made.key, arguments.json)
            continue
        edit = scaled(session, to, choosing, arguments.factor, scope=arguments.scope, name=name)
        said = {"edit": str(to), "neurons": len(edit.neurons)} | {k: v for k, v in edit.chosen.items() if k != "questions"}
        print(json.dumps(said) if arguments.json else f"{len(edit.neurons)} neurons, factor {arguments.factor:g}: {to}")
        if (reserved := reservation(edit.chosen)) and not arguments.json:
            print(reserved)


def left_as_it_is(to: Path, same: bool, quiet: bool) -> None:
    """Say so of a file that is there, of a choice with controls. Raises: EditError if it is another edit."""
    if not same:
        raise EditError(f"{to} is another edit", expected="one that was made so, or none", remedy="Give another --to.")
    if not quiet:
        print(f"left as it is: {to}", flush=True)


def _of_features(arguments: argparse.Namespace, choice: Choice) -> tuple[list[Any], dict[str, Any]]:
    """The neurons or poles that a feature file names, and how they were chosen."""
    from ..exchange.neuronpedia import read_features

    if arguments.poles or replace(choice, first=None) != Choice(REASONING):
        raise UserError("--features names the neurons", expected="no --by, --concept, --poles, --layers or --random beside it")
    found = read_features(arguments.features)[: choice.first]
    return list(found), {"by": "features", "file": arguments.features.name, "neurons": len({t[:2] for t in found})}


def _lines_of_stdin() -> list[str]:
    text = decode(sys.stdin.buffer.read(), "standard input", UserError)
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def _is_unicode(text: str) -> bool:
    """Whether no half of a character is in it, as in an argument that is no UTF-8."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _apply(arguments: argparse.Namespace) -> None:
    from ..edits.fold import base_of
    from ..lm.engine import Engine
    from ..lm.loading import load_model

    edit = Edit.read(arguments.edit)
    texts = arguments.text or ([] if sys.stdin.isatty() else _lines_of_stdin())
    if half := [text for text in texts if not _is_unicode(text)]:
        raise UserError("a text is no UTF-8", got=shown(half[0]))
    if not texts:
        raise UserError("there is no text to go on with", remedy='Give one: `cotscope apply EDIT "Question: …"`.')
    edit.check_factors()
    loaded = load_model(base_of(edit, arguments.model or ""), dtype=arguments.dtype or "auto")
    edit.check(loaded)
    engine = Engine(loaded)
    written = [
        engine.generate(texts, max_new_tokens=arguments.tokens, intervention=intervention)
        for intervention in (None, edit.intervention(loaded.anatomy))
    ]
    rows: list[dict[str, Any]] = [
        {"text": text, "base": base.text, "edited": edited.text} for text, base, edited in zip(texts, *written, strict=True)
    ]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(*(f"--- {name}\n{_lines(row[name])}" for name in ("text", "base", "edited")), "", sep="\n")


def _lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def _export(arguments: argparse.Namespace) -> None:
    from ..edits.fold import export

    def say(text: str) -> None:
        if not arguments.json and sys.stderr.isatty():
            print(f"{visible(text)} …", file=sys.stderr, flush=True)

    edit = Edit.read(arguments.edit)
    made = export(edit, arguments.to, source=arguments.model or "", dtype=arguments.dtype or "", say=say)
    size = sum(f.stat().st_size for f in made.iterdir())
    said = {"model": str(made), "bytes": size}
    print(json.dumps(said) if arguments.json else f"{size / 1e9:.2f} GB, loads in plain transformers: {made}")
