"""Generated and teacher-forced activity under any prompts: recorded, then counted from the tables.

Generated activity (columns named `own_…`) is measured on the tokens that the model itself wrote (Rai & Yao 2024, section
5), teacher-forced activity (`fixed_…`) on one and the same reference solution under every prompt, so that only the prompt
differs (docs/methods.md). Both are counted twice: over all reasoning poles, and (`…_first`) over those that discovery
under the study's first prompt finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import PromptError
from ..records import Prompt
from ..runs.files import fingerprint
from ..runs.session import Session
from ..runs.tables import FORCED, FORCED_PROBLEMS, FORCED_SCORES, PROMPT_PROBLEMS
from ..stats import wilson
from .generation import active_poles, by_problem
from .solutions import Solution, fingerprint_of


@dataclass(frozen=True)
class MeasuredPrompt:
    """A prompt and what it is made of.

    Attributes:
        family: "study", "variant" or "sentence".
        kind: its perturbation, or kind of sentence; of the study's prompts their name.
        exemplars: how many it shows; None where that is not known.
    """

    prompt: Prompt
    family: str
    kind: str
    exemplars: int | None = None

    @property
    def name(self) -> str:
        """Of its parts."""
        return f"{self.family}.{self.prompt.name}"


def record_forced(session: Session, prompts: Sequence[MeasuredPrompt], given: Sequence[Solution]) -> None:
    """Make the model write the reference solutions under every prompt; once each.

    Raises: PromptError, before anything runs, if a prompt with a solution does not fit the model's context.
    """
    from ..lm.scoring import Given, score

    run, mark, k = session.run, fingerprint_of(given), session.config.k

    def done(p: MeasuredPrompt) -> bool:
        of = fingerprint(mark, p.prompt.text(""), k)
        return all(run.done(f"{table.name}/{p.name}", of) is not None for table in (FORCED, FORCED_SCORES))

    missing = [p for p in prompts if not done(p)] if given else []
    for p in missing:
        longest = max(len(session.loaded.encode(p.prompt.text(s.problem.question))) + len(s.tokens) for s in given)
        if longest > session.loaded.context:
            raise PromptError(
                f"prompt {p.prompt.name} with a reference solution is longer than the model's context",
                expected=f"at most {session.loaded.context} tokens",
                got=f"{longest}",
                remedy="Use fewer exemplars.",
            )
    problems = [s.problem for s in given]
    ids = np.array([p.id for p in problems])
    with session.bar("teacher-forced activity", len(missing), "prompt") as bar:
        for p in missing:
            of, about = fingerprint(mark, p.prompt.text(""), k), {"family": p.family, "prompt": p.prompt.name}
            with run.writer(FORCED, p.name, of) as write:
                recorder = active_poles(session, problems, lambda t, w=write, a=about: w(by_problem(t, ids, FORCED, a)))  # type: ignore[misc]
                scores = score(
                    session.engine,
                    Given(
                        tuple(p.prompt.text(s.problem.question) for s in given),
                        tuple(s.tokens for s in given),
                        tuple(s.results for s in given),
                        recorder,
                    ),
                )
            rows = [
                about | {"problem_id": s.problem.id, "log_prob": fmean(t.log_prob for t in found)}
                for s, found in zip(given, scores, strict=True)
            ]
            run.write(FORCED_SCORES, rows, p.name, of)
            bar.update()


def write_problems(session: Session, part: str, families: Sequence[str]) -> None:
    """Both activities problem by problem: what the prompts' means, and changes between prompts, are made of.

    Args:
        part: of the tables `prompt_problems` and `forced_problems`.
    """
    run, named = session.run, [list(families)]
    first = session.prompt.name
    reasoning = """SELECT layer, index, sign, list_contains(prompts, ?) AS found_first FROM poles
                   SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)"""
    generated = run.query(
        f"""WITH reasoning AS ({reasoning}),
                 active AS (SELECT condition, problem_id, sum(steps) AS steps, sum(update_size) AS update_size,
                                   sum(steps) FILTER (found_first) AS steps_first
                            FROM activity JOIN reasoning USING (layer, index, sign)
                            WHERE list_contains(?, family) GROUP BY ALL)
            SELECT family, prompt, problem_id, correct, correct_strict, tokens,
                   coalesce(steps, 0)::DOUBLE / tokens AS poles_per_token,
                   coalesce(steps_first, 0)::DOUBLE / tokens AS poles_per_token_first,
                   coalesce(update_size, 0) / tokens AS strength_per_token
            FROM completions LEFT JOIN active USING (condition, problem_id)
            WHERE list_contains(?, family) ORDER BY ALL""",
        [first, *named, *named],
    )
    run.write(PROMPT_PROBLEMS, generated, part)
    forced = run.query(
        f"""WITH reasoning AS ({reasoning}),
                 spots AS (SELECT problem_id, sum(tokens) AS tokens FROM solutions GROUP BY ALL),
                 active AS (SELECT family, prompt, problem_id, sum(steps) AS steps,
                                   sum(steps) FILTER (found_first) AS steps_first
                            FROM forced JOIN reasoning USING (layer, index, sign) GROUP BY ALL)
            SELECT family, prompt, problem_id, coalesce(steps, 0)::DOUBLE / tokens AS poles_per_token,
                   coalesce(steps_first, 0)::DOUBLE / tokens AS poles_per_token_first, log_prob
            FROM forced_scores JOIN spots USING (problem_id) LEFT JOIN active USING (family, prompt, problem_id)
            WHERE list_contains(?, family) ORDER BY ALL""",
        [first, *named],
    )
    run.write(FORCED_PROBLEMS, forced, part)


def prompt_rows(session: Session, prompts: Sequence[MeasuredPrompt]) -> list[dict[str, Any]]:
    """Rows of the table `prompts`, in the order given: means over problems, from the tables of `write_problems`."""
    run = session.run
    own = run.rows(
        """SELECT family, prompt, count(*) AS n, count(*) FILTER (correct) AS correct,
                  avg(correct_strict::INT) AS accuracy_strict, avg(tokens) AS tokens_per_problem,
                  avg(poles_per_token) AS poles_per_token, avg(poles_per_token_first) AS poles_per_token_first,
                  avg(strength_per_token) AS strength_per_token
           FROM prompt_problems GROUP BY ALL"""
    )
    forced = run.rows(
        """SELECT family, prompt, avg(poles_per_token) AS fixed_activity,
                  avg(poles_per_token_first) AS fixed_activity_first, avg(log_prob) AS given_log_prob
           FROM forced_problems GROUP BY ALL"""
    )
    distinct = run.rows(
        """SELECT family, prompt, count(DISTINCT (layer, index, sign)) AS distinct_poles
           FROM activity SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign) GROUP BY ALL"""
    )
    of: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (*own, *forced, *distinct):
        of.setdefault((row["family"], row["prompt"]), {"distinct_poles": 0}).update(row)
    rows = []
    for p in prompts:
        total = of[p.family, p.prompt.name]
        low, high = wilson(total["correct"], total["n"])
        tokens = len(session.loaded.encode(p.prompt.prefix if p.family == "study" else p.prompt.text("")))
        rows.append(
            total
            | {"accuracy": total["correct"] / total["n"], "low": low, "high": high}
            | {
                "kind": p.kind,
                "exemplars": p.exemplars,
                "prompt_tokens": tokens if p.prompt.prefix or p.family != "study" else 0,
            }
        )
    return rows


def judged_rows(session: Session) -> list[dict[str, Any]]:
    """Both activities of all candidates ("lexicon"), of accepted and of rejected poles, under each of the study's prompts.

    Empty if the annotator rejected none.
    """
    words = """accepted AS (SELECT DISTINCT layer, index, sign FROM annotations WHERE accepted),
               suspects AS (SELECT DISTINCT layer, index, sign FROM candidates),
               rejected AS (SELECT * FROM suspects ANTI JOIN accepted USING (layer, index, sign)),
               named AS (SELECT *, 'lexicon' AS which FROM suspects UNION ALL
                         SELECT *, 'accepted' FROM accepted UNION ALL SELECT *, 'rejected' FROM rejected)"""
    if not session.run.rows(f"WITH {words} SELECT 1 FROM rejected LIMIT 1"):
        return []
    return _activity_of(session, words, "poles")


def held_out_rows(session: Session) -> list[dict[str, Any]]:
    """Both activities of the reasoning poles that discovery finds without one of its prompts, under each prompt of the study.

    Poles found under a prompt favour it, so a prompt's own activity is compared with others' in the set that leaves it out.
    Empty if discovery found everything under one prompt.
    """
    sets = """looked AS (SELECT DISTINCT unnest(prompts) AS which FROM poles),
              named AS (SELECT layer, index, sign, which FROM poles CROSS JOIN looked
                        SEMI JOIN (SELECT * FROM annotations WHERE accepted) USING (layer, index, sign)
                        WHERE len(prompts) > list_contains(prompts, which)::INT)"""
    counts = session.run.rows(f"WITH {sets} SELECT which, count(*)::INT AS poles FROM named GROUP BY ALL")
    count = {r["which"]: r["poles"] for r in counts}
    return [r | {"poles": count[r["left_out"]]} for r in _activity_of(session, sets, "left_out")]


def _activity_of(session: Session, sets: str, which: str) -> list[dict[str, Any]]:
    """Both activities of sets of poles under each of the study's prompts, means over problems.

    Args:
        sets: SQL: tables for a WITH, among them `named` with layer, index, sign and `which`, the set's name.
        which: what the rows call that name.
    """
    ways = {
        "own_activity": (
            "SELECT prompt, problem_id, tokens FROM prompt_problems WHERE family = 'study'",
            """SELECT prompt, problem_id, which, sum(steps) AS steps
               FROM activity JOIN named USING (layer, index, sign) WHERE family = 'study' GROUP BY ALL""",
        ),
        "fixed_activity": (
            """SELECT prompt, problem_id, sum(tokens) AS tokens
               FROM solutions CROSS JOIN (SELECT DISTINCT prompt FROM forced_scores WHERE family = 'study') GROUP BY ALL""",
            """SELECT prompt, problem_id, which, sum(steps) AS steps
               FROM forced JOIN named USING (layer, index, sign) WHERE family = 'study' GROUP BY ALL""",
        ),
    }
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, (texts, active) in ways.items():
        for r in session.run.rows(
            f"""WITH {sets}, texts AS ({texts}), active AS ({active})
                SELECT prompt, which, avg(coalesce(steps, 0) / tokens) AS per_token
                FROM texts CROSS JOIN (SELECT DISTINCT which FROM named)
                     LEFT JOIN active USING (prompt, problem_id, which) GROUP BY ALL ORDER BY ALL"""
        ):
            key = r["prompt"], r["which"]
            rows.setdefault(key, {"prompt": key[0], which: key[1]})[name] = r["per_token"]
    return list(rows.values())


JUDGED = ("lexicon", "accepted", "rejected")
"""All candidates (what a lexicon alone would accept), those that the annotator accepted, and the others."""
