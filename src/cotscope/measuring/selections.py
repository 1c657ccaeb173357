"""Ways of choosing neurons: by the words that they promote, by what they cause, by when they are active. One registry.

Each takes the same evidence and gives neurons in order, the first one first. A new way is a function here and an entry in
`WAYS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..concepts.lexicon import candidates, normalise
from ..concepts.sets import load_concepts
from ..records import Concept, Neuron, Pole
from ..runs.folder import Run
from ..runs.tables import ATTRIBUTIONS
from ..stats.random_sets import STRATUM, strata_of
from .neurons import ActiveNeurons

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..runs.session import Session

    Each = NDArray[np.float64]  # of every neuron: (layers, neurons)

PAPER_PROMOTED = 20  # tokens, as in the paper's text and code


@dataclass(frozen=True)
class Evidence:
    """What neurons can be chosen by.

    Attributes:
        columns: of the table `attributions`, each (layers, neurons).
        reasoning: the neurons that the run's annotator accepted, in order.
        rates: per discovery completion the steps of each active neuron over its tokens, (completions, active).
        active: the neurons of `rates`.
        right: whether each completion was right.
        strata: of each completion: formulas in it, and whether it is longer than half of those.
        promoted: active poles → the tokens that they promote.
        raw: positive poles of active neurons → the tokens that the raw value vector promotes.
        concepts: the study's.
        steps: of each active neuron.
        barred: neurons that no way may choose.
    """

    columns: Mapping[str, Each]
    reasoning: Sequence[Neuron]
    rates: Each
    active: Sequence[Neuron]
    right: Sequence[bool]
    strata: Sequence[tuple[int, bool]]
    promoted: Mapping[Pole, Sequence[str]]
    raw: Mapping[Pole, Sequence[str]]
    concepts: Sequence[Concept]
    steps: Mapping[Neuron, int]
    barred: frozenset[Neuron]


def lexicon(evidence: Evidence, count: int) -> list[Neuron]:
    """Those that the annotator accepted: they promote the words of a concept (Rai & Yao, Algorithm 2)."""
    return _first(sorted(evidence.reasoning, key=lambda n: (-evidence.steps.get(n, 0), n)), count, evidence)


def words(evidence: Evidence, count: int) -> list[Neuron]:
    """Those that promote two of a concept's words, none of them a symbol, and none of the symbols: what they do to operators
    and equals signs is not what they were chosen by."""
    lettered = [replace(c, seeds=tuple(s for s in c.seeds if any(map(str.isalpha, s)))) for c in evidence.concepts]
    symbols = {s for c in evidence.concepts for s in c.seeds} - {s for c in lettered for s in c.seeds}
    found, barred = set[Neuron](), set[Neuron]()
    for pole, tokens in evidence.promoted.items():
        neuron = Neuron(pole.layer, pole.index)
        if candidates(pole, tokens, lettered):
            found.add(neuron)
        if any(normalise(t) in symbols for t in tokens):
            barred.add(neuron)
    return _first(sorted(found - barred, key=lambda n: (-evidence.steps.get(n, 0), n)), count, evidence)


def attribution(evidence: Evidence, count: int) -> list[Neuron]:
    """Those without which the results of formulas are predicted to lose most logit margin through later layers, less what
    other skills and general text are predicted to lose; each loss over its standard deviation over all neurons."""

    def loss(*columns: str) -> Each:
        change = evidence.columns[columns[0]] - sum(evidence.columns[c] for c in columns[1:])
        return -change / max(float(change.std()), 1e-12)

    harm = np.maximum(loss("battery"), 0) + np.maximum(loss("text"), 0)
    return _ranked(loss("result_margin", "result_margin_direct") - harm, count, evidence)


def contrast(evidence: Evidence, count: int) -> list[Neuron]:
    """Those more often active when the model is right than when it is wrong, within strata of formulas and length: the mean
    difference over its standard error. Nothing where no stratum has both."""
    right = np.array(evidence.right)
    total = squares = np.zeros(evidence.rates.shape[1])
    weights, freedom = 0.0, 0
    for stratum in sorted(set(evidence.strata)):
        here = np.array([s == stratum for s in evidence.strata])
        a, b = evidence.rates[here & right], evidence.rates[here & ~right]
        if not len(a) or not len(b):
            continue
        weight = len(a) * len(b) / (len(a) + len(b))
        total = total + weight * (a.mean(0) - b.mean(0))
        squares = squares + ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
        weights, freedom = weights + weight, freedom + len(a) + len(b) - 2
    if not freedom:
        return []
    # The variance within strata is estimated from all of them; it is that of the weighted mean difference times `weights`.
    score = total / np.sqrt(weights * (squares / freedom + 1e-6))
    order = sorted(range(len(evidence.active)), key=lambda i: (-score[i], evidence.active[i]))
    return _first([evidence.active[i] for i in order], count, evidence)


def size(evidence: Evidence, count: int) -> list[Neuron]:
    """Those with the largest mean update size on reference solutions that are not among the largest on general text
    (MathNeuro, Christ et al. 2024, arXiv:2410.16930): of both the largest, as many as leave `count`."""
    on_solutions, on_text = (
        _ranked(evidence.columns[c], evidence.columns[c].size, evidence) for c in ("solutions_size", "text_size")
    )
    place = {neuron: i for i, neuron in enumerate(on_text)}
    elsewhere = np.array([place[n] for n in on_solutions])
    # A neuron is among the k largest of the one and not of the other if its places are below k and not below k.
    k = np.arange(1, len(on_solutions) + 1)
    left = k - np.searchsorted(np.sort(np.maximum(np.arange(len(on_solutions)), elsewhere)), k)
    most = int(k[np.argmax(left >= count)] if left.max() >= count else k[np.argmax(left)])
    return [n for n, other in zip(on_solutions[:most], elsewhere, strict=False) if other >= most][:count]


def paper(evidence: Evidence, count: int) -> list[Neuron]:
    """Active ones of which +v promotes two words of a concept of the paper's code (raw projection, no judge), the most often
    active first."""
    concepts = load_concepts("paper").concepts
    found = {Neuron(p.layer, p.index) for p, tokens in evidence.raw.items() if candidates(p, tokens, concepts)}
    return _first(sorted(found, key=lambda n: (-evidence.steps.get(n, 0), n)), count, evidence)


WAYS: dict[str, Callable[[Evidence, int], list[Neuron]]] = {
    "lexicon": lexicon,
    "words": words,
    "attribution": attribution,
    "contrast": contrast,
    "size": size,
    "paper": paper,
}


ACTIVE = ("lexicon", "words", "contrast", "paper")
"""Ways that choose among neurons which were active in discovery."""


def strata_like(
    way: str, known: ActiveNeurons, columns: Mapping[str, Each], barred: Collection[Neuron]
) -> dict[Neuron, Hashable]:
    """The stratum of each neuron that could be in a random set like a choice: of those that were active in discovery by what
    they did there (permuted sets'); of all neurons by layer and mean update sizes, on solutions and on text.

    Args:
        columns: of table `attributions`, as `attributions` has them.
        barred: neurons that no set has.
    """
    if way in ACTIVE:
        neurons = [n for n in known.traits if n not in known.keystones]
        return dict(zip(neurons, strata_of(neurons, known.traits), strict=True))
    sizes = np.stack([columns["solutions_size"], columns["text_size"]], axis=-1)
    cells = np.floor(np.log(np.maximum(sizes, np.finfo(float).tiny)) / STRATUM).astype(int).tolist()
    return {
        neuron: (layer, *cell)
        for layer, row in enumerate(cells)
        for index, cell in enumerate(row)
        if (neuron := Neuron(layer, index)) not in barred
    }


def _first(neurons: Sequence[Neuron], count: int, evidence: Evidence) -> list[Neuron]:
    return [n for n in neurons if n not in evidence.barred][:count]


def _ranked(score: Each, count: int, evidence: Evidence) -> list[Neuron]:
    """The neurons of the highest score."""
    width = score.shape[1]
    order = np.argsort(-score, axis=None, kind="stable")[: count + len(evidence.barred)]
    return _first([Neuron(int(i) // width, int(i) % width) for i in order], count, evidence)


def attributions(run: Run) -> dict[str, Each]:
    """The columns of the table `attributions`, each (layers, neurons)."""
    found = run.query("SELECT * FROM attributions ORDER BY layer, index")
    layers = 1 + max(found["layer"].to_pylist())
    return {
        name: found[name].to_numpy().astype(float).reshape(layers, -1)
        for name in ATTRIBUTIONS.schema.names
        if name not in ("layer", "index")
    }


def evidence(session: Session, reasoning: Sequence[Neuron], barred: frozenset[Neuron]) -> Evidence:
    """Gather it from a run whose attributions are there."""
    from ..lm.projection import project

    run = session.run
    completions = run.rows(
        """SELECT condition, problem_id, correct, tokens, len(list_filter(roles, lambda r: r = 'equals')) AS formulas
           FROM completions WHERE family = 'discovery' AND prompt = ? ORDER BY ALL""",
        [session.prompt.name],
    )
    steps = run.query(
        """SELECT problem_id, layer, index, sum(steps)::DOUBLE AS steps FROM activity
           WHERE family = 'discovery' AND prompt = ? GROUP BY ALL ORDER BY ALL""",
        [session.prompt.name],
    ).to_pydict()
    place = {c["problem_id"]: i for i, c in enumerate(completions)}
    active = sorted({Neuron(layer, index) for layer, index in zip(steps["layer"], steps["index"])})
    column = {n: i for i, n in enumerate(active)}
    rates = np.zeros((len(completions), len(active)))
    for problem, layer, index, count in zip(*(steps[k] for k in ("problem_id", "layer", "index", "steps"))):
        rates[place[problem], column[Neuron(layer, index)]] = count / completions[place[problem]]["tokens"]
    lengths = defaultdict(list)
    for c in completions:
        lengths[c["formulas"]].append(c["tokens"])
    strata = [(c["formulas"], c["tokens"] > float(np.median(lengths[c["formulas"]]))) for c in completions]
    rows = run.rows("SELECT layer, index, sign, steps, promoted FROM poles ORDER BY ALL")
    positive = sorted({Neuron(r["layer"], r["index"]) for r in rows})  # the paper's code takes active neurons of either sign
    top = project(session.loaded.anatomy, positive, PAPER_PROMOTED, "raw").top.tolist() if positive else []
    vocabulary, total = session.model.vocabulary, defaultdict[Neuron, int](int)
    for r in rows:
        total[Neuron(r["layer"], r["index"])] += r["steps"]
    return Evidence(
        attributions(run),
        reasoning,
        rates,
        active,
        [bool(c["correct"]) for c in completions],
        strata,
        {Pole(r["layer"], r["index"], r["sign"]): r["promoted"] for r in rows},
        {Pole(*n, 1): [vocabulary[t] for t in tokens] for n, tokens in zip(positive, top)},
        session.inputs.concepts.concepts,
        dict(total),
        barred,
    )
