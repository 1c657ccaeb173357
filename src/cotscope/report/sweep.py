"""The report's part on kinds, doses and scopes of disruption: its dose curves, its tables, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from .charts import Chart
from .reading import Reading
from .svg import WIDTH, decimals, fill, round_range, scale, svg, text_at, ticks, x_axis
from .text import KINDS, counted, is_number, number, with_interval

OUTCOMES = {
    "operator": ("operators", "log-probability of operators"),
    "equals": ("equals signs", "log-probability of equals signs"),
    "result": ("results", "log-probability of results"),
    "elsewhere": ("other tokens", "log-probability of other tokens"),
    "battery": ("other skills", "other skills (share right)"),
    "perplexity": ("perplexity", "perplexity on general text"),
    "kl": ("KL", "KL on general text"),
}
"""What the report calls each outcome, in short and in full, in the order in which it shows them."""
OF = {"battery": "items", "perplexity": "tokens of text", "kl": "tokens of text"}
"""Of what an outcome is measured, if not on reference solutions."""
FIRST = ("operator", "result", "battery")  # whose figures stand open
SCOPES = {"all": "whole sequence", "prompt": "prompt only", "generated": "generated only"}


class Panel(NamedTuple):
    """Half of a dose figure: the kind of disruption on its x axis, and the dose at which nothing happens."""

    kind: str
    label: str
    untouched: float
    low: float
    high: float


PANELS = (
    Panel("scale", "coefficients multiplied by", 1.0, 0.0, 2.0),
    Panel("noise", "noise added to value vectors, in multiples of their own size", 0.0, 0.0, 3.0),
)


def sweep(run: Reading) -> dict[str, Any]:
    """The part's content."""
    rows = [row for row in run.rows("sweep") if row["set_kind"] != "none"]
    if not rows:
        return {"rows": []}
    sets = {row["neuron_set"]: row["set_kind"] for row in rows}
    outcomes = [o for o in dict.fromkeys((*OUTCOMES, *(row["outcome"] for row in rows)))
                if any(row["outcome"] == o for row in rows)]  # fmt: skip
    summary = run.summary.get("disruptions") or {}
    target = summary.get("target")
    ways = list(dict.fromkeys((row["kind"], row["dose"], row["scope"]) for row in rows))
    specific = {
        (way["kind"], way["dose"], way["scope"], outcome): found
        for way in (summary.get("specific") or {}).values()
        for outcome, found in way["outcomes"].items()
    }
    charts = [(o, _chart(i, o, [r for r in rows if r["outcome"] == o], sets))
              for i, o in enumerate(outcomes) if o != "perplexity"]  # fmt: skip
    return {
        "rows": rows,
        "sets": [(name, kind, KINDS.get(kind, kind)) for name, kind in sets.items()],
        "target": KINDS.get(sets.get(target, ""), target),
        "matched": len(summary.get("matched") or ()),
        "outcomes": [(o, OUTCOMES.get(o, (o, o))[0]) for o in outcomes],
        "ways": [(way, _label(*way[:2]), SCOPES.get(way[2], way[2])) for way in ways],
        "of_target": {
            (row["kind"], row["dose"], row["scope"], row["outcome"]): row for row in rows if row["neuron_set"] == target
        },
        "specific": specific,
        "first": [chart for o, chart in charts if o in FIRST and chart.figure],
        "others": [chart for o, chart in charts if o not in FIRST and chart.figure],
        "counts": {o: _worse([f for key, f in specific.items() if key[3] == o]) for o in ("operator", "result", "battery")},
    }


def _worse(found: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many intervals lie below 0, of how many."""
    return sum(is_number(f.get("high")) and f["high"] < 0 for f in found), len(found)


def _label(kind: str, dose: float | None) -> str:
    if kind == "scale":
        return "zeroed" if dose == 0 else f"× {number(dose, 2)}"
    if kind == "noise":
        return f"noise, {number(dose, 1)} × own size"
    names = {"mean": "set to the mean", "resample": "as on another problem", "paper_noise": "noise of the paper's code"}
    return names.get(kind, kind)


class _Frame(NamedTuple):
    """Where one panel is drawn, and the doses and changes that it spans."""

    left: float
    right: float
    top: float
    bottom: float
    doses: tuple[float, float]
    changes: tuple[float, float]

    def x(self, dose: float) -> float:
        return scale(min(max(dose, self.doses[0]), self.doses[1]), *self.doses, self.left, self.right)

    def y(self, change: float) -> float:
        return scale(change, *self.changes, self.bottom, self.top)


def _chart(place: int, outcome: str, rows: Sequence[Mapping[str, Any]], sets: Mapping[str, str]) -> Chart:
    columns = ("neuron_set", "kind", "dose", "scope", "n", "value", "change", "low", "high")
    certain = any(is_number(row["low"]) for row in rows)
    return Chart(
        dose_curves(place, OUTCOMES.get(outcome, (outcome, outcome))[1], rows, sets),
        "Lines: change from the untouched model (log-probabilities in nats per token, skills as a share), "
        + ("with 95 % intervals over problems or items." if certain else "no interval."),
        "sweep",
        f"sweep-{place}",
        [{key: row[key] for key in columns} for row in rows],
        counted((row["n"] for row in rows), OF.get(outcome, "reference solutions")),
    )


def dose_curves(place: int, label: str, rows: Sequence[Mapping[str, Any]], sets: Mapping[str, str]) -> Markup:
    """One outcome's change against the dose: a line for each set, scaling on the left, noise on the right.

    Args:
        place: of the figure among its like.
        rows: of the table `disruptions`, of one outcome.
        sets: set → its kind.
    """
    known = {panel.kind for panel in PANELS}
    drawn = [r for r in rows if r["kind"] in known and r["scope"] == "all" and is_number(r["dose"]) and is_number(r["change"])]
    if not drawn:
        return Markup("")
    top, bottom, first, gap = 28.0, 220.0, 64.0, 34.0
    wide = (WIDTH - first - 16 - gap * (len(PANELS) - 1)) / len(PANELS)
    low, high, step = round_range([0.0, *(r[k] for r in drawn for k in ("change", "low", "high") if is_number(r[k]))])
    parts: list[Markup] = []
    for i, panel in enumerate(PANELS):
        left, margin = first + i * (wide + gap), (panel.high - panel.low) * 0.05
        doses = panel.low - margin, panel.high + margin
        frame = _Frame(left, left + wide, top, bottom, doses, (low, high))
        for tick in ticks(low, high, step):
            kind = "grid" if abs(tick) > step / 2 else "axis"
            y = frame.y(tick)
            parts.append(fill('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>', kind, left, frame.right, y, y))
            if not i:
                parts.append(text_at(left - 8, y + 4, number(tick, decimals(step), sign=True), "end", "muted"))
        parts.append(x_axis(*doses, left, frame.right, bottom, panel.label, 0.5))
        for n, (name, kind) in enumerate(sets.items()):
            own = sorted((r for r in drawn if (r["neuron_set"], r["kind"]) == (name, panel.kind)), key=lambda r: r["dose"])
            shift = (n - (len(sets) - 1) / 2) * 4  # intervals of different sets stand beside each other
            parts.append(_curve(kind, own, panel, frame, shift))
    parts.append(fill('<text class="muted" transform="translate(14 {}) rotate(-90)" text-anchor="middle">change</text>',
                       (top + bottom) / 2))  # fmt: skip
    title = f"Change in {label}, by dose"
    parts.append(text_at(first, top - 12, title, "start", "strong"))
    return svg(f"dose-{place}", bottom + 44, title, "; ".join(map(_tip, drawn)), parts)


def _tip(row: Mapping[str, Any]) -> str:
    change = with_interval(row["change"], row["low"], row["high"], 3, sign=True)
    return f"{row['neuron_set']}, {_label(row['kind'], row['dose'])}: {change}"


def _curve(kind: str, rows: Sequence[Mapping[str, Any]], panel: Panel, frame: _Frame, shift: float) -> Markup:
    """One set's line through the untouched model, with a dot and an interval at each dose."""
    line = sorted([*((r["dose"], r["change"]) for r in rows), (panel.untouched, 0.0)])
    path = "M" + "L".join(f"{frame.x(dose) + shift:.2f} {frame.y(change):.2f}" for dose, change in line)
    parts = [fill('<path d="{}" fill="none" stroke="currentColor" stroke-width="1.6"/>', path)]
    for row in rows:
        x = frame.x(row["dose"]) + shift
        if is_number(row["low"]) and is_number(row["high"]):
            parts.append(fill('<path class="whisker" d="M{} {}V{}"/>', x, frame.y(row["low"]), frame.y(row["high"])))
        parts.append(fill('<g><circle cx="{}" cy="{}" r="3.2"/><title>{}</title></g>', x, frame.y(row["change"]), _tip(row)))
    return fill('<g class="kind {}">{}</g>', kind if kind.isidentifier() else "other", Markup("").join(parts))
