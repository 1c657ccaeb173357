"""The report's part on what a set's removal does to the skill, to other skills, and to each operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import text
from .reading import Reading


def damage(run: Reading, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What each set does to the given results, to other skills and to general text; what is specific in it."""
    of_set = {row["neuron_set"]: row for row in run.rows("ablation")}
    rows = [of_set[row["neuron_set"]] | row for row in run.rows("damage") if row["neuron_set"] in of_set]
    of_kind = [row["kind"] for row in rows]
    for row in rows:
        row["label"], row["several"] = kinds.get(row["kind"], row["kind"]), of_kind.count(row["kind"]) > 1
    changes = run.rows("damage_solutions")
    summary = run.summary.get("damage") or {}
    labels = {"accuracy": "accuracy", "battery": "other skills"}
    specific = [
        {"label": labels.get(key, key)} | entry
        for key, entry in (summary.get("specific") or {}).items()
        if text.is_number(entry.get("change"))
    ]
    worse = [row["label"] for row in specific if text.is_number(row["high"]) and row["high"] < 0]
    less = [row["label"] for row in specific if text.is_number(row["low"]) and row["low"] > 0]
    says = "Nothing suffers more under the reasoning set than under the matched sets: no specific damage is shown."
    if worse:
        says = f"More than under the matched sets, by an interval that leaves 0 out, suffer: {', '.join(worse)}."
        if "other skills" in worse:
            says += " Other skills are among them: the damage is not to arithmetic alone."
    if less:
        says += f" Less than under the matched sets suffer: {', '.join(less)}."
    return {
        "rows": rows,
        "roles": list(dict.fromkeys(row["role"] for row in changes)),
        "given": {(row["neuron_set"], row["role"]): row for row in changes},
        "specific": specific,
        "says": says,
        "headline": summary.get("headline") or {},
        **{key: summary.get(key, text.MISSING) for key in ("problems", "items")},
    }


def operations(run: Reading) -> dict[str, Any]:
    """The tables of operations disrupted and asked, one per role, each with its test."""
    rows, summary = run.rows("operations"), run.summary.get("operations") or {}
    return {
        "names": list(dict.fromkeys(row["disrupted"] for row in rows)),
        "cells": {(row["role"], row["disrupted"], row["operation"]): row for row in rows},
        "tests": {role: summary.get(role, {}) for role in dict.fromkeys(row["role"] for row in rows)},
        "problems": summary.get("problems"),
    }
