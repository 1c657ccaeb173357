"""Studies that are begun from the viewer: `cotscope study` in a process of its own, which outlives the viewer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from ..errors import UserError, shown

_NAME = re.compile(r"[\w][\w.-]{0,63}", re.ASCII)
_TAIL = 8000  # bytes of what the process has printed
LARGEST = 2000  # problems: what is begun here is small


class Studies:
    """The study that was begun last; there is one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a second click comes before the first one is answered
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._about: dict[str, Any] = {}
        self.folder: Path | None = None  # its run's

    def start(self, folder: Path, name: str, *, model: str, data: str, limit: int) -> None:
        """Begin a study in a new folder, or go on with the one that is there.

        Args:
            folder: where its folder is made.
            name: what that is called.

        Raises: UserError for a name that is none, or if a study that was begun here goes on.
        """
        if not _NAME.fullmatch(name):
            raise UserError("the name of a run", expected="letters, digits, dots, dashes and underlines", got=shown(name))
        if not 1 <= limit <= LARGEST:
            raise UserError("test problems", expected=f"1 to {LARGEST}", got=str(limit))
        for what, value in (("model", model), ("data", data)):
            if not value.strip() or "\0" in value:
                raise UserError(f"the {what} is missing", got=shown(value))
        # `--name=value` in one word: no value can be taken for another option.
        command = [sys.executable, "-m", "cotscope", "study", f"--model={model.strip()}", f"--data={data.strip()}",
                   f"--limit={limit}", f"--out={folder / name}"]  # fmt: skip
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise UserError("a study that was begun here goes on", got=self._about["name"], remedy="Wait, or stop it.")
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  it is read for as long as the process writes
            self._about, self.folder = {"name": name, "command": ["cotscope", *command[3:]]}, folder / name
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def stop(self) -> None:
        """Stop it as Ctrl-C does: what is finished is kept."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def state(self) -> dict[str, Any] | None:
        """How it stands, and the end of what it has printed; None: none was begun."""
        if self._process is None or self._log is None:
            return None
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _TAIL, max(0, size - _TAIL))
        return {**self._about, "code": self._process.poll(), "said": tail.decode("utf-8", "replace")}
