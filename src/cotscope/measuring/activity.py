"""Own and fixed activity under any list of prompts: recorded, then counted from the tables (design, section 2).

Own activity is measured on the tokens that the model itself generated, fixed activity on one and the same solution
under every prompt. Both are counted twice: over all reasoning poles, and (columns named `…_first`) over those that
discovery under the study's first prompt finds: the paper's way, which favours that prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import fmean

import numpy as np
import pyarrow as pa

from ..errors import PromptError
from ..records import Prompt
from ..runs.session import Session
from ..stats import wilson
from .generation import ACTIVITY, active_poles, by_problem
from .solutions import Continuation

FIXED = pa.schema([("prompt", pa.string()), *list(ACTIVITY)[1:]])
_MEANS = pa.schema([(n, pa.float64()) for n in ("poles_per_token", "poles_per_token_first", "log_prob")])
FIXED_PROBLEMS = pa.schema([*list(FIXED)[:2], *_MEANS])
JUDGED_ACTIVITY = pa.schema([
    ("prompt", pa.string()), ("poles", pa.string()), ("own_activity", pa.float64()), ("fixed_activity", pa.float64())
])  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a list of prompts has its conditions and tables.

    Attributes:
        condition: conditions are named `<condition>.<prompt>`.
        problems: table of own activity by prompt and problem.
        fixed: table of the active poles on given solutions (a part per prompt), and the manifest's key of what is done.
        given: table of the given results' log-probability (a part per prompt).
        fixed_problems: table of fixed activity by prompt and problem.
    """

    condition: str
    problems: str
    fixed: str
    given: str
    fixed_problems: str


def record_fixed(session: Session, place: Place, prompts: Sequence[Prompt], given: Sequence[Continuation]) -> None:
    """Make the model write the given solutions under every prompt, so that only the prompt differs; once each.

    Raises: PromptError, before anything runs, if a prompt with a solution does not fit the model's context.
    """
    from ..lm.scoring import Given, score

    run, done = session.run, session.run.manifest.setdefault(place.fixed, {})
    mark = sha256(repr([(c.tokens, c.roles) for c in given]).encode()).hexdigest()
    missing = [p for p in prompts if done.get(p.name) != mark] if given else []
    for prompt in missing:
        longest = max(len(session.loaded.encode(prompt.text(c.problem.question))) + len(c.tokens) for c in given)
        if longest > session.loaded.context:
            raise PromptError(
                f"prompt {prompt.name} with a given solution is longer than the model's context",
                expected=f"at most {session.loaded.context} tokens",
                got=f"{longest}",
                remedy="Use fewer exemplars.",
            )
    ids = np.array([c.problem.id for c in given])
    with session.bar("fixed activity", len(missing), "prompt") as bar:
        for prompt in missing:
            with run.table_writer(f"{place.fixed}/{prompt.name}", FIXED) as writer:
                recorder = active_poles(
                    session, lambda tally, p=prompt, w=writer: w.write_table(by_problem(tally, p.name, ids, FIXED))
                )
                scores = score(
                    session.engine,
                    Given(
                        tuple(prompt.text(c.problem.question) for c in given),
                        tuple(c.tokens for c in given),
                        tuple(c.results for c in given),
                        recorder,
                    ),
                )
            rows = [
                {"prompt": prompt.name, "problem_id": c.problem.id, "log_prob": fmean(t.log_prob for t in found)}
                for c, found in zip(given, scores, strict=True)
            ]
            run.write_rows(f"{place.given}/{prompt.name}", rows)
            done[prompt.name] = mark
            run.save()
            bar.update()


def write_problems(session: Session, place: Place) -> None:
    """Own and fixed activity problem by problem: what the prompts' means, and changes between prompts, are made of."""
    run, reasoning = session.run, _Reasoning(session)
    run.write_table(
        place.problems,
        run.query(
            f"""WITH reasoning AS ({reasoning.sql}),
                     active AS (SELECT condition, problem_id, sum(steps) AS steps, sum(update_size) AS update_size,
                                       sum(steps) FILTER (found_first) AS steps_first
                                FROM activity JOIN reasoning USING (layer, index, sign)
                                WHERE starts_with(condition, ?) GROUP BY ALL)
                SELECT prompt, problem_id, correct, correct_strict, tokens,
                       coalesce(steps, 0)::DOUBLE / tokens AS poles_per_token,
                       {reasoning.first} / tokens AS poles_per_token_first,
                       coalesce(update_size, 0) / tokens AS strength_per_token
                FROM completions LEFT JOIN active USING (condition, problem_id)
                WHERE starts_with(condition, ?) ORDER BY ALL""",
            [f"{place.condition}."] * 2,
        ),
    )
    rows = []
    if run.manifest.get(place.fixed):
        rows = run.rows(
            f"""WITH reasoning AS ({reasoning.sql}),
                     spots AS (SELECT problem_id, sum(tokens) AS tokens FROM continuations GROUP BY ALL),
                     active AS (SELECT prompt, problem_id, sum(steps) AS steps,
                                       sum(steps) FILTER (found_first) AS steps_first
                                FROM {place.fixed} JOIN reasoning USING (layer, index, sign) GROUP BY ALL)
                SELECT prompt, problem_id, coalesce(steps, 0)::DOUBLE / tokens AS poles_per_token,
                       {reasoning.first} / tokens AS poles_per_token_first, log_prob
                FROM {place.given} JOIN spots USING (problem_id) LEFT JOIN active USING (prompt, problem_id)
                ORDER BY ALL"""
        )
    run.write_rows(place.fixed_problems, rows, FIXED_PROBLEMS)


class _Reasoning:
    """SQL of the reasoning poles, one row each, and of the steps of those that the first prompt found.

    Attributes:
        sql: columns layer, index, sign and found_first (NULL in a run that does not know under which prompts).
        first: a pole's share is counted in `steps_first`; NULL as above.
    """

    def __init__(self, session: Session) -> None:
        run = session.run
        found, self.first = "NULL::BOOLEAN", "NULL"
        if "prompts" in run.query("SELECT * FROM poles LIMIT 0").column_names:
            name = session.prompts[0].name.replace("'", "''")
            found, self.first = f"list_contains(prompts, '{name}')", "coalesce(steps_first, 0)::DOUBLE"
        self.sql = f"""SELECT layer, index, sign, {found} AS found_first FROM poles
                       SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)"""


def prompt_rows(session: Session, place: Place, names: Sequence[str]) -> list[dict]:
    """One row per prompt, in the order of the names: means over its problems, from the tables of `write_problems`."""
    run = session.run
    own = run.rows(
        f"""SELECT prompt, count(*) AS n, count(*) FILTER (correct) AS correct,
                   avg(correct_strict::INT) AS accuracy_strict, avg(tokens) AS tokens_per_problem,
                   avg(poles_per_token) AS poles_per_token, avg(poles_per_token_first) AS poles_per_token_first,
                   avg(strength_per_token) AS strength_per_token
            FROM {place.problems} GROUP BY prompt"""
    )
    fixed = run.rows(
        f"""SELECT prompt, avg(poles_per_token) AS fixed_activity, avg(poles_per_token_first) AS fixed_activity_first,
                   avg(log_prob) AS given_log_prob
            FROM {place.fixed_problems} GROUP BY prompt"""
    )
    distinct = run.rows(
        """SELECT condition, count(DISTINCT (layer, index, sign)) AS n
           FROM activity SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
           WHERE starts_with(condition, ?) GROUP BY condition""",
        [f"{place.condition}."],
    )
    own_of, fixed_of = ({r["prompt"]: r for r in found} for found in (own, fixed))
    distinct_of = {r["condition"]: r["n"] for r in distinct}
    rows = []
    for name in names:
        total = own_of[name]
        low, high = wilson(total["correct"], total["n"])
        more = {"accuracy": total["correct"] / total["n"], "low": low, "high": high}
        more["distinct_poles"] = distinct_of.get(f"{place.condition}.{name}", 0)
        for key in ("fixed_activity", "fixed_activity_first", "given_log_prob"):
            more[key] = fixed_of.get(name, {}).get(key)
        rows.append(total | more)
    return rows


JUDGED = ("lexicon", "accepted", "rejected")
"""All candidates (what a lexicon alone would accept), those that the annotator accepted, and the others."""


def judged_rows(session: Session, place: Place) -> list[dict]:
    """Own and fixed activity of all candidates, of accepted and of rejected poles: a row per prompt and word of `JUDGED`.

    Empty if the annotator rejected none.
    """
    run = session.run
    judged = """WITH accepted AS (SELECT DISTINCT layer, index, sign FROM annotations WHERE accepted),
                     suspects AS (SELECT DISTINCT layer, index, sign FROM candidates),
                     rejected AS (SELECT * FROM suspects ANTI JOIN accepted USING (layer, index, sign)),
                     judged AS (SELECT *, 'lexicon' AS poles FROM suspects UNION ALL
                                SELECT *, 'accepted' FROM accepted UNION ALL SELECT *, 'rejected' FROM rejected)"""
    if not run.rows(f"{judged} SELECT 1 FROM rejected LIMIT 1"):
        return []
    ways = {"own_activity": (f"SELECT prompt, problem_id, tokens FROM {place.problems}",
                             f"""SELECT prompt, problem_id, poles, sum(steps) AS steps
                                 FROM activity JOIN completions USING (condition, problem_id)
                                      JOIN judged USING (layer, index, sign)
                                 WHERE starts_with(condition, '{place.condition}.') GROUP BY ALL""")}  # fmt: skip
    if run.manifest.get(place.fixed):
        ways["fixed_activity"] = (
            f"""SELECT prompt, problem_id, sum(tokens) AS tokens
                FROM continuations CROSS JOIN (SELECT DISTINCT prompt FROM {place.given}) GROUP BY ALL""",
            f"""SELECT prompt, problem_id, poles, sum(steps) AS steps
                FROM {place.fixed} JOIN judged USING (layer, index, sign) GROUP BY ALL""",
        )
    rows: dict[tuple[str, str], dict] = {}
    for name, (texts, active) in ways.items():
        for r in run.rows(
            f"""{judged}, texts AS ({texts}), active AS ({active})
                SELECT prompt, poles, avg(coalesce(steps, 0) / tokens) AS activity
                FROM texts CROSS JOIN (SELECT DISTINCT poles FROM judged)
                     LEFT JOIN active USING (prompt, problem_id, poles) GROUP BY ALL"""
        ):
            rows.setdefault((r["prompt"], r["poles"]), {"prompt": r["prompt"], "poles": r["poles"]})[name] = r["activity"]
    return list(rows.values())
