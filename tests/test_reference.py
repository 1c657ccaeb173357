"""docs/cli.md is what the parser, the stages' records and the tables say."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotscope.cli.commands import build_parser, example
from cotscope.cli.reference import reference
from cotscope.runs.tables import TABLES
from cotscope.stages.registry import STAGES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
MADE = reference()


def section(heading: str) -> str:
    """What stands beneath a heading."""
    level = heading.split(" ")[0]
    [_, text] = f"\n{MADE}".split(f"\n{heading}\n")
    return text.split(f"\n{level} ")[0].split("\n## ")[0]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == MADE, "write it again: python -m cotscope.cli.reference > docs/cli.md"


def test_it_is_printed_under_any_locale() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1", "COLUMNS": "20"}
    command = [sys.executable, "-m", "cotscope.cli.reference"]
    out = subprocess.run(command, capture_output=True, check=True, env=os.environ | plain)
    assert out.stdout.decode("utf-8") == MADE
    assert not out.stderr


def commands() -> dict[str, argparse.ArgumentParser]:
    [found] = (a.choices for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return found


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_there(name: str) -> None:
    text = section(f"### cotscope {name}")
    assert example(name) in text
    rows = {line.split("`")[1].split(" ")[0]: line for line in text.splitlines() if line.startswith("| `")}
    for action in commands()[name]._actions:
        flag = action.option_strings[0] if action.option_strings else action.metavar
        if flag in ("-h", "--json"):
            continue
        cells = [cell.strip() for cell in rows[flag].replace("\\|", "").strip("|").split("|")]
        assert len(cells) == 3 and cells[2]
        assert not action.required or action.nargs == "*" or cells[1] == "required"
        for choice in action.choices or ():
            assert str(choice) in cells[2]
    assert len(rows) == len(commands()[name]._actions) - 2


def test_every_stage_and_its_tables_are_there() -> None:
    for stage in STAGES:
        text = section(f"### stage {stage.name}")
        assert f"`cotscope {stage.verb}`" in text
        for which in ("reads", "writes"):
            [line] = [x for x in text.splitlines() if x.startswith(f"| {which} |")] if getattr(stage, which) else [""]
            for table in stage.tables(which):
                assert f"[{table.name}](#table-{table.name})" in line, (stage.name, table.name)


def test_every_table_and_its_columns_are_there() -> None:
    for table in TABLES.values():
        text = section(f"### table {table.name}")
        columns = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
        assert columns == table.schema.names
        assert ("/PART.parquet" in text) == bool(table.part)
        writers = [s.name for s in STAGES if table in s.tables("writes")]
        assert writers or table.name == "problems"
        assert all(f"[{name}](#stage-{name})" in text for name in writers)
