"""The filter by lexicon (Algorithm 2 of the paper, with poles) and the annotator that needs no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..records import Annotation, Concept, Pole

MIN_SEEDS = 2  # seed tokens among the promoted ones that make a candidate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pole whose promoted tokens hold a concept's seeds. `evidence` are those tokens, as promoted, best first."""

    pole: Pole
    concept: str
    evidence: tuple[str, ...]


def normalise(token: str) -> str:
    """How a token is compared with seeds: stripped and lower-cased."""
    return token.strip().lower()


def candidates(pole: Pole, promoted: Sequence[str], concepts: Iterable[Concept],
               minimum: int = MIN_SEEDS) -> list[Candidate]:  # fmt: skip
    """The concepts of which at least `minimum` of a pole's promoted tokens are seeds; the strongest concept first."""
    found = []
    for concept in concepts:
        seeds = set(concept.seeds)
        evidence = tuple(t for t in promoted if normalise(t) in seeds)
        if len(evidence) >= minimum:
            found.append(Candidate(pole, concept.name, evidence))
    return sorted(found, key=lambda c: -len(c.evidence))


class Annotator(Protocol):
    """Says of each candidate whether its pole stands for its concept."""

    name: str

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        """One annotation per candidate, in order."""


class LexiconAnnotator:
    """Accepts every candidate: the lexicon's word is the last one."""

    name = "lexicon"

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        return [Annotation(c.pole, c.concept, True, self.name, c.evidence) for c in found]


ANNOTATORS: dict[str, type[Annotator]] = {LexiconAnnotator.name: LexiconAnnotator}
