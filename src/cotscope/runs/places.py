"""Where the files of a run folder lie, and that nothing else stands there: a folder may be from someone else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

from ..errors import RunError
from .tables import TABLES

# What cotscope writes into a run folder, and whether it is a folder.
_OURS = {".lock": False, "manifest.json": False, "summary.json": False, "report.html": False, "tables": True, "arrays": True}
_LONGEST = 240  # bytes of a name; most file systems take 255, its ending included


def path_of(folder: Path, name: str) -> Path:
    """Where the file of this name is: `poles`, `completions/study.full`, `arrays/reference`. Raises: ValueError."""
    top, _, rest = name.partition("/")
    if top == "arrays":
        where, ending, parts = folder / "arrays", "safetensors", False
    elif top in TABLES:
        parts = bool(TABLES[top].part)
        where, ending = folder / "tables" / (top if parts else ""), "parquet"
    else:
        raise ValueError(f"no file of a run: {name!r}")
    odd = "/" in rest or rest.startswith(".") or "\0" in rest or len(rest.encode("utf-8", "replace")) > _LONGEST
    if odd or bool(rest) != (parts or top == "arrays"):
        raise ValueError(f"no file of a run: {name!r}")
    return where / f"{rest or top}.{ending}"


def inner_folders(folder: Path) -> Iterator[Path]:
    """The folders of a run that tables and arrays lie in; links are none."""
    for top in (folder / "arrays", folder / "tables"):
        if top.is_dir():
            yield top
            yield from (p for p in top.iterdir() if p.is_dir() and not p.is_symlink())


def is_taken(path: Path) -> bool:
    """Whether something that is no folder, and leads to none, is there."""
    return not path.is_dir() and (path.exists() or path.is_symlink())


def check_own(folder: Path) -> None:
    """Raise RunError where something else stands in the place of a run folder's own files and folders.

    A folder from someone else must not lead a writer elsewhere, nor a reader to wait at a pipe.
    """
    try:
        str(folder.resolve()).encode()  # DuckDB and Arrow take no other paths
    except UnicodeEncodeError as error:
        raise RunError(f"{folder} can't be a run folder", expected="a path in UTF-8", remedy="Give another --out.") from error
    except (OSError, RuntimeError) as error:
        raise RunError(f"{folder} can't be a run folder: its path leads nowhere") from error
    tables = folder / "tables"
    places = [(folder / name, within) for name, within in _OURS.items()]
    if tables.is_dir() and not tables.is_symlink():
        places += [(p, True) for p in sorted(tables.iterdir()) if p.name in TABLES]
    for path, is_folder in places:
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue  # it is not there, or `folder` is none
        if S_ISLNK(mode):
            raise RunError(f"{path} is a link", expected="a run folder's own files", remedy="Copy what it links to.")
        if not (S_ISDIR(mode) if is_folder else S_ISREG(mode)):
            raise RunError(f"{path} is in the way", expected="a folder" if is_folder else "a file", remedy="Remove it.")
