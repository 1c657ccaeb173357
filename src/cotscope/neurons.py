"""The neurons that a run knows: those that were active in discovery, the reasoning neurons, what controls come from."""

from __future__ import annotations

from typing import NamedTuple

from .controls import Traits
from .records import Neuron
from .store import Run


class ActiveNeurons(NamedTuple):
    """Neurons that were active in discovery.

    Attributes:
        traits: what each did.
        reasoning: those with an accepted pole, in order.
        pool: those that are no candidates: random sets are drawn from them.
    """

    traits: dict[Neuron, Traits]
    reasoning: tuple[Neuron, ...]
    pool: dict[Neuron, Traits]


def active_neurons(run: Run) -> ActiveNeurons:
    """Read them from the tables `poles`, `candidates` and `annotations`."""
    traits = {
        Neuron(r["layer"], r["index"]): Traits(r["steps"], r["update_size"])
        for r in run.rows(
            """SELECT layer, index, sum(steps)::INT AS steps, sum(mean_update_size * steps) / sum(steps) AS update_size
               FROM poles GROUP BY ALL ORDER BY ALL"""
        )
    }
    reasoning = tuple(
        Neuron(r["layer"], r["index"])
        for r in run.rows("SELECT DISTINCT layer, index FROM annotations WHERE accepted ORDER BY ALL")
    )
    suspects = {Neuron(r["layer"], r["index"]) for r in run.rows("SELECT DISTINCT layer, index FROM candidates")}
    return ActiveNeurons(traits, reasoning, {n: t for n, t in traits.items() if n not in suspects})
