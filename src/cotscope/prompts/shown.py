"""Which questions a few-shot prompt shows with their answers: a model asked one of them has only to copy."""

from __future__ import annotations

import re
from functools import lru_cache

from ..data.rows import LEADING, question_key
from ..records import Prompt

_BLOCK = re.compile(r"^Question:", re.MULTILINE)


def shows(prompt: Prompt, question: str) -> bool:
    """Whether a worked example of the prompt begins with a question, however its lines are broken and whatever its case."""
    key = question_key(question)
    return any(block.startswith(key) and not block[len(key) : len(key) + 1].isalnum() for block in _blocks(prompt.prefix))


@lru_cache(maxsize=8)
def _blocks(prefix: str) -> tuple[str, ...]:
    """Its worked examples as `question_key` writes a question, with all that follows it."""
    return tuple(" ".join(block.casefold().split()).lstrip(LEADING) for block in _BLOCK.split(prefix)[1:])
