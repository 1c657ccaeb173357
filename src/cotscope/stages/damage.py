"""Damage: what a set's removal does to the skill and to everything else, measured on reference solutions.

For each set of neurons that `ablate` disrupted: the log-probability of solutions that the model is made to write, apart
for operators, equals signs, results and the rest (one pass, no luck of the draw; it tells a model that no longer knows
which step to take from one that miscalculates), and a battery of tasks about words that arithmetic has nothing to do
with. Damage is *specific* as far as it exceeds what the matched sets do to the same problems. Whether that could be chance
is asked of permuted sets (`stats/random_sets.py`), which are scored on the solutions alone: the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..data.roles import ROLES
from ..measuring.neurons import NeuronSet, active_neurons, comparison, read_sets
from ..measuring.solutions import (
    BASELINE,
    Solution,
    fingerprint_of,
    mean_scores,
    reference_solutions,
    score_battery,
    score_roles,
)
from ..records import Neuron
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
    PERMUTED,
    POLES,
    SETS,
    SOLUTION_SCORES,
    SOLUTIONS,
)
from ..stats import (
    SPECIFIC_RULE,
    TOO_FEW,
    mcnemar_exact,
    paired_bootstrap,
    permutation_p,
    sign_flip_p,
    specific_damage,
    wilson,
)
from ..stats.random_sets import permuted_sets

UNITS = {
    "damage.*.given.<role>": "mean over problems of the reference solution's mean log-probability (nats) at tokens of a role",
    "damage.*.change.<role>": "the same, less that of the untouched model",
    "damage.*.battery": "share of battery items whose answer is the most likely continuation, 0 to 1",
    "damage.specific": "change under the set that the matched sets match (`damage.target`) less their mean change, paired by "
    "problem",
    "damage.headline": SPECIFIC_RULE,
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    permuted: int = option(20, "permuted sets for the verdict; with fewer than 19 there is none", kind="natural")
    battery: int = option(16, "items per task of the battery of other skills", kind="positive")


def damage(session: Session, options: Options) -> str:
    """Run the stage. Sets that have been scored are not scored again."""
    run = session.run
    sets = {"none": NeuronSet("none", "none", None, ())} | read_sets(run)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `damage` is empty.")
        return "no reference solutions"
    mark = fingerprint_of(given), session.prompt.text(""), options.battery
    of = {s.name: fingerprint(s.neurons, *mark) for s in sets.values()}
    parts = [f"{table.name}/{{}}" for table in (SOLUTION_SCORES, BATTERY)]
    missing = [s for s in sets.values() if not all(run.done(part.format(s.name), of[s.name]) for part in parts)]
    with session.bar("damage", len(missing), "set") as bar:
        for s in missing:
            _score(session, s, given, options.battery, of[s.name])
            bar.update()
    headline = _headline(session, given, options.permuted)
    _summarise(session, list(sets.values()), headline)
    p = f" (p = {headline['p_value']:.3f})" if headline["sets"] else ""
    return f"specific damage to arithmetic: {headline['verdict']}{p}"


def _score(session: Session, s: NeuronSet, given: Sequence[Solution], items: int, of: str) -> None:
    from ..lm.interventions import scale

    intervention = scale(session.loaded.anatomy, s.neurons, 0.0) if s.neurons else None
    found = score_roles(session.engine, session.prompt, given, intervention)
    rows = [
        {
            "neuron_set": s.name,
            "problem_id": solution.problem.id,
            "role": role,
            "log_prob": fmean(t.log_prob for t in scores[role]),
            "tokens": len(scores[role]),
            "greedy": fmean(t.greedy for t in scores[role]),
        }
        for solution, scores in zip(given, found, strict=True)
        for role in ROLES
        if role in scores
    ]
    session.run.write(SOLUTION_SCORES, rows, s.name, of)
    hits = score_battery(session.engine, items, intervention)
    session.run.write(BATTERY, [{"neuron_set": s.name, **hit._asdict()} for hit in hits], s.name, of)


def _summarise(session: Session, sets: Sequence[NeuronSet], headline: dict[str, Any]) -> None:
    run, seed = session.run, session.config.seed
    gold = {role: values for role in ROLES if (values := _by_set(session, "solution_scores", "problem_id", "log_prob", role))}
    target = comparison(sets)
    right = _by_set(session, "battery", "task || '/' || item", "hit")
    solved = _by_set(session, "completions", "problem_id", "correct")
    names, matched = [s.name for s in sets], [s.name for s in sets if s.kind == "matched"]
    rows: list[dict[str, Any]] = []
    summary: dict[str, dict[str, Any]] = {}
    for name in names:
        hits = round(sum(right[name].values()))
        low, high = wilson(hits, len(right[name]))
        p = mcnemar_exact(*([hit > 0 for hit in right[s].values()] for s in ("none", name)))
        row = {"neuron_set": name, "items": len(right[name]), "battery": hits / len(right[name])}
        rows.append(row | {"battery_low": low, "battery_high": high, "battery_p": p})
        summary[name] = {"given": {}, "change": {}, "battery": row["battery"]}
    changes = []
    for role, values in gold.items():
        for name in names:
            change = [values[name][problem] - before for problem, before in values["none"].items()]
            mean, low, high = paired_bootstrap(change, seed)
            given = fmean(values[name].values())
            changes.append(
                {
                    "neuron_set": name,
                    "role": role,
                    "problems": len(change),
                    "log_prob": given,
                    "change": mean,
                    "low": low,
                    "high": high,
                    "p": sign_flip_p(change, seed),
                }
            )
            summary[name]["given"][role], summary[name]["change"][role] = given, mean
    run.write(DAMAGE, rows)
    run.write(DAMAGE_SOLUTIONS, changes)
    found: dict[str, Any] = {
        "none": summary["none"],
        "reasoning": summary.get("reasoning"),
        "target": target,
        "specific": {},
        "headline": headline,
    }
    if matched:
        for outcome, values in {"accuracy": solved, "battery": right, **gold}.items():
            beyond = [value - fmean(values[m][key] for m in matched) for key, value in values[target].items()]
            average = {name: fmean(values[name].values()) for name in (target, *matched)}
            p = permutation_p(average[target], [average[m] for m in matched])
            interval = dict(zip(("change", "low", "high"), paired_bootstrap(beyond, seed)))
            found["specific"][outcome] = interval | {"p_value": p}
        means = {key: {r: fmean(summary[m][key][r] for m in matched) for r in gold} for key in ("given", "change")}
        found["matched_mean"] = {**means, "battery": fmean(summary[m]["battery"] for m in matched)}
    problems = max(len(values["none"]) for values in gold.values())
    run.summarise("damage", found | {"problems": problems, "items": rows[0]["items"]})


def _headline(session: Session, given: Sequence[Solution], count: int) -> dict[str, Any]:
    """`SPECIFIC_RULE` on the reference solutions: reasoning neurons that share their stratum with others, among permuted
    sets."""
    from ..lm.interventions import scale

    run, first, known = session.run, session.config.seed, active_neurons(session.run)
    targets, permuted = permuted_sets(known.reasoning, known.others, known.traits, range(first, first + count))
    if not count or not targets:
        return {"verdict": TOO_FEW, "neurons": len(targets), "sets": 0}
    sets: dict[str, Sequence[Neuron]] = {"none": (), "target": targets}
    sets |= {f"permuted_{i}": neurons for i, neurons in enumerate(permuted)}
    mark = fingerprint_of(given), session.prompt.text("")
    of = {name: fingerprint(tuple(neurons), *mark) for name, neurons in sets.items()}
    missing = [name for name in sets if run.done(f"permuted/{name}", of[name]) is None]
    with session.bar("permuted sets", len(missing), "set") as bar:
        for name in missing:
            intervention = scale(session.loaded.anatomy, sets[name], 0.0) if sets[name] else None
            means = mean_scores(score_roles(session.engine, session.prompt, given, intervention))
            row = {"neuron_set": name, "arithmetic": means[0], "elsewhere": means[1]}
            run.write(PERMUTED, [row], name, of[name])
            bar.update()
    scored = {r["neuron_set"]: (r["arithmetic"], r["elsewhere"]) for r in run.rows("SELECT * FROM permuted")}
    found = specific_damage(scored["none"], scored["target"], [scored[f"permuted_{i}"] for i in range(len(permuted))])
    return found._asdict() | {"neurons": len(targets), "sets": len(permuted)}


def _by_set(session: Session, table: str, key: str, value: str, role: str | None = None) -> dict[str, dict[str, float]]:
    """set → problem or item → value; accuracy with nothing disrupted is that of the first prompt."""
    where, parameters = "", list[Any]()
    if role is not None:
        where, parameters = "WHERE role = ?", [role]
    rows = session.run.rows(
        f"SELECT neuron_set, {key} AS key, {value}::DOUBLE AS value FROM {table} {where} ORDER BY ALL", parameters
    )
    found: dict[str, dict[str, float]] = {}
    for r in rows:
        found.setdefault(r["neuron_set"], {})[r["key"]] = r["value"]
    return found


STAGE = Stage(
    "damage",
    "ablate",
    "what each set's removal does to reference solutions, and to other skills; the verdict (--outcomes solutions)",
    damage,
    Options,
    after=("ablate",),
    reads=(SETS, POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, BASELINE, "completions/ablation."),
    writes=(SOLUTIONS, SOLUTION_SCORES, BATTERY, PERMUTED, DAMAGE, DAMAGE_SOLUTIONS),
    units=UNITS,
    chosen_by={"--outcomes": {"solutions": {}}, "--by": {"set": {}}},
)
