"""`cotscope tables`: a run's results as files for other programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from ..exchange import FORMATS


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer the command."""
    sub = command("tables", "write what of a run is current as files for other programs")
    sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    sub.add_argument(
        "--format",
        choices=FORMATS,
        default="csv",
        help="csv, parquet, json: every table, a file each; neuronpedia: its bulk files of every pole; lm-eval: accuracies as "
        "lm-evaluation-harness writes them (default csv)",
    )
    sub.add_argument("--to", type=Path, metavar="DIR", help="the folder to make (default: beside the run, RUN-FORMAT)")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from ..exchange.tables import export
    from ..report.text import visible
    from ..runs.folder import Run

    made, left = export(Run.open(arguments.run), arguments.format, arguments.to)
    if arguments.json:
        print(json.dumps({"written": [str(path) for path in made], "left_out": left}))
        return
    print(f"{len(made)} {'file' if made[0].is_file() else 'source'}{'s' * (len(made) > 1)}: {visible(str(made[0].parent))}")
    for table, why in left.items():
        print(f"left out: {table}, since {visible(why)}")
