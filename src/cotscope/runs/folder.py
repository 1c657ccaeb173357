"""A run folder (design, section 4): manifest, tables, summary. Written atomically; one writer at a time.

Tables are Parquet in long form; `tables/<name>.parquet`, or `tables/<name>/<condition>.parquet` where each condition
writes its own part. `query` sees every table under its name. Arrays are `arrays/<name>.safetensors`.
"""

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from ..errors import RunError

SCHEMA = 2
"""Of the tables and the manifest: raised when a reader would stumble over what an older version wrote."""


class Arrays(NamedTuple):
    """What one file of arrays holds: the arrays by name, and what its writer said of them."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


class Run:
    """One run folder.

    Use `Run.create` to begin or continue a study, `Run.open` to work on one that exists.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    # -- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, study: dict[str, Any]) -> Run:
        """Begin a study in `folder`, or continue the same one.

        Args:
            study: what defines the study (model, data, prompts, config with its seeds), JSON values that become keys
                of the manifest. A folder whose manifest has other ones is refused.

        Raises: RunError if the folder holds another study or something else.
        """
        study = json.loads(json.dumps(study))
        if any(p.exists() and not p.is_dir() for p in (folder, *folder.parents)):
            raise RunError(f"{folder} can't be a run folder: there is a file of that name on its path")
        if (folder / "manifest.json").exists():
            run = cls.open(folder)
            differing = [k for k in study if run.manifest.get(k) != study[k]]
            if differing:
                key = differing[0]
                raise RunError(
                    f"{folder} holds another study: {', '.join(differing)} differ",
                    expected=f"{key} = {_short(study[key], run.manifest.get(key))}",
                    got=_short(run.manifest.get(key), study[key]),
                    remedy="Give another --out, or remove the folder.",
                )
            return run
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise RunError(f"{folder} is not empty and is no run folder", remedy="Give another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, {
            "schema": SCHEMA,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {n: version(n) for n in ("cotscope", "torch", "transformers")}
            | {"python": platform.python_version()},
            **study,
            "stages": {},
            "conditions": {},
            "units": {},
            "notes": [],
        })  # fmt: skip
        run.save()
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Open a run folder. Raises: RunError if it is none, or one of another schema version."""
        folder = Path(folder)
        try:
            manifest = _json_object(folder / "manifest.json")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(
                f"{folder} is not a run folder",
                expected="a folder with manifest.json",
                remedy="`cotscope study --out` or `cotscope discover --out` makes one.",
            ) from error
        if manifest.get("schema") != SCHEMA:
            raise RunError(
                f"{folder} was written by another version of cotscope",
                expected=f"format {SCHEMA}",
                got=str(manifest.get("schema")),
                remedy="Run the study again with another --out, or read it with the version that its manifest names.",
            )
        return cls(folder, manifest)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for this process. Raises: RunError if another process holds it."""
        with (self.folder / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                raise RunError(
                    f"{self.folder} is in use by another process",
                    got=f"process {lock.read().strip() or 'unknown'}",
                    remedy="Wait until it ends.",
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
            for leftover in (p for at in (".", "tables/**", "arrays") for p in self.folder.glob(f"{at}/.*-*.part")):
                leftover.unlink()  # what a killed process was writing
            yield

    # -- manifest and summary -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the manifest."""
        text = json.dumps(_json_values(self.manifest), indent=1, ensure_ascii=False)
        write_atomically(self.folder / "manifest.json", text)

    @contextmanager
    def stage(self, name: str, units: dict[str, str] | None = None) -> Iterator[None]:
        """Run one stage: its status and seconds go to the manifest, those of earlier attempts (unless killed) added."""
        entry = self.manifest["stages"].setdefault(name, {"status": "started", "seconds": 0.0})
        entry["status"] = "started"
        self.manifest["units"].update(units or {})
        self.save()
        began = time.monotonic()
        try:
            yield
            entry["status"] = "done"
        finally:
            entry["seconds"] = round(entry["seconds"] + time.monotonic() - began, 2)
            self.save()
        self.summarise("timing", {f"{name}_s": entry["seconds"]})

    def stage_done(self, name: str) -> bool:
        return self.manifest["stages"].get(name, {}).get("status") == "done"

    def require(self, stage: str, command: str) -> None:
        """Raise RunError unless `stage` is done."""
        if not self.stage_done(stage):
            raise RunError(f"{self.folder} has no finished stage {stage!r}", remedy=f"Run `{command}` first.")

    def note(self, text: str) -> None:
        """Record something a reader must know (once)."""
        if text not in self.manifest["notes"]:
            self.manifest["notes"].append(text)
            self.save()

    @property
    def summary(self) -> dict[str, Any]:
        """The headline figures so far."""
        path = self.folder / "summary.json"
        return _json_object(path) if path.exists() else {}

    def summarise(self, section: str, values: dict[str, Any]) -> None:
        """Set keys of one section of summary.json; what is no finite number becomes null."""
        summary = self.summary
        summary.setdefault(section, {}).update(_json_values(values))
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False))

    # -- tables ---------------------------------------------------------------------------------------------------

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write `tables/<name>.parquet`; a name may be `table/part`."""
        path = self.folder / "tables" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @contextmanager
    def table_writer(self, name: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """Write a table piece by piece (`write_table` of the writer); it appears when the block ends well."""
        path = self.folder / "tables" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield writer

    def write_rows(self, name: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
        """Write a table from dictionaries."""
        self.write_table(name, pa.Table.from_pylist(rows, schema=schema))

    def has(self, table: str) -> bool:
        """Whether a table in one file is there."""
        return (self.folder / "tables" / f"{table}.parquet").exists()

    def query(self, sql: str, parameters: list[Any] | None = None) -> pa.Table:
        """Run SQL (DuckDB) over the run's tables."""
        with duckdb.connect() as connection:
            for path in sorted((self.folder / "tables").glob("[!.]*")):
                parts = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
                if parts:
                    # DuckDB reads [ and * in a path as a pattern.
                    listed = ", ".join("'" + glob.escape(str(p)).replace("'", "''") + "'" for p in parts)
                    connection.execute(f'CREATE VIEW "{path.stem}" AS SELECT * FROM read_parquet([{listed}])')
            return connection.sql(sql, params=parameters or []).to_arrow_table()

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
        """`query`, as a list of dictionaries."""
        return self.query(sql, parameters).to_pylist()

    # -- arrays ---------------------------------------------------------------------------------------------------

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        """Write `arrays/<name>.safetensors`."""
        path = self.folder / "arrays" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, temporary, metadata)

    def arrays(self, name: str) -> Arrays | None:
        """Read `arrays/<name>.safetensors`; None if there is none."""
        path = self.folder / "arrays" / f"{name}.safetensors"
        if not path.exists():
            return None
        with safe_open(path, framework="numpy") as file:
            return Arrays({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
    mask = os.umask(0)
    os.umask(mask)
    os.fchmod(handle, 0o666 & ~mask)  # mkstemp's files are for their owner alone
    os.close(handle)
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises: RunError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged", expected="JSON", got=str(error)) from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged", expected="a JSON object", got=type(content).__name__)
    return content


def _json_values(value: Any) -> Any:
    """Plain JSON values: NaN and infinities as None, numpy numbers as Python's."""
    if isinstance(value, dict):
        return {str(k): _json_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any, other: Any) -> str:
    """What of `value` differs from `other`, in at most 120 characters."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {k: v for k, v in value.items() if other.get(k) != v}
    return json.dumps(value, ensure_ascii=False)[:120]
