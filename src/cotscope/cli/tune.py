"""`cotscope tune`: train factors of the neurons that a run has found; an edit comes of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..report.text import visible
from . import options


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer the command."""
    tune = command("tune", "train factors of neurons that a run has found, and nothing else, on worked problems: an edit")
    tune.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    tune.add_argument("--by", default="attribution", metavar="BY",
                      help="reasoning, a way of choosing that `attribute` has run, or all (default attribution)")  # fmt: skip
    tune.add_argument("--first", type=options.NUMBERS["positive"], metavar="N", help="only the first N of them")
    tune.add_argument("--random", type=options.NUMBERS["natural"], metavar="SEED",
                      help="as many random neurons like them, in their place")  # fmt: skip
    tune.add_argument("--train-on", metavar="DATA", default="study",
                      help="problems to train on, as of `study` (default: the study's own tuning problems)")  # fmt: skip
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
    tune.add_argument("--to", type=Path, required=True, metavar="FILE", help="the edit file to write")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from ..measuring.tuning import Tuning, tune
    from ..runs.session import Session

    def say(text: str) -> None:
        if not arguments.json:
            print(visible(text), flush=True)

    session = Session.reopen(arguments.run, quiet=arguments.json or not sys.stderr.isatty())
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
