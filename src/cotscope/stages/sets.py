"""Sets: draw what is disrupted, the reasoning neurons, and the sets of other neurons that they are compared with.

No model runs for it, so that a large model's verdict (`damage`) need not wait for what it writes without each set (`ablate`).
How sets are drawn: `stats/random_sets.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..errors import DiscoveryError
from ..measuring.neurons import active_neurons, comparison, matching_rows, neuron_sets, overlap
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ANNOTATIONS, CANDIDATES, KEYSTONES, MATCHING, POLES, SETS

UNITS = {
    "sets.target": "what the matched sets match: comparable (the reasoning neurons with a counterpart), or reasoning (all)",
    "sets.of": "kind → how many sets",
    "sets.matching.jaccard": "mean overlap of two matched sets, by_chance: of two such sets drawn from the pool",
    "sets.matching.largest_smd": "largest standardised difference of a matched set's mean log trait from its target's",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    matched: int = option(5, "matched random sets to compare with", kind="sets")
    unmatched: int = option(2, "unmatched random sets", kind="sets")


def sets(session: Session, options: Options) -> str:
    """Run the stage. Raises: DiscoveryError if no reasoning neuron is left."""
    run = session.run
    known = active_neurons(run)
    if not known.reasoning:
        raise DiscoveryError("all reasoning neurons are keystones: there is nothing left to disrupt")
    drawn = neuron_sets(session, known, options.matched, options.unmatched)
    target = comparison(drawn)
    matching = matching_rows(drawn, target, known.traits)
    run.write(SETS, [{"neuron_set": s.name, "kind": s.kind, "seed": s.seed, "layer": n.layer, "index": n.index}
                     for s in drawn for n in s.neurons])  # fmt: skip
    run.write(MATCHING, matching)
    worst = [abs(r[f"{t}_smd"]) for r in matching if r["kind"] == "matched" for t in ("steps", "update_size")]
    alike = overlap(drawn, known.pool) | {"largest_smd": max(worst, default=None)}
    kinds = Counter(s.kind for s in drawn)
    run.summarise("sets", {"target": target, "of": dict(kinds), "matching": alike})
    size = {s.name: len(s.neurons) for s in drawn}
    said = f"{size['reasoning']:,} reasoning neurons"
    said += f", {size[target]:,} of them with a counterpart" if target != "reasoning" else ""
    return f"{said}; {kinds['matched']} matched random sets, {kinds['unmatched']} unmatched"


STAGE = Stage(
    "sets",
    "ablate",
    "draw the sets of neurons that are zeroed: the reasoning neurons, and random ones to compare them with",
    sets,
    Options,
    after=("annotate", "keystones"),
    reads=(POLES, CANDIDATES, ANNOTATIONS, KEYSTONES),
    writes=(SETS, MATCHING),
    units=UNITS,
    chosen_by={"--outcomes": {"accuracy": {}, "solutions": {}, "push": {}}, "--by": {"set": {}}},
)
