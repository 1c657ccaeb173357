"""Ablate: zero the reasoning neurons, and sets to compare them with, on test problems.

The comparison is between the reasoning neurons that have an equal and the matched sets of those equals
(`controls.matched_sets`); unmatched sets, neurons of other concepts, all candidates and rejected ones stand beside it.
Coefficients are zeroed as they pass; weights are never touched, and their hash before and after proves it.

Reads: `poles`, `candidates`, `annotations`, `keystones`. Writes: `sets`, `matching`, `ablation`; completions of
`ablate.<set>`.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import Any

import pyarrow as pa

from ..data.load import general_text
from ..measuring.generation import Condition, solve
from ..measuring.neurons import NeuronSet, active_neurons, comparison, matching_rows, neuron_sets, overlap
from ..runs.session import Session
from ..stats import permutation_p, wilson

SETS = pa.schema([(n, t) for n, t in zip(
    ("neuron_set", "kind", "seed", "layer", "index"),
    (pa.string(), pa.string(), pa.int32(), pa.int16(), pa.int32()))])  # fmt: skip


def ablate(session: Session) -> None:
    """Run the stage. Sets that have been run are not run again."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores, windows

    run, prompt = session.run, session.prompts[0]
    run.require("annotate", f"cotscope annotate {run.folder}")
    run.require("keystones", f"cotscope keystones {run.folder}")
    with run.stage("ablate", UNITS):
        known = active_neurons(run)
        sets = neuron_sets(session, known)
        previous = run.rows("SELECT * FROM sets") if run.has("sets") else []
        rows = [
            {"neuron_set": s.name, "kind": s.kind, "seed": s.seed, "layer": n.layer, "index": n.index}
            for s in sets
            for n in s.neurons
        ]
        if previous != rows:  # another annotator's word: conditions of the old sets are void
            for s in sets:
                run.manifest["conditions"].pop(f"ablate.{s.name}", None)
            run.manifest["text"] = {}
            run.save()  # before the sets: a kill between the two must not leave old conditions under new sets
            run.write_rows("sets", rows, SETS)
        target = comparison(run)
        matching = matching_rows(sets, target, known.traits)
        run.write_rows("matching", matching)
        before = session.loaded.weight_hash()
        baseline = f"measure.{prompt.name}"
        disrupted = {s.name: scale(session.loaded.anatomy, s.neurons, 0.0) for s in sets}
        conditions = [Condition(baseline, prompt, "test", record=True)]
        conditions += [Condition(f"ablate.{name}", prompt, "test", name, i) for name, i in disrupted.items()]
        solve(session, conditions, "ablating")
        scores = run.manifest.setdefault("text", {})
        missing = {n: i for n, i in {"none": None, **disrupted}.items() if n not in scores}
        text = general_text()
        with session.bar("general text", len(missing) * windows(session.loaded, text), "pass") as bar:
            found = text_scores(session.loaded, text, missing, bar.update)
        scores |= {name: asdict(score) for name, score in found.items()}
        run.save()
        after = session.loaded.weight_hash()
        assert after == before, "an intervention changed the weights"
        run.manifest["weights"] = {"before_ablation": before, "after_ablation": after}
        run.save()
        _summarise(session, sets, target, baseline, scores)
        worst = [abs(r[f"{t}_smd"]) for r in matching if r["kind"] == "matched" for t in ("steps", "update_size")]
        alike = overlap(sets, known.pool) | {"largest_smd": max(worst, default=None)}
        run.summarise("ablation", {"target": target, "matching": alike})


UNITS = {
    "baseline.accuracy": "share of test problems solved, 0 to 1 (flexible parser: number after 'The answer is', else the last)",
    "baseline.ci": "Wilson interval, 95 %",
    "ablation.*.perplexity": "exp of the mean negative log-likelihood per token of a general text of 1,351 words",
    "ablation.*.kl": "mean over the same tokens of KL(untouched model ‖ disrupted model), nats",
    "ablation.comparable": "the reasoning neurons that have an equal: what the matched sets match and are compared with",
    "ablation.p_value": "the comparable set's rank among the matched sets as a one-sided p, not exact; at least 1/(sets + 1)",
    "ablation.matching.jaccard": "mean overlap of two matched sets, by_chance: of two such sets drawn from the pool",
    "ablation.matching.largest_smd": "largest standardised difference of a matched set's mean log trait from its target's",
}


def _summarise(session: Session, sets: list[NeuronSet], target: str, baseline: str,
               text: dict[str, dict[str, float]]) -> None:  # fmt: skip
    run = session.run
    counts = {
        r["condition"]: r
        for r in run.rows(
            """SELECT condition, count(*) AS n, count(*) FILTER (correct) AS correct,
                      count(*) FILTER (correct_strict) AS strict FROM completions GROUP BY condition"""
        )
    }
    rows = []
    for s in [NeuronSet("none", "none", None, ()), *sets]:
        count = counts[baseline if s.kind == "none" else f"ablate.{s.name}"]
        low, high = wilson(count["correct"], count["n"])
        rows.append(
            {
                "neuron_set": s.name,
                "kind": s.kind,
                "neurons": len(s.neurons),
                "correct": count["correct"],
                "n": count["n"],
                "accuracy": count["correct"] / count["n"],
                "low": low,
                "high": high,
                "perplexity": text[s.name]["perplexity"],
                "kl": text[s.name]["kl"],
                "accuracy_strict": count["strict"] / count["n"],
            }
        )
    run.write_rows("ablation", rows)
    none, of_set = rows[0], {r["neuron_set"]: r for r in rows}
    of_kind = {kind: [r for r in rows if r["kind"] == kind] for kind in ("matched", "unmatched")}
    means = {
        f"{kind}_mean": {k: fmean(r[k] for r in found) for k in ("accuracy", "perplexity", "kl")}
        for kind, found in of_kind.items()
        if found
    }
    controls = [r["accuracy"] for r in of_kind["matched"]]
    run.summarise(
        "baseline",
        {
            "accuracy": none["accuracy"],
            "accuracy_strict": none["accuracy_strict"],
            "ci": [none["low"], none["high"]],
            "n": none["n"],
            "prompt": session.prompts[0].name,
        },
    )
    run.summarise(
        "ablation",
        {
            "none": {"accuracy": none["accuracy"], "perplexity": none["perplexity"]},
            "reasoning": _figures(of_set["reasoning"]),
            "comparable": _figures(of_set[target]),
            **{name: _figures(of_set[name]) if name in of_set else None for name in ("other_concepts", "lexicon", "rejected")},
            **means,
            "matched_each": [
                {"accuracy": r["accuracy"], "perplexity": r["perplexity"], "seed": s.seed}
                for r, s in zip(rows[1:], sets)
                if r["kind"] == "matched"
            ],
            "p_value": permutation_p(of_set[target]["accuracy"], controls) if controls else None,
        },
    )


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """A set's figures for the summary."""
    return {"ci": [row["low"], row["high"]]} | {k: row[k] for k in ("accuracy", "perplexity", "kl", "neurons")}
