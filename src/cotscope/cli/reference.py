"""docs/cli.md: every command with its options, every stage with its tables, every table with its columns.

All of it follows from the parser, the stages' records and the tables; `python -m cotscope.cli.reference` prints it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, fields

import pyarrow as pa

from ..runs.config import StudyConfig
from ..runs.options import flag_of
from ..runs.stage import Stage
from ..runs.tables import TABLES, Table
from ..stages.registry import STAGES, chosen_by
from .commands import build_parser, example

HEAD = """\
# Commands, stages, tables

This page is printed by `python -m cotscope.cli.reference`; write it again with

```
python -m cotscope.cli.reference > docs/cli.md
```

- [Commands](#commands): what each does, its options and their defaults
- [Stages](#stages): what each reads and writes; in this order a study runs them
- [Tables](#tables): the columns of every file in a run folder's `tables`
"""
COMMANDS = """\
## Commands

All commands take `--json`: the result as JSON on standard output, and nothing else there. They end with 0; with 2 and one
line that begins with `cotscope: error:` if something of the user's is wrong; with 130 after Ctrl-C; `tables --against` with
1 if runs differ. A command that was stopped goes on where it was when it is given again (`tables` wants an empty folder). An
option without a default that is not given is not used. Options of a stage that are not given are what they were when they
were last given for the run, and the command says which (`study` and `discover` do not: they go on with what they began):
`evaluate` without `--data` asks the data of the `evaluate` before.
"""
STAGES_HEAD = """\
## Stages

A stage is stale as soon as anything that it has read or written changes, or an option of it, or a stage before it; `cotscope
status` says which. A part `study.…` of a table is all of its parts whose names begin so; FIRST is the study's first prompt.
"""
TABLES_HEAD = """\
## Tables

Parquet files in `tables/` of a run folder. `run.query` and DuckDB see all parts of a table as one. A column that does not
apply is null. Prompts and neurons are named alike in all of them: `prompt`, and `layer`, `index`, `sign`.
"""


def reference() -> str:
    """The whole page."""
    parser = build_parser()
    [commands] = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = [HEAD, COMMANDS]
    parts += [_command(name, sub) for name, sub in commands.items()]
    parts += [STAGES_HEAD, *map(_stage, STAGES)]
    parts += [TABLES_HEAD, *map(_table, TABLES.values())]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


# -- commands -------------------------------------------------------------------------------------------------------------


def _command(name: str, sub: argparse.ArgumentParser) -> str:
    about = sub.description or ""
    lines = [f"### cotscope {name}", "", f"{about[0].upper()}{about[1:]}.", "", "```", example(name), "```"]
    groups = {"": [], **{g.title or "": g._group_actions for g in sub._action_groups[2:]}}
    for group in sub._action_groups[:2]:  # positional arguments, options
        groups[""] += [a for a in group._group_actions if not {"-h", "--json"} & set(a.option_strings)]
    for title, actions in groups.items():
        if actions:
            lines += ["", *([f"{title[0].upper()}{title[1:]}:", ""] if title else []), *_options(name, actions)]
    return "\n".join(lines)


def _options(command: str, actions: Sequence[argparse.Action]) -> Iterator[str]:
    words = chosen_by(command) if command in {s.verb for s in STAGES} else {}
    known = {f.name: f for c in (StudyConfig, *(s.options for s in STAGES)) for f in fields(c)}
    yield from _rows(("option", "default", "what it does"), [])
    for action in actions:
        text, default = _about(action, known.get(action.dest))
        flag = action.option_strings[0] if action.option_strings else str(action.metavar)
        if words.get(flag):
            value = "WORD …"
        elif action.nargs == 0 or not action.option_strings:
            value = ""
            if isinstance(action, argparse.BooleanOptionalAction):
                text += f"; off again: `{action.option_strings[1]}`"
        else:
            value = str(action.metavar or action.dest.split("_")[-1].upper())
            if action.choices:
                text += f": {', '.join(f'`{c}`' for c in action.choices)}"
        yield from _rows((), [(f"`{' '.join(filter(None, (flag, value)))}`", default, text)])


def _about(action: argparse.Action, f: Field[object] | None) -> tuple[str, str]:
    """What an option does, and its default."""
    text = (action.help or "") % {}
    if said := re.search(r" \(default:? ([^()]+)\)", text):
        plain = f is None or f.default is None or " " in said[1]
        return text.replace(said[0], ""), said[1] if plain else f"`{said[1]}`"
    needed = action.required and action.nargs != "*"  # argparse calls those required that may be absent
    switch = "on" if f is not None and f.default is True else "off"
    return text, "required" if needed else switch if action.nargs == 0 else ""


# -- stages, tables -------------------------------------------------------------------------------------------------------


def _stage(stage: Stage) -> str:
    rows = [("command", f"`cotscope {stage.verb}`")]
    if stage.chosen_by:
        words = [f"`{flag} {word}`" for flag, found in stage.chosen_by.items() for word in found]
        rows.append(("chosen by", ", ".join(words)))
    for title, names in (("must be done before", stage.after), ("if begun, must be done before", stage.beside)):
        if names:
            rows.append((title, ", ".join(f"[{n}](#stage-{n})" for n in names)))
    if found := fields(stage.options):
        rows.append(("options", ", ".join(map(_flag, found))))
    rows += [(title, _patterns(found)) for title, found in (("reads", stage.reads), ("writes", stage.writes)) if found]
    lines = [f"### stage {stage.name}", "", f"{stage.about[0].upper()}{stage.about[1:]}.", "", *_rows(("", ""), rows)]
    return "\n".join(lines)


def _flag(f: Field[object]) -> str:
    """An option as the command line has it, and as Python has it where that is another name."""
    said = f"`{flag_of(f)}`"
    return said if flag_of(f) == f"--{f.name.replace('_', '-')}" else f"{said} (in Python `{f.name}`)"


def _patterns(found: Iterable[Table | str]) -> str:
    """Tables by their names, and which parts of them."""
    parts: dict[str, list[str]] = {}
    for pattern in found:
        name, _, part = str(pattern).format(first="FIRST").partition("/")
        parts.setdefault(name, []).extend([f"`{part}…`" if part.endswith(".") else f"`{part}`"] if part else [])
    return ", ".join(
        (f"[{name}](#table-{name})" if name in TABLES else f"`{name}`") + (f" ({', '.join(of)})" if of else "")
        for name, of in parts.items()
    )


def _table(table: Table) -> str:
    where = f"`tables/{table.name}/PART.parquet` (PART: {table.part})" if table.part else f"`tables/{table.name}.parquet`"
    by = {which: [s.name for s in STAGES if table in s.tables(which)] for which in ("writes", "reads")}
    writers = ", ".join(f"[{n}](#stage-{n})" for n in by["writes"]) or "every command that begins the study"
    readers = ", ".join(f"[{n}](#stage-{n})" for n in by["reads"])
    said = f"A row is {table.about}. In {where}; written by {writers}{f', read by {readers}' if readers else ''}."
    columns = [(f"`{f.name}`", _type(f.type)) for f in table.schema]
    return "\n".join([f"### table {table.name}", "", said, "", *_rows(("column", "type"), columns)])


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_type(kind.value_type)}s"
    return {"string": "text", "double": "number", "bool": "true or false"}.get(str(kind), "whole number")


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table; without a head, more of its rows."""
    if head:
        yield f"| {' | '.join(head)} |"
        yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def main() -> None:
    """Print the page, in UTF-8 whatever the locale."""
    sys.stdout.buffer.write(reference().encode("utf-8"))


if __name__ == "__main__":
    main()
