"""The report's part on what a set's removal does to the skill, by path, to other skills, and to each operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..stats import ARITHMETIC, LEAST_EFFECT, LEAST_MARGIN, LEAST_PERMUTED, in_words
from . import text
from .charts import Chart, Mark, Row, intervals
from .reading import Reading

WAYS = ("total", "direct", "indirect")
MEASURES = {"log_prob": ("log-probability", LEAST_EFFECT), "margin": ("logit margin", LEAST_MARGIN)}
"""Measure → what it is called, and within how many nats of 0 a change may be called none."""
FEW_SETS = 10
"""With fewer matched sets an interval that takes in their spread is rough."""


def damage(run: Reading) -> dict[str, Any]:
    """What each set does to the reference solutions, by path, to other skills and to general text; what is specific in it."""
    solutions = run.rows("damage_solutions")
    of_set = {row["neuron_set"]: {"kind": row["kind"], "perplexity": None, "kl": None} for row in solutions}
    of_set |= {row["neuron_set"]: row for row in run.rows("ablation")}
    rows = [of_set[row["neuron_set"]] | row for row in run.rows("damage") if row["neuron_set"] in of_set]
    of_kind = [row["kind"] for row in rows]
    for row in rows:
        row["label"], row["several"] = text.KINDS.get(row["kind"], row["kind"]), of_kind.count(row["kind"]) > 1
    total = [row for row in solutions if row["path"] == "total"]
    summary = run.summary.get("damage") or {}
    headline = summary.get("headline") or {}
    beyond = specific(run.summary)
    n = text.counted((row["problems"] for row in solutions), "reference solutions")
    return {
        "rows": rows,
        "roles": list(dict.fromkeys(row["role"] for row in total)),
        "given": {(row["neuron_set"], row["role"]): row for row in total},
        "effects": _effects(summary),
        "chart": _specific_chart(beyond, n, summary.get("matched") == 1),
        "paths": _paths_chart(summary, n),
        "paths_say": _paths_say(summary),
        "specific": beyond,
        "says": _says(beyond),
        "few": 0 < (summary.get("matched") or 0) < FEW_SETS,
        "headline": headline,
        "least": LEAST_PERMUTED,
        "skill": summary.get("skill", ARITHMETIC),
        "verdict": in_words(headline["verdict"], summary.get("skill", ARITHMETIC)) if headline else "",
        "claims": [(words, headline[claim]) for claim, words in CLAIMS.items() if headline.get(claim)],
        **{key: summary.get(key, text.MISSING) for key in ("problems", "items", "matched")},
    }


CLAIMS = {"pushes": "zeroed, log-probability", "matters": "zeroed and their own push put back, logit margin"}
"""The claims of the rule, as the report calls what they are about."""


def specific(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the target set does beyond the matched ones: one row per outcome, from the summary's sections."""
    found = (summary.get("damage") or {}).get("specific") or {}
    accuracy = (summary.get("ablation") or {}).get("specific")
    rows = [{"label": label} | of for label, of in (("accuracy", accuracy), ("other skills", found.get("battery"))) if of]
    for role, paths in (found.get("solutions") or {}).items():
        for path, measure, words in (("total", "log_prob", "log-probability"), ("indirect", "margin", "margin, push put back")):
            if entry := paths.get(path, {}).get(measure):
                rows.append({"label": f"{role}: {words}"} | entry)
    return [row for row in rows if text.is_number(row.get("change"))]


def _says(rows: list[dict[str, Any]]) -> str:
    worse = [row["label"] for row in rows if text.is_number(row["high"]) and row["high"] < 0]
    less = [row["label"] for row in rows if text.is_number(row["low"]) and row["low"] > 0]
    if not rows:
        return "No matched set was drawn: there is nothing to compare with."
    says = f"None of these {len(rows)} intervals lies below 0: no specific damage is shown."
    if worse:
        says = (
            f"More than under the matched sets, by an interval that leaves 0 out (not corrected for {len(rows)} of them), "
            f"suffer: {', '.join(worse)}."
        )
        if "other skills" in worse:
            says += " Other skills are among them: the damage is not to arithmetic alone."
    if less:
        says += f" Less than under the matched sets suffer: {', '.join(less)}."
    return says


def _effects(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per role and set (the target, the means of matched and permuted sets), with a cell per measure and path."""
    effects, target = summary.get("effects") or {}, summary.get("target") or ""
    labels = {target: text.KINDS.get(target, target), "matched_mean": "matched random, mean", "permuted_mean": "permuted, mean"}
    return [
        {"role": role, "label": label, "cells": [effects[name][role].get(w, {}).get(m, {}) for m in MEASURES for w in WAYS]}
        for role in effects.get(target) or {}
        for name, label in labels.items()
        if role in (effects.get(name) or {})
    ]


def _paths_say(summary: Mapping[str, Any]) -> str:
    """What the operators' and the results' figures say of the target set, and no more."""
    effects, said = summary.get("effects") or {}, []
    for role, measure in (("operator", "log_prob"), ("result", "margin")):
        (name, bound), found = MEASURES[measure], effects.get(summary.get("target"), {}).get(role) or {}
        cells = {way: found.get(way, {}).get(measure) or {} for way in WAYS}
        if not all(text.is_number(cell.get("change")) for cell in cells.values()):
            continue
        figures = ", ".join(f"{text.number(cells[way]['change'], 2, True)} {way}" for way in WAYS)
        indirect = cells["indirect"]
        if indirect["within"]:
            left = f"with their own push put back there is no effect (within ±{bound})"
        elif text.is_number(indirect["high"]) and indirect["high"] < 0:
            left = "with their own push put back part of the loss is left: later layers depend on them"
        else:
            left = "with their own push put back a loss is not shown"
        same = (effects.get("permuted_mean") or effects.get("matched_mean") or {}).get(role, {}).get("indirect", {})
        other = same.get(measure) or {}
        sets = "permuted" if effects.get("permuted_mean") else "matched"
        beside = (
            f" ({sets} sets: {text.number(other['change'], 2, True)} indirect)" if text.is_number(other.get("change")) else ""
        )
        said.append(f"At {role}s ({name}): {figures}; {left}{beside}.")
    return " ".join(said)


def _specific_chart(rows: list[dict[str, Any]], n: str, one: bool) -> Chart:
    """What the set does beyond the matched ones to log-probabilities and margins of solutions' tokens."""
    rows = [row for row in rows if ":" in row["label"]]
    drawn = [Row(row["label"], [Mark("reasoning", row["change"], row["low"], row["high"])]) for row in rows]
    return Chart(
        intervals("specific-figure", "Specific damage to solutions' tokens", drawn, "difference from the matched sets (nats)"),
        "Below 0: these tokens of right solutions suffer more without the reasoning neurons than without others like them; "
        f"lines: 95 % intervals over problems{', beside one such set' if one else ' and sets'}.",
        "damage",
        "specific",
        rows,
        n,
    )


def _paths_chart(summary: Mapping[str, Any], n: str) -> Chart:
    """By role of token and by path: what the target set's removal changes, beside the mean of permuted (or matched) sets."""
    effects, target = summary.get("effects") or {}, summary.get("target") or ""
    other = next((name for name in ("permuted_mean", "matched_mean") if effects.get(name)), "")
    drawn, rows = [], []
    for role, paths in (effects.get(target) or {}).items():
        for way in WAYS:
            found = {
                name: (effects.get(name, {}).get(role, {}).get(way) or {}).get("log_prob") or {} for name in (target, other)
            }
            if not text.is_number(found[target].get("change")):
                continue
            marks = [
                Mark(kind, cell["change"], cell.get("low"), cell.get("high"))
                for kind, cell in (("reasoning", found[target]), ("matched", found[other]))
                if text.is_number(cell.get("change"))
            ]
            drawn.append(Row(f"{role}, {way}", marks))
            rows += [{"tokens": role, "path": way, "set": name} | cell for name, cell in found.items() if cell]
    legend = {"reasoning": "reasoning neurons", "matched": f"{other.partition('_')[0]} sets, mean"}
    axis = "change of log-probability (nats per token)"
    return Chart(
        intervals("paths", "What tokens of right solutions lose, by path", drawn, axis, legend=legend),
        "Direct: only the neurons' own push is taken away; indirect: they are zeroed and that push is put back; lines: 95 % "
        "intervals over problems.",
        "damage",
        "paths",
        rows,
        n,
    )


def operations(run: Reading) -> dict[str, Any]:
    """The tables of operations disrupted and asked, one per role, each with its test."""
    rows, summary = run.rows("operations"), run.summary.get("operations") or {}
    return {
        "stale": run.state("operations").status in ("stale", "stopped"),
        "names": list(dict.fromkeys(row["disrupted"] for row in rows)),
        "cells": {(row["role"], row["disrupted"], row["operation"]): row for row in rows},
        "tests": {role: summary.get(role, {}) for role in dict.fromkeys(row["role"] for row in rows)},
        "problems": summary.get("problems"),
        "chart": _diagonal_chart(summary),
    }


def _diagonal_chart(summary: Mapping[str, Any]) -> Chart:
    found = {role: test for role, test in summary.items() if isinstance(test, dict) and text.is_number(test.get("contrast"))}
    drawn = [Row(f"{role}s", [Mark("reasoning", t["contrast"], *(t.get("ci") or (None, None)))]) for role, t in found.items()]
    return Chart(
        intervals("diagonal", "An operation without its own neurons", drawn, "diagonal less what rows and columns say (nats)"),
        "Below 0: an operation's tokens suffer most without that operation's neurons; lines: 95 % intervals.",
        "operations",
        "operations",
        [
            {"role": role, "contrast": t["contrast"], "ci": t.get("ci"), "p_value": t.get("p_value")}
            for role, t in found.items()
        ],
        text.counted([summary.get("problems")], "problems of each operation"),
    )
