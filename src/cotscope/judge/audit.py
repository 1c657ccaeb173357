"""How far an annotator can be relied on: blind decoys, repeats, agreement with others and with people.

Decoys stand among the candidates, in one random order, and are shown in the same way:
  random: a candidate whose promoted and suppressed tokens were drawn at random from those of all active poles, with
    the texts of a candidate of another concept;
  other concept: a candidate of one concept, asked about another that has none of its seeds among the promoted tokens;
  repeat: a candidate again, its tokens in another order (the same question would only test the cache).
A decoy is the same whoever is asked, and those of a small audit are among those of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from ..concepts.lexicon import Candidate, normalise
from ..records import Concept
from ..stats import cohen_kappa, wilson
from .lexicon import LexiconAnnotator

Kind = Literal["candidate", "random", "other_concept", "repeat"]
KINDS: tuple[Kind, ...] = ("candidate", "random", "other_concept", "repeat")


@dataclass(frozen=True, slots=True)
class Item:
    """A case with what it is. `id` does not tell."""

    id: str
    kind: Kind
    case: Candidate


def items(found: Sequence[Candidate], concepts: Sequence[Concept], tokens: Sequence[str], decoys: int, seed: int) -> list[Item]:
    """The candidates and `decoys` of each kind, in random order. `tokens`: what random decoys are drawn from."""
    made = [_item("candidate", 0, case) for case in found]
    for kind in KINDS[1:]:
        for number in range(decoys if found else 0):
            case = _decoy(kind, found, concepts, tokens, np.random.default_rng([seed, KINDS.index(kind), number]))
            if case is not None:
                made.append(_item(kind, number, case))
    unique = list({item.id: item for item in made}.values())
    return [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]


def _item(kind: Kind, number: int, case: Candidate) -> Item:
    of = 0 if kind == "other_concept" else number  # a pole that is drawn twice for one concept is one item
    mark = repr((kind, of, tuple(case.pole), case.concept))
    return Item(hashlib.sha256(mark.encode()).hexdigest()[:12], kind, case)


def _decoy(
    kind: Kind, found: Sequence[Candidate], concepts: Sequence[Concept], tokens: Sequence[str], rng: np.random.Generator
) -> Candidate | None:
    case = found[int(rng.integers(len(found)))]
    seeds = {concept.name: frozenset(concept.seeds) for concept in concepts}
    if kind == "repeat":
        order = rng.permutation(len(case.promoted))
        return replace(case, promoted=tuple(case.promoted[i] for i in order))
    if kind == "other_concept":
        promoted = {normalise(token) for token, _ in case.promoted}
        others = [name for name, own in seeds.items() if not own & promoted]
        return replace(case, concept=others[rng.integers(len(others))], evidence=()) if others else None
    strange = [t for t in tokens if normalise(t) not in seeds[case.concept]]
    if not strange:
        return None

    def drawn(pairs: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        return tuple((strange[rng.integers(len(strange))], score) for _, score in pairs)

    texts = [c.contexts for c in found if c.concept != case.concept] or [()]
    return replace(
        case, promoted=drawn(case.promoted), suppressed=drawn(case.suppressed), evidence=(),
        contexts=texts[rng.integers(len(texts))],
    )  # fmt: skip


def figures(judgements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The audit's figures from everybody's words, as rows of the table `audit`.

    Args:
        judgements: rows with id, kind, layer, index, sign, concept, annotator, status, accepted.

    Rows: measure ("accepted" by kind, "retest", "kappa"), annotator, other, n, count, value, low, high. Failed cases
    count in nothing. A kappa is over all cases that both have answered, repeats left out. The lexicon has nothing but
    kappas: decoys are drawn so that it rejects them.
    """
    rows: list[dict[str, Any]] = []
    answered = [j for j in judgements if j["status"] == "answered"]
    names = list(dict.fromkeys(j["annotator"] for j in judgements))
    words = {name: {j["id"]: j for j in answered if j["annotator"] == name} for name in names}
    for name in names:
        if name == LexiconAnnotator.name:
            continue
        for kind in KINDS[:3]:
            said = [j["accepted"] for j in words[name].values() if j["kind"] == kind]
            if said:
                rows.append(_share("accepted", name, kind, sum(said), len(said)))
        first = {_subject(j): j["accepted"] for j in words[name].values() if j["kind"] == "candidate"}
        again = [(first[_subject(j)], j["accepted"]) for j in words[name].values()
                 if j["kind"] == "repeat" and _subject(j) in first]  # fmt: skip
        if again:
            rows.append(_share("retest", name, "repeat", sum(a == b for a, b in again), len(again)))
    for one, other in combinations(names, 2):
        both = [i for i in words[one] if i in words[other] and words[one][i]["kind"] != "repeat"]
        if both:
            a, b = ([bool(words[name][i]["accepted"]) for i in both] for name in (one, other))
            kappa, low, high = cohen_kappa(a, b)
            same = sum(x == y for x, y in zip(a, b))
            rows.append(_row("kappa", one, other, len(both), same, kappa, low, high))
    return rows


def _subject(judgement: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(judgement[key] for key in ("layer", "index", "sign", "concept"))


def _share(measure: str, name: str, kind: str, count: int, n: int) -> dict[str, Any]:
    return _row(measure, name, kind, n, count, count / n, *wilson(count, n))


def _row(measure: str, name: str, other: str, n: int, count: int, *values: float) -> dict[str, Any]:
    numbers = (None if np.isnan(v) else float(v) for v in values)
    return {"measure": measure, "annotator": name, "other": other, "n": n, "count": count} | dict(
        zip(("value", "low", "high"), numbers)
    )
