"""Measure: accuracy and own activity under every prompt.

Own activity is measured on the tokens that the model itself generated, fixed activity on one and the same solution
under every prompt (design, section 2).

Reads: `annotations`. Writes: completions and activity of `measure.<prompt>`; `fixed` and `given` (a file per prompt);
`prompt_problems`, `prompts`, `prompt_concepts`, `prompt_roles`.
"""

from __future__ import annotations

from hashlib import sha256
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..conditions import ACTIVITY, Condition, solve
from ..continuations import ROLES, continuations
from ..session import Session
from ..stats import wilson

if TYPE_CHECKING:
    from ..lm.recorders import PoleTally

FIXED = pa.schema([("prompt", pa.string()), ("problem_id", pa.string()), ("role", pa.string()), *list(ACTIVITY)[2:]])
ROLE_ACTIVITY = pa.schema(
    [("prompt", pa.string()), ("concept", pa.string()), ("role", pa.string()), ("poles_per_token", pa.float64())]
)

UNITS = {
    "prompts.*.own_activity": "active reasoning poles per generated token of the model's own completion, mean over problems",
    "prompts.*.fixed_activity": "the same on one given solution under every prompt; null: no solution could be given",
    "prompts.*.given_log_prob": "mean over problems of the mean log-probability (nats) of the given solution's result tokens",
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
        _make_write(session)
        _write_problems(session)
        _write_prompts(session)
        _write_concepts(session)


def _make_write(session: Session) -> None:
    """Fixed activity: the same given solutions under every prompt, so that only the prompt differs."""
    from ..lm.recorders import ActivePoles
    from ..lm.scoring import Given, score

    run, done = session.run, session.run.manifest.setdefault("fixed", {})
    given = continuations(session)
    mark = sha256(repr([(c.tokens, c.roles) for c in given]).encode()).hexdigest()
    missing = [p for p in session.prompts if done.get(p.name) != mark] if given else []
    ids = np.array([c.problem.id for c in given])
    labels = tuple(tuple(i * len(ROLES) + ROLES.index(role) for role in c.roles) for i, c in enumerate(given))
    with session.bar("fixed activity", len(missing), "prompt") as bar:
        for prompt in missing:
            with run.table_writer(f"fixed/{prompt.name}", FIXED) as writer:
                recorder = ActivePoles(
                    session.loaded.anatomy,
                    session.config.k,
                    sink=lambda tally, p=prompt, w=writer: w.write_table(_fixed(tally, p.name, ids)),
                )
                scores = score(
                    session.engine,
                    Given(
                        tuple(prompt.text(c.problem.question) for c in given),
                        tuple(c.tokens for c in given),
                        tuple(c.results for c in given),
                        recorder,
                        labels,
                    ),
                )
            rows = [
                {"prompt": prompt.name, "problem_id": c.problem.id, "log_prob": fmean(t.log_prob for t in found)}
                for c, found in zip(given, scores, strict=True)
            ]
            run.write_rows(f"given/{prompt.name}", rows)
            done[prompt.name] = mark
            run.save()
            bar.update()


def _fixed(tally: PoleTally, prompt: str, ids: np.ndarray) -> pa.Table:
    problem, role = np.divmod(tally.row, len(ROLES))
    columns = {name: getattr(tally, name) for name in FIXED.names[3:]}
    named = {"prompt": pa.repeat(prompt, len(problem)), "problem_id": ids[problem], "role": np.array(ROLES)[role]}
    return pa.table(named | columns, FIXED)


def _fixed_activity(session: Session) -> tuple[dict[str, dict], list[dict]]:
    """prompt → fixed activity and the given results' log-probability; and the former by concept and role, as rows."""
    run = session.run
    if not run.manifest.get("fixed"):
        return {}, []
    by_role = run.rows(
        """WITH spots AS (SELECT role, problem_id, tokens FROM continuations WHERE tokens > 0),
                concepts AS (SELECT DISTINCT concept FROM annotations WHERE accepted),
                prompts AS (SELECT DISTINCT prompt FROM given),
                active AS (SELECT prompt, problem_id, role, concept, sum(steps) AS steps
                           FROM fixed JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
                           GROUP BY ALL)
           SELECT prompt, concept, role, avg(coalesce(steps, 0) / tokens) AS poles_per_token
           FROM spots CROSS JOIN concepts CROSS JOIN prompts
                LEFT JOIN active USING (prompt, problem_id, role, concept)
           GROUP BY ALL ORDER BY ALL"""
    )
    totals = run.rows(
        """WITH spots AS (SELECT problem_id, sum(tokens) AS tokens FROM continuations GROUP BY ALL),
                active AS (SELECT prompt, problem_id, sum(steps) AS steps
                           FROM fixed SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
                           GROUP BY ALL)
           SELECT prompt, avg(coalesce(steps, 0) / tokens) AS fixed_activity, avg(log_prob) AS given_log_prob
           FROM given JOIN spots USING (problem_id) LEFT JOIN active USING (prompt, problem_id)
           GROUP BY prompt"""
    )
    return {r["prompt"]: r for r in totals}, by_role


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
    fixed, by_role = _fixed_activity(session)
    run.write_rows("prompt_roles", by_role, ROLE_ACTIVITY)
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
                "fixed_activity": fixed.get(prompt.name, {}).get("fixed_activity"),
                "given_log_prob": fixed.get(prompt.name, {}).get("given_log_prob"),
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
                "fixed_activity": r["fixed_activity"],
                "given_log_prob": r["given_log_prob"],
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
