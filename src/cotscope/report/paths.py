"""The report's part on direct and indirect effects."""

from __future__ import annotations

from typing import Any

from .reading import Reading
from .text import is_number, number

WAYS = ("total", "direct", "indirect")
SETS = {"reasoning": "reasoning neurons", "matched": "matched random, mean"}


def paths(run: Reading) -> dict[str, Any]:
    """One row per role and set, with a cell for each measure and path, from the summary; and what they say."""
    summary = run.summary.get("paths") or {}
    roles = list(dict.fromkeys(role for name in SETS for role in summary.get(name) or {}))
    rows = [
        {
            "role": role,
            "set": name,
            "label": SETS[name],
            "cells": [cells.get(w, {}).get(m, {}) for m in _MEASURES for w in WAYS],
        }
        for role in roles
        for name in SETS
        if (cells := (summary.get(name) or {}).get(role))
    ]
    return {"rows": rows, "says": _says(summary.get("reasoning") or {}, summary.get("matched") or {})}


_MEASURES = ("log_prob", "margin")


def _says(found: dict[str, Any], matched: dict[str, Any]) -> str:
    """What the operators' and the results' figures say, and no more."""
    said = []
    for role, measure, unit in (("operator", "log_prob", "nats"), ("result", "margin", "logit margin")):
        cells = {way: (found.get(role) or {}).get(way, {}).get(measure) or {} for way in WAYS}
        if not all(is_number(cell.get("change")) for cell in cells.values()):
            continue
        figures = ", ".join(f"{number(cells[way]['change'], 2, True)} {way}" for way in WAYS)
        indirect = cells["indirect"]
        left = (
            "with their own push put back nothing of the loss is shown to be left"
            if indirect["low"] <= 0 <= indirect["high"] or indirect["change"] > 0
            else "with their own push put back part of the loss is left: later layers depend on them"
        )
        same = (matched.get(role) or {}).get("total", {}).get(measure) or {}
        beside = f" (matched random sets: {number(same['change'], 2, True)} total)" if is_number(same.get("change")) else ""
        said.append(f"At {role}s ({unit}): {figures}; {left}{beside}.")
    return " ".join(said)
