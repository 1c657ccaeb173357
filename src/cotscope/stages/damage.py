"""Damage: what a set's removal does to the skill and to everything else, measured on reference solutions.

For each set of neurons that `sets` has drawn, and for permuted sets (`stats/random_sets.py`): what the tokens of solutions
that the model is made to write lose, apart for operators, equals signs, results and the rest (no luck of the draw; it tells
a model that no longer knows which step to take from one that miscalculates). A lexicon finds neurons by the tokens that they
push: zeroed, they take that push away at once, whatever else they do. So each set is scored three ways (`lm/paths.py`): the
set zeroed (total); its own updates taken out of the last residual stream only (direct); the set zeroed and its updates put
back there (indirect). Beside the log-probability, which has a ceiling where the model is sure, stands the logit margin.

The verdict is `SPECIFIC_RULE`'s, by the permuted sets. Damage is *specific* as far as it exceeds what the matched sets do to
the same problems. Beside it a battery of tasks about words that arithmetic has nothing to do with.

Nothing is generated but, where the data has no solutions, what the model writes untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..data.roles import ROLES
from ..measuring.neurons import NeuronSet, active_neurons, comparison, read_sets
from ..measuring.solutions import (
    BASELINE,
    Solution,
    fingerprint_of,
    mean_by_kind,
    reference_solutions,
    score_battery,
    score_paths,
    write_untouched,
)
from ..runs.files import fingerprint
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import (
    ANNOTATIONS,
    BATTERY,
    CANDIDATES,
    DAMAGE,
    DAMAGE_SOLUTIONS,
    KEYSTONES,
    POLES,
    SETS,
    SOLUTION_SCORES,
    SOLUTIONS,
)
from ..stats import (
    ANSWERS,
    ARITHMETIC,
    LEAST_EFFECT,
    LEAST_MARGIN,
    SPECIFIC_RULE,
    TOO_FEW,
    Scored,
    equivalence,
    mcnemar_exact,
    paired_bootstrap,
    sign_flip_p,
    specific_change,
    specific_damage,
    wilson,
)
from ..stats.random_sets import permuted_sets

BOUNDS = {"log_prob": LEAST_EFFECT, "margin": LEAST_MARGIN}
"""Measure → within how many nats of 0 a change may be called none."""
PERMUTABLE = "permutable"
"""The reasoning neurons that share their stratum with others: what permuted sets are compared with."""
UNITS = {
    "damage.untouched.<role>.<measure>": "mean over problems of the reference solution's mean log_prob (nats) or margin (its "
    "logit less the largest of the others, nats) at tokens of a role, nothing disrupted",
    "damage.effects.<set>.<role>.<path>.<measure>": "change of the same with a set zeroed, with its interval over problems; "
    "path: total; direct: only the set's own push on the logits gone; indirect: the set zeroed, its push put back; "
    "matched_mean, permuted_mean: their mean, problem by problem; within: the rule lets it be called no effect",
    "damage.battery.<set>": "share of battery items whose answer is the most likely continuation, 0 to 1",
    "damage.specific": "change under the set that the matched sets match (`damage.target`) less their mean change, with an "
    "interval over problems and sets, and its rank p among the sets",
    "damage.skill": "what the study is of: arithmetic, or answers in words",
    "damage.headline": SPECIFIC_RULE,
}
Key = tuple[str, str, str, str]  # set, role, path, measure


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    permuted: int = option(20, "permuted sets for the verdict; with fewer than 19 there is none", kind="sets")
    battery: int = option(16, "items per task of the battery of other skills", kind="positive")


def damage(session: Session, options: Options) -> str:
    """Run the stage. Sets that have been scored are not scored again."""
    run = session.run
    sets = {"none": NeuronSet("none", "none", None, ())} | read_sets(run)
    write_untouched(session)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `damage` is empty.")
        return "no reference solutions"
    permuted = _permuted(session, options.permuted)
    _score_solutions(session, [*sets.values(), *permuted], given)
    _score_battery(session, list(sets.values()), options.battery)
    rows = sorted(run.rows("SELECT * FROM solution_scores ORDER BY ALL"), key=lambda r: ROLES.index(r["role"]))
    if not any(r["path"] == "indirect" for r in rows):
        run.note("Direct and indirect effects can't be told apart on this model: something unknown stands over its logits.")
    headline = _headline(rows, permuted)
    effects = _effects(session, rows, [*sets.values(), *permuted])
    _summarise(session, list(sets.values()), effects, headline)
    return _finding(headline, _skill(session))


def _permuted(session: Session, count: int) -> list[NeuronSet]:
    """The reasoning neurons that share their stratum with others, then so many permuted sets; nothing if there are none."""
    first, known = session.config.seed, active_neurons(session.run)
    seeds = range(first, first + count)
    targets, drawn = permuted_sets(known.reasoning, known.others, known.traits, seeds)
    if not count or not targets:
        return []
    own = NeuronSet(PERMUTABLE, PERMUTABLE, None, targets)
    return [own, *(NeuronSet(f"permuted_{i}", "permuted", seed, s) for i, (seed, s) in enumerate(zip(seeds, drawn)))]


def _score_solutions(session: Session, sets: Sequence[NeuronSet], given: Sequence[Solution]) -> None:
    run = session.run
    of = {s.name: fingerprint(tuple(s.neurons), fingerprint_of(given), session.prompt.text("")) for s in sets}
    missing = {s.name: s.neurons for s in sets if run.done(f"solution_scores/{s.name}", of[s.name]) is None}
    with session.bar("damage", len(missing), "set") as bar:
        for name, found in score_paths(session.engine, session.prompt, given, missing):
            rows = [
                {
                    "problem_id": solution.problem.id,
                    "neuron_set": name,
                    "role": role,
                    "path": path,
                    "tokens": len(scores[role]),
                    "log_prob": fmean(t.log_prob for t in scores[role]),
                    "margin": fmean(t.margin for t in scores[role]),
                }
                for path, by_solution in found.items()
                for solution, scores in zip(given, by_solution, strict=True)
                for role in ROLES
                if role in scores
            ]
            run.write(SOLUTION_SCORES, rows, name, of[name])
            bar.update()


def _score_battery(session: Session, sets: Sequence[NeuronSet], items: int) -> None:
    from ..lm.interventions import scale

    run = session.run
    of = {s.name: fingerprint(tuple(s.neurons), items) for s in sets}
    missing = [s for s in sets if run.done(f"battery/{s.name}", of[s.name]) is None]
    with session.bar("other skills", len(missing), "set") as bar:
        for s in missing:
            intervention = scale(session.loaded.anatomy, s.neurons, 0.0) if s.neurons else None
            hits = score_battery(session.engine, items, intervention)
            run.write(BATTERY, [{"neuron_set": s.name, **hit._asdict()} for hit in hits], s.name, of[s.name])
            bar.update()


def _headline(rows: Sequence[dict[str, Any]], permuted: Sequence[NeuronSet]) -> dict[str, Any]:
    """`SPECIFIC_RULE` on the reference solutions: `PERMUTABLE` among the permuted sets."""
    if not permuted:
        return {"verdict": TOO_FEW, "neurons": 0, "sets": 0, "pushes": None, "matters": None}
    untouched, target, *others = (_scored(rows, name) for name in ("none", *(s.name for s in permuted)))
    found = specific_damage(untouched, target, others)
    return {
        "verdict": found.verdict,
        "neurons": len(permuted[0].neurons),
        "sets": len(permuted) - 1,
        "pushes": found.pushes._asdict(),
        "matters": found.matters and found.matters._asdict(),
    }


def _scored(rows: Sequence[dict[str, Any]], name: str) -> Scored:
    """What the rule asks of a set; the untouched model has no push to put back."""
    parts = [("total", "log_prob"), ("total" if name == "none" else "indirect", "margin")]
    means = []
    for path, measure in parts:
        solutions: dict[str, dict[str, tuple[float, int]]] = {}
        for r in rows:
            if (r["neuron_set"], r["path"]) == (name, path):
                solutions.setdefault(r["problem_id"], {})[r["role"]] = r[measure], r["tokens"]
        means.append(mean_by_kind(solutions.values()) if solutions else None)
    total, indirect = means
    assert total is not None
    return Scored(total, indirect)


def _effects(session: Session, rows: Sequence[dict[str, Any]], sets: Sequence[NeuronSet]) -> dict[Key, list[float]]:
    """Each set's changes from the untouched model, problem by problem, and the means over matched and permuted sets. Writes
    the table of them."""
    values: dict[Key, dict[str, float]] = {}
    for r in rows:
        for measure in BOUNDS:
            values.setdefault((r["neuron_set"], r["role"], r["path"], measure), {})[r["problem_id"]] = r[measure]
    changes = {
        (name, role, path, measure): [value - values["none", role, "total", measure][problem] for problem, value in own.items()]
        for (name, role, path, measure), own in values.items()
    }
    kinds = {s.name: s.kind for s in sets}
    for kind in ("matched", "permuted"):
        same = [name for name, of in kinds.items() if of == kind]
        for _, role, path, measure in [key for key in changes if same and key[0] == same[0]]:
            own = zip(*(changes[name, role, path, measure] for name in same), strict=True)
            changes[f"{kind}_mean", role, path, measure] = [fmean(each) for each in own]
        kinds[f"{kind}_mean"] = f"{kind}_mean"
    table, seed = [], session.config.seed
    for name, role, path in dict.fromkeys((s, role, path) for s, role, path, _ in changes if kinds[s] != "permuted"):
        row: dict[str, Any] = {"neuron_set": name, "kind": kinds[name], "role": role, "path": path}
        for measure, bound in BOUNDS.items():
            change = changes[name, role, path, measure]
            ends = dict(zip(("change", "low", "high"), paired_bootstrap(change, seed)))
            ends |= {"p": sign_flip_p(change, seed), "within": equivalence(change, bound, seed)[2]}
            before = fmean(values["none", role, "total", measure].values())
            row |= {"problems": len(change), measure: before + ends["change"]}
            row |= {f"{measure}_{end}": value for end, value in ends.items()}
        table.append(row)
    session.run.write(DAMAGE_SOLUTIONS, table)
    return changes


def _summarise(
    session: Session,
    sets: Sequence[NeuronSet],
    changes: Mapping[Key, Sequence[float]],
    headline: dict[str, Any],
) -> None:
    run, seed, target = session.run, session.config.seed, comparison(sets)
    right: dict[str, dict[str, float]] = {}
    for r in run.rows("SELECT neuron_set, task || '/' || item AS key, hit::DOUBLE AS hit FROM battery ORDER BY ALL"):
        right.setdefault(r["neuron_set"], {})[r["key"]] = r["hit"]
    rows: list[dict[str, Any]] = []
    for s in sets:
        hits = round(sum(right[s.name].values()))
        low, high = wilson(hits, len(right[s.name]))
        p = mcnemar_exact(*([hit > 0 for hit in right[name].values()] for name in ("none", s.name)))
        row = {"neuron_set": s.name, "items": len(right[s.name]), "battery": hits / len(right[s.name])}
        rows.append(row | {"battery_low": low, "battery_high": high, "battery_p": p})
    run.write(DAMAGE, rows)
    untouched: dict[str, Any] = {}
    effects: dict[str, Any] = {}
    for r in run.rows("SELECT * FROM damage_solutions"):
        if r["neuron_set"] == "none":
            untouched[r["role"]] = {measure: r[measure] for measure in BOUNDS}
        elif r["neuron_set"] in ("reasoning", target, "matched_mean", "permuted_mean"):
            of_role = effects.setdefault(r["neuron_set"], {}).setdefault(r["role"], {})
            ends = ("change", "low", "high", "within")
            of_role[r["path"]] = {m: {end: r[f"{m}_{end}"] for end in ends} for m in BOUNDS}
    matched = [s.name for s in sets if s.kind == "matched"]
    battery = {row["neuron_set"]: row["battery"] for row in rows}
    specific: dict[str, Any] = {}
    if matched:
        battery["matched_mean"] = fmean(battery[m] for m in matched)
        own, *others = ([*right[name].values()] for name in (target, *matched))
        specific["battery"] = specific_change(own, others, seed, shares=True)
        for name, role, path, measure in changes:
            if name == target:
                controls = [changes[m, role, path, measure] for m in matched]
                found = specific_change(changes[name, role, path, measure], controls, seed)
                specific.setdefault("solutions", {}).setdefault(role, {}).setdefault(path, {})[measure] = found
    run.summarise(
        "damage",
        {
            "target": target,
            "skill": _skill(session),
            "matched": len(matched),
            "problems": max(map(len, changes.values())),
            "items": rows[0]["items"],
            "headline": headline,
            "untouched": untouched,
            "effects": effects,
            "specific": specific,
            "battery": battery,
        },
    )


def _skill(session: Session) -> str:
    return ANSWERS if session.inputs.words else ARITHMETIC


def _finding(headline: Mapping[str, Any], skill: str) -> str:
    claims = (("zeroed", headline["pushes"]), ("their push put back", headline["matters"]))
    p = [f"{way} p = {max(c['p_value'], c['p_beyond']):.3f}" for way, c in claims if c]
    return f"{skill} without these neurons: {headline['verdict']}" + (f" ({', '.join(p)})" if p else "")


STAGE = Stage(
    "damage",
    "ablate",
    "what each set's removal does to reference solutions, by path, and to other skills; the verdict (--outcomes solutions)",
    damage,
    Options,
    after=("sets",),
    reads=(SETS, POLES, CANDIDATES, ANNOTATIONS, KEYSTONES),
    writes=(BASELINE, "activity/study.{first}", SOLUTIONS, SOLUTION_SCORES, BATTERY, DAMAGE, DAMAGE_SOLUTIONS),
    units=UNITS,
    chosen_by={"--outcomes": {"solutions": {}}, "--by": {"set": {}}},
)
