"""Damage: what a set's removal does to the skill and to everything else, measured on texts that are given.

For each set of neurons that `ablate` disrupted: the log-probability of solutions that the model is made to write, apart
for operators, equals signs, results and the rest (one pass, no luck of the draw; it tells a model that no longer knows
which step to take from one that miscalculates), and a battery of tasks about words that arithmetic has nothing to do
with. Damage is *specific* as far as it exceeds what the matched sets do to the same problems. Whether that could be chance
is asked of permuted sets (`controls.permuted_sets`), which are scored on the solutions alone: the headline.

Reads: `sets`, `poles`, completions of the first prompt. Writes: `continuations`; `gold`, `battery`, `permuted` (a file per
set); `damage`, `damage_given`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from statistics import fmean
from typing import Any

import pyarrow as pa

from ..data.roles import ROLES
from ..measuring.neurons import active_neurons, comparison
from ..measuring.solutions import Continuation, continuations, mean_scores, score_battery, score_roles
from ..records import Neuron
from ..runs.session import Session
from ..stats import (
    LEAST_PERMUTED,
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

GOLD = pa.schema([("neuron_set", pa.string()), ("problem_id", pa.string()), ("role", pa.string()),
                  ("log_prob", pa.float64()), ("tokens", pa.int32()), ("greedy", pa.float64())])  # fmt: skip
BATTERY = pa.schema([("neuron_set", pa.string()), ("task", pa.string()), ("item", pa.string()), ("hit", pa.bool_())])
PERMUTED = pa.schema([("neuron_set", pa.string()), ("arithmetic", pa.float64()), ("elsewhere", pa.float64())])
UNITS = {
    "damage.*.given.<role>": "mean over problems of the given solution's mean log-probability (nats) at tokens of this role",
    "damage.*.change.<role>": "the same, less that of the untouched model",
    "damage.*.battery": "share of battery items whose answer is the most likely continuation, 0 to 1",
    "damage.specific": "change under the set that the matched sets match (`damage.target`) less their mean change, paired by "
    "problem",
    "damage.headline": SPECIFIC_RULE,
}


def damage(session: Session) -> None:
    """Run the stage. Sets that have been scored are not scored again."""
    run = session.run
    run.require("ablate", f"cotscope ablate {run.folder}")
    with run.stage("damage", UNITS):
        sets: dict[str, list[Neuron]] = {"none": []}
        for r in run.rows("SELECT neuron_set, layer, index FROM sets"):
            sets.setdefault(r["neuron_set"], []).append(Neuron(r["layer"], r["index"]))
        given = continuations(session)
        if not given:
            run.note("No solution could be given: the data has none and the model solved nothing. `damage` is empty.")
            return
        for name, neurons in _missing(session, "damage", sets, given):
            _score(session, name, neurons, given)
        _summarise(session, list(sets), _headline(session, given))


def _missing(
    session: Session, what: str, sets: Mapping[str, Sequence[Neuron]], given: tuple[Continuation, ...]
) -> Iterator[tuple[str, Sequence[Neuron]]]:
    """The sets that have not been scored on these solutions; one counts as scored when the next is asked for."""
    run, state = session.run, session.run.manifest.setdefault(what, {})
    mark = sha256(repr((sets, [(c.tokens, c.roles) for c in given])).encode()).hexdigest()
    if state.get("of") != mark:
        state |= {"of": mark, "done": []}
    missing = [name for name in sets if name not in state["done"]]
    with session.bar(what, len(missing), "set") as bar:
        for name in missing:
            yield name, sets[name]
            state["done"].append(name)
            run.save()
            bar.update()


def _score(session: Session, name: str, neurons: Sequence[Neuron], given: tuple[Continuation, ...]) -> None:
    from ..lm.interventions import scale

    intervention = scale(session.loaded.anatomy, neurons, 0.0) if neurons else None
    found = score_roles(session.engine, session.prompts[0], given, intervention)
    rows = [
        {
            "neuron_set": name,
            "problem_id": c.problem.id,
            "role": role,
            "log_prob": fmean(t.log_prob for t in scores[role]),
            "tokens": len(scores[role]),
            "greedy": fmean(t.greedy for t in scores[role]),
        }
        for c, scores in zip(given, found, strict=True)
        for role in ROLES
        if role in scores
    ]
    session.run.write_rows(f"gold/{name}", rows, GOLD)
    hits = score_battery(session.engine, session.config.battery, intervention)
    session.run.write_rows(f"battery/{name}", [{"neuron_set": name, **hit._asdict()} for hit in hits], BATTERY)


def _summarise(session: Session, sets: list[str], headline: dict[str, Any]) -> None:
    run, seed = session.run, session.config.seed
    gold = {role: values for role in ROLES if (values := _by_set(session, "gold", "problem_id", "log_prob", role))}
    target = comparison(run)
    right = _by_set(session, "battery", "task || '/' || item", "hit")
    solved = _by_set(session, "completions", "problem_id", "correct")
    matched = [name for name in sets if name.startswith("matched_")]
    rows, summary = [], {}
    for name in sets:
        hits = sum(right[name].values())
        low, high = wilson(hits, len(right[name]))
        p = mcnemar_exact(list(right["none"].values()), list(right[name].values()))
        row = {"neuron_set": name, "items": len(right[name]), "battery": hits / len(right[name])}
        rows.append(row | {"battery_low": low, "battery_high": high, "battery_p": p})
        summary[name] = {"given": {}, "change": {}, "battery": row["battery"]}
    changes = []
    for role, values in gold.items():
        for name in sets:
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
    run.write_rows("damage", rows)
    run.write_rows("damage_given", changes)
    found = {"none": summary["none"], "reasoning": summary["reasoning"], "target": target, "specific": {}, "headline": headline}
    if matched:
        for outcome, values in {"accuracy": solved, "battery": right, **gold}.items():
            beyond = [value - fmean(values[m][key] for m in matched) for key, value in values[target].items()]
            average = {name: fmean(values[name].values()) for name in (target, *matched)}
            p = permutation_p(average[target], [average[m] for m in matched])
            interval = dict(zip(("change", "low", "high"), paired_bootstrap(beyond, seed)))
            found["specific"][outcome] = interval | {"p_value": p}
        mean = {key: {r: fmean(summary[m][key][r] for m in matched) for r in gold} for key in ("given", "change")}
        found["matched_mean"] = mean | {"battery": fmean(summary[m]["battery"] for m in matched)}
    problems = max(len(values["none"]) for values in gold.values())
    run.summarise("damage", found | {"problems": problems, "items": rows[0]["items"]})


def _headline(session: Session, given: tuple[Continuation, ...]) -> dict[str, Any]:
    """`SPECIFIC_RULE` on the given solutions: reasoning neurons that share their stratum with others, among permuted sets.

    As many permuted sets as matched ones; with too few for any p-value they are not scored at all.
    """
    from ..lm.interventions import scale

    run, config, known = session.run, session.config, active_neurons(session.run)
    seeds = range(config.seed, config.seed + config.matched)
    targets, permuted = permuted_sets(known.reasoning, known.pool, known.traits, seeds)
    if config.matched < LEAST_PERMUTED or not targets:
        return {"verdict": TOO_FEW, "neurons": len(targets), "sets": 0}
    sets = {"none": (), "target": targets} | {f"permuted_{i}": neurons for i, neurons in enumerate(permuted)}
    for name, neurons in _missing(session, "permuted", sets, given):
        intervention = scale(session.loaded.anatomy, neurons, 0.0) if neurons else None
        means = mean_scores(score_roles(session.engine, session.prompts[0], given, intervention))
        run.write_rows(f"permuted/{name}", [dict(zip(PERMUTED.names, (name, *means)))], PERMUTED)
    means = {r["neuron_set"]: (r["arithmetic"], r["elsewhere"]) for r in run.rows("SELECT * FROM permuted")}
    found = specific_damage(means["none"], means["target"], [means[f"permuted_{i}"] for i in range(len(permuted))])
    return found._asdict() | {"neurons": len(targets), "sets": len(permuted)}


def _by_set(session: Session, table: str, key: str, value: str, role: str | None = None) -> dict[str, dict[str, float]]:
    """set → problem or item → value; accuracy with nothing disrupted is that of the first prompt."""
    where, parameters = "", []
    if table == "completions":
        where, parameters = "WHERE split = 'test' AND prompt = ?", [session.prompts[0].name]
    elif role is not None:
        where, parameters = "WHERE role = ?", [role]
    rows = session.run.rows(
        f"SELECT neuron_set, {key} AS key, {value}::DOUBLE AS value FROM {table} {where} ORDER BY ALL", parameters
    )
    found: dict[str, dict[str, float]] = {}
    for r in rows:
        found.setdefault(r["neuron_set"], {})[r["key"]] = r["value"]
    return found
