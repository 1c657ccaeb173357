"""What a report reads: the figures and tables of the stages that are current. What a stale stage wrote is not there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import pyarrow as pa

from ..errors import RunError, UserError
from ..runs.folder import Run
from ..runs.progress import State
from ..runs.tables import TABLES

OF_STUDY = frozenset({"problems"})
"""Files that no stage writes."""


@contextmanager
def showing(folder: Path) -> Iterator[None]:
    """While figures of a run folder are shown: those that are not of the kind that cotscope writes raise RunError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError, jinja2.UndefinedError) as error:
        if isinstance(error, UserError):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise RunError(
            f"the figures in {folder / 'manifest.json'} can't be shown",
            got=f"{type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno})",
            remedy="Run the study again with another --out; if cotscope wrote them, this is a bug.",
        ) from error


class Reading:
    """A run as the report sees it: never two states in one figure."""

    def __init__(self, run: Run) -> None:
        self.folder, self.manifest, self.summary = run.folder, run.manifest, run.summary
        self.notes, self.states = run.notes, run.states()
        current = (run.manifest["stages"][name] for name, found in self.states.items() if found.current)
        self._view = Run(run.folder, run.manifest)
        self._view.whole = run.whole & OF_STUDY.union(*(record["wrote"] for record in current))

    @property
    def first_prompt(self) -> str:
        """The prompt under which the set was discovered: the first of the study."""
        prompts = self.manifest.get("prompts") or [{}]
        return str(prompts[0].get("name") or part(self.summary, "baseline").get("prompt") or "")

    def state(self, stage: str) -> State:
        """What became of a stage."""
        return self.states.get(stage, State("missing"))

    def has(self, *tables: str) -> bool:
        """Whether all of these tables are there."""
        return all(self._view.has(TABLES[table]) for table in tables)

    def table(self, name: str) -> pa.Table:
        """All rows of one table."""
        with self._reading(name):
            return self._view.query(f'SELECT * FROM "{name}"')

    def rows(self, table: str, sql: str = "", values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of one table, or of a query over it and others; none if the table is not there."""
        if not self.has(table):
            return []
        with self._reading(table):
            return self._view.rows(sql or f'SELECT * FROM "{table}"', values)

    @contextmanager
    def _reading(self, table: str) -> Iterator[None]:
        """What DuckDB can't read is a RunError."""
        try:
            yield
        except duckdb.Error as error:
            raise RunError(f"a table of {self.folder} can't be read", got=f"{table}: {error}") from error


def part(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A nested part of a JSON file; empty where it, or a part above it, is missing."""
    for key in keys:
        content = content.get(key) or {}
        if not isinstance(content, dict):
            return {}
    return dict(content)
