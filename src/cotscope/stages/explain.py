"""Explain: does the reasoning neurons' activity move with accuracy? Over prompts, and for the four phenomena.

The claim to test is the paper's (Rai & Yao 2024, section 5): where a change of the prompt changes accuracy, it changes
the activity of reasoning neurons the same way.

Activity could move with accuracy for any neurons (a prompt that makes the model write more formulas moves many), so
matched random sets are correlated with accuracy too, and length is held constant.

Reads: `prompts`, `prompt_problems`, `activity`. Writes: `phenomena`, `random_correlations`.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..controls import matched_sets
from ..neurons import active_neurons
from ..records import Neuron, Pole
from ..session import Session
from ..stats import (
    detectable_difference,
    expected_jaccard,
    holm,
    jaccard,
    mcnemar_exact,
    paired_bootstrap,
    partial_spearman,
    permutation_p,
    rank_correlation,
    sign_flip_p,
    spearman,
)

RANDOM_SETS = 100  # matched sets whose activity is correlated with accuracy; they cost no run of the model

# Each phenomenon and the prompts that show it: the derived ones, then the stems of the paper's files.
PHENOMENA = {
    "without_formulas": ("text_only",),
    "without_text": ("formulas_only", "equation_only"),
    "one_operation": (
        "addition_only", "subtraction_only", "multiplication_only", "division_only", "add_only", "mult_only",
    ),
    "wrong_results": ("wrong_results", "incorrect_label"),
}  # fmt: skip

RULE = (
    "Accuracy has changed if its exact McNemar p, Holm-adjusted over the phenomena, is below 0.05; activity has changed "
    "if the 95 % paired bootstrap interval of its change leaves 0 out. Both, in the same direction: explained. Both, in "
    "opposite directions: contradicted. Accuracy alone: accuracy moves without activity. Activity alone, or neither: "
    "said so, unless these problems could show (with 80 % power, the level shared by the phenomena) only a change in "
    "accuracy above 0.15: too few problems to "
    "tell. A phenomenon that several prompts show is judged on each problem's mean over them, accuracy then by a "
    "sign-flip permutation test."
)


UNITS = {
    "phenomena.verdict": RULE,
    "correlation.fixed": "Spearman of fixed activity and accuracy over prompts",
    "correlation.given_length": "partial Spearman of own activity and accuracy given the prompt's and the completions' tokens",
    "correlation.random": "Spearman for matched random sets, both signs counted; p: share of them as high as the reasoning set",
    "stability.jaccard": "overlap of the reasoning poles that two halves of the solved discovery problems find",
    "stability.by_chance": "expected overlap of as many poles drawn at random from all that were active",
}


def explain(session: Session) -> None:
    """Run the stage."""
    run = session.run
    run.require("measure", f"cotscope measure {run.folder}")
    with run.stage("explain", UNITS):
        _correlations(session)
        _stability(session)
        rows = _phenomena(session)
        if rows:
            run.write_rows("phenomena", rows)
        keys = ("accuracy_change", "activity_change", "verdict", "detectable")
        run.summarise(
            "phenomena", {r["phenomenon"]: {k: r[k] for k in keys} | {"p_value": r["accuracy_p_holm"]} for r in rows}
        )


def _correlations(session: Session) -> None:
    """Activity and accuracy over prompts: own, fixed, given length, and for random sets that could explain as well."""
    run, seed = session.run, session.config.seed
    prompts = run.rows("SELECT prompt, accuracy, poles_per_token, fixed_activity, tokens_per_problem FROM prompts")
    accuracy = [r["accuracy"] for r in prompts]
    rho, low, high, p = spearman([r["poles_per_token"] for r in prompts], accuracy, seed)
    fixed = [r["fixed_activity"] for r in prompts]
    fixed = dict(zip(("spearman", "low", "high", "p_value"), spearman(fixed, accuracy, seed))) if None not in fixed else None
    length = {p["name"]: p["tokens"] for p in run.manifest["prompts"]}
    given = [[length[r["prompt"]], r["tokens_per_problem"]] for r in prompts]
    partial = partial_spearman([r["poles_per_token"] for r in prompts], accuracy, given, seed)
    reasoning, random_sets = _set_activity(session, [r["prompt"] for r in prompts])
    random_rho = [rank_correlation(activity, accuracy) for activity in random_sets]
    run.write_rows("random_correlations", [{"neuron_set": f"random_{i}", "spearman": r} for i, r in enumerate(random_rho)])
    target, random_rho = rank_correlation(reasoning, accuracy), [r for r in random_rho if not np.isnan(r)]
    random = None
    if random_rho and not np.isnan(target):
        random = {
            "sets": len(random_rho),
            "reasoning": target,
            "median": float(np.median(random_rho)),
            "quantiles": [float(q) for q in np.quantile(random_rho, (0.025, 0.975))],
            "p_value": permutation_p(-target, [-r for r in random_rho]),
        }
    run.summarise(
        "correlation",
        {
            "spearman": rho,
            "ci": [low, high],
            "p_value": p,
            "prompts": len(prompts),
            "activity": "own_activity",
            "fixed": fixed,
            "given_length": dict(zip(("spearman", "low", "high"), partial)),
            "random": random,
        },
    )


def _set_activity(session: Session, prompts: list[str]) -> tuple[list[float], list[list[float]]]:
    """Own activity by prompt, both signs counted, of the reasoning neurons that have an equal and of matched sets."""
    run = session.run
    known = active_neurons(run)
    rows = run.query(
        """SELECT prompt, layer, index, sum(steps / tokens) AS activity
           FROM activity JOIN completions USING (condition, problem_id) WHERE condition LIKE 'measure.%' GROUP BY ALL"""
    ).to_pydict()
    place = {prompt: i for i, prompt in enumerate(prompts)}
    activity: dict[Neuron, np.ndarray] = defaultdict(lambda: np.zeros(len(prompts)))
    for prompt, layer, index, value in zip(rows["prompt"], rows["layer"], rows["index"], rows["activity"]):
        activity[Neuron(layer, index)][place[prompt]] = value
    first = 1000 + session.config.seed
    targets, sets = matched_sets(known.reasoning, known.pool, known.traits, range(first, first + RANDOM_SETS))
    if not targets:
        return [0.0] * len(prompts), []
    return sum(activity[n] for n in targets).tolist(), [sum(activity[n] for n in s).tolist() for s in sets]


def _stability(session: Session) -> None:
    """Would other problems have found the same? Reasoning poles of either half of the solved discovery problems."""
    run = session.run
    rows = run.rows(
        """SELECT problem_id, layer, index, sign, any_value(accepted) AS accepted
           FROM activity JOIN completions USING (condition, problem_id)
                LEFT JOIN (SELECT DISTINCT layer, index, sign, true AS accepted FROM annotations WHERE accepted)
                USING (layer, index, sign)
           WHERE split = 'discovery' AND correct AND layer >= ? GROUP BY ALL ORDER BY ALL""",
        [session.first_layer],
    )
    problems = sorted({r["problem_id"] for r in rows})
    half = set(problems[::2])
    poles = {Pole(r["layer"], r["index"], r["sign"]) for r in rows}
    halves = [
        {Pole(r["layer"], r["index"], r["sign"]) for r in rows if r["accepted"] and (r["problem_id"] in half) == first}
        for first in (True, False)
    ]
    run.summarise(
        "stability",
        {
            "jaccard": jaccard(*halves),
            "by_chance": expected_jaccard(*map(len, halves), len(poles)),
            "poles": [len(h) for h in halves],
            "problems": [len(half), len(problems) - len(half)],
        },
    )


def _phenomena(session: Session) -> list[dict]:
    seed = session.config.seed
    reference = session.prompts[0].name
    solved, active = _per_problem(session)
    problems = sorted(solved[reference])
    rows = []
    for phenomenon, names in PHENOMENA.items():
        shown = [n for n in names if n in solved and n != reference]
        if not shown:
            continue
        accuracy = [sum(solved[n][i] for n in shown) / len(shown) - solved[reference][i] for i in problems]
        activity = [sum(active[n][i] for n in shown) / len(shown) - active[reference][i] for i in problems]
        change, low, high = paired_bootstrap(accuracy, seed)
        activity_change, activity_low, activity_high = paired_bootstrap(activity, seed)
        if len(shown) == 1:
            p = mcnemar_exact([solved[reference][i] for i in problems], [solved[shown[0]][i] for i in problems])
        else:
            p = sign_flip_p(accuracy, seed)
        rows.append(
            {
                "phenomenon": phenomenon,
                "prompts": shown,
                "n": len(problems),
                "accuracy_change": change,
                "accuracy_low": low,
                "accuracy_high": high,
                "accuracy_p": p,
                "activity_change": activity_change,
                "activity_low": activity_low,
                "activity_high": activity_high,
                "discordant": sum(a * a for a in accuracy) / len(problems),
            }
        )
    for row, adjusted in zip(rows, holm([r["accuracy_p"] for r in rows])):
        row["detectable"] = detectable_difference(row.pop("discordant"), row["n"], tests=len(rows))
        row["accuracy_p_holm"] = adjusted
        row["verdict"] = verdict(row)
    return rows


def verdict(row: dict) -> str:
    """The rule `RULE` on one row of the table."""
    accuracy = row["accuracy_p_holm"] < 0.05
    activity = row["activity_low"] > 0 or row["activity_high"] < 0
    if accuracy and activity:
        same = (row["accuracy_change"] > 0) == (row["activity_change"] > 0)
        return "explained" if same else "contradicted"
    if accuracy:
        return "accuracy moves without activity"
    if row["detectable"] > 0.15:
        return "too few problems to tell"
    return "activity moves without accuracy" if activity else "no change"


def _per_problem(session: Session) -> tuple[dict[str, dict[str, bool]], dict[str, dict[str, float]]]:
    """prompt → problem id → solved; prompt → problem id → active reasoning poles per token."""
    solved: dict[str, dict[str, bool]] = {}
    active: dict[str, dict[str, float]] = {}
    for row in session.run.rows("SELECT * FROM prompt_problems"):
        solved.setdefault(row["prompt"], {})[row["problem_id"]] = row["correct"]
        active.setdefault(row["prompt"], {})[row["problem_id"]] = row["poles_per_token"]
    return solved, active
