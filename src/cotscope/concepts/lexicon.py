"""The filter by lexicon: which poles promote the tokens of a concept (Rai & Yao 2024, Algorithm 2, with poles)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..records import Concept, Pole

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
