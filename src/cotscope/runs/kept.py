"""What a command that makes a file outside a run has computed so far: after a kill it is not computed again.

(In a run folder the manifest says what is done, `folder.py`. Trainings keep tensors: `measuring/editing/courses.py`.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError
from .files import read_json, write_text


class Kept:
    """Values by their names, in a hidden file beside what is made of them.

    Args:
        to: what is made; `remove` when it is.
        of: the fingerprint of all that decides the values: those of another one count for nothing, and so does a damaged file.
    """

    def __init__(self, to: Path, of: str) -> None:
        self.path, self.of = to.with_name(f".{to.name}.kept"), of
        self._values: dict[str, Any] = {}
        try:
            content = read_json(self.path)
            if content["of"] == of:
                self._values = dict(content["values"])
        except (RunError, OSError, ValueError, KeyError, TypeError):
            pass

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value by its name, as JSON keeps it; computed if it is not there."""
        if name not in self._values:
            self._values[name] = compute()
            write_text(self.path, json.dumps({"of": self.of, "values": self._values}))
        return self._values[name]

    def remove(self) -> None:
        """It is made."""
        self.path.unlink(missing_ok=True)
