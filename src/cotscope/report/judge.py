"""The report's part on the annotator: what it accepted, and what its audit says of that."""

from __future__ import annotations

from typing import Any

from .charts import SHARE, Chart, Look, Mark, Row, intervals
from .reading import Reading
from .svg import short
from .text import chip, counted, is_number, number

DECOYS = {
    "random": "poles with random tokens",
    "other_concept": "poles of one concept, asked about another",
}
"""What the report calls each kind of decoy."""
JUDGED = {
    "lexicon": ("lexicon", "lexicon only: all candidates"),
    "accepted": ("reasoning", "accepted by the judge"),
    "rejected": ("rejected", "rejected by the judge"),
}
"""Poles → the set that is zeroed, and what the report calls it."""
ARITHMETIC = ("operator", "equals", "result")
MOST_WORDS = 20  # of each kind
ALIKE = 20  # words with one confidence between them, from which on it says nothing
MOST_GROUPS, DRAWN_GROUPS = 30, 10
_SUM = Look(sign=False, digits=1)
_WORDS_SQL = """
    SELECT layer, "index", sign, concept, accepted, confidence, description, evidence, status, promoted
    FROM annotations LEFT JOIN poles USING (layer, "index", sign)
    WHERE status = 'failed' OR NOT accepted OR confidence IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY status, accepted ORDER BY steps DESC, layer, "index", sign, concept) <= ?
    ORDER BY status DESC, accepted DESC, steps DESC, layer, "index", sign, concept
"""
_CONFIDENCE_SQL = "SELECT count(*) AS n, min(confidence) AS low, max(confidence) AS high FROM annotations WHERE confidence >= 0"
_NAMES_SQL = """
    SELECT concept, count(*) AS poles, sum(strength) AS strength, mode(name) AS name, list(DISTINCT name) AS names
    FROM names WHERE status = 'answered' GROUP BY concept ORDER BY strength DESC, concept LIMIT ?
"""


def judge(run: Reading) -> dict[str, Any]:
    """The figures of `summary.judge`, the rows of `audit`, single words and free names. Empty without an audit."""
    summary = run.summary.get("judge") or {}
    rows = run.rows("audit")
    shares = [row for row in rows if row["measure"] == "accepted" and row["other"] in DECOYS]
    words = run.rows("annotations", _WORDS_SQL, [MOST_WORDS]) if summary else []
    for word in words:
        word["chips"] = [chip(token, token in (word["evidence"] or ())) for token in word["promoted"] or ()]
    names = run.rows("names", _NAMES_SQL, [MOST_GROUPS])
    difference = run.rows("judged")
    return {
        "summary": summary,
        "says": _says(summary, run.rows("annotations", _CONFIDENCE_SQL)) if summary else [],
        "shares": [row | {"label": DECOYS[row["other"]]} for row in shares],
        "retests": [row for row in rows if row["measure"] == "retest"],
        "chart": _chart(rows),
        "kappas": [row for row in rows if row["measure"] == "kappa"],
        "words": words,
        "most_words": MOST_WORDS,
        "names": names,
        "named": _names_chart(names),
        "difference": _difference(run) if difference else [],
        "prompts": difference[0]["prompts"] if difference else 0,
    }


def _chart(rows: list[dict[str, Any]]) -> Chart:
    """Shares of candidates' decoys that were accepted, and of repeated questions that were answered alike."""
    labels = {kind: f"accepted {label}" for kind, label in DECOYS.items()}
    shown = [row for row in rows if row["measure"] == "retest" or (row["measure"] == "accepted" and row["other"] in DECOYS)]
    drawn = [
        Row(f"{short(row['annotator'], 20)}: {labels.get(row['other'], 'said the same again')}",
            [Mark("reasoning", row["value"], row["low"], row["high"], f"{row['count']} of {row['n']},")])
        for row in shown if is_number(row["value"])
    ]  # fmt: skip
    return Chart(
        intervals("audit", "Blind tests of the annotator", drawn, "share of the cases", SHARE),
        "A good judge accepts no decoy and says the same twice; lines: 95 % intervals.",
        "annotate",
        "audit",
        shown,
        counted((row["n"] for row in shown), "cases of each test"),
    )


def _names_chart(names: list[dict[str, Any]]) -> Chart:
    """The names whose poles write most."""
    names = [row for row in names[:DRAWN_GROUPS] if is_number(row["strength"])]
    drawn = [Row(row["concept"] or "–", [Mark("other", row["strength"])]) for row in names]
    return Chart(
        intervals("names-figure", "What else is active, by free names", drawn, "sum of update sizes", _SUM),
        "Each dot: all strong poles of one name together, a sum without an interval.",
        "annotate",
        "names",
        [{key: row[key] for key in ("concept", "poles", "strength")} for row in names],
        counted([sum(row["poles"] for row in names) or None], "poles"),
    )


_TOTAL_SQL = """SELECT neuron_set, role, log_prob_change AS change, log_prob_low AS low, log_prob_high AS high
                FROM damage_solutions WHERE path = 'total'"""


def _difference(run: Reading) -> list[dict[str, Any]]:
    """One row per set: its neurons, what zeroing them does, the activity of its poles and how that goes with accuracy."""
    ablation = {row["neuron_set"]: row for row in run.rows("ablation")}
    change = {(row["neuron_set"], row["role"]): row for row in run.rows("damage_solutions", _TOTAL_SQL)}
    judged = {(row["poles"], row["activity"]): row for row in run.rows("judged")}
    rows = []
    for poles, (name, label) in JUDGED.items():
        row = {"label": label, "zeroed": ablation.get(name), "change": {r: change.get((name, r)) for r in ARITHMETIC}}
        rows.append(row | {way: judged.get((poles, way)) for way in ("own", "fixed")})
    return rows


def _says(summary: dict[str, Any], confidence: list[dict[str, Any]]) -> list[str]:
    """What follows from the figures, in whole sentences."""
    said = [
        f"It gives all {row['n']} words the confidence {number(row['low'])}: that says nothing."
        for row in confidence
        if row["n"] >= ALIKE and row["low"] == row["high"]
    ]
    n, failed, accepted = (summary.get(key) or 0 for key in ("candidates", "failed", "accepted"))
    answered = n - failed
    for kind, decoy in (summary.get("decoys") or {}).items():
        low, high = decoy["ci"]
        if not answered or not is_number(high):
            continue
        if high >= accepted / answered:
            said.append(
                f"That it accepts {DECOYS.get(kind, kind)} less readily than candidates is not shown ({decoy['accepted']} of "
                f"{decoy['n']}, beside {accepted} of {answered}): its word on candidates carries no information that this "
                "audit can show. A larger --audit can tell more."
            )
        elif low > 0.1:
            said.append(f"It accepts more than one in ten {DECOYS.get(kind, kind)}: some of its acceptances are false.")
    if not summary.get("decoys") and summary.get("annotator") != "lexicon":
        said.append("No decoys were asked about (--audit): nothing is known of its false acceptances.")
    return said
