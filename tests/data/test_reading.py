"""Reading files: each way in which it fails is one line of the kind asked for, and none waits or takes memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cotscope.data.load import load_problems
from cotscope.data.reading import MEBIBYTE, decode, is_usable, read_bytes, read_toml
from cotscope.errors import ConceptError, DataError, PromptError

ROW = '{"question": "How many?", "answer": 1}\n'


def short(value: object) -> str:
    """A parameter's place in a test's name."""
    return ascii(value)[:40]


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, got in ((tmp_path, "got a folder"), (tmp_path / "pipe.jsonl", "got a pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(PromptError, match=f"prompt file .* can't be read.*{got}"):
            read_bytes(path, "prompt file", PromptError)
    with pytest.raises(DataError, match="can't be read.*got a pipe"):
        load_problems(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"no such problem file.*got a folder"):
        load_problems(str(tmp_path / "folder.jsonl"))


def test_a_missing_file_a_dangling_link_and_a_loop(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name in ("absent", "link", "loop", "file/below", "x" * 300):
        with pytest.raises(PromptError, match="can't be read; got"):
            read_bytes(tmp_path / name, "prompt file", PromptError)
        with pytest.raises(DataError, match="no such problem file"):
            load_problems(str(tmp_path / name / "a.jsonl"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(ROW)
    path.chmod(0)
    with pytest.raises(DataError, match="can't be read; got Permission denied"):
        load_problems(str(path))


def test_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.jsonl"
    path.write_text(ROW)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(DataError, match="can't be read; got Permission denied"):
        load_problems(str(path))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(40 * 1024 * MEBIBYTE)  # a hole, of no size on the disk
    began = time.process_time()
    with pytest.raises(DataError, match=r"a.jsonl is too large; expected at most 256 MiB; got 40960.0 MiB"):
        load_problems(str(path))
    with pytest.raises(PromptError, match="at most 1 MiB"):
        read_bytes(path, "prompt file", PromptError)
    assert time.process_time() - began < 2
    whole = b"x" * MEBIBYTE
    (tmp_path / "whole").write_bytes(whole)
    assert read_bytes(tmp_path / "whole", "prompt file", PromptError) == whole


@pytest.mark.parametrize("name", ["a\0b.jsonl", "a\udcffb.jsonl", "a\nb.jsonl", "a\x1b[31mb.jsonl", "a\u2028b.jsonl"])
def test_a_path_that_is_no_text_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """It becomes ids and a line of the manifest, neither of which could hold it."""
    path = tmp_path / name
    if "\0" not in name:
        path.write_text(ROW)
    with pytest.raises(DataError) as caught:
        load_problems(str(path))
    assert str(caught.value).isprintable()
    assert "Rename" in str(caught.value) or "NUL" in str(caught.value)
    with pytest.raises(PromptError, match="the path has a character that is no text"):
        read_bytes(path, "prompt file", PromptError)
    assert not is_usable(name)


@pytest.mark.parametrize(
    "source", ["x" * 300, "x" * 5000 + ".jsonl", "a/" * 3000, "\udcff.jsonl", "a/\udcff", "\x1b[31m.jsonl"]
)
def test_a_strange_source_is_one_line(source: str) -> None:
    with pytest.raises(DataError, match="no such problem file") as caught:
        load_problems(source)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["été — 3.v2.jsonl", "数学 問題.jsonl", "don't.jsonl", "-x.jsonl", "x" * 240 + ".jsonl"])
def test_other_names_are_fine(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ROW)
    assert load_problems(str(tmp_path / name)).problems[0].id == name.removesuffix(".jsonl") + "-0"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (ROW.encode("utf-16"), "line 1: not UTF-8; got UTF-16"),
        ("\ufeff".encode("utf-16-be") + ROW.encode("utf-16-be"), "line 1: not UTF-8; got UTF-16"),
        (ROW.encode("utf-16-le"), "line 1: no text; expected UTF-8; got a NUL character"),
        (ROW.encode() + b"\0", "line 2: no text"),
        (ROW.encode() * 2 + "é".encode("latin-1"), "line 3: not UTF-8; got byte 0xe9"),
        (b"\xed\xa0\x80", "not UTF-8; got byte 0xed"),  # a surrogate, encoded as if it were a character
    ],
    ids=short,
)
def test_what_is_not_utf8(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        load_problems(str(path))
    assert words in str(caught.value) and "Save the file as UTF-8." in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbfname", "file", DataError) == "name"
    assert decode("a\r\nb\u2028".encode(), "file", DataError) == "a\r\nb\u2028"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", "is not TOML"),
        ("a = " + "9" * 5000, "has a number that can't be read"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "{b = " * 100_000, "nested too deeply"),
        (".".join(["a"] * 100_000) + " = 1", "too many dots"),
        ("a = 1\na = 2", "is not TOML"),
        ("a = 1979-13-01", "is not TOML"),
    ],
    ids=short,
)
def test_toml_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConceptError) as caught:
        read_toml(path, "concept file", ConceptError)
    assert time.process_time() - began < 3
    assert f"concept file {path}" in str(caught.value) and words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_toml_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    table, raw = read_toml(path, "concept file", ConceptError)
    assert table == {"a": 1, "b": 2} and raw == path.read_bytes()
