"""Correlate: does the reasoning neurons' activity move with accuracy? Over prompts, and for the four phenomena.

The claim to test is the paper's (Rai & Yao 2024, section 5): where a change of the prompt changes accuracy, it changes
the activity of reasoning neurons the same way.

Activity could move with accuracy for any neurons (a prompt that makes the model write more formulas moves many), so
matched random sets are correlated with accuracy too, and length is held constant.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..measuring.activity import JUDGED
from ..measuring.neurons import active_neurons
from ..records import Neuron, Pole
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import (
    ANNOTATIONS,
    CANDIDATES,
    CORRELATIONS,
    FORCED_PROBLEMS,
    JUDGED_ACTIVITY,
    KEYSTONES,
    MEASURED,
    PHENOMENA,
    POLES,
    PROMPT_PROBLEMS,
    PROMPTS,
    RANDOM_CORRELATIONS,
)
from ..runs.tables import JUDGED as JUDGED_TABLE
from ..stats import (
    detectable_difference,
    expected_jaccard,
    holm,
    jaccard,
    mcnemar_exact,
    paired_bootstrap,
    rank_correlation,
    sign_flip_p,
    spearman,
)
from ..stats.correlation import KEYS, Points, correlations
from ..stats.random_sets import matched_sets
from ..stats.verdicts import RULE, verdict

RANDOM_SETS = 100  # matched sets whose activity is correlated with accuracy; they cost no run of the model

# Each phenomenon and the prompts that show it: the derived ones, then the stems of the paper's files.
PHENOMENON_PROMPTS = {
    "without_formulas": ("text_only",),
    "without_text": ("formulas_only", "equation_only"),
    "one_operation": (
        "addition_only", "subtraction_only", "multiplication_only", "division_only", "add_only", "mult_only",
    ),
    "wrong_results": ("wrong_results", "incorrect_label"),
}  # fmt: skip

UNITS = {
    "phenomena.verdict": RULE,
    "correlation.fixed": "Spearman of teacher-forced activity and accuracy over prompts",
    "correlation.first": "the same for generated activity of the poles that discovery under the first prompt finds",
    "correlation.variants": "the same over prompts of random exemplars; .sentences: over zero-shot sentences",
    "correlation.variants.within": "Spearman of ranks within perturbations (for sentences: within kinds), pooled",
    "correlation.given_length": "partial Spearman of generated activity and accuracy given the tokens in prompt, completions",
    "correlation.random": "Spearman for matched random sets, both signs counted; p: share of them as high as the reasoning set",
    "stability.jaccard": "overlap of the reasoning poles that two halves of the solved discovery problems find",
    "stability.by_chance": "expected overlap of as many poles drawn at random from all that were active",
}


def correlate(session: Session, options: NoOptions) -> str:
    """Run the stage."""
    run = session.run
    _note_cut(session)
    _over_prompts(session)
    _judged(session)
    _stability(session)
    rows = _phenomena(session)
    run.write(PHENOMENA, rows)
    if run.manifest.get("rules", {}).get("phenomena") != RULE:
        run.note("The rule for the verdicts is not one that was written down when this study began.")
    keys = ("accuracy_change", "activity_change", "fixed_change", "verdict", "verdict_fixed", "detectable")
    run.summarise("phenomena", {r["phenomenon"]: {k: r.get(k) for k in keys} | {"p_value": r["accuracy_p_holm"]} for r in rows})
    verdicts = "; ".join(f"{r['phenomenon'].replace('_', ' ')}: {r['verdict']}" for r in rows)
    found = run.summary["correlation"]
    said = "activity and accuracy: no correlation can be computed"
    if found["spearman"] is not None:
        said = f"activity and accuracy over {found['prompts']} prompts: Spearman {found['spearman']:+.2f}"
        said += f" [{found['ci'][0]:+.2f}, {found['ci'][1]:+.2f}]"
    return f"{said}; {verdicts}" if verdicts else said


def _note_cut(session: Session) -> None:
    """A prompt under which the model had no room to answer says nothing about activity."""
    cut = session.run.rows(
        """SELECT prompt FROM completions WHERE split = 'test' AND neuron_set = 'none'
           GROUP BY prompt HAVING avg((finish = 'length')::INT) > 0.5 ORDER BY prompt"""
    )
    if cut:
        names = ", ".join(r["prompt"] for r in cut[:4]) + (", …" if len(cut) > 4 else "")
        session.run.note(
            f"Under {len(cut)} prompts ({names}) more than half of the completions were cut at "
            "the most tokens allowed: their accuracy is too low, and what is said of it. Use a larger --max-new-tokens, "
            "or --zero-shot-tokens."
        )


def _over_prompts(session: Session) -> None:
    """Activity and accuracy over the study's prompts, its variants and its sentences, each beside random sets."""
    run, seed = session.run, session.config.seed
    families = _families(session)
    conditions = [row["condition"] for rows in families.values() for row in rows]
    reasoning, random_sets = _set_activity(session, conditions)
    sets, table, at = [], [], 0
    for family, rows in families.items():
        part = slice(at, at := at + len(rows))
        kinds = [row["kind"] for row in rows]
        points = Points(
            family,
            rows,
            kinds if len(set(kinds)) < len(kinds) else None,
            reasoning[part],
            [activity[part] for activity in random_sets],
        )
        found, summary = correlations(points, seed)
        table += found
        accuracy = [row["accuracy"] for row in rows]
        sets += [
            {"family": family, "neuron_set": f"random_{i}", "spearman": rank_correlation(activity, accuracy)}
            for i, activity in enumerate(points.random)
        ]
        run.summarise("correlation", summary if family == "study" else {_SECTIONS[family]: summary})
    run.write(CORRELATIONS, table)
    run.write(RANDOM_CORRELATIONS, sets)


_SECTIONS = {"variant": "variants", "sentence": "sentences"}


def _families(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Family → its prompts: what was measured under each, with its condition."""
    rows = session.run.rows("SELECT family || '.' || prompt AS condition, * FROM prompts")
    found: dict[str, list[dict[str, Any]]] = {"study": []}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return {family: found[family] for family in ("study", *_SECTIONS) if found.get(family)}


def _set_activity(session: Session, conditions: list[str]) -> tuple[list[float], list[list[float]]]:
    """Own activity by condition, both signs counted, of the reasoning neurons that have an equal and of matched sets."""
    run = session.run
    known = active_neurons(run)
    rows = run.query(
        """SELECT condition, layer, index, sum(steps / tokens) AS activity
           FROM activity JOIN completions USING (condition, family, prompt, problem_id)
           WHERE list_contains(?, condition) GROUP BY ALL""",
        [conditions],
    ).to_pydict()
    place = {condition: i for i, condition in enumerate(conditions)}
    activity: dict[Neuron, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(conditions)))
    for condition, layer, index, value in zip(rows["condition"], rows["layer"], rows["index"], rows["activity"]):
        activity[Neuron(layer, index)][place[condition]] = value
    first = 1000 + session.config.seed
    targets, sets = matched_sets(known.reasoning, known.pool, known.traits, range(first, first + RANDOM_SETS))
    if not targets:
        return [0.0] * len(conditions), []
    none = np.zeros(len(conditions))
    return sum((activity[n] for n in targets), none).tolist(), [sum((activity[n] for n in s), none).tolist() for s in sets]


def _judged(session: Session) -> None:
    """What difference the annotator makes: activity and its correlation with accuracy, without and with its word."""
    run, rows = session.run, []
    for poles in JUDGED:
        points = run.rows(
            """SELECT j.own_activity, j.fixed_activity, accuracy FROM judged_activity j JOIN prompts USING (prompt)
               WHERE family = 'study' AND poles = ? ORDER BY prompt != ?, prompt""",
            [poles, session.prompt.name],
        )
        for way in ("own", "fixed"):
            values = [p[f"{way}_activity"] for p in points]
            if values and None not in values:
                found = spearman(values, [p["accuracy"] for p in points], session.config.seed)
                row = {"poles": poles, "activity": way, "prompts": len(values), "first": values[0]}
                rows.append(row | dict(zip(KEYS, found)))
    run.write(JUDGED_TABLE, rows)


def _stability(session: Session) -> None:
    """Would other problems have found the same? Reasoning poles of either half of the solved discovery problems."""
    run = session.run
    rows = run.rows(
        """SELECT problem_id, layer, index, sign, any_value(accepted) AS accepted
           FROM activity JOIN completions USING (condition, family, prompt, problem_id)
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
            "by_chance": expected_jaccard(len(halves[0]), len(halves[1]), len(poles)),
            "poles": [len(h) for h in halves],
            "problems": [len(half), len(problems) - len(half)],
        },
    )


def _phenomena(session: Session) -> list[dict[str, Any]]:
    seed = session.config.seed
    reference = session.prompt.name
    solved, measured = _per_problem(session)
    problems = sorted(solved[reference])
    rows = []
    for phenomenon, names in PHENOMENON_PROMPTS.items():
        shown = [n for n in names if n in solved and n != reference]
        if not shown:
            continue
        row: dict[str, Any] = {"phenomenon": phenomenon, "prompts": shown, "n": len(problems)}
        changes = _changes(solved, reference, shown)
        row |= _tested("accuracy", changes, seed)
        if len(shown) == 1:
            before, after = ([solved[name][i] for i in problems] for name in (reference, shown[0]))
            row["accuracy_p"] = mcnemar_exact(before, after)
        row["discordant"] = sum(a * a for a in changes) / len(problems)
        for name, values in measured.items():
            changes = _changes(values, reference, shown)
            row |= _tested(name, changes, seed) | {f"{name}_n": len(changes)}
        rows.append(row)
    for name in ("accuracy", *measured):
        for row, adjusted in zip(rows, holm([r[f"{name}_p"] for r in rows])):
            row[f"{name}_p_holm"] = adjusted
    for row in rows:
        row["detectable"] = detectable_difference(row.pop("discordant"), row["n"], tests=len(rows))
        for name in measured:
            row[MEASURED[name]] = verdict(
                (row["accuracy_change"], row["accuracy_p_holm"]),
                (row[f"{name}_change"], row[f"{name}_p_holm"]),
                row["detectable"],
                row[f"{name}_n"],
                len(rows),
            )
    return rows


def _changes(values: Mapping[str, Mapping[str, float]], reference: str, shown: list[str]) -> list[float]:
    """Problem by problem, the mean over the prompts shown less the value under the reference."""
    return [sum(values[name][i] for name in shown) / len(shown) - before for i, before in sorted(values[reference].items())]


def _tested(name: str, changes: list[float], seed: int) -> dict[str, float]:
    change = dict(zip((f"{name}_change", f"{name}_low", f"{name}_high"), paired_bootstrap(changes, seed)))
    return change | {f"{name}_p": sign_flip_p(changes, seed)}


def _per_problem(session: Session) -> tuple[dict[str, dict[str, bool]], dict[str, dict[str, dict[str, float]]]]:
    """prompt → problem id → solved; kind of activity → prompt → problem id → active reasoning poles per token."""
    own, fixed = (
        session.run.rows(f"SELECT * FROM {table} WHERE family = 'study'") for table in ("prompt_problems", "forced_problems")
    )
    solved: dict[str, dict[str, bool]] = {}
    for row in own:
        solved.setdefault(row["prompt"], {})[row["problem_id"]] = row["correct"]
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in (("activity", own), ("fixed", fixed)):
        for end in ("", "_first"):
            for row in rows:
                if (value := row[f"poles_per_token{end}"]) is not None:
                    of_prompt = measured.setdefault(f"{name}{end}", {}).setdefault(row["prompt"], {})
                    of_prompt[row["problem_id"]] = value
    return solved, measured


STAGE = Stage(
    "correlate",
    "correlate",
    "relate activity to accuracy over prompts, and judge the four phenomena",
    correlate,
    after=("annotate", "measure"),
    beside=("keystones", "variants"),
    reads=(POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, PROMPTS, PROMPT_PROBLEMS, FORCED_PROBLEMS, JUDGED_ACTIVITY,
           "completions/study.", "completions/variant.", "completions/sentence.", "completions/discovery.",
           "activity/study.", "activity/variant.", "activity/sentence.", "activity/discovery."),
    writes=(PHENOMENA, CORRELATIONS, RANDOM_CORRELATIONS, JUDGED_TABLE),
    units=UNITS,
)  # fmt: skip
