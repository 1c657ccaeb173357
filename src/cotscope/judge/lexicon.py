"""What an annotator is, and the one that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..concepts.lexicon import Candidate
from ..records import Annotation


class Annotator(Protocol):
    """Says of each candidate whether its pole stands for its concept. `name` goes into the tables."""

    name: str

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        """One annotation per candidate, in order."""


class LexiconAnnotator:
    """Accepts every candidate: the lexicon's word is the last one."""

    name = "lexicon"

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        return [Annotation(c.pole, c.concept, True, self.name, c.evidence) for c in found]
