"""The report's first screen: what was found in one sentence, how sure it is, and one problem with the model's solutions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ..data.roles import formulas
from ..stats import ANSWERS, ARITHMETIC, MATTERS, NOT_SHOWN, PUSH, TOO_FEW, UNSPLIT, paired_shares
from ..stats.verdicts import TOGETHER
from .charts import CHANGE, SHARE, Chart, Mark, Row, drawn, intervals
from .reading import Reading
from .svg import fill, svg, text_at
from .text import counted, interval, is_number, number, shortened

FINDINGS = {
    MATTERS: "The model’s {skill} depend{s} on these neurons, more than on other neurons like them.",
    PUSH: "Without these neurons {tokens} become less likely, more than without others like them. That the model {does} "
    "with them is not shown.",
    NOT_SHOWN: "It is not shown that these neurons do more for the model’s {skill} than other neurons like them.",
    UNSPLIT: "The model’s {skill} suffer{s} without these neurons, more than without others like them. Whether that is more "
    "than what they write to the output directly can’t be told on this model.",
    TOO_FEW: "Whether these neurons matter can’t be told yet: there are too few random sets of neurons to compare them with.",
}
"""The verdict of `stats/specific.py` for a reader who knows none of the tool's words, for `SKILLS` to fill in."""
SKILLS = {
    ARITHMETIC: {"skill": "arithmetic", "tokens": "arithmetic tokens", "s": "s", "does": "calculates"},
    ANSWERS: {"skill": "answers", "tokens": "answers", "s": "", "does": "finds answers"},
}
PHENOMENA = {
    "without_formulas": "Examples without formulas",
    "without_text": "Examples without words",
    "one_operation": "Examples of one operation",
    "wrong_results": "Examples with wrong results",
}
"""What the prompt's worked examples are changed to."""
VERDICTS = {
    TOGETHER: "activity goes with accuracy, more than that of other neurons",
    "activity moves as any neurons' does": "activity changes, but no more than that of other neurons",
    "accuracy moves without activity": "activity stands still while accuracy changes",
    "activity moves without accuracy": "activity changes, and accuracy is not seen to",
    "no change": "neither accuracy nor activity changes",
}
"""A verdict of `stats/verdicts.py` in other words, where it needs them."""
WIDTH, SMALL = 420, 200  # of the first screen's pictures
LONGEST = 700  # characters of a solution

_PAIR_SQL = """
    SELECT problem_id, question, answer, before.text AS before, after.text AS after, before.correct AS right_before,
           after.correct AS right_after, before.flexible AS read_before, after.flexible AS read_after
    FROM (SELECT * FROM completions WHERE family = 'study' AND neuron_set = 'none' AND prompt = ?) AS before
    JOIN (SELECT * FROM completions WHERE family = 'ablation' AND neuron_set = ?) AS after USING (problem_id)
    JOIN problems USING (problem_id) ORDER BY problem_id
"""


class Stretch(NamedTuple):
    """A piece of a solution; `lost`: a formula that the other solution has not."""

    text: str
    lost: bool


def first(run: Reading) -> dict[str, Any]:
    """What the first screen shows."""
    ablation = run.summary.get("ablation") or {}
    rows = {row["neuron_set"]: row for row in run.rows("ablation") if is_number(row["accuracy"])}
    target = "comparable" if ablation.get("target") == "comparable" else "reasoning"
    changed = run.rows("phenomena")
    phenomena = [_phenomenon(i, row, _spans(changed)) for i, row in enumerate(changed)]
    return {
        "finding": finding(run),
        "unasked": _unasked(run.summary),
        "ranks": _ranks((run.summary.get("damage") or {}).get("headline") or {}),
        "picture": _picture(rows, target, _shares(run, rows)),
        "problem": problem(run, run.first_prompt, target),
        "phenomena": phenomena,
        "explained": _explained([each["verdict"] for each in phenomena]),
        "changes": changes(changed),
        "concepts": list((run.summary.get("neurons") or {}).get("by_concept") or {}),
        **_solved(rows, target),
    }


def finding(run: Reading) -> str:
    """What was found, no more than the verdict says; and where a stage is missing or stale, what that leaves open."""
    damage = run.summary.get("damage") or {}
    verdict = (damage.get("headline") or {}).get("verdict")
    if verdict in FINDINGS:
        return FINDINGS[verdict].format(**SKILLS.get(damage.get("skill", ARITHMETIC), SKILLS[ARITHMETIC]))
    held = {name: run.state(name) for name in ("annotate", "ablate", "damage")}
    for name, state in held.items():
        if state.status == "stale":
            return f"What this run found does not hold any more: the stage {name} is stale."
        if state.status == "stopped":
            return f"What these neurons do can’t be said yet: the stage {name} has not ended."
    if not held["annotate"].current:
        return "Nothing has been found yet: the neurons have not been chosen."
    if not held["ablate"].current:
        return "What the model loses without these neurons has not been measured yet."
    if held["damage"].current:
        return "The problems solved without these neurons are counted. There was no solution to see what is lost, and why."
    return "The problems solved without these neurons are counted. What is lost, and why, has not been measured yet."


def _unasked(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The difference in problems solved, where it is there though nothing is shown by the rule, which does not ask for it."""
    found = (summary.get("ablation") or {}).get("specific") or {}
    verdict = ((summary.get("damage") or {}).get("headline") or {}).get("verdict")
    return found if verdict == NOT_SHOWN and is_number(found.get("high")) and found["high"] < 0 else None


def _ranks(headline: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Of each claim of the rule: what it is about, how many random sets do as much harm, and the p of that; the larger of the
    two that the rule asks for."""
    words = {"pushes": "", "matters": "with the push put back "}
    found = [(said, max(c["p_value"], c["p_beyond"])) for claim, said in words.items() if (c := headline.get(claim))]
    return [(said, round(p * (headline["sets"] + 1)) - 1, p) for said, p in found]


def _solved(rows: Mapping[str, Mapping[str, Any]], target: str) -> dict[str, Any]:
    """What share of the problems is solved untouched, without the set, and without its counterparts on average."""
    matched = [row["accuracy"] for row in rows.values() if row["kind"] == "matched"]
    return {
        "untouched": rows.get("none"),
        "whole": rows.get("reasoning") if target == "comparable" else None,
        "without": rows.get(target),
        "matched": sum(matched) / len(matched) if matched else None,
        "sets": len(matched),
    }


def _shares(run: Reading, rows: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Of each problem the share of matched sets without which it is solved."""
    matched = [name for name, row in rows.items() if row["kind"] == "matched"]
    sql = "SELECT avg(correct::INT) AS share FROM completions WHERE family = 'ablation' AND list_contains(?, neuron_set) "
    return [row["share"] for row in run.rows("completions", sql + "GROUP BY problem_id ORDER BY problem_id", [matched])]


def _picture(rows: Mapping[str, Mapping[str, Any]], target: str, shares: Sequence[float]) -> Chart | None:
    """Accuracy untouched, without matched neurons, without the reasoning neurons.

    Args:
        shares: of each problem the share of matched sets without which it is solved: for the interval of their mean.
    """
    paired = target == "comparable"
    without = {"reasoning": f"without {'all' if paired else 'the'} reasoning neurons"}
    without |= {"comparable": "without those that have a counterpart"} if paired else {}
    pictured: list[Row] = []
    shown = [rows["none"]] if "none" in rows else []
    if shown:
        pictured.append(Row("nothing taken out", [_mark(rows["none"])]))
    for name, label in without.items():
        if row := rows.get(name):
            pictured.append(Row(f"{label} ({row['neurons']})", [_mark(row)]))
            shown.append(row)
    if each := [row for row in rows.values() if row["kind"] == "matched"]:
        mean = sum(row["accuracy"] for row in each) / len(each)
        dots = [_mark(row)._replace(tip=row["neuron_set"], small=True) for row in each]
        sets = "1 set" if len(each) == 1 else f"{len(each)} sets, mean"
        label = f"without {'their counterparts' if paired else 'others like them'} ({sets})"
        _, low, high = paired_shares(shares)
        pictured.append(Row(label, [Mark("matched", mean, max(0.0, low), high, "mean"), *(dots if len(dots) > 1 else ())]))
        shown += each
    axis = "share of the test problems solved"
    figure = intervals("solved", "Problems solved without sets of neurons", pictured, axis, SHARE._replace(width=WIDTH))
    if not figure or not shown:
        return None
    columns = ("neuron_set", "kind", "neurons", "correct", "n", "accuracy", "low", "high")
    read = f"Dots: share of {shown[0]['n']} problems; lines: 95 % intervals over problems"
    read += "; small dots: sets of other neurons." if len(each) > 1 else "."
    return Chart(figure, read, "ablate", "solved", [{key: row.get(key) for key in columns} for row in shown])


def _mark(row: Mapping[str, Any]) -> Mark:
    return Mark(row["kind"], row["accuracy"], row.get("low"), row.get("high"), f"{row.get('correct')} of {row.get('n')},")


def problem(run: Reading, prompt: str, zeroed: str) -> dict[str, Any] | None:
    """One problem with the model's solution untouched and with a set zeroed, and how it was chosen; None: there is none.

    The first by its id of those that were right before and are wrong after; else of those solved before; else of all.
    """
    pairs = run.rows("completions", _PAIR_SQL, [prompt, zeroed]) if run.has("problems") else []
    if not pairs:
        return None
    lost = [pair for pair in pairs if pair["right_before"] and not pair["right_after"]]
    gained = sum(pair["right_after"] and not pair["right_before"] for pair in pairs)
    solved = [pair for pair in pairs if pair["right_before"]]
    counts = f"{len(pairs)} problems: {len(lost)} solved only with the neurons, {gained} only without them"
    if lost:
        chosen = (
            f"Not picked by hand: the first of the {len(lost)} problems (of {len(pairs)}) that are solved only with the "
            f"neurons; {gained} {'is' if gained == 1 else 'are'} solved only without them."
        )
    elif solved:
        chosen = f"No problem is lost ({counts}); this is the first by its id of those solved with them."
    else:
        chosen = f"No problem is solved with the neurons in place ({counts}); this is the first by its id."
    pair = (lost or solved or pairs)[0]
    before, after = (shortened(pair[key] or "", LONGEST) for key in ("before", "after"))
    of_words = not any(map(str.isdigit, pair["answer"]))
    found = stretches(before, pair["after"] or "", of_words)  # what is cut from the picture is not lost
    without = "Without them" if zeroed == "reasoning" else "Without those that have a counterpart"
    return {
        "id": pair["problem_id"],
        "question": (pair["question"] or "").strip().split("\n"),
        "answer": pair["answer"],
        "chosen": chosen,
        "parts": "lines" if of_words else "formulas",
        "lost": sum(stretch.lost for line in found for stretch in line),
        "sides": [
            {"label": "With the neurons in place", "lines": found, "right": pair["right_before"], "read": pair["read_before"]},
            {"label": without, "lines": [[Stretch(line, False)] for line in after.strip("\n").split("\n")],
             "right": pair["right_after"], "read": pair["read_after"]},
        ],
    }  # fmt: skip


def stretches(text: str, other: str, whole_lines: bool = False) -> list[list[Stretch]]:
    """The lines of a solution, its formulas that another one lacks apart (but for blanks, commas and signs of money).

    Args:
        whole_lines: lines that it lacks, in place of formulas.
    """
    if whole_lines:
        there = set(map(str.strip, other.split("\n")))
        return [[Stretch(line, line.strip() not in there)] if line else [] for line in text.strip("\n").split("\n")]
    kept = {_plain(other[start:end]) for start, end in formulas(other)}
    lines = []
    for line in text.strip("\n").split("\n"):
        pieces, at = [], 0
        for start, end in formulas(line):
            pieces += [Stretch(line[at:start], False), Stretch(line[start:end], _plain(line[start:end]) not in kept)]
            at = end
        lines.append([piece for piece in (*pieces, Stretch(line[at:], False)) if piece.text])
    return lines


def _plain(formula: str) -> str:
    return re.sub(r"[\s,$€£]", "", formula)


def _spans(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How far the scales of the small pictures reach, the same for all of them, so that they can be held against each other."""
    keys = {of: [f"{of}_{end}" for end in ("change", "low", "high")] for of in ("accuracy", "activity")}
    return {of: 1.15 * max([1e-9, *(abs(row[k]) for row in rows for k in names if is_number(row.get(k)))])
            for of, names in keys.items()}  # fmt: skip


def _phenomenon(place: int, row: Mapping[str, Any], spans: Mapping[str, float]) -> dict[str, Any]:
    """One of the four phenomena: its small picture and its verdict."""
    verdict = row.get("verdict") or "not judged"
    verdict = TOGETHER if verdict == "explained" else verdict  # as it was called until 2026-11-29
    return {
        "label": _label(row),
        "verdict": verdict,
        "words": VERDICTS.get(verdict, ""),
        "needs": row.get("verdict_needs"),
        "figure": _changes(f"phenomenon-{place}", row, spans),
        "n": row.get("n"),
    }


def _label(row: Mapping[str, Any]) -> str:
    name: str = row["phenomenon"]
    return PHENOMENA.get(name, name.replace("_", " ").capitalize())


def changes(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """The picture of the phenomena's own section: changes of accuracy, and of both activities."""
    ends = ("change", "low", "high")

    def mark(row: Mapping[str, Any], kind: str, of: str) -> list[Mark]:
        value, low, high = (row.get(f"{of}_{end}") for end in ends)
        return [Mark(kind, value, low, high)] if is_number(value) else []

    solved = [Row(_label(row), mark(row, "none", "accuracy")) for row in rows]
    active = [Row(_label(row), mark(row, "reasoning", "activity") + mark(row, "comparable", "fixed")) for row in rows]
    both = any(len(row.marks) > 1 for row in active)
    legend = {"reasoning": "generated activity", "comparable": "teacher-forced activity"} if both else None
    per_token = "change of active reasoning poles per token"
    figure = intervals("phenomena-accuracy", "Change of accuracy", solved, "change of the share of problems solved")
    figure += intervals("phenomena-activity", "Change of activity", active, per_token, legend=legend)
    columns = [f"{of}_{end}" for of in ("accuracy", "activity", "fixed") for end in ends]
    return Chart(
        figure,
        "Left of 0: fewer problems are solved, or fewer reasoning poles are active, than under the first prompt; lines: 95 % "
        "intervals over problems.",
        "correlate",
        "phenomena",
        [{key: row.get(key) for key in ("phenomenon", "n", *columns, "verdict")} for row in rows],
        counted((row.get("n") for row in rows), "problems"),
    )


def _explained(verdicts: Sequence[str]) -> str:
    """The answer to what the four pictures ask, in a sentence."""
    yes = verdicts.count(TOGETHER)
    if not yes:
        return "That it does, beyond other neurons’, is not shown for any of these changes of the prompt."
    return f"Beyond other neurons’, for {yes} of these {len(verdicts)} changes. That one makes the other is not shown."


def _changes(name: str, row: Mapping[str, Any], spans: Mapping[str, float]) -> Markup:
    """Two lanes around 0: the change of accuracy, and that of activity, each on its own scale."""
    parts, y, said = [], 0.0, []
    for of, label in (("accuracy", "problems solved"), ("activity", "active neurons per token")):
        value, low, high = (row.get(f"{of}_{end}") for end in ("change", "low", "high"))
        span = spans[of]
        middle = y + 24
        parts.append(text_at(0, y + 12, label, "start", "small"))
        parts.append(text_at(SMALL - 1, y + 12, number(value, 2, True), "end", "strong small"))
        parts.append(fill('<line class="track" x1="4" x2="{}" y1="{}" y2="{}"/>', SMALL - 4, middle, middle))
        parts.append(fill('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>', SMALL / 2, middle - 8, middle + 8))
        if is_number(value):
            dot = Mark("reasoning" if of == "activity" else "none", value, low, high)
            parts.append(drawn(dot, middle, (-span, span, 4, SMALL - 4), f"change of {label}", CHANGE))
            said.append(f"change of {label}: {number(value, 2, True)} {interval(low, high, 2, True)}")
        y += 38
    return svg(name, y, f"Changes: {row['phenomenon']}", "; ".join(said), parts, SMALL)
