"""What does not fit the model is refused before anything runs, and named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.runs.session import Session


def problems(path: Path, **one: str) -> str:
    rows = [{"id": f"p{i}", "question": f"What is {i} and {i + 1}?", "answer": f"It is.\n#### {2 * i + 1}"} for i in range(12)]
    rows[3] |= one
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.mark.parametrize(
    ("one", "named"),
    [
        ({"answer": "So it is 1 + 2 = 3. " * 900 + "\n#### 7"}, "solution of problem p3"),
        ({"answer": "So it is 1 + 2 = 3. " * 4_900 + "\n#### 7"}, "solution of problem p3"),
        ({"question": "What is 1 and 2? " * 1_500}, "p3"),
        ({"question": "What is 1 and 2? " * 5_000}, "p3"),
    ],
)
def test_what_is_longer_than_the_context_is_named(tiny_study: TinyStudy, tmp_path: Path, capsys, one, named) -> None:
    options = tiny_study.options()
    options[options.index("--data") + 1] = problems(tmp_path / "long.jsonl", **one)
    began = time.monotonic()
    assert main(["study", *options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and named in error and "longer than the model's context" in error
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - began < 30


def test_a_study_that_goes_on_has_the_rows_that_it_is_told(tiny_study: TinyStudy, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["discover", *tiny_study.options(), "--rows", "4", "--out", str(run)]) == 0
    for rows, expected in ((None, 4), (2, 2)):
        model = Session.reopen(run, rows=rows).model
        assert (model.described()["rows_per_batch"], model.engine.rows) == (4, expected)


def test_too_many_variants_are_refused_before_the_folder_is_made(tiny_study: TinyStudy, tmp_path: Path, capsys) -> None:
    assert main(["study", *tiny_study.options(), "--variants", "100000000000", "--out", str(tmp_path / "run")]) == 2
    assert "too many prompt variants" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
