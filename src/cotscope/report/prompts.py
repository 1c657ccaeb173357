"""The report's part on the study's prompts: accuracy and activity under each."""

from __future__ import annotations

from typing import Any

from . import figures
from .charts import Chart
from .reading import Reading
from .text import counted, is_number


def prompts(run: Reading) -> dict[str, Any]:
    """The study's prompts and their scatter figure."""
    rows = run.rows("prompts", "SELECT * FROM prompts WHERE family = 'study'")
    points = [
        figures.Point(row["prompt"], row["poles_per_token"], row["accuracy"], row.get("low"), row.get("high"))
        for row in rows
        if is_number(row["poles_per_token"]) and is_number(row["accuracy"])
    ]
    label = "generated activity (active reasoning poles per generated token)"
    left_out = {row["left_out"]: row["poles"] for row in run.rows("held_out")}
    return {
        "rows": rows,
        "chart": Chart(
            figures.prompt_scatter(points, label),
            "One dot per prompt; the vertical lines are 95 % intervals of the accuracy.",
            "measure",
            "prompts",
            [{"prompt": p.name, "poles_per_token": p.x, "accuracy": p.y, "low": p.low, "high": p.high} for p in points],
            counted((row["n"] for row in rows), "problems under each prompt"),
        )
        if points
        else None,
        "concepts": list(dict.fromkeys(row["concept"] for row in run.rows("prompt_concepts"))),
        "by_concept": {(row["prompt"], row["concept"]): row for row in run.rows("prompt_concepts")},
        "roles": list(dict.fromkeys(row["role"] for row in run.rows("prompt_roles"))),
        "by_role": _by_role(run),
        "fixed": any(is_number(row["fixed_activity"]) for row in rows),
        "left_out": {row["prompt"]: left_out[row["prompt"]] for row in rows if row["prompt"] in left_out},
        "held_out": {(row["prompt"], row["left_out"]): row for row in run.rows("held_out")},
    }


def _by_role(run: Reading) -> dict[tuple[str, str, str], float]:
    """("own" or "fixed", prompt, role) → activity of all concepts' poles; places that no solution has are left out."""
    return {
        (way, row["prompt"], row["role"]): row[f"{way}_activity"]
        for row in run.rows("prompt_roles", "SELECT * FROM prompt_roles WHERE concept IS NULL")
        for way in ("own", "fixed")
        if is_number(row[f"{way}_activity"])
    }
