"""Damage: what a set's removal does to the skill and to everything else, measured on texts that are given.

For each set of neurons that `ablate` disrupted: the log-probability of the results in solutions that the model is made
to write (one pass, no luck of the draw, so it has more power than accuracy), and a battery of tasks about words that
arithmetic has nothing to do with. Damage is *specific* as far as it exceeds what the matched sets do to the same
problems.

Reads: `sets`, completions of the first prompt. Writes: `continuations`; `gold`, `battery` (a file per set); `damage`.
"""

from __future__ import annotations

from hashlib import sha256
from statistics import fmean
from typing import TYPE_CHECKING

import pyarrow as pa

from ..continuations import Continuation, continuations
from ..data.battery import load_battery
from ..records import Neuron
from ..session import Session
from ..stats import mcnemar_exact, paired_bootstrap, permutation_p, sign_flip_p, wilson

if TYPE_CHECKING:
    from ..lm.interventions import Intervention

GOLD = pa.schema([("neuron_set", pa.string()), ("problem_id", pa.string()), ("log_prob", pa.float64()),
                  ("tokens", pa.int32()), ("greedy", pa.float64())])  # fmt: skip
BATTERY = pa.schema([("neuron_set", pa.string()), ("task", pa.string()), ("item", pa.string()), ("hit", pa.bool_())])
UNITS = {
    "damage.*.gold_log_prob": "mean over problems of the mean log-probability (nats) of the given solution's result tokens",
    "damage.*.battery": "share of battery items whose answer is the most likely continuation, 0 to 1",
    "damage.specific": "change under the reasoning set less the mean change under the matched sets, paired by problem",
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
        mark = sha256(repr((sets, [c.tokens for c in given])).encode()).hexdigest()
        state = run.manifest.setdefault("damage", {})
        if state.get("of") != mark:
            state |= {"of": mark, "done": []}
        missing = [name for name in sets if name not in state["done"]]
        with session.bar("damage", len(missing), "set") as bar:
            for name in missing:
                _score(session, name, sets[name], given)
                state["done"].append(name)
                run.save()
                bar.update()
        _summarise(session, list(sets))


def _score(session: Session, name: str, neurons: list[Neuron], given: tuple[Continuation, ...]) -> None:
    from ..lm.interventions import scale
    from ..lm.scoring import Given, score

    intervention = scale(session.loaded.anatomy, neurons, 0.0) if neurons else None
    prompt = session.prompts[0]
    scores = score(
        session.engine,
        Given(
            tuple(prompt.text(c.problem.question) for c in given),
            tuple(c.tokens for c in given),
            tuple(c.results for c in given),
            intervention=intervention,
        ),
    )
    rows = [
        {
            "neuron_set": name,
            "problem_id": c.problem.id,
            "log_prob": fmean(t.log_prob for t in found),
            "tokens": len(found),
            "greedy": fmean(t.greedy for t in found),
        }
        for c, found in zip(given, scores, strict=True)
    ]
    session.run.write_rows(f"gold/{name}", rows, GOLD)
    session.run.write_rows(f"battery/{name}", _battery(session, name, intervention), BATTERY)


def _battery(session: Session, name: str, intervention: Intervention | None) -> list[dict[str, object]]:
    from ..lm.scoring import Given, score

    loaded, start = session.loaded, len(session.loaded.encode(""))
    rows = []
    for task in load_battery():
        items = task.items[: session.config.battery]
        answers = tuple(tuple(loaded.encode(task.continuation(item))[start:]) for item in items)
        scores = score(
            session.engine, Given(tuple(task.prompt(item) for item in items), answers, intervention=intervention)
        )
        rows += [
            {"neuron_set": name, "task": task.name, "item": item[0], "hit": all(t.greedy for t in found)}
            for item, found in zip(items, scores, strict=True)
        ]
    return rows


def _summarise(session: Session, sets: list[str]) -> None:
    run, seed = session.run, session.config.seed
    gold = _by_set(session, "gold", "problem_id", "log_prob")
    right = _by_set(session, "battery", "task || '/' || item", "hit")
    solved = _by_set(session, "completions", "problem_id", "correct")
    matched = [name for name in sets if name.startswith("matched_")]
    rows = []
    for name in sets:
        change = _change(gold["none"], gold[name])
        mean, low, high = paired_bootstrap(change, seed)
        hits = sum(right[name].values())
        rows.append(
            {
                "neuron_set": name,
                "problems": len(gold[name]),
                "gold_log_prob": fmean(gold[name].values()),
                "gold_change": mean,
                "gold_low": low,
                "gold_high": high,
                "gold_p": sign_flip_p(change, seed),
                "items": len(right[name]),
                "battery": hits / len(right[name]),
                "battery_low": wilson(hits, len(right[name]))[0],
                "battery_high": wilson(hits, len(right[name]))[1],
                "battery_p": mcnemar_exact(list(right["none"].values()), list(right[name].values())),
            }
        )
    run.write_rows("damage", rows)
    by_name = {r["neuron_set"]: r for r in rows}
    specific = {
        outcome: dict(zip(("change", "low", "high"), paired_bootstrap(_specific(values, matched), seed)))
        for outcome, values in (("gold_log_prob", gold), ("battery", right), ("accuracy", solved))
    }
    keys = ("gold_log_prob", "gold_change", "battery")
    run.summarise(
        "damage",
        {
            "none": {k: by_name["none"][k] for k in ("gold_log_prob", "battery")},
            "reasoning": {k: by_name["reasoning"][k] for k in keys},
            "matched_mean": {k: fmean(by_name[m][k] for m in matched) for k in keys},
            "gold_p_value": permutation_p(by_name["reasoning"]["gold_change"], [by_name[m]["gold_change"] for m in matched]),
            "specific": specific,
            "problems": by_name["none"]["problems"],
            "items": by_name["none"]["items"],
        },
    )


def _by_set(session: Session, table: str, key: str, value: str) -> dict[str, dict[str, float]]:
    """set → problem or item → value; accuracy with nothing disrupted is that of the first prompt."""
    where = ""
    if table == "completions":
        where = "WHERE split = 'test' AND prompt = ?"
    rows = session.run.rows(
        f"SELECT neuron_set, {key} AS key, {value}::DOUBLE AS value FROM {table} {where} ORDER BY ALL",
        [session.prompts[0].name] if where else None,
    )
    found: dict[str, dict[str, float]] = {}
    for r in rows:
        found.setdefault(r["neuron_set"], {})[r["key"]] = r["value"]
    return found


def _change(before: dict[str, float], after: dict[str, float]) -> list[float]:
    return [after[key] - value for key, value in before.items()]


def _specific(values: dict[str, dict[str, float]], matched: list[str]) -> list[float]:
    """For each problem or item: under the reasoning set less the mean under the matched sets."""
    return [value - fmean(values[m][key] for m in matched) for key, value in values["reasoning"].items()]
