"""Measure: accuracy and own activity under every prompt.

Own activity is measured on the tokens that the model itself generated (design, section 2).

Reads: `annotations`. Writes: completions and activity of `measure.<prompt>`; `prompt_problems`, `prompts`,
`prompt_concepts`.
"""

from __future__ import annotations

from ..conditions import Condition, solve
from ..session import Session
from ..stats import wilson

UNITS = {
    "prompts.*.own_activity": "active reasoning poles per generated token of the model's own completion, mean over problems",
    "prompts.*.fixed_activity": "the same on one gold continuation under every prompt; null: not measured",
    "prompts.*.strength": "sum of the active reasoning poles' update sizes per generated token, mean over problems",
    "prompts.*.distinct_poles": "reasoning poles that were active at least once",
}


def measure(session: Session) -> None:
    """Run the stage. Prompts that have been run are not run again."""
    run = session.run
    run.require("annotate", f"cotscope annotate {run.folder}")
    with run.stage("measure", UNITS):
        conditions = [Condition(f"measure.{p.name}", p, "test", record=True) for p in session.prompts]
        solve(session, conditions, "measuring")
        _write_problems(session)
        _write_prompts(session)
        _write_concepts(session)


def _write_problems(session: Session) -> None:
    """Own activity problem by problem: what the prompts' means, and paired changes between prompts, are made of."""
    session.run.write_table(
        "prompt_problems",
        session.run.query(
            """SELECT c.prompt, c.problem_id, any_value(c.correct) AS correct,
                      any_value(c.correct_strict) AS correct_strict, any_value(c.tokens) AS tokens,
                      coalesce(sum(a.steps), 0)::DOUBLE / any_value(c.tokens) AS poles_per_token,
                      coalesce(sum(a.update_size), 0) / any_value(c.tokens) AS strength_per_token
               FROM completions c
                    LEFT JOIN (SELECT * FROM activity
                               SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)) a
                    USING (condition, problem_id)
               WHERE c.condition LIKE 'measure.%' GROUP BY ALL ORDER BY ALL"""
        ),
    )


def _write_prompts(session: Session) -> None:
    run = session.run
    totals = {
        r["prompt"]: r
        for r in run.rows(
            """SELECT prompt, count(*) AS n, count(*) FILTER (correct) AS correct,
                      avg(correct_strict::INT) AS accuracy_strict, avg(tokens) AS tokens_per_problem,
                      avg(poles_per_token) AS poles_per_token, avg(strength_per_token) AS strength_per_token
               FROM prompt_problems GROUP BY prompt"""
        )
    }
    distinct = {
        r["condition"]: r["n"]
        for r in run.rows(
            """SELECT condition, count(DISTINCT (layer, index, sign)) AS n
               FROM activity SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
               GROUP BY condition"""
        )
    }
    rows = []
    for prompt in session.prompts:
        total = totals[prompt.name]
        low, high = wilson(total["correct"], total["n"])
        rows.append(
            total
            | {
                "accuracy": total["correct"] / total["n"],
                "low": low,
                "high": high,
                "distinct_poles": distinct.get(f"measure.{prompt.name}", 0),
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
    """Own activity by concept; a prompt under which a concept's poles were never active has a row of zeros."""
    table = session.run.query(
        """WITH poles AS (
             SELECT prompt, concept, steps / tokens AS per_token, update_size / tokens AS strength,
                    (layer, index, sign) AS pole
             FROM activity JOIN completions USING (condition, problem_id)
                  JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
             WHERE condition LIKE 'measure.%'),
           problems AS (SELECT prompt, count(*) AS n FROM prompt_problems GROUP BY prompt),
           concepts AS (SELECT DISTINCT concept FROM annotations WHERE accepted)
           SELECT prompt, concept, coalesce(sum(per_token), 0) / any_value(n) AS poles_per_token,
                  coalesce(sum(strength), 0) / any_value(n) AS strength_per_token,
                  count(DISTINCT pole) AS distinct_poles
           FROM problems CROSS JOIN concepts LEFT JOIN poles USING (prompt, concept)
           GROUP BY ALL ORDER BY prompt, concept"""
    )
    session.run.write_table("prompt_concepts", table)
