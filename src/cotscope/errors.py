"""What a user can do wrong: each error says what it means, what was expected, what was got, and the remedy.

A `UserError` ends the command with one line and exit code 2; anything else that escapes is a bug and keeps its
traceback. Invariants inside cotscope are `assert`s, never these.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's, or of the machine they run on, that they can mend.

    Args:
        meaning: what is wrong, in a sentence without its full stop.
        expected: what would have been right (optional).
        got: what was found instead (optional).
        remedy: what to do now (optional).
    """

    def __init__(self, meaning: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        self.meaning, self.expected, self.got, self.remedy = meaning, expected, got, remedy
        parts = [meaning]
        if expected:
            parts.append(f"expected {expected}")
        if got:
            parts.append(f"got {got}")
        line = "; ".join(parts)
        if remedy:
            line += f". {remedy}"
        super().__init__(" ".join(line.split()))


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


class JudgeError(UserError):
    """A judge can't be asked: no endpoint, a wrong key, an unknown model, a limit that is reached, or bad labels."""
