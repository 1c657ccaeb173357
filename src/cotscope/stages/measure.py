"""Measure: accuracy and activity under every prompt of the study.

Generated activity is measured on the tokens that the model itself wrote, teacher-forced activity on one and the same
reference solution under every prompt (`measuring/activity.py`).
"""

from __future__ import annotations

from typing import Any

from ..measuring.activity import MeasuredPrompt, held_out_rows, judged_rows, prompt_rows, record_forced, write_problems
from ..measuring.generation import Condition, solve
from ..measuring.solutions import reference_solutions
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import (
    ANNOTATIONS,
    CANDIDATES,
    HELD_OUT,
    JUDGED_ACTIVITY,
    POLES,
    PROMPT_CONCEPTS,
    PROMPT_ROLES,
    PROMPTS,
    SOLUTIONS,
)

UNITS = {
    "prompts.*.own_activity": "active reasoning poles per generated token of the model's own completion, mean over problems",
    "prompts.*.fixed_activity": "the same on one reference solution under every prompt (teacher-forced); null: there is none",
    "prompts.*.own_activity_first": "that of the poles which discovery under the first prompt finds",
    "prompts.*.fixed_activity_first": "teacher-forced activity of those poles",
    "prompts.*.given_log_prob": "mean over problems of the log-probability (nats) of the reference solution's result tokens",
    "prompts.*.strength": "sum of the active reasoning poles' update sizes per generated token, mean over problems",
    "prompts.*.distinct_poles": "reasoning poles that were active at least once",
}


def measure(session: Session, options: NoOptions) -> str:
    """Run the stage. Prompts that have been run are not run again."""
    run = session.run
    prompts = [MeasuredPrompt(p, "study", p.name) for p in session.inputs.prompts]
    solve(session, [Condition("study", p.prompt, "test", record=True) for p in prompts], "measuring")
    record_forced(session, prompts, reference_solutions(session))
    write_problems(session, "study", ["study"])
    run.write(PROMPT_ROLES, _by_role(session))
    run.write(HELD_OUT, held_out_rows(session))
    run.write(JUDGED_ACTIVITY, judged_rows(session))
    _write_concepts(session)
    rows = prompt_rows(session, prompts)
    run.write(PROMPTS, rows, "study")
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
                "fixed_activity": r.get("fixed_activity"),
                "fixed_activity_first": r.get("fixed_activity_first"),
                "given_log_prob": r.get("given_log_prob"),
                "strength": r["strength_per_token"],
                "distinct_poles": r["distinct_poles"],
                "tokens_per_problem": r["tokens_per_problem"],
            }
            for r in rows
        },
    )
    best, worst = (end(rows, key=lambda r: r["accuracy"]) for end in (max, min))
    return (
        f"accuracy from {worst['accuracy']:.3f} ({worst['prompt']}, {worst['poles_per_token']:.2f} active reasoning poles per "
        f"token) to {best['accuracy']:.3f} ({best['prompt']}, {best['poles_per_token']:.2f})"
    )


def _by_role(session: Session) -> list[dict[str, Any]]:
    """Activity by role of the tokens, of each concept's poles and (concept null) of all, each pole once: a pole of two
    concepts would count twice in their sum. Mean over the problems whose solution has the role."""
    spots = {
        "own_activity": """SELECT prompt, problem_id, role, count(*) AS tokens
                           FROM (SELECT *, unnest(roles) AS role FROM completions WHERE family = 'study') GROUP BY ALL""",
        "fixed_activity": """SELECT prompt, problem_id, role, tokens FROM solutions
                             CROSS JOIN (SELECT DISTINCT prompt FROM forced_scores WHERE family = 'study')""",
    }
    active = {"own_activity": "activity", "fixed_activity": "forced"}
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, places in spots.items():
        for r in _role_means(session, places, f"SELECT * FROM {active[name]} WHERE family = 'study'"):
            key = {k: r[k] for k in ("prompt", "concept", "role")}
            rows.setdefault(tuple(key.values()), key)[name] = r["poles_per_token"]
    return list(rows.values())


def _role_means(session: Session, spots: str, active: str) -> list[dict[str, Any]]:
    """SQL of how many tokens (prompt, problem, role) have, and of the poles active there → poles per token by concept."""
    return session.run.rows(
        f"""WITH spots AS ({spots}),
                 accepted AS (SELECT layer, index, sign, concept FROM annotations WHERE accepted
                              UNION SELECT layer, index, sign, '' FROM annotations WHERE accepted),
                 concepts AS (SELECT DISTINCT concept FROM accepted),
                 found AS (SELECT prompt, problem_id, role, concept, sum(steps) AS steps
                           FROM ({active}) JOIN accepted USING (layer, index, sign) GROUP BY ALL)
            SELECT prompt, nullif(concept, '') AS concept, role, avg(coalesce(steps, 0) / tokens) AS poles_per_token
            FROM spots CROSS JOIN concepts LEFT JOIN found USING (prompt, problem_id, role, concept)
            WHERE tokens > 0 GROUP BY ALL ORDER BY ALL"""
    )


def _write_concepts(session: Session) -> None:
    """Generated activity by concept; a prompt under which a concept's poles were never active has a row of zeros."""
    table = session.run.query(
        """WITH found AS (
             SELECT prompt, concept, steps / tokens AS per_token, update_size / tokens AS strength,
                    (layer, index, sign) AS pole
             FROM activity JOIN completions USING (condition, family, prompt, problem_id)
                  JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
             WHERE family = 'study'),
           counts AS (SELECT prompt, count(*) AS n FROM prompt_problems WHERE family = 'study' GROUP BY prompt),
           concepts AS (SELECT DISTINCT concept FROM annotations WHERE accepted)
           SELECT prompt, concept, coalesce(sum(per_token), 0) / any_value(n) AS poles_per_token,
                  coalesce(sum(strength), 0) / any_value(n) AS strength_per_token,
                  count(DISTINCT pole) AS distinct_poles
           FROM counts CROSS JOIN concepts LEFT JOIN found USING (prompt, concept)
           GROUP BY ALL ORDER BY prompt, concept"""
    )
    session.run.write(PROMPT_CONCEPTS, table)


STAGE = Stage(
    "measure",
    "measure",
    "accuracy and activity under every prompt of the study",
    measure,
    after=("annotate",),
    reads=(POLES, CANDIDATES, ANNOTATIONS),
    writes=("completions/study.", "activity/study.", "forced/study.", "forced_scores/study.", SOLUTIONS,
            "prompt_problems/study", "forced_problems/study", "prompts/study", PROMPT_ROLES, PROMPT_CONCEPTS,
            HELD_OUT, JUDGED_ACTIVITY),
    units=UNITS,
    chosen_by={"--prompts": {"study": {}}},
    example="cotscope measure runs/first --prompts variants --variants 40",
)  # fmt: skip
