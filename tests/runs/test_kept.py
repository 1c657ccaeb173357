"""What was computed before a kill is not computed again; what is of another command, or damaged, counts for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cotscope.runs.kept import Kept


def _never() -> object:
    raise AssertionError("it was computed before")


def test_a_value_is_computed_once(tmp_path: Path) -> None:
    to = tmp_path / "made.json"
    first = Kept(to, "a")
    assert first.value("x", lambda: [1, 0.1, None, "é\ud800"]) == [1, 0.1, None, "é\ud800"]
    assert first.value("x", _never) == Kept(to, "a").value("x", _never) == [1, 0.1, None, "é\ud800"]
    assert Kept(to, "b").value("x", lambda: 2) == 2  # and takes the place of the other's
    assert Kept(to, "a").value("x", lambda: 3) == 3
    Kept(to, "a").remove()
    assert not list(tmp_path.iterdir())
    Kept(to, "a").remove()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"of": "a"}', b'{"of": "a", "values": 1}', b'{"of": "a", "values": ["xy", 3]}', b"\xff",
     b'{"of": "a", "values": ' + b"[" * 200_000, b'{"values": {"x": 1}}'],
)  # fmt: skip
def test_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".made.kept").write_bytes(content)
    assert Kept(tmp_path / "made", "a").value("x", lambda: 2) == 2
    assert Kept(tmp_path / "made", "a").value("x", _never) == 2


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".made.kept")  # to read it would be to wait for ever
    assert Kept(tmp_path / "made", "a").value("x", lambda: 2) == 2
