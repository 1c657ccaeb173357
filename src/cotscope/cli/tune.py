"""`cotscope steer` and `cotscope tune`: search one factor of the neurons that a run has found, or train one each: an edit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..report.text import visible
from . import options

if TYPE_CHECKING:
    from ..runs.session import Session


COMMANDS = ("steer", "tune")


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer both commands."""
    steer = command(
        "steer", "search which factor of how many of the neurons that a run has found solves more, or less: an edit"
    )
    tune = command("tune", "train factors of neurons that a run has found, and nothing else, on worked problems: an edit")
    for sub in (steer, tune):
        sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
        also = "" if sub is steer else ", or all"
        sub.add_argument("--by", default="attribution", metavar="BY",
                         help=f"reasoning, a way of choosing that `attribute` has run{also} (default attribution)")  # fmt: skip
        sub.add_argument("--first", type=options.NUMBERS["positive"], metavar="N", help="only the first N of them")
        sub.add_argument("--random", type=options.NUMBERS["natural"], metavar="SEED",
                         help="as many random neurons like them in their place: a control of the whole procedure")  # fmt: skip
        sub.add_argument("--train-on", metavar="DATA", default="study",
                         help="problems, as of `study` (default: the study's own tuning problems)")  # fmt: skip
    steer.add_argument("--goal", choices=("better", "worse"), default="better", help="(default better)")
    steer.add_argument("--problems", type=options.NUMBERS["positive"], default=48, metavar="N",
                       help="problems that the last candidates write answers to (default 48)")  # fmt: skip
    steer.add_argument("--survivors", type=options.NUMBERS["positive"], default=3, metavar="N",
                       help="candidates with which answers are written (default 3)")  # fmt: skip
    for name, default, kind, text in (
        ("train", 48, "positive", "problems to train on"),
        ("validation", 16, "positive", "problems kept for validation"),
        ("passes", 2, "positive", "passes over them, at most"),
        ("batch", 8, "positive", "problems per step"),
        ("rate", 0.01, "seconds", "Adam's learning rate"),
        ("seed", 0, "natural", "of their order"),
    ):
        tune.add_argument(f"--{name}", type=options.NUMBERS[kind], default=default, metavar="X" if name == "rate" else "N",
                          help=f"{text} (default {default:g})")  # fmt: skip
    tune.add_argument("--minutes", type=options.NUMBERS["seconds"], metavar="M", help="begin no step after so many minutes")
    for sub in (steer, tune):
        sub.add_argument("--to", type=Path, required=True, metavar="FILE", help="the edit file to write")


def run(arguments: argparse.Namespace) -> None:
    """Run one of them."""
    from ..runs.session import Session

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(text), flush=True)

    session = Session.reopen(arguments.run, quiet=arguments.json or not sys.stderr.isatty())
    (_steer if arguments.command == "steer" else _tune)(arguments, session, say)


def _steer(arguments: argparse.Namespace, session: Session, say: Callable[[str], object]) -> None:
    from ..measuring.steering import Search, steer

    search = Search(arguments.goal, arguments.train_on, arguments.problems, arguments.survivors)
    edit = steer(session, arguments.to, arguments.by, search, first=arguments.first, random=arguments.random, say=say)
    found = edit.chosen["steered"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to)} | found))
    else:
        print(
            f"{found['neurons']} neurons, factor {found['factor']:g}: {found['solved']} of {found['problems']} tuning "
            f"problems solved, {found['untouched']} without: {arguments.to}"
        )
        print("It was chosen on these problems: `cotscope evaluate` asks others.")


def _tune(arguments: argparse.Namespace, session: Session, say: Callable[[str], object]) -> None:
    from ..measuring.tuning import Tuning, tune

    names = ("train", "validation", "passes", "batch", "rate", "minutes", "seed")
    settings = Tuning(arguments.train_on, **{name: getattr(arguments, name) for name in names})
    edit = tune(session, arguments.to, arguments.by, settings, first=arguments.first, random=arguments.random, say=say)
    tuned = edit.chosen["tuned"]
    curve = tuned["curve"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to), "neurons": len(edit.neurons), "curve": curve, "taken": tuned["taken"]}))
    else:
        print(f"{len(edit.neurons)} factors; loss on validation problems {curve[0]['validation']:.3f} → "
              f"{curve[tuned['taken']]['validation']:.3f} nats per token: {arguments.to}")  # fmt: skip
