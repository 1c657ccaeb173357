"""Ablate: zero the reasoning neurons, and sets to compare them with, on test problems.

The comparison is between the reasoning neurons with a counterpart and the matched sets of those counterparts
(`stats/random_sets.py`); unmatched sets, all candidates and rejected ones stand beside it.
Coefficients are zeroed as they pass; weights are never touched, and their hash before and after proves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..data.load import general_text
from ..measuring.generation import Condition, solve
from ..measuring.neurons import NeuronSet, comparison, read_sets
from ..runs.files import fingerprint
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ABLATION, SETS, TEXT_SCORES
from ..stats import permutation_p, specific_change, wilson


def ablate(session: Session, options: NoOptions) -> str:
    """Run the stage. Sets that have been run are not run again."""
    run, prompt = session.run, session.prompt
    sets = list(read_sets(run).values())
    target = comparison(sets)
    before = session.loaded.weight_hash()
    conditions = [Condition("study", prompt, "test", record=True)]
    conditions += [Condition("ablation", prompt, "test", s.name, s.neurons) for s in sets]
    solve(session, conditions, "ablating")
    text = _text(session, sets)
    after = session.loaded.weight_hash()
    assert after == before, "an intervention changed the weights"
    run.manifest["weights"] = {"before_ablation": before, "after_ablation": after}
    _summarise(session, sets, target, text)
    run.summarise("ablation", {"target": target, "specific": _specific(session, sets, target)})
    found = run.summary["ablation"]
    words = {"comparable": "the {} reasoning neurons with a counterpart"} if target == "comparable" else {}
    words |= {"reasoning": "all {} reasoning neurons", "matched_mean": "matched random ones"}
    each = [
        f"{found[s]['accuracy']:.3f} without {said.format(found[s].get('neurons'))}"
        for s, said in words.items()
        if found.get(s)
    ]
    return f"accuracy {run.summary['baseline']['accuracy']:.3f} untouched, {', '.join(each)}"


def _text(session: Session, sets: Sequence[NeuronSet]) -> dict[str, dict[str, float]]:
    """Set → perplexity and KL on the general text, with it zeroed."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores, windows

    run, text = session.run, general_text()
    of = {s.name: fingerprint(s.neurons) for s in (NeuronSet("none", "none", None, ()), *sets)}
    zeroed = {s.name: scale(session.loaded.anatomy, s.neurons, 0.0) for s in sets}
    missing = {n: zeroed.get(n) for n in of if run.done(f"text_scores/{n}", of[n]) is None}
    with session.bar("general text", len(missing) * windows(session.loaded, text), "pass") as bar:
        found = text_scores(session.loaded, text, missing, bar.update)
    for name, score in found.items():
        run.write(TEXT_SCORES, [{"neuron_set": name, "perplexity": score.perplexity, "kl": score.kl}], name, of[name])
    return {r["neuron_set"]: r for r in run.rows("SELECT * FROM text_scores")}


UNITS = {
    "baseline.accuracy": "share of test problems solved, 0 to 1 (flexible parser: number after 'The answer is', else the last)",
    "baseline.ci": "Wilson interval, 95 %",
    "ablation.*.perplexity": "exp of the mean negative log-likelihood per token of a general text of 1,351 words",
    "ablation.*.kl": "mean over the same tokens of KL(untouched model ‖ disrupted model), nats",
    "ablation.comparable": "the reasoning neurons with a counterpart: what the matched sets match and are compared with",
    "ablation.specific": "accuracy without the comparable set less its mean without the matched sets; interval over problems "
    "and sets",
    "ablation.p_value": "the comparable set's rank among the matched sets as a one-sided p, not exact; at least 1/(sets + 1)",
}


def _summarise(session: Session, sets: list[NeuronSet], target: str, text: Mapping[str, Mapping[str, float]]) -> None:
    run = session.run
    counts = {
        r["neuron_set"]: r
        for r in run.rows(
            """SELECT neuron_set, count(*) AS n, count(*) FILTER (correct) AS correct,
                      count(*) FILTER (correct_strict) AS strict FROM completions GROUP BY neuron_set"""
        )
    }
    rows = []
    for s in [NeuronSet("none", "none", None, ()), *sets]:
        count = counts[s.name]
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
    run.write(ABLATION, rows)
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
            "prompt": session.prompt.name,
        },
    )
    run.summarise(
        "ablation",
        {
            "none": {"accuracy": none["accuracy"], "perplexity": none["perplexity"]},
            "reasoning": _figures(of_set["reasoning"]),
            "comparable": _figures(of_set[target]),
            **{name: _figures(of_set[name]) if name in of_set else None for name in ("lexicon", "rejected")},
            **means,
            "matched_each": [
                {"accuracy": r["accuracy"], "perplexity": r["perplexity"], "seed": s.seed}
                for r, s in zip(rows[1:], sets)
                if r["kind"] == "matched"
            ],
            "p_value": permutation_p(of_set[target]["accuracy"], controls) if controls else None,
        },
    )


def _specific(session: Session, sets: Sequence[NeuronSet], target: str) -> dict[str, float] | None:
    """How much fewer problems are solved without the target set than without the matched ones; None: there are none."""
    right: dict[str, list[float]] = {}
    for r in session.run.rows("SELECT neuron_set, correct::DOUBLE AS right FROM completions ORDER BY problem_id"):
        right.setdefault(r["neuron_set"], []).append(r["right"])
    matched = [right[s.name] for s in sets if s.kind == "matched"]
    return specific_change(right[target], matched, session.config.seed, shares=True) if matched else None


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """A set's figures for the summary."""
    return {"ci": [row["low"], row["high"]]} | {k: row[k] for k in ("accuracy", "perplexity", "kl", "neurons")}


STAGE = Stage(
    "ablate",
    "ablate",
    "zero the reasoning neurons, and sets to compare them with: accuracy, perplexity of general text",
    ablate,
    after=("sets",),
    reads=(SETS,),
    writes=(ABLATION, TEXT_SCORES, "completions/study.{first}", "activity/study.{first}",
            "completions/ablation."),
    units=UNITS,
    chosen_by={"--outcomes": {"accuracy": {}}, "--by": {"set": {}}},
    example="cotscope ablate runs/first --outcomes accuracy",
)  # fmt: skip
