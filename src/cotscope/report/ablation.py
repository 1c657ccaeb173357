"""The report's part on disruption: what is solved without each set of neurons, and what that says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..stats import LEVEL
from . import figures
from .charts import Chart
from .reading import Reading, part
from .text import KINDS, counted, is_number


def ablation(run: Reading) -> dict[str, Any]:
    """The conditions of the ablation by kind, their figure, and how well the sets are matched."""
    rows = run.rows("ablation")
    groups = []
    for kind in _kind_order(rows):
        own = [row for row in rows if row["kind"] == kind]
        group: dict[str, Any] = {"kind": kind, "label": KINDS.get(kind, kind), "rows": own}
        for key in ("accuracy", "accuracy_strict", "perplexity"):
            values = [row[key] for row in own if is_number(row.get(key))]
            group[key] = sum(values) / len(values) if values else None
            group[f"{key}_range"] = (min(values), max(values)) if values else (None, None)
        groups.append(group)
    bars = [
        figures.Bar(row["neuron_set"], row["kind"], row["accuracy"], row.get("low"), row.get("high"))
        for group in groups
        for row in group["rows"]
        if is_number(row["accuracy"])
    ]
    matching = [row for row in run.rows("matching") if row["neuron_set"] != row.get("target", "reasoning")]
    for row in matching:
        row["label"] = KINDS.get(row["kind"], row["kind"])
        for key in ("mean_update_size", "mean_steps"):
            aim = row.get(f"target_{key}")
            row[f"{key}_ratio"] = row[key] / aim if is_number(row.get(key)) and aim else None
    chart = (
        Chart(
            figures.ablation_bars(bars, KINDS),
            "Each dot is one set of neurons with its 95 % interval; bar and thick line end at the mean of its kind.",
            "ablate",
            "ablation",
            [bar._asdict() for bar in bars],
            counted((row.get("n") for row in rows), "problems"),
        )
        if bars
        else None
    )
    return {"groups": groups, "chart": chart, "matching": matching}


def headline(run: Reading) -> dict[str, Any]:
    """The figures of the first paragraph, and the sentences that follow from them."""
    ablation = part(run.summary, "ablation")
    each = [found.get("accuracy") for found in ablation.get("matched_each") or [] if isinstance(found, dict)]
    matched = [accuracy for accuracy in each if is_number(accuracy)]
    unmatched_sets = sum(row["kind"] == "unmatched" for row in run.rows("ablation"))
    return {
        "reasoning": part(ablation, "reasoning"),
        "comparable": part(ablation, "comparable") if ablation.get("target") == "comparable" else {},
        "matched": part(ablation, "matched_mean"),
        "matched_each": matched,
        "unmatched": part(ablation, "unmatched_mean"),
        "unmatched_sets": unmatched_sets,
        "none": part(ablation, "none"),
        "p": ablation.get("p_value"),
        "smallest_p": 1 / (len(matched) + 1),
        "judgement": _judgement(
            part(run.summary, "baseline").get("accuracy"),
            part(ablation, "reasoning").get("accuracy"),
            (part(ablation, "comparable") or part(ablation, "reasoning")).get("accuracy"),
            part(ablation, "matched_mean").get("accuracy"),
            matched,
            ablation.get("p_value"),
            ablation.get("target") == "comparable",
        ),
    }


def _judgement(base: Any, whole: Any, reasoning: Any, mean: Any, matched: Sequence[float], p: Any, some: bool) -> list[str]:
    """What the figures of the ablation say, and no more, in whole sentences.

    Args:
        whole: what is solved without all reasoning neurons; `reasoning`: without those that are compared with matched ones.
        some: these are not all.
    """
    if not is_number(reasoning):
        return []
    said = []
    if is_number(base) and is_number(whole) and whole >= base:
        said.append("Disrupting the reasoning neurons did not lower the accuracy.")
    if is_number(mean) and matched:
        spared = sum(accuracy > reasoning for accuracy in matched)
        sets = f"{spared} of the {len(matched)} matched sets" if spared < len(matched) else "every one of them"
        sets = "the one matched set" if len(matched) == 1 else sets
        those = "Those with a counterpart" if some else "The reasoning neurons"
        if reasoning < mean:
            said.append(
                f"{those} do more damage than "
                + (f"{sets}." if len(matched) == 1 else f"matched sets do on average, and more than {sets}.")
            )
        else:
            said.append(
                f"{those} do no more damage than matched sets: this run gives no evidence that its "
                "neurons matter more than others that are as large and as often active."
            )
    if is_number(p) and matched:
        if 1 / (len(matched) + 1) > LEVEL:
            said.append(f"With so few sets no difference, however large, could reach p ≤ {LEVEL}.")
        elif p > LEVEL:
            said.append(f"At the {LEVEL} level the difference could be due to which neurons a set happens to hold.")
    return said


def _kind_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds among the rows: those that the report knows first, in its order."""
    found = dict.fromkeys(str(row["kind"]) for row in rows)
    return [kind for kind in KINDS if kind in found] + [kind for kind in found if kind not in KINDS]
