"""How activity goes with accuracy over prompts: plainly, given length, within kinds of prompt, and for random sets.

Pure: figures in, figures out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from . import (
    partial_spearman,
    permutation_p,
    rank_correlation,
    spearman,
    within_rank_correlation,
    within_spearman,
)

KEYS = ("spearman", "low", "high", "p_value")
MEASURES = {
    ("own", "all"): "poles_per_token",
    ("own", "first"): "poles_per_token_first",
    ("fixed", "all"): "fixed_activity",
    ("fixed", "first"): "fixed_activity_first",
}
"""(activity, poles) → column of the tables `prompts` and `variants`. Poles: all reasoning poles, or those that
discovery under the first prompt alone finds."""


@dataclass(frozen=True)
class Points:
    """Prompts over which activity and accuracy are correlated.

    Attributes:
        family: "study", "variant" or "sentence".
        rows: one per prompt, with `accuracy`, `tokens_per_problem`, `prompt_tokens` and the columns of `MEASURES`.
        groups: each prompt's kind; None where no kind has two prompts.
        reasoning: generated activity of the reasoning neurons (both signs) by prompt.
        random: the same of each random set.
    """

    family: str
    rows: Sequence[dict[str, Any]]
    groups: Sequence[str] | None
    reasoning: Sequence[float]
    random: Sequence[Sequence[float]]


def correlations(points: Points, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All correlations of one family: rows for the table `correlations`, and the section of the summary.

    In a row, `given` says what is held: nothing, "length" (the prompt's and the completions' tokens) or "kind" (ranks
    within kinds of prompt). Activity that was not measured has no rows.
    """
    accuracy = [r["accuracy"] for r in points.rows]
    lengths = [[r["prompt_tokens"], r["tokens_per_problem"]] for r in points.rows]
    table = []
    for ((activity, poles), column), given in product(MEASURES.items(), ("nothing", "length", "kind")):
        values = [r[column] for r in points.rows]
        if None in values or not values:
            continue
        found: tuple[float | None, ...]
        if given == "nothing":
            found = spearman(values, accuracy, seed)
        elif given == "length":
            found = (*partial_spearman(values, accuracy, lengths, seed), None)
        elif points.groups is None:
            continue
        else:
            found = within_spearman(values, accuracy, points.groups, seed)
        table.append(
            {"family": points.family, "prompts": len(values), "activity": activity, "poles": poles, "given": given}
            | dict(zip(KEYS, found))
        )
    of = {(r["activity"], r["poles"], r["given"]): {k: r[k] for k in KEYS} for r in table}
    own = of.get(("own", "all", "nothing"), dict.fromkeys(KEYS))
    length = of.get(("own", "all", "length"), dict.fromkeys(KEYS))
    summary = {
        "spearman": own["spearman"],
        "ci": [own["low"], own["high"]],
        "p_value": own["p_value"],
        "prompts": len(points.rows),
        "activity": "own_activity",
        "fixed": of.get(("fixed", "all", "nothing")),
        "first": of.get(("own", "first", "nothing")),
        "fixed_first": of.get(("fixed", "first", "nothing")),
        "given_length": {k: length[k] for k in KEYS[:3]},
        "random": _among_random(points, lambda a: rank_correlation(a, accuracy)),
    }
    if points.groups is not None:
        groups = points.groups
        summary["within"] = of.get(("own", "all", "kind"))
        summary["fixed_within"] = of.get(("fixed", "all", "kind"))
        summary["random_within"] = _among_random(points, lambda a: within_rank_correlation(a, accuracy, groups))
    return table, summary


def _among_random(points: Points, statistic: Callable[[Sequence[float]], float]) -> dict[str, Any] | None:
    """Where the reasoning neurons' correlation lies among the random sets'; None if it, or all of theirs, is undefined."""
    target, found = statistic(points.reasoning), [statistic(a) for a in points.random]
    found = [r for r in found if not np.isnan(r)]
    if not found or np.isnan(target):
        return None
    return {
        "sets": len(found),
        "reasoning": target,
        "median": float(np.median(found)),
        "quantiles": [float(q) for q in np.quantile(found, (0.025, 0.975))],
        "p_value": permutation_p(-target, [-r for r in found]),
    }
