"""The filter by lexicon (Algorithm 2 of the paper, with poles) and the annotator that needs no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..records import Annotation, Concept, Pole

MIN_SEEDS = 2  # seed tokens among the promoted ones that make a candidate


class Context(NamedTuple):
    """A place in what the model wrote: the pole's coefficient when it was about to write `token`."""

    before: str
    token: str
    after: str
    coefficient: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pole and the concept that it may stand for, with what an annotator is shown of it.

    Attributes:
        evidence: the promoted tokens that are the concept's seeds, best first.
        promoted, suppressed: tokens with their logits, the strongest first; may be empty for the lexicon.
        contexts: where the pole was most active, the strongest first.
    """

    pole: Pole
    concept: str
    evidence: tuple[str, ...]
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    contexts: tuple[Context, ...] = ()


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
    """Says of each candidate whether its pole stands for its concept. `name` goes into the tables."""

    name: str

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        """One annotation per candidate, in order."""


class LexiconAnnotator:
    """Accepts every candidate: the lexicon's word is the last one."""

    name = "lexicon"

    def annotate(self, found: Sequence[Candidate]) -> list[Annotation]:
        return [Annotation(c.pole, c.concept, True, self.name, c.evidence) for c in found]
