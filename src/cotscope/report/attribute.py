"""The report's parts on the neurons' own push in generation, and on the neurons that results rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..measuring.trials import CALCULATES, NOT_SHOWN, TOO_FEW
from ..stats import LEAST_EFFECT, LEVEL
from .charts import SHARE, Chart, Mark, Row, intervals
from .reading import Reading
from .text import counted, is_number, number, with_interval

WAYS = {
    "lexicon": "by the words that they promote",
    "words": "by words alone, promoting no symbol",
    "attribution": "by attribution",
    "contrast": "more active when right than wrong",
    "size": "large on solutions, not on text",
    "paper": "by the paper's own words",
}
"""What the report calls each way of choosing."""
PUSH = {
    "untouched": "nothing disrupted",
    "zeroed": "the neurons zeroed",
    "indirect": "zeroed, their own push on the logits put back",
    "direct": "their own push on the logits taken away only",
    "within": "only what value vectors have in the span of operators' and equals signs' unembeddings taken away",
    "beyond": "only what value vectors have beyond that span taken away",
    "bias": "nothing zeroed; operators' and equals signs' logits lowered instead",
}

_SHORT = {
    "within": "push in the span of operators and = taken away",
    "beyond": "push beyond that span taken away",
    "bias": "logits of operators and = lowered instead",
}
"""The same in its figure, where they are too long."""


def push(run: Reading) -> dict[str, Any]:
    """What the model solves in each way, and what that says."""
    rows = [row | {"label": PUSH.get(row["way"], row["way"])} for row in run.rows("push")]
    damage = run.summary.get("damage") or {}
    effects = (damage.get("effects") or {}).get(damage.get("target")) or {}
    whole = (effects.get("operator") or {}).get("indirect", {}).get("log_prob", {}).get("change")
    biases = (run.summary.get("push") or {}).get("biases") or {}
    return {"rows": rows, "biases": biases, "says": _push_says(rows, whole), "chart": _push_chart(rows)}


def _push_says(rows: Sequence[Mapping[str, Any]], whole: float | None) -> str:
    """No more than the paired tests say. `whole`: what operators lose with the untouched model's push put back (nats)."""
    of = {row["way"]: row for row in rows}
    if not {"untouched", "zeroed", "indirect"} <= of.keys():
        return ""
    if not of["zeroed"]["against_untouched"] < LEVEL:
        return "Zeroing the neurons is not shown to change what the model solves, so that there is nothing to take apart."
    back, bias = of["indirect"], of.get("bias")
    returns = back["against_zeroed"] < LEVEL and back["accuracy"] > of["zeroed"]["accuracy"]
    zeroed, untouched = (number(of[name]["accuracy"]) for name in ("zeroed", "untouched"))
    solved = f"{number(back['accuracy'])}, zeroed {zeroed}, untouched {untouched}"
    restored = (
        f"With their own push put back more is solved ({solved})"
        + (
            "; a difference from the untouched model is not shown."
            if back["against_untouched"] >= LEVEL
            else f", and {'less' if back['accuracy'] < of['untouched']['accuracy'] else 'more'} than untouched."
        )
        if returns
        else f"That more is solved when their own push is put back is not shown ({solved})."
    )
    left = back.get("operator")
    if is_number(left) and is_number(whole) and left < whole - LEAST_EFFECT:
        restored += (
            f" But it is not the whole push: in the disrupted pass they push less, and operators of reference solutions change "
            f"by {number(left, 2, True)} nats with it, by {number(whole, 2, True)} with the untouched model's push."
        )
    if bias is None:  # of a study whose answers are words
        return restored
    lowers = bias["against_untouched"] < LEVEL and bias["accuracy"] < of["untouched"]["accuracy"]
    biased = number(bias["accuracy"])
    replaced = (
        f" With a bias on operators and equals signs alone, in the untouched model, less is solved too ({biased})"
        + ("; a difference from zeroing is not shown." if bias["against_zeroed"] >= LEVEL else ", but not as zeroing has it.")
        if lowers
        else f" That less is solved with a bias on operators and equals signs alone is not shown ({biased})."
    )
    return restored + replaced


def attribution(run: Reading) -> dict[str, Any]:
    """One row per way of choosing, a figure, and what the figures say."""
    summary = run.summary.get("attribution") or {}
    selected = run.summary.get("selected") or {}
    rows = [row | {"label": label(row)} for row in run.rows("selected")]
    return {
        "rows": rows,
        "untouched": selected,
        "check": summary.get("check") or {},
        "stability": summary.get("stability") or {},
        "concentration": summary.get("concentration") or {},
        "solutions": summary.get("solutions"),
        "says": _says(rows),
        "chart": _chart(rows, counted([selected.get("solutions")], "reference solutions")),
    }


def label(row: Mapping[str, Any]) -> str:
    """A selection, or its first neurons, in words."""
    way = row["selection"]
    return WAYS.get(way, way) + (f", first {row['neurons']}" if row["part"] == "first" else "")


def _says(rows: Sequence[Mapping[str, Any]]) -> str:
    """The finding in one sentence with its interval, and no more."""
    of = {row["selection"]: row for row in rows if row["part"] == "all"}
    found = of.get("attribution")
    if found is None or not is_number(found.get("p_value")):
        return ""
    name = "result_margin_indirect" if is_number(found.get("result_margin_indirect")) else "result_margin_total"
    where = " through later layers" if name == "result_margin_indirect" else ""
    own, random = (number(found[key], 2, True) for key in ("compared_margin", "controls_margin"))
    loss = (
        f"the results' logit margin changes by {_interval(found, name)} nats{where}; without the {found['compared']} of them "
        f"that have random ones like them by {own}, without those by {random}"
    )
    if found["verdict"] == TOO_FEW:
        return f"Without {found['neurons']} neurons that attribution finds on other problems {loss}; {TOO_FEW}."
    if found["verdict"] == NOT_SHOWN:
        return f"That results rest on {found['neurons']} neurons is not shown: without those that attribution chooses {loss}."
    sums = f"{number(found['compared_sums'])} of sums right, against {number(found['controls_sums'])} under random ones"
    said = f"Results rest on {found['neurons']} neurons that attribution finds on other problems: without them {loss}. "
    said += f"They calculate: {sums}" if found["verdict"] == CALCULATES else f"That sums need them is not shown ({sums})"
    if words := of.get("lexicon"):
        said += f". Without as many that promote the concepts' words the margin changes by {_interval(words, name)}"
    if few := [r for r in rows if (r["selection"], r["part"]) == ("attribution", "first")]:
        least = min(few, key=lambda r: int(r["neurons"]))
        said += f", without attribution's first {least['neurons']} alone by {_interval(least, name)}"
    return said + "."


def _interval(row: Mapping[str, Any], name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], sign=True)


def _chart(rows: Sequence[Mapping[str, Any]], n: str) -> Chart:
    """Per way of choosing: what the results' margin loses through later layers, with its interval, that without those alone
    that have random ones like them, and random sets' mean."""
    name = "result_margin_indirect"
    drawn = []
    for row in rows:
        if is_number(row[name]):
            marks = [Mark("reasoning", row[name], row[f"{name}_low"], row[f"{name}_high"])]
            if is_number(row.get("controls_margin")):
                if row["compared"] < row["neurons"]:
                    marks.append(Mark("comparable", row["compared_margin"], tip=f"the {row['compared']} of them compared:"))
                marks.append(Mark("matched", row["controls_margin"], tip=f"random sets like it, mean of {row['controls']}:"))
            drawn.append(Row(f"{row['label']} ({row['neurons']})", marks))
    axis = "change of the results' logit margin through later layers (nats)"
    legend = {
        "reasoning": "the neurons chosen",
        "comparable": "those with random ones like them",
        "matched": "random sets, mean",
    }
    ends = (name, f"{name}_low", f"{name}_high")
    columns = ("selection", "part", "neurons", *ends, "compared", "compared_margin", "controls_margin", "controls")
    return Chart(
        intervals("selected", "What results lose without neurons chosen in several ways", drawn, axis, legend=legend),
        "Further left: results lose more of their logit margin without these neurons, whose own push is put back; lines: "
        "intervals over problems. The comparison is of the second with the third: some neurons have none like them.",
        "attribute",
        "selected",
        [{key: row.get(key) for key in columns} for row in rows],
        n,
    )


def _push_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    ends = ("accuracy", "low", "high")
    kinds = {"untouched": "none"}
    drawn = [
        Row(_SHORT.get(row["way"], row["label"]), [Mark(kinds.get(row["way"], "reasoning"), *(row[key] for key in ends))])
        for row in rows
        if is_number(row["accuracy"])
    ]
    columns = ("way", "correct", "n", *ends, "against_untouched", "against_zeroed")
    return Chart(
        intervals("pushed", "Problems solved along each path", drawn, "share of the test problems solved", SHARE),
        "Dots: share solved; lines: 95 % intervals. What returns with the push put back was lost with that push.",
        "push",
        "push",
        [{key: row.get(key) for key in columns} for row in rows],
        counted((row["n"] for row in rows), "problems"),
    )
