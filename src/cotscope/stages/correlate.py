"""Correlate: does the reasoning neurons' activity move with accuracy? Over prompts, and for the four phenomena.

The claim to test is the paper's (Rai & Yao 2024, section 5): where a change of the prompt changes accuracy, it changes
the activity of reasoning neurons the same way.

Activity could move with accuracy for any neurons (a prompt that makes the model write more formulas moves many), so
whatever is said of the reasoning poles is asked of sets with permuted labels too, and length is held constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from ..measuring.activity import JUDGED
from ..measuring.labels import Labels
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import (
    ANNOTATIONS,
    CORRELATIONS,
    FORCED_PROBLEMS,
    JUDGED_ACTIVITY,
    MEASURED,
    PHENOMENA,
    POLES,
    PROMPT_PROBLEMS,
    PROMPTS,
    RANDOM_CORRELATIONS,
    SOLUTIONS,
)
from ..runs.tables import JUDGED as JUDGED_TABLE
from ..stats import (
    LEVEL,
    detectable_difference,
    equivalence,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    paired_shares,
    problems_needed,
    rank_correlation,
    sign_flip_p,
    spearman,
)
from ..stats.correlation import KEYS, Points, correlations
from ..stats.labels import as_high_p, beyond_p, permuted_sums, strata
from ..stats.verdicts import (
    LARGEST_BLIND_CHANGE,
    RULE,
    STILL,
    TOO_FEW_PROBLEMS,
    ActivityChange,
    problems_to_tell,
    verdict,
)

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
    "correlation.variants.between": "Spearman of the perturbations' (for sentences: kinds') means; none with fewer than 6",
    "correlation.permuted": "Spearman for sets with permuted labels; p: share of them as high as the reasoning poles",
    "stability.jaccard": "overlap of the reasoning poles that two halves of the solved discovery problems find",
    "stability.permuted": "the same for sets with permuted labels, drawn within layer and steps; p: share of them as high",
}


def correlate(session: Session, options: NoOptions) -> str:
    """Run the stage."""
    run = session.run
    labels = Labels.read(session)
    _note_cut(session)
    _over_prompts(session, labels)
    _judged(session)
    _stability(session, labels)
    rows = _phenomena(session, labels)
    run.write(PHENOMENA, rows)
    if run.manifest.get("rules", {}).get("phenomena") != RULE:
        run.note("The rule for the verdicts is not one that was written down when this study began.")
    keys = ("n", "accuracy_change", "activity_change", "fixed_change", "verdict", "verdict_needs", "verdict_fixed",
            "verdict_fixed_needs", "detectable")  # fmt: skip
    run.summarise("phenomena", {r["phenomenon"]: {k: r.get(k) for k in keys} | {"p_value": r["accuracy_p_holm"]} for r in rows})
    found = run.summary["correlation"]
    said = over_prompts(found)
    for name in _SECTIONS.values():
        within = (found.get(name) or {}).get("within") or {}
        if within.get("p_value") is not None:
            said += f"; within kinds of {name} {within['spearman']:+.2f} [{within['low']:+.2f}, {within['high']:+.2f}]"
    return "; ".join([said, *map(_said, rows)])


def _said(row: Mapping[str, Any]) -> str:
    needs = f" (at least {row['verdict_needs']} problems)" if row["verdict_needs"] else ""
    return f"{row['phenomenon'].replace('_', ' ')}: {row['verdict']}{needs}"


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


def _over_prompts(session: Session, labels: Labels) -> None:
    """Activity and accuracy over the study's prompts, its variants and its sentences, each beside permuted sets."""
    run, table, sets = session.run, list[dict[str, Any]](), list[dict[str, Any]]()
    for family, rows in _families(session).items():
        kinds, activity = [row["kind"] for row in rows], labels.permuted_activity(family)
        points = Points(
            family,
            rows,
            kinds if len(set(kinds)) < len(kinds) else None,
            np.column_stack([activity[row["prompt"]] for row in rows]),
        )
        found, summary = correlations(points, session.config.seed)
        table += found
        accuracy = [row["accuracy"] for row in rows]
        sets += [
            {"family": family, "neuron_set": f"permuted_{i}", "spearman": rank_correlation(values, accuracy)}
            for i, values in enumerate(points.permuted.tolist())
        ]
        run.summarise("correlation", summary if family == "study" else {_SECTIONS[family]: summary})
    run.write(CORRELATIONS, table)
    run.write(RANDOM_CORRELATIONS, sets)


_SECTIONS = {"variant": "variants", "sentence": "sentences"}


def over_prompts(found: Mapping[str, Any]) -> str:
    """What the summary's `correlation` says, in words."""
    if found["spearman"] is None:
        return "activity and accuracy: no correlation can be computed"
    low, high = found["ci"]
    ends = f" [{low:+.2f}, {high:+.2f}]" if low is not None else ", of too few to tell"
    return f"activity and accuracy over {found['prompts']} prompts: Spearman {found['spearman']:+.2f}{ends}"


def _families(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Family → its prompts: what was measured under each."""
    found: dict[str, list[dict[str, Any]]] = {"study": []}
    for row in session.run.rows("SELECT * FROM prompts"):
        found.setdefault(row["family"], []).append(row)
    return {family: found[family] for family in ("study", *_SECTIONS) if found.get(family)}


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


def _stability(session: Session, labels: Labels) -> None:
    """Would other problems have found the same? Reasoning poles of either half of the solved discovery problems.

    A pole that is active often is found in both halves, whatever it stands for: so the overlap stands beside that of
    permuted labels, of the same layers and steps.
    """
    solved = session.run.rows(
        """SELECT DISTINCT problem_id FROM completions WHERE split = 'discovery' AND correct ORDER BY problem_id"""
    )
    problems = [r["problem_id"] for r in solved]
    halves = labels.in_halves(problems[::2], problems[1::2])
    both_either = np.column_stack([halves[0] & halves[1], halves[0] | halves[1]]).astype(float)
    own = both_either[labels.reasoning].sum(axis=0)
    permuted = permuted_sums(both_either, labels.reasoning, strata(labels.layer, labels.steps), session.config.seed)
    found = permuted[permuted[:, 1] > 0]
    stability: dict[str, Any] = {
        "jaccard": own[0] / own[1] if own[1] else None,
        "permuted": None,
        "poles": [int((half & labels.reasoning).sum()) for half in halves],
        "problems": [len(problems[::2]), len(problems[1::2])],
    }
    if own[1] and len(found):
        overlaps = found[:, 0] / found[:, 1]
        low, high = np.quantile(overlaps, (0.025, 0.975))
        stability["permuted"] = {"sets": len(found), "mean": float(overlaps.mean()), "quantiles": [float(low), float(high)],
                                 "p_value": as_high_p(stability["jaccard"], overlaps)}  # fmt: skip
    session.run.summarise("stability", stability)


def _phenomena(session: Session, labels: Labels) -> list[dict[str, Any]]:
    seed = session.config.seed
    reference = session.prompt.name
    solved, measured = _per_problem(session)
    problems = sorted(solved[reference])
    permuted = {name: labels.permuted_activity("study", name.startswith("fixed"), name.endswith("_first")) for name in measured}
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
            row |= _tested(name, changes, seed) | {f"{name}_n": len(changes), f"{name}_changes": changes}
            others = np.mean([permuted[name][prompt] for prompt in shown], axis=0) - permuted[name][reference]
            row[f"{name}_p_beyond"] = beyond_p(row[f"{name}_change"], others)
        rows.append(row)
    for name in ("accuracy_p", *(f"{name}_{p}" for name in measured for p in ("p", "p_beyond"))):
        for row, adjusted in zip(rows, holm([r[name] for r in rows])):
            row[f"{name}_holm"] = adjusted
    for row in rows:
        discordant = row.pop("discordant")
        row["detectable"] = detectable_difference(discordant, row["n"], tests=len(rows))
        least = max(LARGEST_BLIND_CHANGE, abs(row["accuracy_change"]))
        blind = row["accuracy_p_holm"] >= LEVEL and row["detectable"] > LARGEST_BLIND_CHANGE
        for name, values in measured.items():
            changes, bound = row.pop(f"{name}_changes"), STILL * fmean(values[reference].values())
            low, high, still = equivalence(changes, bound, seed)
            row |= {f"{name}_low90": low, f"{name}_high90": high, f"{name}_bound": bound}
            activity = ActivityChange(row[f"{name}_change"], row[f"{name}_p_holm"], row[f"{name}_p_beyond_holm"], still)
            said = verdict((row["accuracy_change"], row["accuracy_p_holm"]), activity, row["detectable"])
            needs = [max(row["n"] + 1, problems_needed(discordant, least, len(rows)))] if blind else []
            silent = bound == 0 and activity.p >= LEVEL  # nothing is active: no number of problems tells
            if activity.p >= LEVEL and not still and not silent:
                needs.append(problems_to_tell(changes, bound, len(rows)))
            asks = said == TOO_FEW_PROBLEMS and not silent
            row |= {MEASURED[name]: said, f"{MEASURED[name]}_needs": max(needs) if asks else None}
    return rows


def _changes(values: Mapping[str, Mapping[str, float]], reference: str, shown: list[str]) -> list[float]:
    """Problem by problem, the mean over the prompts shown less the value under the reference."""
    return [sum(values[name][i] for name in shown) / len(shown) - before for i, before in sorted(values[reference].items())]


def _tested(name: str, changes: list[float], seed: int) -> dict[str, Any]:
    ends = (paired_shares if name == "accuracy" else paired_bootstrap)(changes, seed)
    change = dict(zip((f"{name}_change", f"{name}_low", f"{name}_high"), ends))
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
    beside=("variants",),
    reads=(POLES, ANNOTATIONS, PROMPTS, PROMPT_PROBLEMS, FORCED_PROBLEMS, JUDGED_ACTIVITY, SOLUTIONS,
           "completions/study.", "completions/variant.", "completions/sentence.", "completions/discovery.",
           "activity/study.", "activity/variant.", "activity/sentence.", "activity/discovery.", "forced/study."),
    writes=(PHENOMENA, CORRELATIONS, RANDOM_CORRELATIONS, JUDGED_TABLE),
    units=UNITS,
    example="cotscope correlate runs/first",
)  # fmt: skip
