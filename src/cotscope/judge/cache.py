"""Every reply of a judge, as it came, in SQLite: a second run makes no call, and a kill loses no paid reply.

A reply is found by the SHA-256 of the model, where it runs, the messages and the parameters. Several replies may
stand under one key: a pole whose replies were invalid is asked again by the next run.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import JudgeError
from .question import short


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote, with the tokens that were paid for and why it ended ("stop", "length")."""

    text: str
    tokens_in: int
    tokens_out: int
    finish: str


def key_of(question: Mapping[str, Any]) -> str:
    """The key of a question: JSON values that define it."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class Cache:
    """The replies. Safe to use from several threads, and by several processes at once.

    Raises: JudgeError if the file can't be written or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(
                """CREATE TABLE IF NOT EXISTS replies (
                     number INTEGER PRIMARY KEY, key TEXT NOT NULL, model TEXT, text TEXT NOT NULL,
                     tokens_in INTEGER, tokens_out INTEGER, finish TEXT, valid INTEGER, at TEXT)"""
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS by_key ON replies (key)")
            self._db.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise JudgeError(
                f"the judge's cache {short(str(self.path), 200)} can't be used", got=short(str(error), 200),
                remedy="Move it away, or set COTSCOPE_CACHE to a folder that can be written.",
            ) from error  # fmt: skip

    def _run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, self._readable():
            return self._db.execute(sql, values).fetchall()

    def get(self, key: str) -> Reply | None:
        """The newest reply under a key."""
        rows = self._run(
            "SELECT text, tokens_in, tokens_out, finish FROM replies WHERE key = ? ORDER BY number DESC LIMIT 1", key
        )
        return Reply(*rows[0]) if rows else None

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply; on disk when this returns."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._run(
            "INSERT INTO replies (key, model, text, tokens_in, tokens_out, finish, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            key, model, reply.text.encode("utf-8", "replace").decode(), reply.tokens_in, reply.tokens_out, reply.finish, at,
        )  # fmt: skip

    def mark(self, key: str, valid: bool) -> None:
        """Say whether the newest reply under a key was an answer."""
        self._run("UPDATE replies SET valid = ? WHERE number = (SELECT max(number) FROM replies WHERE key = ?)", valid, key)

    def fact(self, name: str) -> Any:
        """Something learnt about an endpoint, as it was given to `learn`; None if nothing was, or nothing readable."""
        rows = self._run("SELECT value FROM facts WHERE name = ?", name)
        try:
            return json.loads(rows[0][0]) if rows else None
        except (TypeError, ValueError):
            return None

    def learn(self, name: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))

    def close(self) -> None:
        with self._lock:
            self._db.close()
