"""Problems from a file, the Hugging Face hub or the built-in generator, and their split into test and discovery.

Two forms are read. GSM8K's: `question`, and `answer` a worked solution that ends in "#### N". Plain: `question`, and
`answer` a number or a string with one number; optionally `id` and `solution`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

from ..errors import DataError, shown
from ..records import Problem
from .builtin import TEMPLATE_PARTS, generate
from .reading import MEBIBYTE, decode, read_bytes
from .rows import FORM, parse_json, question_key, read_problems

DEFAULT_BUILTIN = 600
"""How many problems the source "builtin" has."""

PARTS = ("test", "discovery", "tuning")
"""The parts of a split."""

DEFAULT_LIMIT = 96
"""Test problems where no limit is given, and the most discovery problems where none is given."""

_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")
_ALIASES = {"gsm8k": "openai/gsm8k:main@test"}
_LARGEST = 256 * MEBIBYTE  # of a file


@dataclass(frozen=True, slots=True)
class Loaded:
    """The problems of one source.

    Attributes:
        problems: in the source's order, each question once.
        duplicates: (dropped id, kept id) of each question that stood in the source again.
        source: as it was asked for.
        sha256: of the file's bytes; for the hub and the generator, of the problems as canonical JSON, repeated ones
            included.
    """

    problems: tuple[Problem, ...]
    duplicates: tuple[tuple[str, str], ...]
    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint problems: no two parts share an id or a question.

    Attributes:
        test, discovery: at least one each.
        tuning: for whatever a later stage fits; none where the data has none left.
        halved: there were too few for the test and discovery sizes asked for.
        tuning_short: there were too few for the tuning size asked for.

    Raises: DataError when two parts overlap.
    """

    test: tuple[Problem, ...]
    discovery: tuple[Problem, ...]
    tuning: tuple[Problem, ...]
    halved: bool
    tuning_short: bool = False

    def __post_init__(self) -> None:
        for (one, first), (other, second) in combinations(self.parts().items(), 2):
            shared = {p.id for p in first} & {p.id for p in second}
            questions = {question_key(p.question): p.id for p in first}
            shared |= {p.id for p in second if question_key(p.question) in questions}
            if shared:
                raise DataError(
                    f"{one} and {other} problems overlap", expected="no problem in both", got=", ".join(sorted(shared)[:5])
                )

    def parts(self) -> dict[str, tuple[Problem, ...]]:
        """Each part by its name."""
        return {name: getattr(self, name) for name in PARTS}


def load_problems(source: str, seed: int = 0) -> Loaded:
    """The problems of `source`.

    Args:
        source: a path to a .json file (a list) or a .jsonl file; "builtin" or "builtin:N" (N generated problems, 600
            unless given), "builtin:N/train" or "builtin:N/held-out" (of two thirds of the templates, of the others);
            "gsm8k"; or a hub data set, "owner/name[:config][@split]", the split "test" unless given.
        seed: of the built-in generator; nothing else uses it.

    Raises:
        DataError: the source is missing, unreachable, empty or malformed (file name and line are said), an answer is
            no number, or an id is used twice.
    """
    source = os.fspath(source)  # from Python it may be a path
    kind, _, count = source.partition(":")
    if kind == "builtin":
        number, part = _builtin_count(source, count)
        return _loaded(source, generate(number, seed, part=part))
    path = Path(source)
    absent = _absent(path)
    if not absent:
        return _from_file(source, path)
    looks_like_path = path.suffix.lower() in (".json", ".jsonl") or source.startswith(("/", ".", "~")) or "\\" in source
    hub = _HUB.fullmatch(_ALIASES.get(source, source))
    if looks_like_path or hub is None:
        raise DataError(
            f"no such problem file or data set: {shown(source, 160)}",
            expected='a .json or .jsonl file, "builtin", "gsm8k" or a hub data set "owner/name[:config][@split]"',
            got=absent,
            remedy="Check the path, or use `builtin` for generated problems.",
        )
    return _from_hub(source, hub["name"], hub["config"], hub["split"] or "test")


def load_questions(source: str) -> tuple[Problem, ...]:
    """The questions of a .json or .jsonl file, with or without answers, which are not read: 0 stands in their place. A
    question that stands there twice is there twice.

    Raises: DataError as `load_problems`.
    """
    path = Path(source)
    if absent := _absent(path):
        raise DataError(f"no such file of questions: {shown(source, 160)}", expected="a .json or .jsonl file", got=absent)
    return tuple(_read(source, path, labelled=False)[0])


def split(problems: Sequence[Problem], limit: int | None = None, discover_limit: int | None = None,
          tune_limit: int | None = None) -> Split:  # fmt: skip
    """The first `limit` problems for testing, the `discover_limit` directly after them for discovery, then tuning.

    Args:
        problems: with different ids and questions, as `load_problems` gives them.
        limit: test problems; None for 96.
        discover_limit: discovery problems; None for `limit`, at most 96.
        tune_limit: tuning problems, taken from those that neither test nor discovery took; None for `discover_limit`.

    With fewer problems than testing and discovery need, the first half (the larger one) is for testing and the second
    for discovery, each cut to its limit; what they leave, possibly nothing, is for tuning.

    Raises:
        DataError: there are fewer than two problems, a limit is below 1, or two parts overlap.
    """
    limit = DEFAULT_LIMIT if limit is None else limit
    discover_limit = min(limit, DEFAULT_LIMIT) if discover_limit is None else discover_limit
    tune_limit = discover_limit if tune_limit is None else tune_limit
    if (least := min(limit, discover_limit, tune_limit)) < 1:
        raise DataError("a limit on problems is too low", expected="1 or more", got=shown(least))
    if len(problems) < 2:
        raise DataError(
            "too few problems to test and to discover on",
            expected="at least 2 different ones",
            got=str(len(problems)),
            remedy="Add problems to the file, or use `builtin`.",
        )
    halved = len(problems) < limit + discover_limit
    start = (len(problems) + 1) // 2 if halved else limit
    test, discovery = tuple(problems[:start][:limit]), tuple(problems[start:][:discover_limit])
    left = [*problems[start + len(discovery) :], *problems[len(test) : start]]
    return Split(test, discovery, tuple(left[:tune_limit]), halved, tuning_short=len(left) < tune_limit)


_TO_CHOOSE = 2  # paragraphs of the tuning text, the last ones


def general_text(use: str = "measuring") -> str:
    """General English prose without arithmetic; what is chosen by one text is neither searched nor measured on it.

    Args:
        use: "measuring", about 1,350 words; "searching", about 600 of another text; "choosing", about 250 of that, its end.
    """
    name = "general.txt" if use == "measuring" else "general_tuning.txt"
    text = (resources.files("cotscope.data") / name).read_text(encoding="utf-8")
    if use == "measuring":
        return text
    paragraphs = text.split("\n\n")
    return "\n\n".join(paragraphs[-_TO_CHOOSE:] if use == "choosing" else paragraphs[:-_TO_CHOOSE])


def _absent(path: Path) -> str:
    """What is there instead of a file, in words; empty if something is there that may be one."""
    try:
        return "a folder" if stat.S_ISDIR(path.stat().st_mode) else ""
    except FileNotFoundError:
        return "nothing by that name"
    except OSError as error:  # too long a name, or a folder that may not be read
        return error.strerror or str(error)
    except ValueError:
        return "a name with a NUL character"


def _builtin_count(source: str, count: str) -> tuple[int, str | None]:
    """How many, and of which part of the templates."""
    if source == "builtin":
        return DEFAULT_BUILTIN, None
    found = re.fullmatch(rf"0*([1-9][0-9]{{0,5}})(?:/({'|'.join(TEMPLATE_PARTS)}))?", count)
    if not found:
        expected = '"builtin:N", N from 1 to 999999, or with /train or /held-out after it'
        raise DataError("not a number of built-in problems", expected=expected, got=shown(source))
    return int(found[1]), found[2]


def _from_file(source: str, path: Path) -> Loaded:
    return _loaded(source, *_read(source, path))


def _read(source: str, path: Path, labelled: bool = True) -> tuple[list[Problem], str]:
    """The problems of a file, at least one, and its SHA-256."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".jsonl"):
        raise DataError(f"{source}: unknown kind of problem file", expected="a .json or .jsonl file", got=shown(suffix))
    data = read_bytes(path, "problem file", DataError, _LARGEST)
    text = decode(data, source, DataError)
    if suffix == ".jsonl":
        # Not splitlines(): a JSON string may hold U+2028 and the like as they are.
        lines = [(index, f"{source}, line {index + 1}", line) for index, line in enumerate(text.split("\n"))]
        rows = [(index, place, parse_json(line, place)) for index, place, line in lines if line.strip()]
    else:
        items = parse_json(text, source) if text.strip() else []
        if not isinstance(items, list):
            raise DataError(f"{source}: not a list", expected="a list of problems", got=shown(items))
        rows = [(index, f"{source}, item {index + 1}", item) for index, item in enumerate(items)]
    return _some(source, read_problems(rows, path.stem, labelled)), hashlib.sha256(data).hexdigest()


def _from_hub(source: str, name: str, config: str | None, split_name: str) -> Loaded:
    instead = "Or use a local .jsonl file, or `builtin`."
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source} is a hub data set, and the library that loads those is not installed",
            remedy=f"Install it with `pip install datasets`. {instead}",
        ) from error
    try:
        items = list(datasets.load_dataset(name, config, split=split_name))
    except Exception as error:  # it raises dozens of kinds: of the network, the hub, the data's own format
        reason = str(error).strip().splitlines() or [""]
        raise DataError(
            f"could not load {source} from the hub",
            got=f"{type(error).__name__}: {reason[0]}",
            remedy=f"Check the name, the split and the connection. {instead}",
        ) from error
    rows = [(index, f"{source}, row {index + 1}", item) for index, item in enumerate(items)]
    return _loaded(source, read_problems(rows, name.rpartition("/")[2]))


def _loaded(source: str, found: Iterable[Problem], sha256: str = "") -> Loaded:
    """`found` with repeated questions left out; hashed unless a hash is given."""
    found = _some(source, found)
    kept: dict[str, Problem] = {}
    duplicates = []
    for problem in found:
        first = kept.setdefault(question_key(problem.question), problem)
        if first is not problem:
            duplicates.append((problem.id, first.id))
    return Loaded(tuple(kept.values()), tuple(duplicates), source, sha256 or _canonical_sha256(found))


def _some(source: str, found: Iterable[Problem]) -> list[Problem]:
    if some := list(found):
        return some
    raise DataError(f"{source} has no problems", expected=f"at least one: {FORM}", got="an empty source")


def _canonical_sha256(problems: Sequence[Problem]) -> str:
    rows = [
        [p.id, p.question, str(p.answer), p.solution]
        + [[s.sentence, s.operation, [str(x) for x in s.operands], str(s.result)] for s in p.steps]
        for p in problems
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
