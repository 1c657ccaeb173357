"""`cotscope steer` and `cotscope tune`: search one factor of the neurons that a run has found, or train something of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..edits.edit import Edit
from ..edits.made import group_of
from ..measuring.choosing import Choice, with_controls
from ..measuring.editing.methods import AUTO, RATES, Tuning
from ..measuring.editing.steering import Search, made_so, steer
from ..measuring.editing.tuning import tune
from ..report.text import visible
from . import options
from .edits import left_as_it_is

COMMANDS = ("steer", "tune")


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer both commands."""
    steering = command(
        "steer", "search which factor of how many of the neurons that a run has found solves more, or less: an edit"
    )
    tuning = command("tune", "train factors or vectors of neurons that a run has found, and nothing else, on worked problems; "
                     "or adapters, or all weights, to compare them with; --by all: of all neurons")  # fmt: skip
    for sub, of in ((steering, Search), (tuning, Tuning)):
        sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
        options.add(sub, options.offered(Choice))
        options.add(sub, options.offered(of))
        if sub is steering:
            options.add_controls(sub)
        sub.add_argument("--null", action="store_true",
                         help="if nothing is gained, write an edit that changes nothing: the result of a control")  # fmt: skip
        what = "the edit file" if sub is steering else "the edit file, or model folder,"
        sub.add_argument("--to", type=Path, required=True, metavar="FILE", help=f"{what} to write")
    rates = ", ".join(f"{method} {rate:g}" for method, rate in RATES.items())
    tuning.add_argument("--rate", type=_rate, action="append", metavar="X",
                        help="Adam's learning rate; may be given several times: each is tried for a pass, that with the most "
                        "validation problems solved (with --own: with the least validation loss) is kept; auto: so it is "
                        f"searched (default: {rates})")  # fmt: skip


def _rate(text: str) -> float | str:
    return AUTO if text == AUTO else float(options.NUMBERS["rate"](text))


def run(arguments: argparse.Namespace) -> None:
    """Run one of them."""
    from ..runs.session import Session

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(text), flush=True)

    choice = options.made(Choice, arguments)

    def session() -> Session:
        return Session.reopen(arguments.run, quiet=arguments.json or not sys.stderr.isatty())

    if arguments.command == "steer":
        search, opened = options.made(Search, arguments), session()
        for to, each in with_controls(choice, arguments.to, arguments.controls):
            if arguments.controls and to.exists():
                left_as_it_is(to, made_so(opened, Edit.read(to), each, search), arguments.json)
                continue
            null = arguments.null or each is not choice  # of a control nothing is a result
            _say_steered(arguments.json, to, steer(opened, to, each, search, null=null, say=say))
    else:
        settings = options.made(Tuning, arguments, rate=arguments.rate)
        _say_tuned(arguments, tune(session(), arguments.to, choice, settings, null=arguments.null, say=say))


def _say_steered(as_json: bool, to: Path, edit: Edit) -> None:
    found = edit.chosen["steered"]
    if as_json:
        print(json.dumps({"edit": str(to)} | found), flush=True)
    elif edit.nothing:
        print(f"{edit.chosen['nothing']}: {to} changes nothing", flush=True)
    else:
        print(
            f"{group_of(edit, found['group'])} ({found['neurons']} neurons), factor {found['factor']:g}: {found['solved']} of "
            f"{found['problems']} tuning problems solved, {found['untouched']} without: {to}"
        )
        if not found["shown"]:
            print(f"A difference is not shown on so few problems (p {found['p_value']:.2g} over the last candidates, on those "
                  "by which none was chosen before).")  # fmt: skip
        print("It was chosen on these problems: `cotscope evaluate` asks others.", flush=True)


def _say_tuned(arguments: argparse.Namespace, edit: Edit) -> None:
    tuned = edit.chosen["tuned"]
    if arguments.json:
        print(json.dumps({"edit": str(arguments.to), "neurons": edit.chosen.get("neurons")} | tuned))
    elif edit.nothing:
        print(f"{edit.chosen['nothing']}: {arguments.to} changes nothing")
    else:
        before, after = (tuned["curve"][i] for i in (0, tuned["taken"]))
        solved = f", {before['solved']} → {after['solved']} problems solved" if "solved" in after else ""
        validated = (
            f"; {tuned['validation']} validation problems: loss {before['validation']:.3f} → {after['validation']:.3f} nats "
            f"per token{solved}"
        )
        print(
            f"{tuned['numbers']:,} numbers, rate {tuned['rate']:g}{validated if tuned['validation'] else ''}; "
            f"{tuned['seconds'] / 60:.1f} min, at most {tuned['peak_memory'] / 2**30:.1f} GiB: {arguments.to}"
        )
