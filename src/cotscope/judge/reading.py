"""The JSON objects of a reply, read strictly: what is damaged, doubtful or only thought aloud is none.

A reply may hold prose and code fences around its object. An object within a damaged one never counts: a reply that was
cut off, or an example that a model thought of, would become its answer.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

END_OF_THOUGHTS = "</think>"
_STRING = r"""(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|\w++)"""
_BEGINS = re.compile(rf"\{{\s*+{_STRING}\s*+:", re.DOTALL)  # what means to be an object: a brace, a key and a colon


class Unreadable(ValueError):
    """Why there is no object, in words that the model can use."""


class Found(NamedTuple):
    """An object of a text and the part of it that it takes."""

    content: dict[str, Any]
    start: int
    end: int


def load(text: str | bytes, strict: bool = True) -> Any:
    """A JSON value. `strict`: NaN and Infinity, which are no JSON, are refused and not taken for null.

    Raises: ValueError, also where a key stands twice, a number is too long or the text is nested too deeply.
    """
    try:
        constant = _refused if strict else lambda name: None
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constant, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def objects(text: str) -> list[Found]:
    """The outermost JSON objects of a text, in order, up to the first that is damaged. Raises: Unreadable if that is it."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refused, parse_int=_integer)
    found: list[Found] = []
    at = 0
    while begins := _BEGINS.search(text, at):
        try:
            content, at = decoder.raw_decode(text, begins.start())
        except (ValueError, RecursionError) as error:
            if found:  # what stands behind an answer is no part of it
                break
            why = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            why = "it is nested too deeply" if isinstance(error, RecursionError) else why
            raise Unreadable(f"its JSON object is damaged ({why})") from error
        found.append(Found(content, begins.start(), at))
    return found


def spoken(text: str) -> list[dict[str, Any]]:
    """The objects of a reply, not those of thoughts before it. Raises: Unreadable if there are none."""
    mark = text.rfind(END_OF_THOUGHTS)
    if mark < 0 and text.lstrip().startswith("<think>"):
        raise Unreadable("it ends before its thoughts do")
    found = objects(text[mark + len(END_OF_THOUGHTS) :] if mark >= 0 else text)
    if not found and mark >= 0:  # a token that looks like the end of a thought may be quoted in the answer
        found = [one for one in objects(text) if one.start < mark < one.end]
    if not found:
        raise Unreadable("there is no whole JSON object in the reply")
    return [one.content for one in found]


def after_thoughts(text: str) -> str:
    """Prose without the thoughts before it; empty if there are only thoughts."""
    if END_OF_THOUGHTS in text:
        return text.rpartition(END_OF_THOUGHTS)[2]
    return "" if text.lstrip().startswith("<think>") else text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 400:  # beyond what a float holds
        raise ValueError("a number is too long")
    return int(digits)


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
