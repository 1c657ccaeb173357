"""The report's part on the calibration: how often the rule was wrong, and where its p-values lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .charts import Chart
from .reading import Reading
from .svg import WIDTH, fill, scale, svg, text_at, x_axis
from .text import counted, number

KINDS = {
    "occurring": "words of solutions, no arithmetic",
    "lexicon": "words no solution has",
    "labels": "labels shuffled within layers",
    "vectors": "value vectors shuffled",
    "study": "the study's own neurons",
    "attribution": "neurons chosen by attribution",
}
"""What the report calls each kind of run, in the order in which it shows them."""


def calibrate(run: Reading) -> dict[str, Any]:
    """The rates by kind, from summary.json, and the figure of all runs' p-values."""
    summary = run.summary.get("placebo") or {}
    rows = [row for row in run.rows("calibration") if row["matters_p_value"] is not None]
    by_kind = summary.get("by_kind") or {}
    dots = {
        label: sorted((max(r["matters_p_value"], r["matters_p_beyond"]), r["matters"]) for r in rows if r["kind"] == kind)
        for kind, label in KINDS.items()
        if any(row["kind"] == kind for row in rows)
    }
    return {
        "summary": summary,
        "pushes": (summary.get("claims") or {}).get("pushes"),
        "kinds": [(KINDS[kind], by_kind[kind]) for kind in KINDS if kind in by_kind],
        "chart": Chart(
            _strips(dots, summary["level"]),
            "Each run's p that its neurons matter (their own push put back), the larger of the rule's two. The line is at "
            f"{number(summary['level'])}; in the colour of the reasoning neurons: the rule said “matters”.",
            "calibrate",
            "calibration",
            [
                {
                    "run": row["run"],
                    "kind": row["kind"],
                    "p_value": row["matters_p_value"],
                    "p_beyond": row["matters_p_beyond"],
                    "matters": row["matters"],
                }
                for row in rows
            ],
            counted([len(rows)], "runs"),
        )
        if dots
        else None,
    }


def _strips(dots: Mapping[str, Sequence[tuple[float, bool]]], level: float) -> Markup:
    """One row of dots (p, said "matters") per kind of run; equal p-values stand above each other."""
    left, right, y = 240, WIDTH - 30, 8.0
    parts = []
    for label, runs in dots.items():
        values = [p for p, _ in runs]
        most = max(values.count(v) for v in values)
        height = max(30.0, 9.0 * most + 14)
        parts.append(text_at(left - 14, y + height - 8, label, "end", "strong"))
        for i, (p, said) in enumerate(runs):
            above = i - values.index(p)
            parts.append(
                fill('<g class="kind {}"><circle cx="{}" cy="{}" r="4"/><title>{}</title></g>',
                      "reasoning" if said else "matched", scale(p, 0, 1, left, right), y + height - 10 - 9 * above,
                      f"{label}: p {number(p, 3)}")
            )  # fmt: skip
        y += height
    x = scale(level, 0, 1, left, right)
    parts.append(fill('<line class="axis" x1="{}" x2="{}" y1="4" y2="{}"/>', x, x, y))
    about = "; ".join(f"{label}: {', '.join(number(p, 3) for p, _ in runs)}" for label, runs in dots.items())
    return svg("placebo", y + 44, "p-values of the calibration's runs", about, [x_axis(0, 1, left, right, y, "p", 0.1), *parts])
