"""Files that a user gives: whatever is wrong with one is one line, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_question import QUESTIONS, case

from cotscope.errors import JudgeError
from cotscope.judge.audit import Item
from cotscope.judge.cache import Cache
from cotscope.judge.labels import read_labels, write_labels
from cotscope.judge.prompts import PAPER, PaperForm, concept_form
from cotscope.judge.redact import Redactor

ITEMS = [Item("id1", "candidate", case(["加", "\ud83d", "+"], text="é"))]
NAMES = ["n" * 300, "a\x00b", "nothing/there.csv", "folder", "a\x1b[2J\nb" + "c" * 260, "\udcff" * 300]


def line(error: pytest.ExceptionInfo[JudgeError]) -> str:
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 500
    return text


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for act in (
        read_labels,
        lambda path: write_labels(path, ITEMS, QUESTIONS),
        lambda path: concept_form(str(path), QUESTIONS),
    ):
        with pytest.raises(JudgeError) as error:
            act(tmp_path / name)
        line(error)
    if name != "nothing/there.csv":  # a cache makes its folder
        with pytest.raises(JudgeError) as error:
            Cache(tmp_path / name)
        line(error)
    assert not list(tmp_path.glob(".*"))


BAD_LABELS = {
    b"": "got an empty file",
    b"\xff\xfei\x00d\x00": "line 1: not UTF-8; got UTF-16",
    "id,answer\nx,yes\n".encode("utf-16"): "Save the file as UTF-8",
    b"id,answer\nx,\xe9\n": "line 2: not UTF-8; got byte 0xe9",
    b"id;answer\nx;yes\n": "with commas between the columns; got id;answer",
    b"id,answer,answer\nx,yes,no\n": "has one twice",
    b"id,answer\n,yes\n": "line 2: no id",
    b"id,answer\nx\n": "no answers",
    b"id,answer\nx,yes,more,and more\nx,no\n": "line 3: a second answer",
    b"id,answer\nx," + b"y" * 200_000 + b"\n": "can't be read",
    b"id,answer\nx,\x1b[2J\xe2\x80\xae\n": "line 2: no answer",
    b"x" * 100_000: "lacks columns",
    b"id,answer\r\r\n": "no answers",
    b"id,answer\r\r\n\x00": "got a NUL character",
}


@pytest.mark.parametrize("raw", BAD_LABELS, ids=lambda raw: ascii(raw[:12]))
def test_labels_that_are_none(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(raw)
    with pytest.raises(JudgeError) as error:
        read_labels(file)
    assert BAD_LABELS[raw] in line(error)


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 125 + ".csv")  # 254 bytes
    assert write_labels(file, ITEMS, QUESTIONS) == 1
    file.write_text(file.read_text(encoding="utf-8-sig").rstrip("\n") + "yes\n", encoding="utf-8")
    assert read_labels(file) == {"id1": True}
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_labels(tmp_path / "labels.csv", ITEMS, {})
    assert not list(tmp_path.iterdir())


BAD_PROMPTS = {
    b"": "lacks a place",
    b"{tokens {question": "lacks a place",
    b"{tokens}{{question}": "",
    b"\xff\xfe{\x00": "line 1: not UTF-8; got UTF-16",
    b"{tokens} {question} \xe9": "line 1: not UTF-8; got byte 0xe9",
    b"{tokens} {question}" * 60_000: "is too large; expected at most 1 MiB",
}


@pytest.mark.parametrize("raw", BAD_PROMPTS, ids=lambda raw: ascii(raw[:12]))
def test_prompts_that_are_none(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(raw)
    if not BAD_PROMPTS[raw]:
        return
    with pytest.raises(JudgeError) as error:
        concept_form(str(file), QUESTIONS)
    assert BAD_PROMPTS[raw] in line(error)


def test_braces_of_a_prompt_are_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    text = "{ {{ }} {0} {tokens.__class__} {question!r} {% for x in y %} \\1 \\g<0> %s ${x}"
    file.write_bytes(b"\xef\xbb\xbf" + f"{text} {{tokens}} {{question}}\r\nend".encode())
    content = concept_form(str(file), QUESTIONS).messages([case(["+", "{question}"])])[1]["content"]
    assert content == f"{text} +, {{question}} {QUESTIONS['addition']}\nend"


def test_a_prompt_file_is_not_taken_for_one_of_ours(tmp_path: Path) -> None:
    for stem in ("cotscope", "paper", "naming"):
        (tmp_path / f"{stem}.txt").write_text(PAPER, encoding="utf-8")
        form = concept_form(str(tmp_path / f"{stem}.txt"), QUESTIONS)
        assert isinstance(form, PaperForm)
        assert form.name == f"{stem} (file)"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for read in (read_labels, lambda path: concept_form(str(path), QUESTIONS)):
        with pytest.raises(JudgeError, match="got a pipe"):
            read(pipe)


def test_files_are_utf8_in_every_locale(tmp_path: Path) -> None:
    """Python says where it would take the locale's encoding; that is made an error here."""
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1].split('|')\n"
        "from test_files import *; folder = pathlib.Path(sys.argv[2])\n"
        "test_a_name_as_long_as_names_may_be(folder)\n"
        "file = folder / 'p.txt'; file.write_text('{tokens} {question} é', encoding='utf-8')\n"
        "concept_form(str(file), QUESTIONS)\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:cotscope", "-c", code]
    done = subprocess.run([*command, f"{here}|{here.parent}", str(tmp_path)], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_no_secret_stays() -> None:
    clean = Redactor(["sk-test-4f1d9c0a7e", "lm-studio", "none", ""])
    for text in ("none", "lmstudio-community/qwen", "testing 4f1d", "sk-test", "100% sk\\u00e9", "[key]", "\ud83d&#x110000;\\"):
        assert clean(text) == text
    assert clean("by lm-studio") == "by [key]"
    assert clean("a" * 300_000 + "sk-test-4f1d9c0a7e") == "[key]"
    assert Redactor(["x1-p"])("x1-p x1 p") == "[key] x1 p"
