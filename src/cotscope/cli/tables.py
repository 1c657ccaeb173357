"""`cotscope tables`: a run's results as files for other programs, or held against another run's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..exchange import FORMATS
from . import options


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer the command."""
    sub = command("tables", "write what of a run is current as files for other programs, or hold it against another run")
    sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    sub.add_argument(
        "--format",
        choices=FORMATS,
        help="csv, parquet, json: every table, a file each; neuronpedia: its bulk files of every pole; lm-eval: accuracies as "
        "lm-evaluation-harness writes them; lm-eval-task: test problems under the first prompt as a task of it (default csv)",
    )
    sub.add_argument("--to", type=Path, metavar="DIR", help="the folder to make (default: beside the run, RUN-FORMAT)")
    sub.add_argument("--against", type=Path, metavar="OTHER", help="write nothing: say table by table how another run "
                     "differs; ends with 1 if it does")  # fmt: skip
    sub.add_argument("--tolerance", type=options.NUMBERS["amount"], metavar="X",
                     help="numbers that differ by no more are the same (default 0)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if arguments.against is not None:
        return _against(arguments)
    if arguments.tolerance is not None:
        raise UserError("--tolerance is for --against", expected="--against OTHER beside it")
    from ..exchange.tables import export
    from ..report.text import visible
    from ..runs.folder import Run

    made, left = export(Run.open(arguments.run), arguments.format or "csv", arguments.to)
    if arguments.json:
        print(json.dumps({"written": [str(path) for path in made], "left_out": left}))
        return
    print(f"{len(made)} {'file' if made[0].is_file() else 'source'}{'s' * (len(made) > 1)}: {visible(str(made[0].parent))}")
    for table, why in left.items():
        print(f"left out: {table}, since {visible(why)}")


def _against(arguments: argparse.Namespace) -> None:
    from ..exchange.against import as_rows, differences
    from ..runs.files import json_values
    from ..runs.folder import Run

    if arguments.to is not None or arguments.format is not None:
        raise UserError("--against writes nothing", expected="no --format or --to beside it")
    found = differences(Run.open(arguments.run), Run.open(arguments.against))
    tolerance = arguments.tolerance or 0.0
    differ = [each for each in found if not each.same(tolerance)]
    if arguments.json:
        print(json.dumps(json_values(as_rows(found, tolerance))))
    else:
        print(*found, f"{len(differ)} of {len(found)} tables differ.", sep="\n")
    if differ:
        sys.exit(1)
