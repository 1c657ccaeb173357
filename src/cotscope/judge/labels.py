"""People as annotators: a CSV file to fill in, and to read back.

The file is blind: decoys stand among the candidates and nobody's word is shown. A spreadsheet takes a cell that begins
with = + - @ for a formula; such cells get an apostrophe.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import JudgeError
from .audit import Item
from .question import quoted, shown

COLUMNS = ("id", "question", "promoted", "suppressed", "texts", "answer")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_WORDS = {"yes": True, "y": True, "1": True, "true": True, "no": False, "n": False, "0": False, "false": False}


def write_labels(path: Path, items: Sequence[Item], questions: Mapping[str, str]) -> int:
    """Write the file; existing answers are never overwritten. Returns: how many cases it has.

    Raises: JudgeError if the file exists or can't be written.
    """
    if path.exists():
        raise JudgeError(f"{path} exists", remedy="Give another file: answers in it would be lost.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets the encoding
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for item in items:
                case = item.case
                texts = " | ".join(f"{c.before}⟦{shown(c.token)}⟧{c.after}" for c in case.contexts)
                cells = (item.id, questions[case.concept], _tokens(case.promoted), _tokens(case.suppressed), quoted(texts), "")
                writer.writerow([_harmless(cell) for cell in cells])
        os.replace(name, path)
    except OSError as error:
        raise JudgeError(f"{path} can't be written", got=error.strerror or str(error)) from error
    return len(items)


def _tokens(pairs: Sequence[tuple[str, float]]) -> str:
    return "  ".join(quoted(shown(token)) for token, _ in pairs)


def _harmless(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell


def read_labels(path: Path) -> dict[str, bool]:
    """id → yes or no; rows without an answer are left out.

    Raises: JudgeError if it is no such file, an answer is neither yes nor no, or an id stands there twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = {"id", "answer"} - set(reader.fieldnames or ())
            if absent:
                raise JudgeError(f"{path} lacks columns", expected="id and answer", got=", ".join(sorted(absent)))
            found: dict[str, bool] = {}
            for row in reader:
                word, case = (row["answer"] or "").strip().lower(), (row["id"] or "").strip()
                if not word:
                    continue
                if word not in _WORDS or case in found:
                    raise JudgeError(
                        f"{path}, line {reader.line_num}: {'a second answer' if case in found else 'no answer'}",
                        expected="one answer per id: yes, no, or an empty cell", got=f"{word!r} for id {case!r}"[:120],
                    )  # fmt: skip
                found[case] = _WORDS[word]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JudgeError(f"{path} can't be read", got=str(error)) from error
    if not found:
        raise JudgeError(f"{path} has no answers", expected="yes or no in the column answer")
    return found
