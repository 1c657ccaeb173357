"""Measure: accuracy and own activity under every prompt.

Own activity is measured on the tokens that the model itself generated (design, section 2).

Reads: `annotations`. Writes: completions and activity of `measure.<prompt>`; `prompts`, `prompt_concepts`.
"""

from __future__ import annotations

from tqdm import tqdm

from ..session import Session
from ..stats import wilson

UNITS = {
    "prompts.*.own_activity": "active reasoning poles per generated token, over the model's own completions",
    "prompts.*.fixed_activity": "the same on one gold continuation under every prompt; null: not measured",
    "prompts.*.strength": "sum of the reasoning poles' update sizes per generated token",
    "prompts.*.distinct_poles": "reasoning poles that were active at least once",
}


def measure(session: Session) -> None:
    """Run the stage. Prompts that have been run are not run again."""
    run = session.run
    run.require("annotate", f"cotscope annotate {run.folder}")
    with run.stage("measure", UNITS):
        bar = tqdm(session.prompts, desc="measuring", unit="prompt", disable=session.quiet, leave=False)
        for prompt in bar:
            session.solve(f"measure.{prompt.name}", prompt, "test", record=True)
        _write_prompts(session)
        _write_concepts(session)


_TOTALS = """SELECT condition, count(*) AS n, count(*) FILTER (correct) AS correct,
                    count(*) FILTER (correct_strict) AS strict, sum(tokens)::BIGINT AS tokens
             FROM completions GROUP BY condition"""


def _write_prompts(session: Session) -> None:
    run = session.run
    totals = {r["condition"]: r for r in run.rows(_TOTALS)}
    activity = {
        r["condition"]: r
        for r in run.rows(
            """SELECT condition, sum(steps) AS steps, sum(update_size) AS strength,
                      count(DISTINCT (layer, index, sign)) AS distinct_poles
               FROM activity SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
               GROUP BY condition"""
        )
    }
    nothing = {"steps": 0, "strength": 0.0, "distinct_poles": 0}
    rows = []
    for prompt in session.prompts:
        total = totals[f"measure.{prompt.name}"]
        active = activity.get(f"measure.{prompt.name}", nothing)
        low, high = wilson(total["correct"], total["n"])
        tokens = max(total["tokens"], 1)
        rows.append(
            {
                "prompt": prompt.name,
                "n": total["n"],
                "correct": total["correct"],
                "accuracy": total["correct"] / total["n"],
                "low": low,
                "high": high,
                "accuracy_strict": total["strict"] / total["n"],
                "tokens_per_problem": total["tokens"] / total["n"],
                "poles_per_token": float(active["steps"]) / tokens,
                "strength_per_token": active["strength"] / tokens,
                "distinct_poles": active["distinct_poles"],
            }
        )
    run.write_rows("prompts", rows)
    run.summarise(
        "prompts",
        {
            r["prompt"]: {
                "accuracy": r["accuracy"],
                "accuracy_strict": r["accuracy_strict"],
                "ci": [r["low"], r["high"]],
                "n": r["n"],
                "own_activity": r["poles_per_token"],
                "fixed_activity": None,
                "strength": r["strength_per_token"],
                "distinct_poles": r["distinct_poles"],
                "tokens_per_problem": r["tokens_per_problem"],
            }
            for r in rows
        },
    )


def _write_concepts(session: Session) -> None:
    table = session.run.query(
        """WITH totals AS (SELECT condition, prompt, sum(tokens) AS tokens FROM completions GROUP BY ALL)
           SELECT prompt, concept, sum(steps)::DOUBLE / any_value(tokens) AS poles_per_token,
                  sum(update_size) / any_value(tokens) AS strength_per_token,
                  count(DISTINCT (layer, index, sign)) AS distinct_poles
           FROM activity JOIN totals USING (condition)
                JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
           WHERE condition LIKE 'measure.%'
           GROUP BY ALL ORDER BY prompt, concept"""
    )
    session.run.write_table("prompt_concepts", table)
