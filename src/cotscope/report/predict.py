"""The report's part on prediction: which answers are right, and how many, told by activity and by what it has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from ..stats import LEVEL, wilson
from .charts import Chart, Look, Mark, Row, intervals
from .curves import Curve, Spot, Square, all_points, squares
from .reading import Reading
from .text import counted, is_number

CONTROL, LAYERS = "random neurons", "whole layers"
KINDS = {"activity": "reasoning", CONTROL: "matched", LAYERS: "matched", "baseline": "comparable"}
"""Kind of a way of telling → what it is drawn as."""
LEGEND = {"reasoning": "chosen neurons", "matched": "random neurons, or all", "comparable": "baselines"}
DRAWN = {"reasoning": "reasoning", "random 1": "matched", "confidence": "comparable", "probe": "other"}
"""Ways of telling whose curves are drawn → as what."""
SHOWN = tuple(DRAWN)
SENT = {
    "reasoning": "reasoning",
    "reasoning, who gains, at the first token": "matched",
    "confidence": "comparable",
    "at random": "other",
}
"""Routers of a cascade that are drawn → as what."""
READ = (
    "ROC: as more answers are taken for right, the surest first, what share of the wrong ones (to the right) and of the right "
    "ones (up) is among them; on the straight line nothing is told, further above it more. Calibration: fifths of the answers "
    "by the probability said; on the straight line as many are right as it says. Kept: the share right of the answers trusted "
    "most. Early: the area under the ROC curve after a part of the answer. Faint lines: 95 % intervals, of calibration "
    "Wilson’s (a little too narrow: answers of one template go together), of early over templates; ROC and kept have none."
)
"""How the curves are read."""
_AREA = Look(limits=(0.0, 1.0), whole=True, sign=False, digits=3)
_BINS = 5


def predict(run: Reading) -> dict[str, Any]:
    """Of each data set a sentence, a picture and a table; curves; carried over; shares of prompts."""
    ways = run.rows("predictors")
    predicted = run.rows("predictions")
    early, stopping = run.rows("early"), run.rows("stopping")
    shares, errors = run.rows("shares"), run.rows("share_errors")
    labels = list(dict.fromkeys(r["data"] for r in ways))
    found = run.summary.get("prediction") or {}
    return {
        "begun": run.state("predict").status != "missing",
        "data": [
            _data(i, label, [r for r in ways if r["data"] == label], found.get(label) or {}) for i, label in enumerate(labels)
        ],
        "curves": _curves(ways, predicted, early, run.rows("coverage")),
        "transfers": run.rows("transfers"),
        "stopping": [r for r in stopping if r["predictor"] == "reasoning" and r["stopped"] in (0.1, 0.3, 0.5)],
        "shares": [r for r in shares if r["family"] == "data"],
        "errors": [r for r in errors if r["family"] == "all" and r["problems"] is None],
        "prompts": _prompts([r for r in shares if r["family"] != "data"]),
        "cause": found.get("cause"),
        "cascade": _cascade(run),
        "level": LEVEL,
    }


def _data(place: int, label: str, rows: Sequence[Mapping[str, Any]], said: Mapping[str, Any]) -> dict[str, Any]:
    """One data set; its picture is known by its place: a label may hold any character."""
    own = next(r for r in rows if r["predictor"] == "reasoning")
    drawn = [
        Row(r["predictor"], [Mark(KINDS.get(r["kind"], "other"), r["auroc"], r["low"], r["high"])])
        for r in sorted(rows, key=lambda r: -r["auroc"])
    ]
    figure = intervals(f"areas-{place}", f"Area under the ROC curve on {label}", drawn,
                       "area under the ROC curve (0.5: nothing is told; 1: all)", _AREA, LEGEND)  # fmt: skip
    read = "Each dot: how well one way tells right answers from wrong ones on problems whose template it never saw; lines: "
    read += "95 % intervals over templates."
    n = counted([own["n"]], f"answers to problems of {counted([own['templates']], 'templates')}")
    return {
        "label": label,
        "own": own,
        "rows": rows,
        "shuffled": said.get("shuffled"),
        "confidence": next((r["auroc"] for r in rows if r["predictor"] == "confidence"), None),
        "random": fmean(controls) if (controls := [r["auroc"] for r in rows if r["predictor"].startswith("random")]) else None,
        "says": says(own, rows),
        "chart": Chart(figure, read, "predict", f"areas-{label}", rows, n),
    }


def says(own: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What the tests say of the reasoning neurons on one data set, and no more."""
    if not is_number(own["low"]) or own["low"] <= 0.5:
        return "their activity is not shown to tell right answers from wrong ones"
    beaten: list[str] = []
    for kinds, words in (((CONTROL, LAYERS), "random neurons or whole layers"), (("baseline",), "every baseline")):
        others = [r for r in rows if r["kind"] in kinds]
        better = [r["predictor"] for r in others if r["p_holm"] < LEVEL and r["difference"] < 0]
        if all(r["p_holm"] < LEVEL and r["difference"] > 0 for r in others):
            beaten.append(f"better than {words}")
        elif better:
            beaten.append(f"worse than {', '.join(better)}")
        else:
            beaten.append(f"not shown to be better than {words}")
    return "their activity tells right answers from wrong ones, " + ", and ".join(beaten)


def _curves(
    ways: Sequence[Mapping[str, Any]],
    predicted: Sequence[Mapping[str, Any]],
    early: Sequence[Mapping[str, Any]],
    coverage: Sequence[Mapping[str, Any]],
) -> Chart | None:
    """ROC, calibration, coverage and early curves of each data set."""
    every: list[Square] = []
    answers = {r["data"]: r["n"] for r in ways}
    for label in answers:
        of = {name: [r for r in predicted if (r["data"], r["predictor"]) == (label, name)] for name in SHOWN}

        def through(rows: Sequence[Mapping[str, Any]], x: str, y: str, label: str = label) -> list[Curve]:
            """A curve of each way of telling that has points."""
            found = {
                n: [Spot(r[x], r[y], r.get("low"), r.get("high")) for r in rows if (r["data"], r["predictor"]) == (label, n)]
                for n in SHOWN
            }
            return [Curve(DRAWN[n], n, p) for n, p in found.items() if p]

        told = [Curve(DRAWN[n], n, [Spot(*p) for p in roc(rows)]) for n, rows in of.items() if rows]
        sure = [Curve("reasoning", "reasoning", calibration(of["reasoning"]))]
        kept, seen = through(coverage, "coverage", "accuracy"), through(early, "stop", "auroc")
        every += [
            Square("ROC", "wrong answers passed", "right ones passed", told, even=True, data=label),
            Square("calibration", "probability said", "share right", sure, even=True, data=label),
            Square("kept", "share kept", "share right", kept, data=label),
            Square("early", "share of the answer seen", "area", seen, data=label),
        ]
    if not every:
        return None
    legend = {DRAWN[n]: n for n in SHOWN}
    figure = squares("prediction-curves", "Curves of predictions", every, legend)
    n = counted(answers.values(), "answers of each data set" if len(answers) > 1 else "answers")
    return Chart(figure, READ, "predict", "predictions", all_points(every), n)


def roc(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(wrong, right) shares above each threshold, from none to all; ties are taken together."""
    right = sum(r["correct"] for r in rows)
    wrong, points, hit, missed, last = len(rows) - right, [(0.0, 0.0)], 0, 0, None
    for r in sorted(rows, key=lambda r: -r["probability"]):
        if last is not None and r["probability"] != last:
            points.append((missed / max(wrong, 1), hit / max(right, 1)))
        hit, missed, last = hit + r["correct"], missed + (not r["correct"]), r["probability"]
    points.append((1.0, 1.0))
    return [points[0], *(b for a, b, c in zip(points, points[1:], points[2:]) if _turns(a, b, c)), points[-1]]


def _turns(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether a line through three points turns at the second: where it does not, a curve needs no point."""
    return (b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0])


def calibration(rows: Sequence[Mapping[str, Any]]) -> list[Spot]:
    """Mean probability and share right of fifths of the answers, in order of probability; Wilson's interval of the share."""
    order = sorted(rows, key=lambda r: r["probability"])
    cuts = [round(len(order) * i / _BINS) for i in range(_BINS + 1)]
    parts = [order[a:b] for a, b in pairwise(cuts) if b > a]
    hits = [sum(r["correct"] for r in p) for p in parts]
    return [
        Spot(sum(r["probability"] for r in p) / len(p), right / len(p), *wilson(right, len(p)))
        for p, right in zip(parts, hits, strict=True)
    ]


def _cascade(run: Reading) -> dict[str, Any]:
    """Accuracy against cost where questions are sent on to a larger model, by router."""
    rows, summary = run.rows("cascade"), run.summary.get("cascade") or {}
    curves: dict[str, dict[str, list[Spot]]] = {}
    for r in rows:
        if r["router"] in SENT and r["cost"] <= 1:
            curves.setdefault(r["data"], {}).setdefault(r["router"], []).append(Spot(r["cost"], r["accuracy"]))
    every = [
        Square("solved", "cost (the larger model alone: 1)", "share right",
               [Curve(SENT[name], name, spots) for name, spots in found.items()], data=label) for label, found in curves.items()
    ]  # fmt: skip
    read = "From left to right more answers are the larger model’s: the least trusted first, or those that gain most. The "
    read += "curves have no interval; the table has that of one point of each."
    n = counted((found["n"] for found in summary.values()), "problems" + (" of each data set" if len(summary) > 1 else ""))
    figure = squares("cascade", "Accuracy against cost", every, {kind: name for name, kind in SENT.items()})
    return {
        "begun": run.state("cascade").status != "missing",
        "chart": Chart(figure, read, "cascade", "cascade", all_points(every), n) if every else None,
        "data": summary,
    }


def _prompts(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Estimated against true accuracy of every prompt, on all problems that it was measured on."""
    largest: dict[tuple[str, str], int] = {}
    for r in rows:
        key = r["family"], r["name"]
        largest[key] = max(largest.get(key, 0), r["problems"])
    rows = [r for r in rows if r["problems"] == largest[r["family"], r["name"]]]
    methods = [m for m in ("reasoning", "random 1", "confidence", "ATC", "DoC") if any(r["method"] == m for r in rows)]
    every = [
        Square(m, "estimated", "true accuracy",
               [Curve(DRAWN.get(m, "comparable"), r["name"], [_estimated(r)], line=False) for r in rows if r["method"] == m],
               even=True) for m in methods
    ]  # fmt: skip
    if not every:
        return None
    read = "Each dot: a prompt that nothing was learned under. On the line the estimate is right. Faint lines: Wilson’s 95 % "
    read += "interval of the true accuracy; a single estimate has none, the mean error in the table has."
    n = counted(largest.values(), "problems under each prompt")
    figure = squares("prediction-prompts", "Estimated and true accuracy", every)
    return Chart(figure, read, "predict", "shares", all_points(every), n)


def _estimated(row: Mapping[str, Any]) -> Spot:
    """A prompt's estimated and true accuracy, with Wilson's interval of the latter."""
    n = row["problems"]
    return Spot(row["estimated"], row["accuracy"], *wilson(round(row["accuracy"] * n), n))
