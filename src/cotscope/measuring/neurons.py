"""The neurons that a run knows: active ones, reasoning neurons and keystones; and the sets that are disrupted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from ..records import Neuron
from ..runs.folder import Run
from ..runs.session import Session
from ..stats import expected_jaccard, jaccard
from ..stats.random_sets import CALIPER, Traits, log_traits, matched_sets, unmatched_set

_QUANTILES = (0.1, 0.5, 0.9)


class ActiveNeurons(NamedTuple):
    """Neurons that were active in discovery.

    Attributes:
        traits: what each did.
        reasoning: those with an accepted pole, in order.
        rejected: candidates without an accepted pole, in order.
        pool: those that are no candidates: matched sets are drawn from them, since a counterpart stands for no concept.
        keystones: neurons whose removal alone breaks everything, active or not; `reasoning`, `rejected` and `pool` are
            without them.
    """

    traits: dict[Neuron, Traits]
    reasoning: tuple[Neuron, ...]
    rejected: tuple[Neuron, ...]
    pool: dict[Neuron, Traits]
    keystones: frozenset[Neuron]

    @property
    def others(self) -> dict[Neuron, Traits]:
        """All that are not reasoning neurons: permuted sets are drawn from these and them. A rejected candidate could
        have been accepted as well, so it is among them."""
        return {n: self.traits[n] for n in sorted({*self.pool, *self.rejected})}


def active_neurons(run: Run) -> ActiveNeurons:
    """Read them from the tables `poles`, `candidates`, `annotations` and `keystones`."""
    traits = {
        Neuron(r["layer"], r["index"]): Traits(r["steps"], r["update_size"], r["poles"])
        for r in run.rows(
            """SELECT layer, index, sum(steps)::INT AS steps, sum(mean_update_size * steps) / sum(steps) AS update_size,
                      count(*)::INT AS poles
               FROM poles GROUP BY layer, index ORDER BY layer, index"""
        )
    }
    keystones = frozenset(_neurons(run, "keystones WHERE keystone"))
    accepted, suspects = _neurons(run, "annotations WHERE accepted"), _neurons(run, "candidates")
    return ActiveNeurons(
        traits,
        tuple(n for n in accepted if n not in keystones),
        tuple(n for n in suspects if n not in keystones.union(accepted)),
        {n: t for n, t in traits.items() if n not in keystones.union(suspects)},
        keystones,
    )


def _neurons(run: Run, where: str) -> list[Neuron]:
    return [Neuron(r["layer"], r["index"]) for r in run.rows(f"SELECT DISTINCT layer, index FROM {where} ORDER BY ALL")]


def with_promoted(session: Session, active: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add promoted and suppressed tokens with their logits to poles, given as rows with layer, index and sign."""
    from ..lm.projection import project

    vocabulary = session.model.vocabulary
    neurons = sorted({Neuron(row["layer"], row["index"]) for row in active})
    place = {neuron: i for i, neuron in enumerate(neurons)}
    with session.bar("projecting", len(neurons), "neuron") as bar:
        ends = project(session.loaded.anatomy, neurons, session.config.promoted, session.config.projection, progress=bar.update)
    tokens = {1: ends.top.tolist(), -1: ends.bottom.tolist()}
    scores = {1: ends.top_scores.tolist(), -1: [[-s for s in row] for row in ends.bottom_scores.tolist()]}
    rows = []
    for row in active:
        i, sign = place[Neuron(row["layer"], row["index"])], row["sign"]
        rows.append(
            row
            | {
                "promoted": [vocabulary[t] for t in tokens[sign][i]],
                "promoted_scores": scores[sign][i],
                "suppressed": [vocabulary[t] for t in tokens[-sign][i]],
                "suppressed_scores": [-s for s in scores[-sign][i]],
            }
        )
    return rows


@dataclass(frozen=True)
class NeuronSet:
    """Neurons that are disrupted together.

    Attributes:
        kind: "reasoning", "comparable" (the reasoning neurons with a counterpart), "matched", "unmatched",
            "lexicon" (all candidates, where the annotator rejected some), "rejected" (those).
        seed: of the random ones.
    """

    name: str
    kind: str
    seed: int | None
    neurons: tuple[Neuron, ...]


def read_sets(run: Run) -> dict[str, NeuronSet]:
    """The sets of the table `sets`, by name, in their order there."""
    found: dict[tuple[str, str, int | None], list[Neuron]] = {}
    for r in run.rows("SELECT * FROM sets"):
        found.setdefault((r["neuron_set"], r["kind"], r["seed"]), []).append(Neuron(r["layer"], r["index"]))
    return {about[0]: NeuronSet(*about, tuple(neurons)) for about, neurons in found.items()}


def comparison(sets: Iterable[NeuronSet]) -> str:
    """The set that the matched sets match: "comparable", or "reasoning" where all have a counterpart."""
    return "comparable" if any(s.kind == "comparable" for s in sets) else "reasoning"


def neuron_sets(session: Session, known: ActiveNeurons, count_matched: int, count_unmatched: int) -> list[NeuronSet]:
    """The sets of a study: the reasoning set, what of it has counterparts, and every control. Notes say what is missing."""
    run, first, reasoning = session.run, session.config.seed, known.reasoning
    seeds = range(first, first + count_matched)
    targets, matched = matched_sets(reasoning, known.pool, known.traits, seeds)
    sets = [NeuronSet("reasoning", "reasoning", None, reasoning)]
    if len(targets) < len(reasoning):
        steps = [sum(known.traits[n].steps for n in some) for some in (targets, reasoning)]
        run.note(
            f"{len(reasoning) - len(targets)} of {len(reasoning)} reasoning neurons (with "
            f"{1 - steps[0] / steps[1]:.0%} of their active steps) have no counterpart among the other active neurons. "
            + ("Matched sets are compared with the others." if targets else "There are no matched sets.")
        )
        if targets:
            sets.append(NeuronSet("comparable", "comparable", None, targets))
    if targets:
        sets += [NeuronSet(f"matched_{i}", "matched", seed, s) for i, (seed, s) in enumerate(zip(seeds, matched))]
    drawn = [n for n in known.traits if n not in known.keystones]
    for i in range(count_unmatched):
        seed = first + i
        chosen = tuple(unmatched_set(targets or reasoning, drawn, seed))
        sets.append(NeuronSet(f"unmatched_{i}", "unmatched", seed, chosen))
    if known.rejected:
        sets.append(NeuronSet("lexicon", "lexicon", None, tuple(sorted((*reasoning, *known.rejected)))))
        sets.append(NeuronSet("rejected", "rejected", None, _busiest(known.rejected, known.traits, len(reasoning))))
    return sets


def _busiest(neurons: Collection[Neuron], traits: Mapping[Neuron, Traits], limit: int) -> tuple[Neuron, ...]:
    """Those active most often, in order of layers."""
    return tuple(sorted(sorted(neurons, key=lambda n: (-traits[n].steps, n))[:limit]))


def matching_rows(sets: list[NeuronSet], target: str, traits: Mapping[Neuron, Traits]) -> list[dict[str, Any]]:
    """How like the set `target` each set is, in both traits: means, quantiles, the largest, and the standardised
    difference of the mean logarithms (over the target's standard deviation)."""
    reference = next(s for s in sets if s.name == target).neurons
    rows = []
    for s in sets:
        row: dict[str, Any] = {"neuron_set": s.name, "kind": s.kind, "target": target, "neurons": len(s.neurons)}
        for column, trait in enumerate(("steps", "update_size")):
            own, aim = ([float(getattr(traits[n], trait)) for n in neurons] for neurons in (s.neurons, reference))
            row[f"mean_{trait}"], row[f"target_mean_{trait}"] = (fmean(v) if v else float("nan") for v in (own, aim))
            for q in _QUANTILES:
                row[f"{trait}_q{100 * q:.0f}"] = float(np.quantile(own, q)) if own else float("nan")
            row[f"{trait}_max"] = max(own, default=float("nan"))
            logs = [log_traits(neurons, traits)[:, column] for neurons in (s.neurons, reference)]
            row[f"{trait}_smd"] = _standardised(*logs)
        rows.append(row)
    return rows


def _standardised(own: np.ndarray, aim: np.ndarray) -> float:
    """Difference of means over the standard deviation of `aim`; NaN where there is none."""
    spread = float(aim.std(ddof=1)) if len(aim) > 1 else 0.0
    return float((own.mean() - aim.mean()) / spread) if len(own) and spread > 0 else float("nan")


def overlap(sets: list[NeuronSet], pool: Collection[Neuron]) -> dict[str, Any]:
    """How alike the matched sets are, and how narrow their caliper is: for `summary.sets.matching`."""
    matched = [s.neurons for s in sets if s.kind == "matched"]
    pairs = [jaccard(a, b) for a, b in combinations(matched, 2)]
    size = len(matched[0]) if matched else 0
    return {
        "caliper": CALIPER,
        "jaccard": fmean(pairs) if pairs else None,
        "by_chance": expected_jaccard(size, size, len(pool)) if pairs else None,
    }
