"""Calibrate: how often would the rule of `damage` say "matters" of neurons that should not matter?

The pipeline (filter by lexicon, permuted sets, reference solutions, `SPECIFIC_RULE`) is run again and again where its answer
ought to be no:

- occurring: with concepts whose words stand in solutions and are no arithmetic (there, must, has, days …), four drawn from
  the packaged set of that name: neurons that write their own words, and should do no more;
- lexicon: with concepts that solutions never name, four drawn from the packaged placebo set (as many seeds as the
  arithmetic concepts have, of the same token frequencies);
- labels: with the study's own concepts, but the promoted tokens of the active poles shuffled within each layer;
- vectors: on a model whose value vectors are shuffled within each layer, its poles found anew on solutions that it is
  made to write, since it solves nothing.

The first two leave the candidates of the study's own concepts out, of targets and permuted sets: whether those matter is what
the study asks.

Beside them, so that a rule which never says yes is found out, the study's own reasoning neurons under the same conditions:
few problems, a short prompt; and, where `attribute` has run, as many neurons on which results rest most. Every run has
problems of its own, built-in ones that the study has not seen, and permuted sets of its own.

The verdict of `predict`, if that was run, is put to the same: with the labels of its answers shuffled, how often would its
reasoning neurons be said to tell right answers from wrong ones (the area's interval above 0.5)?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..concepts.lexicon import candidates
from ..concepts.sets import load_concepts
from ..data.builtin import generate
from ..errors import UserError
from ..measuring.generation import are_solved
from ..measuring.neurons import active_neurons, with_promoted
from ..measuring.prediction.predictors import attributed_neurons
from ..measuring.prediction.shuffling import shuffle_labels
from ..measuring.selections import attributions, strata_like
from ..measuring.solutions import Solution, mean_scores, score_paths, solution
from ..prompts.derive import derive_prompt, problems_of, render_solution
from ..records import Concept, Neuron, Pole, Prompt
from ..runs.files import fingerprint
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import (
    ANNOTATIONS,
    ATTRIBUTIONS,
    CALIBRATION,
    CALIBRATION_RUNS,
    CALIBRATION_SHUFFLES,
    CANDIDATES,
    KEYSTONES,
    POLES,
    PREDICTIONS,
    SELECTIONS,
)
from ..stats import LEVEL, MATTERS, SPECIFIC_RULE, Scored, specific_damage, wilson
from ..stats.random_sets import Traits, permuted_sets, permuted_within

Orders = dict[int, NDArray[np.int64]]  # layer → a permutation of its neurons
TEN = ("occurring", "lexicon", "labels") * 3 + ("vectors",)
"""What ten runs are; the study's own neurons, and those of attribution, come once beside them."""
STUDY, ATTRIBUTION = BESIDE = ("study", "attribution")
KINDS = ("occurring", "lexicon", "labels", "vectors", *BESIDE)
PACKAGED = {"occurring": "occurring", "lexicon": "placebo"}
"""Kind of run → the packaged concepts from which it draws `CONCEPTS`."""
CONCEPTS = 4
CLAIMS = ("pushes", "matters")
PERMUTED = 20  # sets; the least p is 1/21
EXEMPLARS = 2  # of the short prompt
UNITS = {
    "placebo.rate": "share of the runs that found neurons to ask of in which the rule said that the set matters, without "
    "the study's own neurons",
    "placebo.by_kind": "the same by kind of run: runs, said, rate, Wilson's interval",
    "placebo.by_kind.study": "the study's own reasoning neurons: how often so small an experiment finds what is there; "
    "attribution: as many neurons on which results rest most",
    "placebo.claims": "the same of each of the rule's two claims, of the runs that found neurons to ask of",
    "placebo.rule": SPECIFIC_RULE,
    "placebo.shuffled": "shuffles of the labels of `predict`'s answers: how often the area's interval lay above 0.5, and the "
    "mean area",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    runs: int = option(100, "how many runs, those of the study's own and of attribution's neurons not counted", kind="positive")
    problems: int = option(6, "reference solutions per run", kind="positive")
    shuffles: int = option(20, "shuffles of the labels of each data set of `predict`, if that was run", kind="natural")


def calibrate(session: Session, options: Options) -> str:
    """Run the stage. Runs that have been made are not made again; more can be added."""
    run = session.run
    if session.inputs.words:
        raise UserError("calibrate asks built-in arithmetic problems, and this study's answers are words")
    bench = _Bench(session, options.problems)
    poles, keystones = run.rows("SELECT layer, index, sign, steps FROM poles"), sorted(bench.known.keystones)
    concepts = [session.inputs.concepts.sha256, *(load_concepts(name).sha256 for name in PACKAGED.values())]
    of = fingerprint(poles, keystones, sorted(bench.known.reasoning), concepts, options.problems, SPECIFIC_RULE)
    made_of = dict.fromkeys(KINDS, of)
    if bench.attributed:
        made_of[ATTRIBUTION] = fingerprint(of, bench.attributed, sorted(bench.like_attributed.items()))
    kept = {mark: set(run.keep(CALIBRATION_RUNS, mark)) for mark in set(made_of.values())}
    plan = _plan(options.runs, bool(bench.attributed))
    missing = [(kind, i) for kind, i in plan if f"{kind}_{i}" not in kept[made_of[kind]]]
    with session.bar("calibrate", len(missing) * (PERMUTED + 2), "set") as bar:
        for kind, i in missing:
            run.write(CALIBRATION_RUNS, [bench.run(kind, i, bar.update)], f"{kind}_{i}", made_of[kind])
    return _summarise(session, plan) + shuffle_labels(session, options.shuffles)


def _plan(runs: int, attributed: bool = False) -> list[tuple[str, int]]:
    """(kind, its number) of each run; kinds take turns, so that fewer runs are a beginning of more.

    Args:
        attributed: whether attribution has chosen neurons.
    """
    plan: list[tuple[str, int]] = []
    for n in range(runs):
        if n % len(TEN) == 0:
            plan += [(kind, n // len(TEN)) for kind in BESIDE[: 1 + attributed]]
        kind = TEN[n % len(TEN)]
        plan.append((kind, sum(k == kind for k, _ in plan)))
    return plan


class _Bench:
    """What all runs share: the model, the short prompt, the active poles."""

    def __init__(self, session: Session, problems: int) -> None:
        self.session, self.problems, self.known = session, problems, active_neurons(session.run)
        rows = session.run.rows("SELECT layer, index, sign, promoted FROM poles ORDER BY ALL")
        self.poles = [Pole(r["layer"], r["index"], r["sign"]) for r in rows]
        self.promoted = [r["promoted"] for r in rows]
        self.prompt: Prompt = derive_prompt("full", problems_of(session.inputs.exemplars, "full")[:EXEMPLARS])
        self.seen = {p.question for part in session.inputs.split.parts().values() for p in part}
        self.attributed = attributed_neurons(session, len(self.known.reasoning))

    @cached_property
    def like_attributed(self) -> dict[Neuron, Hashable]:
        """The stratum of each neuron that may be in a random set like attribution's."""
        return strata_like(ATTRIBUTION, self.known, attributions(self.session.run), self.known.keystones)

    def run(self, kind: str, number: int, progress: Callable[[], object]) -> dict[str, object]:
        """One run as a row of the table. `progress()` is called per scored set."""
        rng = np.random.default_rng([self.session.config.seed, KINDS.index(kind), number])
        given, anatomy = self._given(rng, self.problems), self.session.loaded.anatomy
        concepts, orders, solved = self.session.inputs.concepts.concepts, None, None
        traits, poles, promoted = self.known.traits, self.poles, self.promoted
        if kind in PACKAGED:
            concepts = _drawn(load_concepts(PACKAGED[kind]).concepts, number, self.session.config.seed)
            traits = self.known.pool
        elif kind == "labels":
            promoted = _shuffled_within_layers(poles, promoted, rng)
        elif kind == "vectors":
            orders = {i: rng.permutation(anatomy.width) for i in range(anatomy.layers)}
            solved = self._solved(given, orders)
            traits, poles, promoted = self._discovered(self._given(rng, 2 * self.problems), orders)
        keystones = self.known.keystones
        seeds = rng.integers(2**63, size=PERMUTED).tolist()
        if kind == ATTRIBUTION:
            targets = set(self.attributed)
            permuted = permuted_within(self.like_attributed, targets, seeds)
        else:
            found = set(self.known.reasoning) if kind == STUDY else _found(poles, promoted, concepts)
            targets = found.intersection(traits) - keystones
            pool = {n: t for n, t in traits.items() if n not in targets and n not in keystones}
            permuted = permuted_sets(targets, pool, traits, seeds)
        row: dict[str, object] = {
            "run": f"{kind}_{number}",
            "kind": kind,
            "concepts": [c.name for c in concepts],
            "neurons": len(targets),
            "compared": len(permuted.targets),
            "solved": solved,
            "problems": len(given),
        }
        if not permuted.targets:
            return row | {"verdict": "nothing found"}
        return row | self._damage(given, permuted.targets, permuted.sets, orders, progress)

    def _given(self, rng: np.random.Generator, count: int) -> list[Solution]:
        """Built-in problems of one or two steps with their solutions."""
        drawn = generate(count + len(self.seen), seed=int(rng.integers(2**31)), steps=(1, 2))
        found = [p for p in drawn if p.question not in self.seen][:count]
        return [solution(self.session.loaded, p, "gold", render_solution(p)) for p in found]

    def _damage(self, given: Sequence[Solution], targets: Sequence[Neuron], sets: Sequence[Sequence[Neuron]],
                orders: Orders | None, progress: Callable[[], object]) -> dict[str, object]:  # fmt: skip
        """The rule's word and what it rests on, as columns of a run's row."""
        from ..lm.interventions import Intervention, scale, shuffled

        def disrupt(neurons: Sequence[Neuron]) -> Intervention | None:
            zeroed = scale(self.session.loaded.anatomy, neurons, 0.0) if neurons else None
            return zeroed if orders is None else shuffled(self.session.loaded.anatomy, orders, zeroed)

        named: dict[str, Sequence[Neuron]] = {"none": (), "target": targets}
        named |= {f"permuted_{i}": neurons for i, neurons in enumerate(sets)}
        scored = []
        for name, found in score_paths(self.session.engine, self.prompt, given, named, disrupt, ("total", "indirect")):
            margins = found.get("indirect" if name != "none" else "total")
            indirect = None if margins is None else mean_scores(margins, "margin")
            scored.append(Scored(mean_scores(found["total"], "log_prob"), indirect))
            progress()
        verdict = specific_damage(scored[0], scored[1], scored[2:])
        row: dict[str, object] = {"verdict": verdict.verdict}
        for claim, held in zip(CLAIMS, (verdict.pushes, verdict.matters), strict=True):
            if held is not None:
                row |= {f"{claim}_{k}" if k != "holds" else claim: v for k, v in held._asdict().items()}
        return row

    def _solved(self, given: Sequence[Solution], orders: Orders) -> int:
        """How many of the problems the model with shuffled value vectors solves."""
        from ..lm.interventions import shuffled

        intervention = shuffled(self.session.loaded.anatomy, orders)
        return sum(are_solved(self.session, [s.problem for s in given], intervention=intervention, prompt=self.prompt))

    def _discovered(
        self, given: Sequence[Solution], orders: Orders
    ) -> tuple[dict[Neuron, Traits], list[Pole], list[list[str]]]:
        """The poles that are active in the shuffled model on solutions that it is made to write, as `discover` has them."""
        from ..lm.interventions import shuffled
        from ..lm.recorders import ActivePoles, PoleTally
        from ..lm.scoring import Given, score

        session, found = self.session, dict[Pole, tuple[int, float]]()

        def add(tally: PoleTally) -> None:
            for layer, index, sign, steps, size in zip(
                *(getattr(tally, n).tolist() for n in ("layer", "index", "sign", "steps", "update_size"))
            ):
                before = found.get(Pole(layer, index, sign), (0, 0.0))
                if layer >= session.first_layer:
                    found[Pole(layer, index, sign)] = before[0] + steps, before[1] + size

        score(
            session.engine,
            Given(
                tuple(self.prompt.text(c.problem.question) for c in given),
                tuple(c.tokens for c in given),
                recorder=ActivePoles(session.loaded.anatomy, session.config.k, sink=add),
                intervention=shuffled(session.loaded.anatomy, orders),
            ),
        )
        poles = sorted(found)
        totals: dict[Neuron, tuple[int, float]] = {}
        for pole in poles:
            neuron, (steps, size) = Neuron(pole.layer, pole.index), found[pole]
            before = totals.get(neuron, (0, 0.0))
            totals[neuron] = before[0] + steps, before[1] + size
        signs = Counter(Neuron(p.layer, p.index) for p in poles)
        traits = {neuron: Traits(steps, size / steps, signs[neuron]) for neuron, (steps, size) in totals.items()}
        return traits, poles, [row["promoted"] for row in with_promoted(session, [p._asdict() for p in poles])]


def _found(poles: Sequence[Pole], promoted: Sequence[Sequence[str]], concepts: Sequence[Concept]) -> set[Neuron]:
    """Neurons with a pole that passes the filter."""
    return {Neuron(p.layer, p.index) for p, tokens in zip(poles, promoted) if candidates(p, tokens, concepts)}


def _drawn(concepts: Sequence[Concept], number: int, seed: int) -> tuple[Concept, ...]:
    """Some of the concepts; different for each number, until all choices have been drawn."""
    choices = list(combinations(concepts, min(CONCEPTS, len(concepts))))
    order = np.random.default_rng(seed).permutation(len(choices))
    return choices[order[number % len(choices)]]


def _shuffled_within_layers(
    poles: Sequence[Pole], promoted: Sequence[Sequence[str]], rng: np.random.Generator
) -> list[Sequence[str]]:
    layers = np.array([p.layer for p in poles])
    order = np.arange(len(poles))
    for layer in np.unique(layers):
        here = np.flatnonzero(layers == layer)
        order[here] = rng.permutation(here)
    return [promoted[i] for i in order.tolist()]


def _summarise(session: Session, plan: Sequence[tuple[str, int]]) -> str:
    rows = [
        r for r in session.run.rows("SELECT * FROM calibration_runs ORDER BY run") if r["run"] in {f"{k}_{i}" for k, i in plan}
    ]
    session.run.write(CALIBRATION, rows)

    def rate(kinds: Sequence[str]) -> dict[str, Any]:
        asked = [r for r in rows if r["kind"] in kinds and r["compared"]]
        claims = {claim: _share([bool(r[claim]) for r in asked if r[claim] is not None]) for claim in CLAIMS}
        return _share([r["verdict"] == MATTERS for r in asked]) | {"claims": claims}

    found = [kind for kind in KINDS if any(r["kind"] == kind for r in rows)]
    session.run.summarise(
        "placebo",
        rate([kind for kind in found if kind not in BESIDE])
        | {"by_kind": {kind: rate([kind]) for kind in found}, "permuted": PERMUTED, "level": LEVEL, "rule": SPECIFIC_RULE},
    )
    found = session.run.summary["placebo"]
    each = ", ".join(f"{kind} {r['said']} of {r['runs']}" for kind, r in found["by_kind"].items())
    pushes = found["claims"]["pushes"]
    return (
        f"the rule said “matters” of neurons that should not, in {_of(found)} runs ({each}); that they push arithmetic, in "
        f"{_of(pushes)}"
    )


def _share(said: Sequence[bool]) -> dict[str, Any]:
    count, runs = sum(said), len(said)
    return {"runs": runs, "said": count, "rate": count / runs if runs else None, "ci": list(wilson(count, runs))}


def _of(found: Mapping[str, Any]) -> str:
    return f"{found['said']} of {found['runs']} [{found['ci'][0]:.3f}, {found['ci'][1]:.3f}]"


STAGE = Stage(
    "calibrate",
    "calibrate",
    "how often the rule of `ablate` says that neurons matter which should not",
    calibrate,
    Options,
    after=("keystones",),
    beside=("attribute", "predict"),
    reads=(POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, ATTRIBUTIONS, SELECTIONS, PREDICTIONS, "arrays/traces."),
    writes=(CALIBRATION_RUNS, CALIBRATION, CALIBRATION_SHUFFLES),
    units=UNITS,
    wanted=never,
    example="cotscope calibrate runs/first --runs 40",
)
