"""What a user can do wrong: each error says what it means, what was expected, what was got, and the remedy.

A `UserError` ends the command with one line and exit code 2; anything else that escapes is a bug and keeps its
traceback. Invariants inside cotscope are `assert`s, never these.
"""

from __future__ import annotations

from typing import Any

LONGEST_PART = 240
"""Characters of each part of an error; four of them and what joins them come to less than 1,000."""


class UserError(ValueError):
    """A mistake of the user's, or of the machine they run on, that they can mend.

    Each part is put on one line, its unprintable characters (of control, of direction, halves of surrogate pairs) are
    written as escapes, and where it is longer than `LONGEST_PART` its middle is left out.

    Args:
        meaning: what is wrong, in a sentence without its full stop.
        expected: what would have been right (optional).
        got: what was found instead (optional).
        remedy: what to do now (optional).
    """

    def __init__(self, meaning: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        self.meaning, self.expected, self.got, self.remedy = map(_readable, (meaning, expected, got, remedy))
        parts = [self.meaning]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.got:
            parts.append(f"got {self.got}")
        line = "; ".join(parts)
        if self.remedy:
            line += f". {self.remedy}"
        super().__init__(line.strip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its parts: the whole line, given as the meaning, would be cut."""
        parts = {"expected": self.expected, "got": self.got, "remedy": self.remedy}
        return _again, (type(self), self.meaning, parts)


class ModelError(UserError):
    """The model is unknown, not whole, damaged, or of a kind without decoder feed-forward neurons."""


class DataError(UserError):
    """A problem file is missing, empty or malformed, or a problem's answer is no number."""


class PromptError(UserError):
    """An exemplar or prompt file is malformed, or a prompt does not fit the model's context."""


class ConceptError(UserError):
    """A concept file has unknown keys, or none of its tokens is in the model's vocabulary."""


class DiscoveryError(UserError):
    """There is nothing to discover from: no problem was solved, or no pole passed the filter."""


class RunError(UserError):
    """A run folder is of another study, in use by another process, or lacks what a stage needs."""


class EditError(UserError):
    """An edit file is malformed, for another model, or can't be folded into weights or undone."""


class JudgeError(UserError):
    """A judge can't be asked: no endpoint, a wrong key, an unknown model, a limit that is reached, or bad labels."""


def shown(value: object, longest: int = 80) -> str:
    """A value as errors show it: its `repr`, the middle left out where that is longer. Raises on no value.

    `repr` itself refuses whole numbers of thousands of digits, and lists nested a thousand deep.
    """
    try:
        return cut(repr(value), longest)
    except (ValueError, RecursionError):
        if isinstance(value, int):
            return f"a whole number of about {value.bit_length() * 30103 // 100_000} digits"
        return f"a {type(value).__name__} too large to show"


def _again(kind: type[UserError], meaning: str, parts: dict[str, str]) -> UserError:
    return kind(meaning, **parts)


def _readable(part: str) -> str:
    """A part of an error, on one line, printable and short."""
    # Cut before anything is done to it as well: it may be a whole file's text.
    line = " ".join(cut(part, 20 * LONGEST_PART).split())
    return cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line), LONGEST_PART)


def cut(text: str, longest: int) -> str:
    """At most so many characters: the beginning and the end, "…" between them."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[-end:]}"
