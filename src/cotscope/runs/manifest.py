"""`manifest.json`: what must be in it, how it is written, and how it is read back.

Its last key is the SHA-256 of all others. Where that is not so, something else than cotscope has changed it: every
stage's record is marked, and its figures are stale until it has run again. Files speak for themselves, by their hashes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RunError, shown
from .config import StudyConfig
from .files import json_text, read_json
from .options import wrong
from .places import path_of

log = logging.getLogger(__name__)
SCHEMA = 6
"""Of the tables and the manifest: raised when a reader would stumble over what an older version wrote."""
SECTIONS: dict[str, type] = {"files": dict, "stages": dict, "options": dict, "units": dict, "notes": list, "summary": dict}
"""Keys of the manifest that are filled while the study runs, and what each is."""
_SEAL = "sha256"
_SAID: set[tuple[str, str]] = set()  # files and their seals that were found broken
_LARGEST = 2**53
_LAYERS = 4096


class _Each(NamedTuple):
    """A mapping of texts to values of one shape."""

    of: Any


class _Maybe(NamedTuple):
    """A shape, or nothing: a key that need not be there, or a null."""

    of: Any


class _Below(NamedTuple):
    """A whole number from 1 to below a limit."""

    limit: int


_TEXTS = [str]
_FIGURES = _Each(_Each(object))
_NUMBER = _Maybe(float)
_RECORD = {
    "status": str, "seconds": float, "options": _Each(object), "after": _TEXTS, "beside": _TEXTS, "reads": _TEXTS,
    "writes": _TEXTS, "read": _Each(str), "wrote": _Each(str), "summary": _FIGURES, "notes": _TEXTS, "finding": _Maybe(str),
    "outside": _Maybe(_Each(str)),
}  # fmt: skip
_MANIFEST = {
    "begun": str, "versions": _Each(str), "config": _Each(object), "command": _Maybe(_TEXTS), "cwd": _Maybe(str),
    "rules": _Maybe(_Each(str)),
    "model": {
        "name": str, "weight_sha256": str, "parameters": int, "layers": _Below(_LAYERS), "neurons_per_layer": _Below(2**31),
        "dtype": ("bfloat16", "float32", "float16"), "dtype_why": str, "kernels": ("compiled", "pytorch"),
        "device": str,
        "rows_per_batch": _Below(2**31),
    },
    "data": {"source": str, "sha256": str, "test": int, "discovery": int, "tuning": int, "duplicates": [_TEXTS],
             "halved": bool},
    "concepts": {"source": str, "sha256": str},
    "prompts": [{"name": str, "source": str, "sha256": str, "tokens": int}],
    "files": _Each({"sha256": str, "bytes": int, "of": str, "rows": _Maybe(int), "seconds": _NUMBER, "tokens": _Maybe(int),
                    "recorded": _Maybe(bool)}),
    "stages": _Each(_RECORD), "options": _Each(_Each(object)), "units": _Each(str), "notes": _TEXTS, "summary": _FIGURES,
    "judge": _Maybe(_Each(dict.fromkeys(("calls", "timed_out", "tokens_in", "tokens_out", "cost"), _NUMBER))),
}  # fmt: skip


def write(manifest: dict[str, Any]) -> str:
    """A manifest as the file's text."""
    text = json_text(manifest)
    return text.removesuffix("\n}") + f',\n "{_SEAL}": "{_seal(text)}"\n}}'


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises: RunError if there is none, or it is of another version, or damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
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
            got=shown(manifest.get("schema")),
            remedy="Run the study again with another --out, or read it with the version that its manifest names.",
        )
    if fault := _fault(manifest, _MANIFEST, "") or _faulty_config(manifest["config"]) or _faulty_names(manifest["files"]):
        raise RunError(f"{path} is damaged", expected=fault[0], got=fault[1])
    seal = manifest.pop(_SEAL, None)
    try:
        sealed = seal == _seal(json_text(manifest))
    except RecursionError as error:
        raise RunError(f"{path} is damaged", expected="values a few levels deep", got="hundreds") from error
    if not sealed:
        if (found := (str(path), str(seal))) not in _SAID:
            _SAID.add(found)
            log.warning("%s is not as cotscope wrote it: every stage is to be made again", path)
        for record in manifest["stages"].values():
            record["unsealed"] = True
    return manifest


def _seal(text: str) -> str:
    return sha256(text.encode("utf-8")).hexdigest()


def _faulty_names(files: dict[str, Any]) -> tuple[str, str] | None:
    for name in files:
        try:
            path_of(Path(), name)
        except ValueError:
            return "names of a run's own files", shown(name)
    return None


def _faulty_config(config: dict[str, Any]) -> tuple[str, str] | None:
    for f in fields(StudyConfig):
        if f.name in config and (expected := wrong(f, config[f.name])):
            return f"config.{f.name} to be {expected}", shown(config[f.name])
    return None


def _fault(value: Any, shape: Any, where: str) -> tuple[str, str] | None:
    """What was expected where, and what is there; None if a value has the shape."""
    if shape is object or (isinstance(shape, _Maybe) and value is None):
        return None
    if isinstance(shape, _Maybe):
        return _fault(value, shape.of, where)
    if isinstance(shape, dict | _Each):
        if not isinstance(value, dict):
            return f"{where or 'it'} to be an object", shown(value)
        inside = shape.items() if isinstance(shape, dict) else ((key, shape.of) for key in value)
        parts = ((value.get(key), of, f"{where}.{key}" if where else key) for key, of in inside)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} to be a list", shown(value)
        parts = ((each, shape[0], f"{where}[{i}]") for i, each in enumerate(value))
    else:
        return None if _holds(value, shape) else (f"{where} to be {_words(shape)}", shown(value))
    return next((fault for part in parts if (fault := _fault(*part))), None)


def _holds(value: Any, shape: Any) -> bool:
    if shape is str or shape is bool:
        return isinstance(value, shape)
    if isinstance(shape, _Below):
        return _holds(value, int) and 1 <= value < shape.limit
    if isinstance(shape, tuple):
        return value in shape
    number = isinstance(value, int if shape is int else int | float) and not isinstance(value, bool)
    return number and 0 <= value < _LARGEST and math.isfinite(value)


def _words(shape: Any) -> str:
    if isinstance(shape, _Below):
        return f"a whole number from 1 to below {shape.limit}"
    if isinstance(shape, tuple):
        return " or ".join(shape)
    return {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}[shape]
