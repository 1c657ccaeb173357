"""The report's part on activity and accuracy over many prompts: the study's own, variants, sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..stats import LEVEL
from ..stats.correlation import LEAST_KINDS
from .charts import Chart
from .figures import Axes, Box, Point
from .reading import Reading
from .svg import WIDTH, fill, short, svg, text_at
from .text import counted, is_number, number

FAMILIES = {"study": "the study's prompts", "variant": "variants", "sentence": "sentences"}
_SECTIONS = {"variant": "variants", "sentence": "sentences"}
_WITHIN = {"variant": "perturbations", "sentence": "kinds"}
_GIVEN = {"nothing": "", "length": "given length", "kind": "within kinds", "between": "between kinds"}
_COLOURS = 10
# Around (0, 0), of about the same area: what colours alone do not tell apart, shapes do.
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.6l5.2 9.6h-10.4z",
    "M0 -5.8l5.8 5.8l-5.8 5.8l-5.8 -5.8z",
)

_FOUND_SQL = """
    WITH found AS (SELECT prompts FROM poles JOIN
                   (SELECT DISTINCT layer, "index", sign FROM annotations WHERE accepted) USING (layer, "index", sign))
    SELECT prompt, count(*) AS poles, (SELECT count(*) FROM found) AS total
    FROM (SELECT unnest(prompts) AS prompt FROM found) GROUP BY prompt
"""


def variants(run: Reading) -> dict[str, Any]:
    """What the template shows: figures, the table of correlations, kinds of sentences, and how the poles were found."""
    correlation = run.summary.get("correlation") or {}
    rows = run.rows("prompts", "SELECT * FROM prompts WHERE family != 'study'")
    parts = []
    for family, name in _SECTIONS.items():
        own = [row for row in rows if row["family"] == family]
        if own:
            parts.append({
                "name": name, "rows": own,
                "chart": _chart(own, name, "poles_per_token", "generated activity (active reasoning poles per token)"),
                "fixed": _chart(own, name, "fixed_activity", "teacher-forced activity (active reasoning poles per token)"),
                "says": _says(correlation.get(name) or {}, name, _WITHIN[family]),
            })  # fmt: skip
    table, families = _table(run, correlation)
    return {
        "parts": parts,
        "table": table,
        "families": families,
        "kinds": run.rows("sentence_kinds"),
        "least_kinds": LEAST_KINDS,
        "discovery": _discovery(run),
        "rule": (run.manifest.get("rules") or {}).get("phenomena", ""),
        **{key: (run.summary.get("variants") or {}).get(key) for key in ("problems", "solutions")},
    }


def _discovery(run: Reading) -> list[dict[str, Any]]:
    """Under which prompts how many of the reasoning poles were found; the study's order. Empty in a run that has no such
    column."""
    order = [prompt.get("name") for prompt in run.manifest.get("prompts") or []]
    found = run.rows("annotations", _FOUND_SQL)
    return sorted(found, key=lambda row: order.index(row["prompt"]) if row["prompt"] in order else len(order))


def _table(run: Reading, correlation: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
    """Rows of the table of correlations, a cell per family; and the families with their number of prompts."""
    found = run.rows("correlations")
    families = {row["family"]: row["prompts"] for row in found}
    cells = {(row["family"], row["activity"], row["poles"], row["given"]): row for row in found}
    rows = []
    for poles in ("all", "first"):
        for activity, name in (("own", "generated"), ("fixed", "teacher-forced")):
            for given, said in _GIVEN.items():
                row = [cells.get((family, activity, poles, given)) for family in families]
                if any(row):
                    label = f"{name} activity{f', {said}' if said else ''}"
                    rows.append({"label": label, "cells": row, "poles": poles, "random": False})
    for key, within, said in (("permuted", "", ""), ("permuted_within", "within", ", within kinds")):
        sections = [
            correlation if family == "study" else correlation.get(_SECTIONS.get(family, "")) or {} for family in families
        ]
        row = [_permuted(section.get(key), section.get(within) if within else section) for section in sections]
        if any(row):
            label = f"generated activity of permuted sets{said}"
            rows.append({"label": label, "cells": row, "poles": "permuted", "random": True})
    return rows, [(FAMILIES.get(family, family), count) for family, count in families.items()]


def _permuted(entry: Any, own: Any) -> dict[str, Any] | None:
    """The permuted sets' cell, beside the reasoning poles' own correlation."""
    if not isinstance(entry, dict):
        return None
    low, high = entry.get("quantiles") or (None, None)
    reasoning = own.get("spearman") if isinstance(own, dict) else None
    return {"spearman": entry.get("median"), "low": low, "high": high, "p_value": entry.get("p_value"), "reasoning": reasoning}


def _says(found: Mapping[str, Any], name: str, kinds: str) -> str:
    """What the correlations of one family say, and no more: within kinds and between them, where it has kinds."""
    within = found.get("within")
    low, high = found.get("ci") or (None, None)
    own = within if within else {"spearman": found.get("spearman"), "low": low, "high": high}
    if not is_number(own.get("spearman")):
        where = f" within {kinds}" if within else ""
        return f"Over the {name} the correlation{where} could not be computed: accuracy or activity does not vary."
    if within and not is_number(within.get("p_value")):
        return f"Over the {name} nothing can be told within {kinds}: too few of them are of one."
    side = _side(own.get("low"), own.get("high"))
    said = f"Over the {name} generated activity {_RELATION[side]}" + (f" within {kinds}" if within else "")
    p = (found.get("permuted_within" if within else "permuted") or {}).get("p_value")
    if side > 0 and is_number(p):
        said += (
            ", more closely than that of permuted sets does" if p <= LEVEL else
            ", but so does that of permuted sets: the relation is not particular to reasoning neurons"
        )  # fmt: skip
    if within:
        between = found.get("between") or {}
        said += (
            f". Between the {found['kinds']} {kinds} it {_RELATION[_side(between.get('low'), between.get('high'))]}"
            if is_number(between.get("spearman")) else
            f". Between {kinds} nothing can be told: there are {found.get('kinds', 'few')}, and {LEAST_KINDS} are needed"
        )  # fmt: skip
    return said + "."


_RELATION = {
    1: "goes with accuracy",
    0: "shows no established relation to accuracy (the interval includes 0)",
    -1: "goes against accuracy",
}


def _side(low: Any, high: Any) -> int:
    """1 or -1 where an interval lies above or below 0, else 0."""
    if not (is_number(low) and is_number(high)):
        return 0
    return (low > 0) - (high < 0)


def _chart(rows: Sequence[dict[str, Any]], name: str, column: str, label: str) -> Chart | None:
    points = [
        (row["kind"], Point(row["prompt"], row[column], row["accuracy"], row.get("low"), row.get("high")))
        for row in rows
        if is_number(row.get(column)) and is_number(row["accuracy"])
    ]
    if not points:
        return None
    stem, kinds = f"{name}-{column.replace('_', '-')}", "perturbation" if name == "variants" else "kind of sentence"
    columns = ("prompt", "kind", "n", "accuracy", "low", "high", column)
    return Chart(
        group_scatter(points, label, stem),
        f"One mark per prompt, by {kinds}; faint lines: 95 % intervals of the accuracy. Hover for a prompt's name.",
        "variants",
        stem,
        [{key: row.get(key) for key in columns} for row in rows],
        counted((row["n"] for row in rows), "problems under each prompt"),
    )


def group_scatter(points: Sequence[tuple[str, Point]], x_label: str, name: str) -> Markup:
    """Accuracy against activity, one dot per prompt in its kind's colour and shape, with a legend at the right.

    Args:
        points: (kind, prompt); all x and y finite.
        x_label: the x axis: what is counted, and its unit.
        name: of the figure, unique on the page.
    """
    kinds = list(dict.fromkeys(kind for kind, _ in points))
    top = 14
    frame = Box(56, top, WIDTH - 216, max(344, top + 18 * len(kinds) + 20))
    axes = Axes.around([p for _, p in points], frame)
    parts = [axes.drawn(x_label)]
    for _, p in points:
        if is_number(p.low) and is_number(p.high):
            (x, low), (_, high) = axes.at(p.x, p.low), axes.at(p.x, p.high)
            parts.append(fill('<path class="whisker faint" d="M{} {}V{}"/>', x, high, low))
    for kind, p in points:
        parts.append(_mark(kinds.index(kind), *axes.at(p.x, p.y), f"{p.name} ({kind}): {p.said}"))
    for i, kind in enumerate(kinds):
        y = top + 12 + 18 * i
        parts.append(_mark(i, frame.right + 22, y, kind))
        parts.append(text_at(frame.right + 34, y + 4, short(kind.replace("_", " "), 27), "start"))
    about = "; ".join(f"{p.name}: accuracy {number(p.y)} at activity {number(p.x)}" for _, p in points)
    return svg(name, frame.bottom + 44, "Accuracy and activity under each prompt, by kind of prompt", about, parts)


def _mark(kind: int, x: float, y: float, tip: str) -> Markup:
    return fill('<path class="mark g{}" transform="translate({} {})" d="{}"><title>{}</title></path>',
                 kind % _COLOURS, x, y, _SHAPES[kind % len(_SHAPES)], tip)  # fmt: skip
