"""A run folder: manifest, tables, arrays, summary. Written atomically; one writer at a time.

Tables are Parquet in long form (`tables.py`), arrays `arrays/<name>.safetensors`. The manifest has a record of every file: its
hash, its rows, what it was made from (`of`). A file that is missing or is not what its record says is no part of the run: the
unit of work that made it is done again, and its stage is stale. That is the only mechanism by which anything counts as done.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from ..errors import RunError
from . import manifest as manifests
from .files import hash_of, held, json_text, json_values, replacing, write_text
from .notebook import InNotebook
from .places import check_own, inner_folders, is_taken, path_of
from .progress import State, digest, lost, matches, state, states, summary_of
from .tables import TABLES, Table

log = logging.getLogger(__name__)


class Arrays(NamedTuple):
    """What one file of arrays holds: the arrays by name, and what its writer said of them."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


class Run(InNotebook):
    """One run folder.

    Use `Run.create` to begin or continue a study, `Run.open` to work on one that exists.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._stage: dict[str, Any] | None = None  # the record of the stage that is running
        self._touched: set[str] = set()  # files that it wrote, or found done
        self._said: set[str] = set()  # files that were said to be missing or changed

    def __fspath__(self) -> str:
        """The folder: a run can be given where a path is asked for."""
        return os.fspath(self.folder)

    # -- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, study: dict[str, Any], defaults: dict[str, Any]) -> Run:
        """Begin a study in `folder`, or continue the same one.

        Args:
            study: what defines the study (model, data, prompts, config with its seeds), JSON values that become keys
                of the manifest.
            defaults: of `study["config"]`: an option that the folder does not know had this value.

        Raises: RunError if the folder holds another study or something else.
        """
        if (run := cls.begun(folder, study, defaults)) is not None:
            return run
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, {
            "schema": manifests.SCHEMA,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {n: version(n) for n in ("cotscope", "torch", "transformers")}
            | {"python": platform.python_version()},
            **json.loads(json.dumps(study)),
            **{key: kind() for key, kind in manifests.SECTIONS.items()},
        })  # fmt: skip
        run.save()
        return run

    @classmethod
    def begun(cls, folder: Path, study: dict[str, Any], defaults: dict[str, Any]) -> Run | None:
        """The run in `folder`, if what is known of the study is what its manifest says; None: one can begin there.

        Raises: RunError if the folder holds another study or something else.
        """
        check_own(folder)
        study = json.loads(json.dumps(study))
        if any(is_taken(p) for p in (folder, *folder.parents)):
            raise RunError(f"{folder} can't be a run folder: there is a file of that name on its path")
        if (folder / "manifest.json").exists():
            run = cls.open(folder)
            known = dict(run.manifest)
            known["config"] = json.loads(json.dumps(defaults)) | known.get("config", {})
            differing = [k for k in study if known.get(k) != study[k]]
            if differing:
                key = differing[0]
                raise RunError(
                    f"{folder} holds another study: {', '.join(differing)} differ",
                    expected=f"{key} = {_short(study[key], known.get(key))}",
                    got=_short(known.get(key), study[key]),
                    remedy="Give another --out, or remove the folder.",
                )
            return run
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise RunError(f"{folder} is not empty and is no run folder", remedy="Give another --out.")
        return None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a run folder.

        Raises: RunError if it is none, one of another schema version, damaged, or has links where its own files go.
        """
        folder = Path(folder)
        check_own(folder)
        return cls(folder, manifests.read(folder))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for this process. Raises: RunError if another process holds it."""
        with held(self.folder) as alone:
            self.manifest = Run.open(self.folder).manifest
            self.__dict__.pop("whole", None)
            for place in (self.folder, *inner_folders(self.folder)) if alone else ():
                for leftover in place.glob(".*-*.part"):
                    leftover.unlink()  # what a killed process was writing
            yield

    # -- manifest, stages, summary --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the manifest."""
        write_text(self.folder / "manifest.json", manifests.write(self.manifest))

    def note(self, text: str) -> None:
        """Record something a reader must know (once): of the stage that is running, or else of the study."""
        notes = self.manifest["notes"] if self._stage is None else self._stage["notes"]
        if text not in notes:
            notes.append(text)
            self.save()

    @property
    def notes(self) -> list[str]:
        """Notes of the study, and of the stages whose figures `summary` holds."""
        held = [r for n, r in self.manifest["stages"].items() if r is self._stage or self.state(n).current]
        of_stages = (note for record in held for note in record["notes"])
        return list(dict.fromkeys([*self.manifest["notes"], *of_stages]))

    def summarise(self, section: str, values: dict[str, Any]) -> None:
        """Set keys of one section of the summary, for the stage that is running, or else for the study."""
        fragment = self.manifest["summary"] if self._stage is None else self._stage["summary"]
        fragment.setdefault(section, {}).update(json_values(values))

    @property
    def summary(self) -> dict[str, Any]:
        """The headline figures of the stages that are done and not stale (and of the one that is running)."""
        return summary_of(self.manifest, self.whole, self._stage)

    def state(self, stage: str) -> State:
        """Whether a stage is done, stale, stopped or missing, and why."""
        return state(self.manifest, stage, self.whole)

    def states(self) -> dict[str, State]:
        """The same of all stages that have begun."""
        return states(self.manifest, self.whole)

    def write_summary(self) -> None:
        """Write `summary.json`, for readers that are not cotscope."""
        write_text(self.folder / "summary.json", json_text(self.summary))

    @contextmanager
    def working(self, record: dict[str, Any]) -> Iterator[None]:
        """While a stage runs: its record takes notes and figures; it sees what it declared, and of what it writes only
        what it has written or found done. Parts of an earlier attempt that it did not ask for are removed at its end.
        """
        self._stage, self._touched = record, set()
        try:
            yield
            for name in [n for n in self.manifest["files"] if matches(n, record["writes"]) and n not in self._touched]:
                del self.manifest["files"][name]
                self.whole.discard(name)
                self._path(name).unlink(missing_ok=True)
            record["wrote"] = self._written(record)
            record["read"] = {p: digest(self.manifest, p, self.whole) for p in record["reads"]}
        finally:
            self._stage = None

    @contextmanager
    def amending(self, stage: str, record: dict[str, Any]) -> Iterator[None]:
        """Add to what a stage has written: that stays, and the stage stays what it is."""
        was_current = self.state(stage).current
        self._stage, self._touched = record, {n for n in self.whole if matches(n, record["writes"])}
        try:
            yield
            if was_current:
                record["wrote"] = self._written(record)
        finally:
            self._stage = None
            self.save()
            self.write_summary()

    def _written(self, record: dict[str, Any]) -> dict[str, str]:
        return {n: self.manifest["files"][n]["sha256"] for n in sorted(self.whole) if matches(n, record["writes"])}

    def stands(self, record: dict[str, Any]) -> bool:
        """Whether all that a stage wrote is as it was."""
        return lost(self.manifest, record, self.whole) is None

    # -- files ----------------------------------------------------------------------------------------------------

    @cached_property
    def whole(self) -> set[str]:
        """Names of the recorded files that are there and are what their records say; looked at once. Others are said."""
        files = self.manifest["files"]
        whole = {name for name, record in files.items() if self._is_whole(name, record)}
        if gone := [name for name in files if name not in whole and name not in self._said]:
            self._said.update(gone)
            listed = ", ".join(n if n.isprintable() else ascii(n) for n in gone[:3])
            listed += f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            log.warning(
                "missing, changed or of another version in %s, no part of the run until made again: %s", self.folder, listed
            )
        return whole

    def _is_whole(self, name: str, record: Any) -> bool:
        try:
            path = self._path(name)
            status = path.lstat()
            if not S_ISREG(status.st_mode) or status.st_size != record["bytes"] or hash_of(path) != record["sha256"]:
                return False
            table = TABLES.get(name.partition("/")[0])
            return table is None or pq.read_schema(path).equals(table.schema)
        except (OSError, ValueError, pa.ArrowException):
            return False

    def _path(self, name: str) -> Path:
        return path_of(self.folder, name)

    def _to_write(self, name: str) -> Path:
        """Where a file goes that the stage that is running may write."""
        assert self._stage is None or matches(name, self._stage["writes"]), f"{name} is not declared"
        return self._path(name)

    def _record(self, name: str, path: Path, facts: dict[str, Any]) -> None:
        self.manifest["files"][name] = {"sha256": hash_of(path), "bytes": path.stat().st_size, **facts}
        self.whole.add(name)
        self._touched.add(name)
        self.save()

    def done(self, name: str, of: str) -> dict[str, Any] | None:
        """The record of a file that is whole and was made from `of` (a fingerprint); None: it must be made."""
        if name not in self.whole or self.manifest["files"][name].get("of") != of:
            return None
        self._touched.add(name)
        return dict(self.manifest["files"][name])

    def keep(self, table: Table, of: str | None = None, begins: str = "") -> list[str]:
        """Parts of a table that are there, all or those made from `of`, of such names; they stay when the stage ends."""
        found = [n for n in sorted(self.whole) if n == table.name or n.startswith(f"{table.name}/{begins}")]
        found = [n for n in found if of is None or self.manifest["files"][n].get("of") == of]
        self._touched.update(found)
        return [n.partition("/")[2] for n in found]

    # -- tables ---------------------------------------------------------------------------------------------------

    def write(
        self, table: Table, rows: Sequence[dict[str, Any]] | pa.Table, part: str = "", of: str = "", **facts: Any
    ) -> None:
        """Write a table, or a part of one.

        Args:
            rows: rows with the table's columns; a column that a row lacks is null.
            of: what it was made from, for `done`.
            facts: more for its record.
        """
        content = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=table.schema)
        if not isinstance(rows, pa.Table):
            unknown = {key for row in rows for key in row} - set(table.schema.names)
            assert not unknown, f"{table.name} has no columns {unknown}"
        with self.writer(table, part, of, **facts) as write:
            write(content.select(table.schema.names).cast(table.schema))

    @contextmanager
    def writer(self, table: Table, part: str = "", of: str = "", **facts: Any) -> Iterator[Any]:
        """Write a table piece by piece (call what is given with Arrow tables); it appears when the block ends well."""
        assert bool(part) == bool(table.part), (table.name, part)
        name, rows = f"{table.name}/{part}" if part else table.name, 0

        def write(piece: pa.Table) -> None:
            nonlocal rows
            rows += len(piece)
            to.write_table(piece)

        with (
            replacing(path := self._to_write(name)) as temporary,
            pq.ParquetWriter(temporary, table.schema, compression="zstd") as to,
        ):
            yield write
        self._record(name, path, {"rows": rows, "of": of, **facts})

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Run SQL (DuckDB) over the run's tables; one that has not been written is empty."""
        with _database(os.getpid()).cursor() as connection:
            connection.begin()  # and no commit: a query leaves nothing behind
            # Stages name their tables after FROM and JOIN; whose query it is otherwise, any word may be one.
            words = re.findall(r"\b(?:FROM|JOIN)\s+(\w+)" if self._stage is not None else r"\w+", sql)
            for table in [TABLES[name] for name in dict.fromkeys(words) if name in TABLES]:
                if files := self._seen(table):
                    paths = (glob.escape(str(self._path(name).resolve())) for name in files)  # DuckDB reads * as a pattern
                    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
                    connection.execute(f'CREATE TEMP VIEW "{table.name}" AS SELECT * FROM read_parquet([{quoted}])')
                else:
                    connection.register(table.name, table.schema.empty_table())
            return connection.sql(sql, params=list(parameters)).to_arrow_table()

    def _seen(self, table: Table) -> list[str]:
        """The table's files: all that are whole, or what the stage that is running may see of them."""
        files = sorted(n for n in self.whole if n.partition("/")[0] == table.name)
        if self._stage is None:
            return files
        reads, writes = self._stage["reads"], self._stage["writes"]
        assert any(p.partition("/")[0] == table.name for p in (*reads, *writes)), f"{table.name} is not declared"
        return [n for n in files if n in self._touched or (matches(n, reads) and not matches(n, writes))]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """`query`, as a list of dictionaries."""
        return self.query(sql, parameters).to_pylist()

    def has(self, table: Table) -> bool:
        """Whether any of a table is there."""
        return bool(self._seen(table))

    # -- arrays ---------------------------------------------------------------------------------------------------

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray], metadata: dict[str, str], of: str) -> None:
        """Write `arrays/<name>.safetensors`."""
        with replacing(path := self._to_write(f"arrays/{name}")) as temporary:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, temporary, metadata)
        self._record(f"arrays/{name}", path, {"of": of})

    def arrays(self, name: str, of: str | None) -> Arrays | None:
        """Read `arrays/<name>.safetensors`; None if none is whole and made from `of` (None: from anything)."""
        if (f"arrays/{name}" not in self.whole) if of is None else (self.done(f"arrays/{name}", of) is None):
            return None
        with safe_open(self._path(f"arrays/{name}"), framework="numpy") as file:
            return Arrays({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """An empty database, for its cursors: to begin one takes many times as long as most queries. Not for a forked process,
    which its threads do not follow."""
    return duckdb.connect(config={"threads": 2})


def _short(value: Any, other: Any) -> str:
    """What of `value` differs from `other`, in at most 120 characters."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {k: v for k, v in value.items() if other.get(k) != v}
    return json.dumps(value, ensure_ascii=False)[:120]
