"""`cotscope steer` and `cotscope tune`: search one factor of the neurons that a run has found, or train something of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..measuring.editing.methods import AUTO, LOSSES, METHODS, RATES, Tuning
from ..measuring.editing.steering import GROUPS, Goal, Search, steer
from ..measuring.editing.tuning import tune
from ..measuring.problems import STUDY
from ..report.text import visible
from . import options

if TYPE_CHECKING:
    from ..runs.session import Session


COMMANDS = ("steer", "tune")


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer both commands."""
    steering = command(
        "steer", "search which factor of how many of the neurons that a run has found solves more, or less: an edit"
    )
    tuning = command("tune", "train factors or vectors of neurons that a run has found, and nothing else, on worked problems; "
                     "or adapters, or all weights, to compare them with")  # fmt: skip
    for sub in (steering, tuning):
        sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
        also = "" if sub is steering else ", or all"
        sub.add_argument("--by", default="attribution", metavar="BY",
                         help=f"reasoning, a way of choosing that `attribute` has run{also} (default attribution)")  # fmt: skip
        sub.add_argument("--first", type=options.NUMBERS["positive"], metavar="N", help="only the first N of them")
        sub.add_argument("--random", type=options.NUMBERS["natural"], metavar="SEED",
                         help="as many random neurons like them in their place: a control of the whole procedure")  # fmt: skip
        options.add_some(sub)
        sub.add_argument("--null", action="store_true",
                         help="if nothing is gained, write an edit that changes nothing: the result of a control")  # fmt: skip
        sub.add_argument("--train-on", metavar="DATA", default=STUDY,
                         help="problems, as of `study` (default: the study's own tuning problems)")  # fmt: skip
    steering.add_argument("--group", action="append", choices=GROUPS,
                          help="groups of neurons that are tried: the first so many, thirds of the layers, each concept's; may "
                          "be given several times (default: all of these)")  # fmt: skip
    steering.add_argument("--goal", choices=get_args(Goal), default=Search.goal, help=f"(default {Search.goal})")
    for sub, of, name, kind, text in (
        (steering, Search, "problems", "positive", "problems that the last candidates write answers to"),
        (steering, Search, "survivors", "positive", "candidates with which answers are written"),
        (tuning, Tuning, "train", "positive", "problems to train on"),
        (tuning, Tuning, "validation", "positive", "problems kept for validation"),
        (tuning, Tuning, "passes", "positive", "passes over them, at most"),
        (tuning, Tuning, "patience", "positive", "passes without a better validation that end it"),
        (tuning, Tuning, "batch", "positive", "problems per step"),
        (tuning, Tuning, "warmup", "natural", "steps over which the rate rises evenly to its own"),
        (tuning, Tuning, "seed", "natural", "of their order"),
        (tuning, Tuning, "draws", "natural", "where the model writes: solutions sampled of each problem that it gets wrong; a "
         "right one is taken"),
    ):  # fmt: skip
        sub.add_argument(f"--{name}", type=options.NUMBERS[kind], default=getattr(of, name), metavar="N",
                         help=f"{text} (default {getattr(of, name)})")  # fmt: skip
    tuning.add_argument("--own", action="store_true",
                        help="on what the model itself writes where that is right, even if the data has solutions")  # fmt: skip
    tuning.add_argument("--loss", choices=LOSSES, default=Tuning.loss,
                        help="of all tokens of a solution, or only of its formulas and answers "
                        f"(default {Tuning.loss})")  # fmt: skip
    tuning.add_argument("--method", choices=METHODS, default=Tuning.method,
                        help="what is trained: the neurons' factors (an edit file); or (a model folder) their value vectors, "
                        "these and the rows of their gate and up-projections, lora or ia3 (need cotscope[peft]), every weight "
                        f"(default {Tuning.method})")  # fmt: skip
    tuning.add_argument("--trainable", type=options.NUMBERS["positive"], metavar="N",
                        help="of lora: about so many numbers (default: as many as value vectors)")  # fmt: skip
    rates = ", ".join(f"{method} {rate:g}" for method, rate in RATES.items())
    tuning.add_argument("--rate", type=_rate, action="append", metavar="X",
                        help="Adam's learning rate; may be given several times: each is tried for a pass, that with the most "
                        "validation problems solved (with --own: with the least validation loss) is kept; auto: so it is "
                        f"searched (default: {rates})")  # fmt: skip
    tuning.add_argument("--checkpointing", action="store_true",
                        help="compute layers again on the way back: less memory, more time")  # fmt: skip
    tuning.add_argument("--dtype", choices=options.DTYPES, default="",
                        help="of the weights that are written (default: of the base's files); 16 bits round away what is small "
                        "beside a weight")  # fmt: skip
    tuning.add_argument("--minutes", type=options.NUMBERS["seconds"], metavar="M", help="begin no step after so many minutes")
    for sub in (steering, tuning):
        what = "the edit file" if sub is steering else "the edit file, or model folder,"
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
    groups = tuple(dict.fromkeys(arguments.group or GROUPS))
    search = Search(arguments.goal, arguments.train_on, arguments.problems, arguments.survivors, groups=groups)
    edit = steer(session, arguments.to, arguments.by, search, **_some(arguments), say=say)
    found = edit.chosen["steered"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to)} | found))
    elif edit.nothing:
        print(f"{edit.chosen['nothing']}: {arguments.to} changes nothing")
    else:
        print(
            f"{found['group']} ({found['neurons']} neurons), factor {found['factor']:g}: {found['solved']} of "
            f"{found['problems']} tuning problems solved, {found['untouched']} without: {arguments.to}"
        )
        if abs(found["solved"] - found["untouched"]) < found["detectable"] * found["problems"]:
            print(f"So few problems show a difference of {found['detectable']:.2f} and more: this one may be luck.")
        print("It was chosen on these problems: `cotscope evaluate` asks others.")


def _some(arguments: argparse.Namespace) -> dict[str, Any]:
    """Which neurons, and what becomes of a search that gains nothing."""
    return {name: getattr(arguments, name) for name in ("first", "random", "layers", "null")} | {"concepts": arguments.concept}


def _tune(arguments: argparse.Namespace, session: Session, say: Callable[[str], object]) -> None:
    names = [f.name for f in fields(Tuning) if f.name != "data"]
    settings = Tuning(arguments.train_on, **{name: getattr(arguments, name) for name in names})
    edit = tune(session, arguments.to, arguments.by, settings, **_some(arguments), say=say)
    tuned = edit.chosen["tuned"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to), "neurons": edit.chosen.get("neurons")} | tuned))
    elif edit.nothing:
        print(f"{edit.chosen['nothing']}: {arguments.to} changes nothing")
    else:
        before, after = (tuned["curve"][i] for i in (0, tuned["taken"]))
        solved = f", {before['solved']} → {after['solved']} problems solved" if "solved" in after else ""
        print(
            f"{tuned['numbers']:,} numbers, rate {tuned['rate']:g}; {tuned['validation']} validation problems: loss "
            f"{before['validation']:.3f} → {after['validation']:.3f} nats per token{solved}; {tuned['seconds'] / 60:.1f} min, "
            f"at most {tuned['peak_memory'] / 2**30:.1f} GiB: {arguments.to}"
        )
