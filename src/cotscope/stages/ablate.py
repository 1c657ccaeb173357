"""Ablate: zero the reasoning neurons, and matched and unmatched random sets of the same size, on test problems.

Coefficients are zeroed as they pass; weights are never touched, and their hash before and after proves it.

Reads: `poles`, `candidates`, `annotations`. Writes: `sets`, `matching`, `ablation`; completions of `ablate.<set>`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

import pyarrow as pa

from ..conditions import Condition, solve
from ..controls import Traits, matched_set, unmatched_set
from ..data.load import general_text
from ..neurons import active_neurons
from ..records import Neuron
from ..session import Session
from ..stats import permutation_p, wilson

SETS = pa.schema([(n, t) for n, t in zip(
    ("neuron_set", "kind", "seed", "layer", "index"),
    (pa.string(), pa.string(), pa.int32(), pa.int16(), pa.int32()))])  # fmt: skip


@dataclass(frozen=True)
class NeuronSet:
    """Neurons that are disrupted together."""

    name: str
    kind: str
    seed: int | None
    neurons: tuple[Neuron, ...]


def ablate(session: Session) -> None:
    """Run the stage. Sets that have been run are not run again."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores, windows

    run, prompt = session.run, session.prompts[0]
    run.require("annotate", f"cotscope annotate {run.folder}")
    with run.stage("ablate", UNITS):
        sets, traits = _sets(session)
        previous = run.rows("SELECT * FROM sets") if (run.folder / "tables/sets.parquet").exists() else []
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
        _write_matching(session, sets, traits)
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
        _summarise(session, sets, baseline, scores)


UNITS = {
    "baseline.accuracy": "share of test problems solved, 0 to 1 (flexible parser: number after 'The answer is', else the last)",
    "baseline.ci": "Wilson interval, 95 %",
    "ablation.*.perplexity": "exp of the mean negative log-likelihood per token of a general text of 1,351 words",
    "ablation.*.kl": "mean over the same tokens of KL(untouched model ‖ disrupted model), nats",
    "ablation.p_value": "one-sided permutation p of the reasoning set among the matched sets; at least 1/(sets + 1)",
}


def _sets(session: Session) -> tuple[list[NeuronSet], dict[Neuron, Traits]]:
    run, config = session.run, session.config
    traits, reasoning, pool = active_neurons(run)
    sets = [NeuronSet("reasoning", "reasoning", None, reasoning)]
    for i in range(config.matched):
        seed = config.seed + i
        sets.append(NeuronSet(f"matched_{i}", "matched", seed, tuple(matched_set(reasoning, pool, traits, seed))))
    for i in range(config.unmatched):
        seed = config.seed + i
        sets.append(NeuronSet(f"unmatched_{i}", "unmatched", seed, tuple(unmatched_set(reasoning, traits, seed))))
    short = [s.name for s in sets if len(s.neurons) < len(reasoning)]
    if short:
        run.note(f"Some layers have too few other active neurons: {', '.join(short)} are smaller than the target set.")
    return sets, traits


def _write_matching(session: Session, sets: list[NeuronSet], traits: dict[Neuron, Traits]) -> None:
    def means(neurons: tuple[Neuron, ...]) -> tuple[float, float]:
        if not neurons:
            return float("nan"), float("nan")
        return fmean(traits[n].update_size for n in neurons), fmean(traits[n].steps for n in neurons)

    target_size, target_steps = means(sets[0].neurons)
    session.run.write_rows(
        "matching",
        [
            {
                "neuron_set": s.name,
                "kind": s.kind,
                "mean_update_size": means(s.neurons)[0],
                "mean_steps": means(s.neurons)[1],
                "reasoning_mean_update_size": target_size,
                "reasoning_mean_steps": target_steps,
            }
            for s in sets
        ],
    )


def _summarise(session: Session, sets: list[NeuronSet], baseline: str, text: dict[str, dict[str, float]]) -> None:
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
    none, reasoning = rows[0], rows[1]
    of_kind = {kind: [r for r in rows if r["kind"] == kind] for kind in ("matched", "unmatched")}
    means = {
        f"{kind}_mean": {k: fmean(r[k] for r in found) for k in ("accuracy", "perplexity", "kl")}
        for kind, found in of_kind.items()
        if found
    }
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
            "reasoning": {
                "accuracy": reasoning["accuracy"],
                "ci": [reasoning["low"], reasoning["high"]],
                "perplexity": reasoning["perplexity"],
                "kl": reasoning["kl"],
                "neurons": reasoning["neurons"],
            },
            **means,
            "matched_each": [
                {"accuracy": r["accuracy"], "perplexity": r["perplexity"], "seed": s.seed}
                for r, s in zip(rows[1:], sets)
                if r["kind"] == "matched"
            ],
            "p_value": permutation_p(reasoning["accuracy"], [r["accuracy"] for r in of_kind["matched"]]),
        },
    )
