"""Measure: accuracy and own activity under every prompt.

Own activity is measured on the tokens that the model itself generated, fixed activity on one and the same solution
under every prompt (design, section 2).

Reads: `annotations`. Writes: completions and activity of `measure.<prompt>`; `fixed` and `given` (a file per prompt);
`prompt_problems`, `fixed_problems`, `prompts`, `prompt_concepts`, `prompt_roles`, `judged_activity`.
"""

from __future__ import annotations

import pyarrow as pa

from ..measuring.activity import JUDGED_ACTIVITY, Place, judged_rows, prompt_rows, record_fixed, write_problems
from ..measuring.generation import Condition, solve
from ..measuring.solutions import continuations
from ..runs.session import Session

PLACE = Place("measure", "prompt_problems", "fixed", "given", "fixed_problems")
ROLE_ACTIVITY = pa.schema(
    [
        ("prompt", pa.string()),
        ("concept", pa.string()),
        ("role", pa.string()),
        ("own_activity", pa.float64()),
        ("fixed_activity", pa.float64()),
    ]
)

UNITS = {
    "prompts.*.own_activity": "active reasoning poles per generated token of the model's own completion, mean over problems",
    "prompts.*.fixed_activity": "the same on one given solution under every prompt; null: no solution could be given",
    "prompts.*.own_activity_first": "that of the poles which discovery under the first prompt finds (the paper's way)",
    "prompts.*.fixed_activity_first": "fixed activity of those poles",
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
        record_fixed(session, PLACE, session.prompts, continuations(session))
        write_problems(session, PLACE)
        _write_prompts(session)
        _write_concepts(session)


def _write_prompts(session: Session) -> None:
    run = session.run
    run.write_rows("prompt_roles", _by_role(session), ROLE_ACTIVITY)
    run.write_rows("judged_activity", judged_rows(session, PLACE), JUDGED_ACTIVITY)
    rows = prompt_rows(session, PLACE, [p.name for p in session.prompts])
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
                "own_activity_first": r["poles_per_token_first"],
                "fixed_activity": r["fixed_activity"],
                "fixed_activity_first": r["fixed_activity_first"],
                "given_log_prob": r["given_log_prob"],
                "strength": r["strength_per_token"],
                "distinct_poles": r["distinct_poles"],
                "tokens_per_problem": r["tokens_per_problem"],
            }
            for r in rows
        },
    )


def _by_role(session: Session) -> list[dict]:
    """Own and fixed activity by concept and place in the solution: mean over the problems whose solution has the place."""
    own = """SELECT prompt, problem_id, role, count(*) AS tokens
             FROM (SELECT *, unnest(roles) AS role FROM completions WHERE starts_with(condition, 'measure.'))
             GROUP BY ALL"""
    own_active = "SELECT substr(condition, 9) AS prompt, * FROM activity WHERE starts_with(condition, 'measure.')"
    found = {"own_activity": _role_means(session, own, own_active)}
    if session.run.manifest.get(PLACE.fixed):
        fixed = "SELECT prompt, problem_id, role, tokens FROM continuations CROSS JOIN (SELECT DISTINCT prompt FROM given)"
        found["fixed_activity"] = _role_means(session, fixed, "SELECT * FROM fixed")
    rows: dict[tuple[str, ...], dict] = {}
    for name, means in found.items():
        for r in means:
            key = {k: r[k] for k in ("prompt", "concept", "role")}
            rows.setdefault(tuple(key.values()), key)[name] = r["poles_per_token"]
    return list(rows.values())


def _role_means(session: Session, spots: str, active: str) -> list[dict]:
    """SQL of how many tokens (prompt, problem, role) have, and of the poles active there → poles per token by concept."""
    return session.run.rows(
        f"""WITH spots AS ({spots}), concepts AS (SELECT DISTINCT concept FROM annotations WHERE accepted),
                 found AS (SELECT prompt, problem_id, role, concept, sum(steps) AS steps
                           FROM ({active}) JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
                           GROUP BY ALL)
            SELECT prompt, concept, role, avg(coalesce(steps, 0) / tokens) AS poles_per_token
            FROM spots CROSS JOIN concepts LEFT JOIN found USING (prompt, problem_id, role, concept)
            WHERE tokens > 0 GROUP BY ALL ORDER BY ALL"""
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
