"""The report's part on edits: what each does to the problems solved and to everything else, and where answers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..data.reckoning import OUTCOMES
from ..stats import LEVEL
from .charts import Chart, Look, Mark, Row, intervals
from .reading import Reading
from .svg import short
from .text import counted, is_number, p_value, shortened, visible

EXAMPLES = 3
"""Of each kind."""
FEW = 4
"""The most that have a sentence on their first results; of more these stand in the table alone."""
LONGEST = 1500
"""Characters of a text that are shown; the middle of a longer one is left out."""
_MEANS = ("validation_base", "validation", "written", "battery_base", "battery", "perplexity_ratio", "kl")
_MOST = ("minutes", "peak_gib")  # of one that searched its learning rate, which the others took
_LABEL, _DATA = 38, 16  # characters of a row's label in the figure, and of the data set's name in it

_CHANGED_SQL = """
    SELECT *, count(*) OVER (PARTITION BY edit, kind) AS of_kind FROM (
        SELECT *, CASE WHEN correct = correct_base THEN 2 WHEN correct THEN 1 ELSE 0 END AS kind
        FROM evaluations_by_problem WHERE text != text_base OR correct != correct_base)
    QUALIFY row_number() OVER (PARTITION BY edit, kind ORDER BY data, problem_id) <= ?
    ORDER BY edit, kind, data, problem_id
"""
_BECAME_SQL = """
    SELECT edit, data, first_result, count(*) AS texts FROM evaluations_by_problem
    WHERE first_result_base = 'right' GROUP BY ALL
"""
FEWER = "it solves fewer"
_KINDS = ("lost", "gained", "written otherwise")


def evaluate(run: Reading) -> dict[str, Any]:
    """A row per edit and data set with what its paired test says, a figure, and problems to which something else is written."""
    rows = [row | {"says": says(row)} for row in run.rows("evaluations")]
    changed = run.rows("evaluations_by_problem", _CHANGED_SQL, [EXAMPLES])
    examples = []
    for edit in dict.fromkeys(row["edit"] for row in rows):
        shown = [_example(found) for found in changed if found["edit"] == edit]
        counts = {row["kind"]: row["of_kind"] for row in shown}
        several = sum(row["edit"] == edit for row in rows) > 1
        if shown:
            examples.append({"edit": edit, "several": several, "problems": shown, "counts": counts})
    return {
        "rows": rows,
        "tested": sum(row["difference_low"] != row["difference_high"] for row in rows),  # the others change nothing
        "reckoned": _reckoned(run, rows),
        "rounding": [row for row in rows if row["rounding_dtype"]],
        "beside": list({row["edit"]: row for row in rows}.values()),  # the same on all data: one row of each edit
        "trainings": trainings(rows),
        "contrasts": [row | {"says": _more(row)} for row in run.rows("evaluation_contrasts")],
        "courses": courses(run.rows("evaluation_curves")),
        "candidates": run.rows("evaluation_candidates"),
        "sets": list(dict.fromkeys(row["data"] for row in rows)),
        "examples": examples,
        "chart": _chart(rows),
        "level": LEVEL,
        "begun": run.state("evaluate").status != "missing",
    }


def trainings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per way of training and of choosing neurons: means over its edits (of other seeds), and the ends of differences."""
    trained = [row for row in rows if row.get("method")]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in trained:
        groups.setdefault(row["terms"] or row["edit"], []).append(row)
    found = []
    for of in groups.values():
        edits = list({row["edit"]: row for row in of}.values())
        random, (method, by, numbers) = is_number(of[0]["random"]), (of[0][key] for key in ("method", "chosen_by", "numbers"))
        by = "" if by == method else f"random, like {by}" if random else by
        about = {
            "method": method,
            "by": by,
            "numbers": numbers,
            "edits": len(edits),
            "terms": _terms(of[0], len({row["rate"] for row in edits}) == 1),
        }
        for key in _MEANS:
            values = [row[key] for row in edits if is_number(row[key])]
            about[key] = fmean(values) if values else None
        about |= {key: max((row[key] for row in edits if is_number(row[key])), default=None) for key in _MOST}
        gains = []
        for data in dict.fromkeys(row["data"] for row in rows):
            here = [row["difference"] for row in of if row["data"] == data and is_number(row["difference"])]
            gains.append((fmean(here), min(here), max(here)) if here else None)
        found.append(about | {"gains": gains})
    return found


def courses(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per edit and learning rate: what each pass came to, the base first where it is told."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["edit"], row["rate"]), []).append(row)
    return [
        {"edit": edit, "rate": rate, "points": sorted(of, key=lambda row: row["passes"]), "problems": of[0]["problems"],
         "taken": next((row["passes"] for row in of if row["taken"]), None)}
        for (edit, rate), of in found.items()
    ]  # fmt: skip


def _terms(row: Mapping[str, Any], one_rate: bool) -> str:
    """What edits of a group were trained on, in words, by one of them; "" where the file does not say."""
    if not row["trained_on"]:
        return ""
    own = "its own right solutions to " if row["own"] else ""
    terms = [f"on {own}{row['trained_on']}"]
    terms += [f"at most {row['train']} problems"] if is_number(row["train"]) else []
    terms += [f"{row['loss']} only"] if row["loss"] == "formulas" else []
    terms += [f"in {row['trained_dtype']}"] if row["trained_dtype"] else []
    terms += [row["how"]] if row["how"] else []
    terms += [f"rate {row['rate']:g}"] if one_rate and is_number(row["rate"]) else []
    return ", ".join(terms)


def says(row: Mapping[str, Any]) -> str:
    """What the paired test of problems solved says, over all that was compared, and no more."""
    if not is_number(row.get("p_holm")) or not is_number(row.get("difference")):
        return "nothing was compared"
    if row["p_holm"] >= LEVEL:
        return "a difference is not shown"
    return FEWER if row["difference"] < 0 else "it solves more"


def _reckoned(run: Reading, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per edit and data set whose texts have formulas: what stands in the place of first results, and what came of those
    that were right untouched. `told` is of the few that are shown to solve fewer: each has a sentence."""
    became: dict[tuple[str, str], dict[str | None, int]] = {}
    for r in run.rows("evaluations_by_problem", _BECAME_SQL):
        became.setdefault((r["edit"], r["data"]), {})[r["first_result"]] = r["texts"]
    found = list[dict[str, Any]]()
    for row in rows:
        if any(row[f"first_{outcome}{end}"] for outcome in OUTCOMES for end in ("_base", "")):
            of = became.get((row["edit"], row["data"]), {})
            found.append(dict(row) | {"became": {o or "none": of.get(o, 0) for o in (*OUTCOMES, None)}})
    told = sum(row["says"] == FEWER for row in found)
    return [row | {"told": row["says"] == FEWER and told <= FEW} for row in found]


def _more(row: Mapping[str, Any]) -> str:
    """What a contrast says of the edits on its left."""
    if not is_number(row.get("p_holm")) or row["p_holm"] >= LEVEL:
        return "a difference is not shown"
    more = "they solve fewer" if row["difference"] < 0 else "they solve more"
    if not is_number(unlike := row.get("p_unlike_holm")):
        return more
    shown = "shown" if unlike < LEVEL else "not shown"
    as_one = f"that another random set would not is {shown} (p {p_value(unlike)} by its rank as one more of those)"
    return f"{more} than random ones on average; {as_one}"


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    """One problem to which something else is written, its texts in lines."""
    return dict(row) | {"kind": _KINDS[row["kind"]]} | {key: _lines(row[key]) for key in ("question", "text_base", "text")}


def _lines(text: str | None) -> list[str]:
    """The lines of a text that a model or a file of problems holds; hidden characters are made visible by the page."""
    text = shortened((text or "").strip("\n"), LONGEST)
    return text.split("\n") if text else []


def _chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Per edit and data set: how many more problems are solved with the edit than without, with its interval."""
    ends = ("difference", "difference_low", "difference_high")
    rows = [row for row in rows if all(is_number(row[key]) for key in ends)]
    drawn = []
    for row in rows:
        kind = "reasoning" if is_number(row["p_holm"]) and row["p_holm"] < LEVEL else "none"
        on = f" on {short(row['data'], _DATA)}"
        label = short(row["edit"], _LABEL - len(on)) + on
        whole = f"{row['edit']} on {row['data']}"
        tip = f"{'' if label == visible(whole) else whole + ', '}p {p_value(row['p_value'])},"
        drawn.append(Row(label, [Mark(kind, *(row[key] for key in ends))._replace(tip=tip)]))
    axis, look = "share of the problems solved, with the edit less without", Look(limits=(-1.0, 1.0), digits=3)
    columns = ("edit", "data", "n", *ends, "p_value", "p_holm")
    return Chart(
        intervals("evaluations-figure", "Difference that each edit makes to the problems solved", drawn, axis, look),
        "Problems solved with the edit, less without, with 95 % intervals; grey where the paired test (Holm’s p, not the "
        "interval) shows no difference.",
        "evaluate",
        "evaluations",
        [{key: row[key] for key in columns} for row in rows],
        counted((row["n"] for row in rows), "problems"),
    )
