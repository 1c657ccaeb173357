"""The report's part on edits: what each does to the problems solved and to everything else, and where answers changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from .reading import Reading
from .svg import WIDTH, fill, round_range, scale, short, svg, text_at, x_axis
from .text import interval, is_number, number, p_value

LEVEL = 0.05
EXAMPLES = 5
LONGEST = 1500
"""Characters of a text that are shown; the middle of a longer one is left out."""
_MEANS = ("validation_base", "validation", "battery_base", "battery", "perplexity_ratio", "kl", "minutes", "peak_gib")
_LABEL, _DATA = 38, 16  # characters of a row's label in the figure, and of the data set's name in it

_CHANGED_SQL = """
    SELECT * FROM evaluations_by_problem WHERE correct != correct_base
    QUALIFY row_number() OVER (PARTITION BY edit ORDER BY correct_base DESC, data, problem_id) <= ?
    ORDER BY edit, correct_base DESC, data, problem_id
"""


def evaluate(run: Reading) -> dict[str, Any]:
    """A row per edit and data set with what its paired test says, a figure, and problems whose answer changed."""
    rows = [row | {"says": says(row)} for row in run.rows("evaluations")]
    changed = run.rows("evaluations_by_problem", _CHANGED_SQL, [EXAMPLES])
    examples = []
    for edit in dict.fromkeys(row["edit"] for row in rows):
        of = [row for row in rows if row["edit"] == edit]
        shown = [_example(found) for found in changed if found["edit"] == edit]
        counts = {key: sum(row[key] for row in of if is_number(row[key])) for key in ("lost", "gained")}
        if shown:
            examples.append({"edit": edit, "several": len(of) > 1, "problems": shown} | counts)
    return {
        "rows": rows,
        "beside": list({row["edit"]: row for row in rows}.values()),  # the same on all data: one row of each edit
        "trainings": trainings(rows),
        "sets": list(dict.fromkeys(row["data"] for row in rows)),
        "examples": examples,
        "figure": _figure(rows),
        "level": LEVEL,
        "begun": run.state("evaluate").status != "missing",
    }


def trainings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per way of training and of choosing neurons: means over its edits (of other seeds), and the ends of differences."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("method"):
            groups.setdefault((row["method"], row["chosen_by"], is_number(row["random"]), row["numbers"]), []).append(row)
    found = []
    for (method, by, random, numbers), of in groups.items():
        edits = list({row["edit"]: row for row in of}.values())
        by = "" if by == method else f"random, like {by}" if random else by
        about = {"method": method, "by": by, "numbers": numbers, "edits": len(edits)}
        for key in _MEANS:
            values = [row[key] for row in edits if is_number(row[key])]
            about[key] = fmean(values) if values else None
        gains = []
        for data in dict.fromkeys(row["data"] for row in rows):
            here = [row["difference"] for row in of if row["data"] == data and is_number(row["difference"])]
            gains.append((fmean(here), min(here), max(here)) if here else None)
        found.append(about | {"gains": gains})
    return found


def says(row: Mapping[str, Any]) -> str:
    """What the paired test of problems solved says, over all that was compared, and no more."""
    if not is_number(row.get("p_holm")) or not is_number(row.get("difference")):
        return "nothing was compared"
    if row["p_holm"] >= LEVEL:
        return "a difference is not shown"
    return "it solves fewer" if row["difference"] < 0 else "it solves more"


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    """One problem whose answer changed, its texts in lines."""
    return dict(row) | {key: _lines(row[key]) for key in ("question", "text_base", "text")}


def _lines(text: str | None) -> list[str]:
    """The lines of a text that a model or a file of problems holds; hidden characters are made visible by the page."""
    text = (text or "").strip("\n")
    if len(text) > LONGEST:
        text = text[: LONGEST - 200] + " … " + text[-197:]
    return text.split("\n") if text else []


def _figure(rows: Sequence[Mapping[str, Any]]) -> Markup | str:
    """Per edit and data set: how many more problems are solved with the edit than without, with its interval."""
    rows = [row for row in rows if all(is_number(row[key]) for key in ("difference", "difference_low", "difference_high"))]
    if not rows:
        return ""
    left, right, y = 310, WIDTH - 30, 16.0
    values = [row[key] for row in rows for key in ("difference", "difference_low", "difference_high")]
    low, high, step = round_range([*values, 0.0], (-1.0, 1.0))
    parts, said = [], []
    for row in rows:
        label = f"{row['edit']} on {row['data']}"
        x, start, end = (scale(row[f"difference{key}"], low, high, left, right) for key in ("", "_low", "_high"))
        ends = interval(row["difference_low"], row["difference_high"], 3, True)
        said.append(f"{label}: {number(row['difference'], 3, True)} {ends}, p {p_value(row['p_value'])}")
        kind = "reasoning" if is_number(row["p_holm"]) and row["p_holm"] < LEVEL else "none"
        on = f" on {short(row['data'], _DATA)}"
        parts.append(text_at(left - 12, y + 4, short(row["edit"], _LABEL - len(on)) + on, "end", "strong"))
        parts.append(
            fill('<g class="kind {}"><line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                 '<circle cx="{}" cy="{}" r="4.5"/><title>{}</title></g>', kind, start, end, y, y, x, y, said[-1])
        )  # fmt: skip
        y += 26
    zero = scale(0.0, low, high, left, right)
    line = fill('<line class="axis" x1="{}" x2="{}" y1="4" y2="{}"/>', zero, zero, y)
    axis = x_axis(low, high, left, right, y, "share of the problems solved, with the edit less without", step)
    return svg("evaluations", y + 44, "Difference that each edit makes to the problems solved", "; ".join(said),
               [axis, line, *parts])  # fmt: skip
