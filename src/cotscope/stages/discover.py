"""Discover: which poles are active when problems are solved, and which of them promote a concept's tokens.

Rai & Yao 2024, Algorithm 1 (collect the active neurons of correctly solved problems) and Algorithm 2 (filter them by
what they promote), with poles instead of neurons (docs/methods.md).

The paper looks under one prompt, and then finds its neurons more active under that prompt than under others. Here each
of several prompts (`--discover-prompts`) is given all discovery problems, and a pole keeps the names of those
under which it was found, so that activity can be counted held out: of the poles that the other prompts found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..concepts.lexicon import candidates
from ..errors import DiscoveryError
from ..measuring.generation import Condition, solve
from ..measuring.neurons import with_promoted
from ..records import Pole
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import CANDIDATES, POLES


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    discover_prompts: int = option(3, "prompts, the first ones, that discovery looks under; 0: all", kind="natural")


def discover(session: Session, options: Options) -> str:
    """Run the stage.

    Raises: DiscoveryError if no problem was solved or no pole passed the filter.
    """
    run = session.run
    prompts = session.inputs.prompts[: options.discover_prompts or None]
    solve(session, [Condition("discovery", p, "discovery", record=True) for p in prompts], "discovering")
    promoted = with_promoted(session, _active_poles(session))
    found = []
    for row in promoted:
        pole = Pole(row["layer"], row["index"], row["sign"])
        found += candidates(pole, row["promoted"], session.inputs.concepts.concepts)
    if not found:
        raise DiscoveryError(
            f"none of the {len(promoted)} active poles promotes the tokens of a concept",
            expected="poles with at least two seed tokens among their promoted tokens",
            remedy=f"Look at the seeds in {session.inputs.concepts.source}, or discover from more problems.",
        )
    run.write(POLES, promoted)
    run.write(
        CANDIDATES,
        [{**c.pole._asdict(), "concept": c.concept, "matches": len(c.evidence), "evidence": list(c.evidence)} for c in found],
    )
    suspects = len({c.pole for c in found})
    run.summarise(
        "neurons",
        {"active_poles": len(promoted), "candidates": suspects, "discovery_prompts": [p.name for p in prompts]},
    )
    return f"{len(promoted):,} active poles, {suspects:,} of them promote a concept's tokens"


def _active_poles(session: Session) -> list[dict[str, Any]]:
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
           FROM activity JOIN completions USING (condition, family, prompt, problem_id)
           WHERE split = 'discovery' AND correct AND layer >= ?
           GROUP BY ALL ORDER BY layer, index, sign""",
        [session.first_layer],
    )


STAGE = Stage(
    "discover",
    "discover",
    "find the poles that are active when problems are solved, and those that promote a concept's tokens",
    discover,
    Options,
    writes=("completions/discovery.", "activity/discovery.", POLES, CANDIDATES),
    example="cotscope discover --data builtin --limit 16 --out runs/first",
)
