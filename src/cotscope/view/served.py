"""The run folders that the viewer serves: those that were given, and those in the folders that were given. No others."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from ..errors import RunError, UserError, shown
from ..runs.folder import Run
from .neurons import Neurons
from .predictions import Predictions

_OPEN = 8  # runs that are kept open, those least recently used closed first
_WHOLE: dict[tuple[Any, ...], bool] = {}  # what was found of files as they were: a run that goes on has few new ones


class NotServedError(UserError):
    """No run has this name."""


class OpenRun(Run):
    """A run folder, only read."""

    @cached_property
    def neurons(self) -> Neurons:
        """Its table of neurons, which is made once."""
        return Neurons(self)

    @cached_property
    def predictions(self) -> Predictions:
        """Its table of predictions, which is made once."""
        return Predictions(self)

    def _is_whole(self, name: str, record: Any) -> bool:
        try:
            path = self._path(name)
            status = path.lstat()
            key = (str(path), repr(record), status.st_ino, status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            return False
        if key not in _WHOLE:
            _WHOLE[key] = super()._is_whole(name, record)
        return _WHOLE[key]


class Served:
    """The run folders that can be reached, by the names that stand in links.

    Args:
        folders: each a run folder, or a folder that holds some.

    Raises: UserError if one of them is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is no folder", expected="a run folder, or a folder that holds some")
        self.folders, self._lock = tuple(folders), threading.Lock()
        self._open: OrderedDict[Path, tuple[tuple[int, ...], OpenRun]] = OrderedDict()
        self._seen: dict[Path, None] = {}  # run folders that had a name: no other one gets it
        self._manifests: dict[Path, tuple[tuple[int, ...], Mapping[str, Any]]] = {}

    @property
    def holders(self) -> dict[str, Path]:
        """The folders that hold runs, where new ones can be made, by name."""
        # Names are given out over all: that of one that is gone is not another's.
        return {name: f for name, f in _named([*self.folders]).items() if os.path.isdir(f) and not _is_run(f)}

    def folders_by_name(self) -> Mapping[str, Path]:
        """The run folders of now. Links are not followed: what they lead to was not given."""
        found: list[Path] = []
        for folder in self.folders:
            found += [folder] if _is_run(folder) else filter(_is_run, _inside(folder))
        with self._lock:
            self._seen = dict.fromkeys((*self._seen, *found))
            return {name: folder for name, folder in _named(list(self._seen)).items() if folder in found}

    def name_of(self, folder: Path) -> str | None:
        """What a run folder is called in links; None: it is not there."""
        return next((name for name, found in self.folders_by_name().items() if found == folder), None)

    def folder(self, name: str) -> Path:
        """A run folder by its name. Raises: NotServedError."""
        if (folder := self.folders_by_name().get(name)) is None:
            raise NotServedError(f"there is no run {shown(name)}")
        return folder

    def run(self, name: str) -> OpenRun:
        """A run as it is now. Raises: NotServedError; RunError if it can't be opened."""
        folder = self.folder(name)
        with self._lock:
            state = _state(folder)
            if folder not in self._open or self._open[folder][0] != state:
                self._open[folder] = state, _opened(folder)
            self._open.move_to_end(folder)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return self._open[folder][1]

    def manifest(self, folder: Path) -> Mapping[str, Any]:
        """A run's manifest as it is now. Who lists runs opens none of them, and so closes none. Raises: RunError."""
        state = _state(folder)
        if (known := self._manifests.get(folder)) is None or known[0] != state:
            self._manifests[folder] = known = state, _opened(folder).manifest
        return known[1]


def _state(folder: Path) -> tuple[int, ...]:
    """What changes when a run's manifest does."""
    try:
        found = (folder / "manifest.json").stat()
    except OSError as error:
        raise RunError(f"{folder} has no manifest.json", got=error.strerror or "") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _opened(folder: Path) -> OpenRun:
    """A run folder, opened. Raises: RunError."""
    try:
        return OpenRun.open(folder)
    except OSError as error:
        raise RunError(f"{folder} can't be read", got=error.strerror or "") from error


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run, or what is left of one; one that can't be read is none."""
    return os.path.isdir(folder) and any(os.path.exists(folder / part) for part in ("manifest.json", "tables", "summary.json"))


def _inside(folder: Path) -> list[Path]:
    """What is in a folder but links; nothing if it is gone meanwhile, or can't be read: the others are still shown."""
    try:
        return sorted(p for p in folder.iterdir() if not p.is_symlink())
    except OSError:
        return []


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names; where several have one, or one is no text, a number after it."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = stem = os.fsencode(folder.resolve().name).decode("utf-8", "replace") or "run"
        count = 1
        while name in named:
            count += 1
            name = f"{stem}~{count}"
        named[name] = folder
    return named


def writer_of(folder: Path) -> int | None:
    """The process that is writing to a run folder; None if there is none, or it is not to be seen."""
    lock = folder / ".lock"
    try:
        if lock.is_symlink():
            return None
        with lock.open(encoding="ascii") as file:
            process = psutil.Process(int(file.read(20)))
        opened = [found.path for found in process.open_files()]
    except (OSError, ValueError, psutil.Error):
        return None
    return process.pid if str(lock.resolve()) in opened else None
