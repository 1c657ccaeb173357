"""`cotscope steer` and `cotscope tune`: search one factor of the neurons that a run has found, or train something of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..measuring.tuning import AUTO, FACTORS, LOSSES, METHODS, RATES, SOLUTION
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
    tune = command("tune", "train factors or vectors of neurons that a run has found, and nothing else, on worked problems; or "
                   "adapters, or all weights, to compare them with")  # fmt: skip
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
        ("patience", 1, "positive", "passes without a better validation that end it"),
        ("batch", 8, "positive", "problems per step"),
        ("seed", 0, "natural", "of their order"),
    ):
        tune.add_argument(f"--{name}", type=options.NUMBERS[kind], default=default, metavar="N",
                          help=f"{text} (default {default:g})")  # fmt: skip
    tune.add_argument("--own", action="store_true",
                      help="on what the model itself writes where that is right, even if the data has solutions")  # fmt: skip
    tune.add_argument("--draws", type=options.NUMBERS["natural"], default=0, metavar="N",
                      help="where the model writes: solutions sampled of each problem that it gets wrong; a right one is taken "
                      "(default 0)")  # fmt: skip
    tune.add_argument("--loss", choices=LOSSES, default=SOLUTION,
                      help="of all tokens of a solution, or only of its formulas and answers (default solution)")  # fmt: skip
    tune.add_argument("--method", choices=METHODS, default=FACTORS,
                      help="what is trained: the neurons' factors (an edit file); or (a model folder) their value vectors, "
                      "these and the rows of their gate and up-projections, lora or ia3 (need cotscope[peft]), every weight "
                      "(default factors)")  # fmt: skip
    tune.add_argument("--trainable", type=options.NUMBERS["positive"], metavar="N",
                      help="of lora: about so many numbers (default: as many as value vectors)")  # fmt: skip
    rates = ", ".join(f"{method} {rate:g}" for method, rate in RATES.items())
    tune.add_argument("--rate", type=_rate, action="append", metavar="X",
                      help="Adam's learning rate; may be given several times: each is tried for a pass, that with the most "
                      f"validation problems solved is kept; auto: so it is searched (default: {rates})")  # fmt: skip
    tune.add_argument("--checkpointing", action="store_true",
                      help="compute layers again on the way back: less memory, more time")  # fmt: skip
    tune.add_argument("--minutes", type=options.NUMBERS["seconds"], metavar="M", help="begin no step after so many minutes")
    for sub in (steer, tune):
        what = "the edit file" if sub is steer else "the edit file, or model folder,"
        sub.add_argument("--to", type=Path, required=True, metavar="FILE", help=f"{what} to write")


def _rate(text: str) -> float | str:
    return AUTO if text == AUTO else float(options.NUMBERS["rate"](text))


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

    names = [f.name for f in fields(Tuning) if f.name != "data"]
    settings = Tuning(arguments.train_on, **{name: getattr(arguments, name) for name in names})
    edit = tune(session, arguments.to, arguments.by, settings, first=arguments.first, random=arguments.random, say=say)
    tuned = edit.chosen["tuned"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to), "neurons": edit.chosen.get("neurons")} | tuned))
    else:
        before, after = (tuned["curve"][i] for i in (0, tuned["taken"]))
        solved = f", {before['solved']} → {after['solved']} problems solved" if "solved" in after else ""
        print(
            f"{tuned['numbers']:,} numbers, rate {tuned['rate']:g}; {tuned['validation']} validation problems: loss "
            f"{before['validation']:.3f} → {after['validation']:.3f} nats per token{solved}; {tuned['seconds'] / 60:.1f} min, "
            f"at most {tuned['peak_memory'] / 2**30:.1f} GiB: {arguments.to}"
        )
