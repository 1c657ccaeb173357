"""`cotscope compare`: train everything that `tune` can, several times, evaluate it all together, and write one table.

Each training is a process of its own, `cotscope tune`, so that its peak memory is its own and nothing of it is lost when the
comparison is killed. The learning rate of each is searched with the first seed; the others take that.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..data.spreadsheets import harmless_row
from ..edits.edit import Edit
from ..errors import UserError, shown
from ..measuring.choosing import Choice, choose
from ..measuring.editing.methods import ALL, AUTO, FACTORS, FULL, IA3, LORA, METHODS, ROWS, VALUES, Tuning
from ..runs.config import STUDY
from ..runs.files import digest_of, fingerprint, held, json_text, read_json, replacing, write_text
from ..runs.tables import TABLES
from . import options, pace

COMMANDS = ("compare",)
_PASSED_ON = {
    "tune": ("train_on", "own", "draws", "loss", "train", "validation", "passes", "patience", "batch", "warmup", "dtype",
             "minutes", "checkpointing"),
    "evaluate": ("test", "solutions", "skills", "rounding"),
}  # fmt: skip


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Offer the command."""
    sub = command("compare", "tune with every method, of chosen neurons, of random ones like them and of all, several times; "
                  "evaluate it all: a part of the report, comparison.csv and .json")  # fmt: skip
    sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    passed = _PASSED_ON["tune"]
    by, first = (next(f for f in fields(Choice) if f.name == name) for name in ("by", "first"))
    sub.add_argument("--by", action="append", default=[], metavar="BY",
                     help=f"{by.metadata['help']}; may be given several times, each with random ones like them (default "
                     f"{by.default})")  # fmt: skip
    options.add(sub, [first])
    sub.add_argument("--method", action="append", choices=METHODS, help="only this one; may be given several times")
    sub.add_argument("--seeds", type=options.NUMBERS["positive"], default=3, metavar="N", help="of each (default 3)")
    options.add(sub, [f for f in fields(Tuning) if f.name in ("trainable", *passed)])
    not_given = dict.fromkeys(("first", "trainable", *passed)) | {"own": False, "checkpointing": False}
    sub.set_defaults(**not_given)  # what is not given is not passed on
    sub.add_argument("--data", action="append", default=[], metavar="DATA",
                     help="problems to evaluate on, as of `evaluate`; may be given several times")  # fmt: skip
    for name, text in (("test", "problems of each data set"), ("solutions", "reference solutions of each"),
                       ("skills", "items per task of other skills")):  # fmt: skip
        sub.add_argument(f"--{name}", type=options.NUMBERS["positive"], metavar="N", help=f"{text} (default: as of `evaluate`)")
    sub.add_argument("--rounding", action="store_true", help="as of `evaluate`: the untouched model in another precision, too")
    sub.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder for edits, models and the table")


def contenders(
    ways: Sequence[str], methods: Sequence[str], seed: int, trainable: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """What is trained with one seed, of neurons chosen in each of some ways: (name, options of `tune`).

    Args:
        trainable: of LoRA; None: as many numbers as the chosen neurons' value vectors.
    """
    size = ["--trainable", str(trainable)] if trainable else ["--by", ways[0]]
    for method in methods:
        if method not in (FACTORS, VALUES, ROWS):
            yield method, ["--method", method, *(size if method == LORA else [])]
            continue
        for by in ways:
            like = "" if by == ways[0] else f"-like-{by}"
            yield f"{method}-{by}", ["--method", method, "--by", by]
            yield f"{method}-random{like}", ["--method", method, "--by", by, "--random", str(seed)]
        if method == FACTORS:
            yield f"{method}-{ALL}", ["--method", method, "--by", ALL]


def _ways(arguments: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(arguments.by)) or [Choice.by]


def _methods(arguments: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(arguments.method or METHODS))


def _all(arguments: argparse.Namespace, seed: int) -> Iterator[tuple[Path, list[str]]]:
    """What is trained with one seed: where it goes, and the options of `tune`."""
    for name, words in contenders(_ways(arguments), _methods(arguments), seed, arguments.trainable):
        yield arguments.to / (f"{name}-{seed}.json" if name.startswith(FACTORS) else f"{name}-{seed}"), words


def _unused(arguments: argparse.Namespace) -> list[str]:
    """Options that do nothing for the methods that are compared."""
    some = any("--by" in words and ALL not in words for _, words in _all(arguments, 0))
    return ([] if some else ["by", "first"]) + (["dtype"] if _methods(arguments) == [FACTORS] else [])


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate, write the table."""
    folder: Path = arguments.to
    neurons, problems = _check(arguments)
    if problems:  # a model was loaded
        from ..lm.loading import give_back_memory

        give_back_memory()  # each training is a process of its own
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder) as alone:
        # Of a file that was being written when it was ended; of models: `remove_left`.
        for part in folder.glob(".*.part") if alone else ():
            if part.is_file():
                part.unlink()
        _same_settings(arguments, folder / "settings.json", neurons)
        _compared(arguments, problems)


def _compared(arguments: argparse.Namespace, problems: int) -> None:
    """What is not done yet is trained, all of it evaluated, the table written.

    Args:
        problems: on which each is evaluated, of all data sets.
    """
    from ..runs.folder import Run
    from ..stages.evaluate import Options

    folder: Path = arguments.to
    edits = dict[str, Path]()
    every = [to for seed in range(arguments.seeds) for to, _ in _all(arguments, seed)]
    for seed in range(arguments.seeds):
        for to, words in _all(arguments, seed):
            name = pace.name_of(to)
            edits[name] = to
            if not to.exists():
                rate = Edit.read(edits[f"{pace.kind_of(name)}-0"]).chosen["tuned"]["rate"] if seed else AUTO
                some = arguments.first is not None and "--by" in words and ALL not in words
                first = ["--first", str(arguments.first)] if some else []
                if not arguments.json:
                    print(pace.left(every, problems, 1 + arguments.rounding), flush=True)
                _cotscope(
                    arguments, "tune", *words, *first, "--null", "--rate", str(rate), "--seed", str(seed), "--to", str(to)
                )
    # Said whatever was: else what `evaluate` was asked before stands, which is not what was checked.
    data = [word for source in arguments.data or [STUDY] for word in ("--data", source)]
    data += [] if arguments.rounding else ["--no-rounding"]
    arguments.test = arguments.test or Run.open(arguments.run).summary["data"]["test"]
    arguments.solutions, arguments.skills = arguments.solutions or Options.solutions, arguments.skills or Options.skills
    _cotscope(arguments, "evaluate", *(word for to in edits.values() for word in ("--edit", str(to))), *data)
    nothing = [name for name, to in edits.items() if Edit.read(to).nothing]
    tables = {"comparison": "evaluations", "contrasts": "evaluation_contrasts"}
    for name, of in tables.items():
        rows = Run.open(arguments.run).rows(f"SELECT * FROM {of}")
        write_text(folder / f"{name}.json", json_text(rows))
        with replacing(folder / f"{name}.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, TABLES[of].schema.names)
            writer.writeheader()
            writer.writerows(map(harmless_row, rows))
    table = folder / "comparison.csv"
    if arguments.json:
        print(json.dumps({"table": str(table), "edits": len(edits), "nothing_gained": nothing}))
    else:
        none = f", of which {len(nothing)} gained nothing and count as the base" if nothing else ""
        print(f"{len(edits)} trained{none}: {table}, and beside one another contrasts.csv; the report has a part on them.")


def _check(arguments: argparse.Namespace) -> tuple[str | None, int]:
    """What would end it after hours. Raises: UserError for neurons that the run has not, adapters that peft has not, no room
    for all the models, no memory to train every weight, or test problems among those to train on.

    Returns: the fingerprint of the neurons that are trained, None if none are, any more; on how many problems what is trained
        is evaluated.
    """
    from ..data.rows import question_key
    from ..edits.fold import check_room, remove_left, stored_dtype
    from ..lm.loading import DTYPES
    from ..lm.trained import check_adapters
    from ..lm.training import BYTES
    from ..measuring.attributing import check_memory
    from ..measuring.editing.asking import check_rounding
    from ..measuring.editing.trainer import STATES
    from ..measuring.editing.worked import tuning_problems, writes_itself
    from ..measuring.problems import trial_data
    from ..runs.session import Session
    from ..stages.evaluate import Options

    if arguments.trainable and LORA not in _methods(arguments):
        raise UserError("--trainable says how large LoRA is", expected=f"--method {LORA} beside it")
    unused = _unused(arguments)
    if arguments.dtype and "dtype" in unused:
        raise UserError("factors are no weights that have a dtype", expected="another --method beside it, or no --dtype")
    if ALL in arguments.by:
        raise UserError("all neurons are among what is compared", expected="--by reasoning, or a way that `attribute` has run")
    for name in unused:
        if name != "dtype" and getattr(arguments, name):
            raise UserError(f"--{name} chooses neurons, and nothing is trained of some", expected="another --method beside it")
    if arguments.validation == 0:
        raise UserError("a learning rate is searched on validation problems", expected="--validation N, 1 or more", got="0")
    every = [to for seed in range(arguments.seeds) for to, _ in _all(arguments, seed)]
    if other := next((to for to in every if to.exists() and "tuned" not in Edit.read(to).chosen), None):
        raise UserError(f"{other} was not trained", expected="what `compare` has trained, or nothing of its names",
                        remedy="Give another --to.")  # fmt: skip
    left = [(to, words[1]) for seed in range(arguments.seeds) for to, words in _all(arguments, seed) if not to.exists()]
    if not left:
        return None, 0
    missing = [method for _, method in left]
    session = Session.reopen(arguments.run, quiet=True)
    if arguments.rounding:
        check_rounding(session)
    for method in {LORA, IA3}.intersection(missing):
        check_adapters(method, session.loaded)
    if FULL in missing:
        check_memory(session.loaded, BYTES * session.loaded.parameters(), remedy="Leave `full` out: --method takes the others.")
    for to, _ in left:
        remove_left(to)
    if models := len(missing) - missing.count(FACTORS):
        stored = arguments.dtype or stored_dtype(session.config.model)
        size = models * session.loaded.parameters() * DTYPES[stored].itemsize
        kept = sum(p.stat().st_size for p in arguments.to.glob(".*.training/*"))
        states = STATES * session.loaded.parameters() * (FULL in missing)
        check_room(arguments.to, size + max(0, states - kept), f"{models} models in {stored}")
    neurons = None
    if "by" not in unused:
        neurons = fingerprint(*(choose(session, Choice(by, first=arguments.first))[0] for by in _ways(arguments)))
    wanted = (arguments.train or Tuning.train) + (arguments.validation or Tuning.validation)
    known = tuning_problems(session, arguments.train_on or STUDY)
    worked = [p for p in known if p.has_solution][:wanted]
    if arguments.own or writes_itself(known, wanted):
        worked = known  # which ones the model solves is not known before
    trained = {question_key(p.question) for p in worked}
    given = trial_data(session, arguments.data, arguments.test or len(session.inputs.split.test), noted=False)
    for data in given:
        session.model.check_lengths([session.prompt], data.problems, arguments.solutions or Options.solutions)
        if seen := [p.id for p in data.problems if question_key(p.question) in trained]:
            raise UserError(
                f"problems of {data.label} are among those that may be trained on", expected="none of them",
                got=f"{len(seen)} of {len(data.problems)}, {seen[0]} the first", remedy="Give others to --data or --train-on.",
            )  # fmt: skip
    return neurons, sum(len(data.problems) for data in given)


def _same_settings(arguments: argparse.Namespace, path: Path, neurons: str | None) -> None:
    """What is trained with; what stands in the folder was trained with the same, but for `minutes` that ended nothing. Raises:
    UserError.

    Args:
        neurons: as `_check` returns it.
    """
    ways = _ways(arguments)
    given = {"by": ways if len(ways) > 1 else ways[0], "run": os.path.abspath(arguments.run)}
    given |= {name: getattr(arguments, name) for name in ("first", "trainable", *_PASSED_ON["tune"])}
    content = {"file of --train-on": digest_of(arguments.train_on or ""), "choice of neurons": neurons}
    given |= {name: value for name, value in content.items() if value is not None}
    # Before anything is trained nothing hangs on settings, and a remedy may ask for others.
    begun = any(not p.name.startswith((path.name, f".{path.name}", "own-solutions-", ".lock")) for p in path.parent.iterdir())
    stored = read_json(path) if begun and path.exists() else {}
    unused = _unused(arguments)
    before, given = ({name: value for name, value in of.items() if name not in unused} for of in (stored, given))
    if isinstance(typed := before.get("run"), str):  # of an older file as it was typed, from whatever folder
        same = not os.path.isabs(typed) and Path(typed).name == Path(given["run"]).name
        before["run"] = given["run"] if same else os.path.abspath(typed)
    done = [to for seed in range(arguments.seeds) for to, _ in _all(arguments, seed) if to.exists()]
    if not any(Edit.read(to).chosen["tuned"].get("cut") for to in done):
        before.pop("minutes", None)
    plain = (*content, "run")
    for name, value in given.items() if before else ():
        then = before.get(name, value if name in (*content, "minutes") else None)
        older = then is None and getattr(arguments, name, None) is False  # has no such switch, which is not given
        if then != value and not older:
            raise UserError(
                f"{path.parent} holds a comparison with another {name if name in plain else '--' + name.replace('_', '-')}",
                expected=shown(before.get(name)), got=shown(value), remedy="Give another --to.",
            )  # fmt: skip
    if before | given != stored:
        write_text(path, json_text(before | given))


def _cotscope(arguments: argparse.Namespace, command: str, *words: str) -> None:
    """Run a command on the run folder. Raises: UserError with what it says if it fails."""
    given: dict[str, Any] = {name: getattr(arguments, name) for name in _PASSED_ON[command]}
    if FACTORS in words:
        given["dtype"] = None  # they are no model
    passed = list[str]()
    for name, value in given.items():
        if value is not None and value is not False:
            passed += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    whole = [command, str(arguments.run), *words, *passed]
    if not arguments.json:
        print(f"$ cotscope {' '.join(whole)}", flush=True)
    code, said = _process(whole, arguments.json)
    if code:
        last = (said.strip().splitlines() or [""])[-1].removeprefix("cotscope: error: ")
        remedy = "" if code == 2 else "The same command goes on from there."  # 2: it says what to do itself
        raise UserError(f"`cotscope {command}` ended with {code}", got=last, remedy=remedy)


def _process(words: Sequence[str], quiet: bool) -> tuple[int, str]:
    """A command in a process of its own: how it ended, and what it said on standard error.

    Ctrl-C does not reach it: it would keep the best so far, and that would count as done. It is ended instead, and goes on from
    its last step when it is asked again.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen([sys.executable, "-m", "cotscope", *words], stdout=sys.stderr if quiet else None,
                                   stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        said = process.communicate()[1]
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return process.returncode, said
