"""Discover: which poles are active when problems are solved, and which of them promote a concept's tokens.

Rai & Yao 2024, Algorithm 1 (collect the active neurons of correctly solved problems) and Algorithm 2 (filter them by
what they promote), with poles instead of neurons (design, section 2).

The paper looks under one prompt, and then finds its neurons more active under that prompt than under others. Here each
of several prompts (`StudyConfig.discover_prompts`) is given all discovery problems, and a pole keeps the names of those
under which it was found: the paper's way are the poles with the first prompt's name.

Reads: the discovery problems. Writes: completions and activity of `discover.<prompt>`; `poles`, `candidates`.
"""

from __future__ import annotations

import pyarrow as pa

from ..concepts.lexicon import candidates
from ..errors import DiscoveryError
from ..measuring.generation import Condition, solve
from ..measuring.neurons import with_promoted
from ..records import Pole
from ..runs.session import Session

CANDIDATES = pa.schema(
    [
        ("layer", pa.int16()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("concept", pa.string()),
        ("matches", pa.int32()),
        ("evidence", pa.list_(pa.string())),
    ]
)


def discover(session: Session) -> None:
    """Run the stage.

    Raises: DiscoveryError if no problem was solved or no pole passed the filter.
    """
    run = session.run
    if run.stage_done("discover"):
        return
    with run.stage("discover"):
        prompts = session.prompts[: session.config.discover_prompts or None]
        conditions = [Condition(f"discover.{p.name}", p, "discovery", record=True) for p in prompts]
        solve(session, conditions, "discovering")
        active = _active_poles(session)
        promoted = with_promoted(session, active)
        found = []
        for row in promoted:
            pole = Pole(row["layer"], row["index"], row["sign"])
            found += candidates(pole, row["promoted"], session.concepts.concepts)
        if not found:
            raise DiscoveryError(
                f"none of the {len(promoted)} active poles promotes the tokens of a concept",
                expected="poles with at least two seed tokens among their promoted tokens",
                remedy=f"Look at the seeds in {session.concepts.source}, or discover from more problems.",
            )
        run.write_rows("poles", promoted)
        run.write_rows(
            "candidates",
            [
                {**c.pole._asdict(), "concept": c.concept, "matches": len(c.evidence), "evidence": list(c.evidence)}
                for c in found
            ],
            CANDIDATES,
        )
        run.summarise(
            "neurons",
            {
                "active_poles": len(promoted),
                "candidates": len({c.pole for c in found}),
                "discovery_prompts": [p.name for p in prompts],
            },
        )


def _active_poles(session: Session) -> list[dict]:
    """The poles that were active on correctly solved problems, with how often, how strongly and under which prompts."""
    run = session.run
    scores = run.rows(
        """SELECT prompt, count(*) AS n, count(*) FILTER (correct) AS solved
           FROM completions WHERE split = 'discovery' GROUP BY prompt ORDER BY prompt"""
    )
    if not any(score["solved"] for score in scores):
        raise DiscoveryError(
            "no discovery problem was solved, so there is nothing to discover from",
            expected="at least one correct answer",
            got=f"accuracy 0 of {scores[0]['n']} under {len(scores)} prompts",
            remedy="Use easier data (`--data builtin` has one- to four-step problems), more problems "
            "(--discover-limit) or a stronger model.",
        )
    few = [f"{score['solved']} under {score['prompt']}" for score in scores if score["solved"] < 10]
    if few:
        run.note(f"Discovery rests on few solved problems of {scores[0]['n']}: {', '.join(few)}.")
    return run.rows(
        """SELECT layer, index, sign, sum(steps)::INT AS steps, count(DISTINCT problem_id)::INT AS problems,
                  sum(update_size) / sum(steps) AS mean_update_size, sum(coefficient) / sum(steps) AS mean_coefficient,
                  list_sort(list(DISTINCT prompt)) AS prompts
           FROM activity JOIN completions USING (condition, problem_id)
           WHERE split = 'discovery' AND correct AND layer >= ?
           GROUP BY ALL ORDER BY layer, index, sign""",
        [session.first_layer],
    )
