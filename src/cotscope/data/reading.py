"""Reading the files that a user names: whatever is wrong with one is a single error that says which file and why.

What is read here is a file's name too: it becomes a prompt's name, a problem's id and a line of the manifest.
"""

from __future__ import annotations

import stat
import tomllib
import unicodedata
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import UserError

MEBIBYTE = 2**20
_MOST_DOTS = 1000
_UNUSABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of surrogate pairs, line and paragraph separators


def is_usable(name: str) -> bool:
    """Whether a name is one line of valid Unicode, without control characters."""
    return not any(unicodedata.category(character) in _UNUSABLE for character in name)


def read_bytes(file: Path | Traversable, what: str, error: type[UserError], most: int = MEBIBYTE) -> bytes:
    """The bytes of a file.

    Args:
        file: a path, or one of the packaged files.
        what: what to call it in errors, without its path, e.g. "prompt file".
        error: the kind of error to raise.
        most: how many bytes it may have.

    Raises:
        UserError: (of the kind `error`) it can't be read, is no regular file or too large, or its path isn't UTF-8.
    """
    if not isinstance(file, Path):
        return file.read_bytes()
    name = f"{what} {file}"
    if not is_usable(str(file)):
        raise error(
            f"{name}: the path has a character that is no text",
            expected="a path in UTF-8, without control characters",
            remedy="Rename the file or its folder.",
        )
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # to read a pipe could wait for ever, and a device has no end
            got = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
            raise error(f"{name} can't be read", expected="a regular file", got=got)
        raw = b""
        if status.st_size <= most:
            with file.open("rb") as opened:
                raw = opened.read(most + 1)
    except OSError as cause:
        raise error(f"{name} can't be read", got=cause.strerror or str(cause)) from cause
    if max(len(raw), status.st_size) > most:
        raise error(
            f"{name} is too large",
            expected=f"at most {most / MEBIBYTE:.0f} MiB",
            got=f"{status.st_size / MEBIBYTE:.1f} MiB" if status.st_size else "more",
        )
    return raw


def decode(raw: bytes, name: str, error: type[UserError]) -> str:
    """The text of a file in UTF-8, without its byte order mark.

    Args:
        raw: the file's bytes.
        name: what to call the file in errors.
        error: the kind of error to raise.

    Raises:
        UserError: (of the kind `error`) it is not UTF-8, or holds NUL characters, as UTF-16 and binary files do.
    """
    remedy = "Save the file as UTF-8."
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(f"{name}, line 1: not UTF-8", got="UTF-16 or UTF-32", remedy=remedy)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line, byte = raw.count(b"\n", 0, cause.start) + 1, f"byte {raw[cause.start]:#04x}"
        raise error(f"{name}, line {line}: not UTF-8", got=byte, remedy=remedy) from cause
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise error(f"{name}, line {line}: no text", expected="UTF-8", got="a NUL character", remedy=remedy)
    return text


def read_toml(file: Path | Traversable, what: str, error: type[UserError],
              parse_float: Callable[[str], Any] = float) -> tuple[dict[str, Any], bytes]:  # fmt: skip
    """The table of a TOML file of at most 1 MiB, and the file's bytes.

    Args:
        file, what, error: as for `read_bytes`.
        parse_float: makes a value of a number's text; what it can't take is a ValueError.

    Raises:
        UserError: (of the kind `error`) the file can't be read, or is not TOML.
    """
    raw = read_bytes(file, what, error)
    name = f"{what} {file}"
    text = decode(raw, name, error)
    # tomllib takes time and memory by the square of a dotted key's parts.
    if any(line.partition("=")[0].count(".") > _MOST_DOTS for line in text.split("\n")):
        raise error(f"{name}: a line has too many dots before its =", expected=f"at most {_MOST_DOTS}")
    try:
        return tomllib.loads(text, parse_float=parse_float), raw
    except tomllib.TOMLDecodeError as cause:
        raise error(f"{name} is not TOML", got=str(cause)) from cause
    except RecursionError as cause:
        raise error(f"{name} is nested too deeply", expected="tables and lists of a few levels") from cause
    except ValueError as cause:  # int() and `parse_float`
        raise error(f"{name} has a number that can't be read", expected="numbers of fewer digits") from cause
