"""Writing a file whole or not at all, and hashing it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ..errors import RunError

log = logging.getLogger(__name__)

LOCK = ".lock"
"""Of a folder that a process holds."""
_LARGEST_EDIT = 2**28


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=".part")
    mask = os.umask(0)
    os.umask(mask)
    os.fchmod(handle, 0o666 & ~mask)  # mkstemp's files are for their owner alone
    os.close(handle)
    try:
        with full_disk_is_said(path):
            yield Path(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def full_disk_is_said(path: Path) -> Iterator[None]:
    """A full disk is an OSError, whoever notices it: safetensors has an error of its own."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and (said := os.strerror(errno.ENOSPC)) in str(error):
            raise OSError(errno.ENOSPC, said, str(path)) from error
        raise


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process, by its lock file: False where the file system has no locks, so that another process may
    be writing there as well. Raises: RunError if another process holds it."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+", encoding="utf-8") as lock:
        locked = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise RunError(
                f"{folder} is in use by another process",
                got=f"process {lock.read(20).strip() or 'unknown'}",
                remedy="Wait until it ends.",
            ) from error
        except OSError as error:  # as some of NFS, Lustre and FUSE: better unguarded than not at all
            locked = False
            log.warning("%s has no locks (%s): that a second command writes there is not noticed", folder, error.strerror)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield locked


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def hash_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(named: str) -> str | None:
    """What a file holds that an option names, the edit file of a model's folder, or what a run folder predicts: SHA-256; None
    where there is none.

    What an edit was `measured` to do is left out: that is written into it whenever it is evaluated.
    """
    path = Path(named)
    if os.path.isdir(path):
        path /= "tables/predictions.parquet" if (path / "manifest.json").is_file() else "edit.json"
    try:
        status = path.stat()
        return _digest_of(path, status.st_mtime_ns, status.st_size) if S_ISREG(status.st_mode) else None
    except (OSError, ValueError):
        return None


@lru_cache
def _digest_of(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        may_be_an_edit = path.suffix != ".jsonl" and size < _LARGEST_EDIT and file.read(1) == b"{"
    try:
        content = read_json(path) if may_be_an_edit else {}
    except RunError:
        content = {}
    if "base" not in content:
        return hash_of(path)
    content.pop("measured", None)
    return fingerprint(json.dumps(content, sort_keys=True))


def fingerprint(*values: object) -> str:
    """SHA-256 of values by their representation: what a unit of work was made from."""
    return sha256(repr(values).encode("utf-8", "surrogatepass")).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises: RunError if it is none; FileNotFoundError, NotADirectoryError."""
    try:
        if not S_ISREG(path.stat().st_mode):  # to read a pipe could wait for ever
            raise RunError(f"{path} can't be read", expected="a regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged", expected="JSON", got=str(error)) from error
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise RunError(f"{path} can't be read", got=error.strerror or str(error)) from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged", expected="a JSON object", got=type(content).__name__)
    return content


def json_text(value: Any) -> str:
    """A JSON file's content. Half a character, as a path that is no UTF-8 has them, is escaped: no file can hold it."""
    text = json.dumps(json_values(value), indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_values(value: Any) -> Any:
    """Plain JSON values: NaN and infinities as None, numpy numbers as Python's."""
    if isinstance(value, dict):
        return {str(k): json_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
