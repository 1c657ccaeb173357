"""People as annotators: a CSV file to fill in, and to read back.

The file is blind: decoys stand among the candidates and nobody's word is shown. A spreadsheet takes a cell that begins
with = + - @ for a formula; such cells get an apostrophe.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.reading import MEBIBYTE, decode, read_bytes
from ..data.spreadsheets import harmless
from ..errors import JudgeError
from .audit import Item
from .question import quoted, short, shown

_LETTER = "c-"  # before an id, which a spreadsheet may take for a number: 123456789012, 12345678e901
COLUMNS = ("id", "question", "promoted", "suppressed", "texts", "answer")
_LARGEST = 64 * MEBIBYTE
_WORDS = {"yes": True, "y": True, "1": True, "true": True, "no": False, "n": False, "0": False, "false": False}


def write_labels(path: Path, items: Sequence[Item], questions: Mapping[str, str]) -> int:
    """Write the file; existing answers are never overwritten. Returns: how many cases it has.

    Raises: JudgeError if the file exists or can't be written.
    """
    try:
        if path.exists():
            raise JudgeError(f"{_name(path)} exists", remedy="Give another file: answers in it would be lost.")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".labels-", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets the encoding
                _write(csv.writer(file), items, questions)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise JudgeError(f"{_name(path)} can't be written", got=error.strerror or short(str(error), 200)) from error
    except ValueError as error:  # a zero byte in the name
        if isinstance(error, JudgeError):
            raise
        raise JudgeError(f"{_name(path)} can't be written", got="a name that no file can have") from error
    return len(items)


def _write(writer: Any, items: Sequence[Item], questions: Mapping[str, str]) -> None:
    writer.writerow(COLUMNS)
    for item in items:
        case = item.case
        texts = " | ".join(f"{c.before}⟦{shown(c.token)}⟧{c.after}" for c in case.contexts)
        cells = (
            _LETTER + item.id,
            questions[case.concept],
            _tokens(case.promoted),
            _tokens(case.suppressed),
            quoted(texts),
            "",
        )
        writer.writerow([harmless(cell) for cell in cells])


def _name(path: Path) -> str:
    return short(str(path), 200)


def _tokens(pairs: Sequence[tuple[str, float]]) -> str:
    return "  ".join(quoted(shown(token)) for token, _ in pairs)


def read_labels(path: Path) -> dict[str, bool]:
    """id → yes or no; rows without an answer are left out.

    Raises: JudgeError if it is no such file, an answer is neither yes nor no, or an id is absent or stands there twice.
    """
    name = f"labels file {path}"
    text = decode(read_bytes(path, "labels file", JudgeError, _LARGEST), name, JudgeError)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = reader.fieldnames or ()
        if len(names) != len(set(names)) or not {"id", "answer"} <= set(names):
            raise JudgeError(
                f"{name} lacks columns, or has one twice", expected="id and answer, with commas between the columns",
                got=short(", ".join(names), 100) or "an empty file",
            )  # fmt: skip
        found: dict[str, bool] = {}
        for row in reader:
            word, case = (row["answer"] or "").strip().lower(), (row["id"] or "").strip().removeprefix(_LETTER)
            if not word:
                continue
            if word not in _WORDS or case in found or not case:
                wrong = "a second answer" if case in found else "no answer" if case else "no id"
                raise JudgeError(
                    f"{name}, line {reader.line_num}: {wrong}",
                    expected="one answer per id: yes, no, or an empty cell",
                    got=short(f"{word[:40]!r} for id {case[:40]!r}", 120),
                )
            found[case] = _WORDS[word]
    except csv.Error as error:
        raise JudgeError(f"{name} can't be read", got=short(str(error), 200)) from error
    if not found:
        raise JudgeError(f"{name} has no answers", expected="yes or no in the column answer")
    return found
