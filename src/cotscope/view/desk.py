"""The model that the viewer runs: one at a time, for one question at a time, loaded when somebody asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import ModelError, UserError
from ..runs.folder import Run
from ..runs.session import Session

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.loading import LoadedModel

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_ROOM = 1.25  # of the weights: what is there twice while they are loaded and packed
_PATIENCE = 120  # seconds that a short question waits for others
_WAITING = 4  # short questions that wait at once: each holds a thread of the server
_LOOKS = 0.2  # seconds after which one that waits looks whether anybody still wants its answer
_ROWS = 2  # the base and the changed model, side by side

Key = tuple[str, ...]


class Desk:
    """Holds the model. What asks it something holds the desk for so long."""

    def __init__(self) -> None:
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self.waiting = 0  # questions that wait for it
        self._key: Key | None = None
        self._engine: Engine | None = None
        self.doing = ""  # what it is held for, in words

    def state(self, run: Run) -> dict[str, Any]:
        """Whether this run's model is loaded, how large it is, and what is being done."""
        return {
            "loaded": self._key == _key(run),
            "other": self._key is not None and self._key != _key(run),
            "doing": self.doing,
            "name": run.manifest["model"]["name"],
            "gigabytes": round(_size(run) / 1e9, 2),
        }

    @contextmanager
    def held(
        self, folder: Path, what: str, wait: bool = True, left: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Session, Engine]]:
        """The session of a run, and its engine, while nobody else has them.

        Args:
            what: what is done meanwhile, for those who ask.
            wait: for whoever has them, if few do; False: raise at once.
            left: whether whoever asked has gone: nothing is done for them.

        Raises: UserError if the model is missing, does not fit, is not the run's, or is busy.
        """
        if not (self._lock.acquire(blocking=False) or (wait and self._waited(left))):
            raise UserError(f"the model is busy: {self.doing}", remedy="Wait until it has ended, or stop it.")
        try:
            if left():
                raise UserError("nobody waits for this answer any more")
            self.doing = what
            session = Session.reopen(folder, quiet=True)
            engine = self._loaded(session)
            session.model.loaded = engine.loaded
            yield session, engine
        finally:
            self.doing = ""
            self._lock.release()

    def _waited(self, left: Callable[[], bool]) -> bool:
        """Wait for the desk and take it; False: too many wait, it took too long, or whoever asked has left."""
        with self._counting:
            if self.waiting >= _WAITING:
                return False
            self.waiting += 1
        try:
            ends = time.monotonic() + _PATIENCE
            while time.monotonic() < ends and not left():
                if self._lock.acquire(timeout=_LOOKS):
                    return True
            return False
        finally:
            with self._counting:
                self.waiting -= 1

    def _loaded(self, session: Session) -> Engine:
        from ..lm.engine import Engine

        key = _key(session.run)
        if self._key != key or self._engine is None:
            self._key = self._engine = None  # the one that was there makes room first
            _check_room(session.run)
            self.doing, what = f"loading {session.run.manifest['model']['name']}", self.doing
            self._engine, self._key = Engine(_load(session), rows=_ROWS), key
            self.doing = what
        return self._engine


def _load(session: Session) -> LoadedModel:
    try:
        return session.loaded
    except (MemoryError, OSError, RuntimeError) as error:
        raise ModelError(
            f"the model {session.config.model} can't be loaded", got=f"{type(error).__name__}: {error}",
            remedy="Everything that does not run it can still be looked at.",
        ) from error  # fmt: skip


def _key(run: Run) -> Key:
    """Runs of one key have the same model."""
    model = run.manifest["model"]
    return str(run.manifest["config"].get("model")), *(str(model[k]) for k in ("weight_sha256", "dtype", "kernels"))


def _size(run: Run) -> int:
    model = run.manifest["model"]
    return int(model["parameters"]) * _BYTES[model["dtype"]]


def _check_room(run: Run) -> None:
    from ..lm.reading import on_device

    needed, free = _size(run) * _ROOM, psutil.virtual_memory().available
    if on_device(None) == "cpu" and needed > free:
        raise ModelError(
            "the model does not fit into the memory that is free",
            expected=f"about {needed / 1e9:.1f} GB", got=f"{free / 1e9:.1f} GB",
            remedy="Everything that does not run it can still be looked at.",
        )  # fmt: skip
