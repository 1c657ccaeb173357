"""How activity goes with accuracy over prompts: plainly, given length, within and between kinds of prompt, and for
permuted sets.

Prompts of one kind resemble each other. Who takes them as independent finds a relation where there is none in one case
of three, so a family with kinds has its intervals and p-values within kinds, and between the kinds' means.

Pure: figures in, figures out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import LEVEL
from .labels import as_high_p
from .ranks import partial_spearman, rank_correlation, spearman, within_rank_correlation, within_spearman

KEYS = ("spearman", "low", "high", "p_value")
MEASURES = {
    ("own", "all"): "poles_per_token",
    ("own", "first"): "poles_per_token_first",
    ("fixed", "all"): "fixed_activity",
    ("fixed", "first"): "fixed_activity_first",
}
"""(activity, poles) → column of the tables `prompts` and `variants`. Poles: all reasoning poles, or those that
discovery under the first prompt alone finds."""
LEAST_KINDS = 6
"""With fewer kinds nothing is said of what lies between them: of five no order but the best reaches p = 0.05."""


@dataclass(frozen=True)
class Points:
    """Prompts over which activity and accuracy are correlated.

    Attributes:
        family: "study", "variant" or "sentence".
        rows: one per prompt, with `accuracy`, `tokens_per_problem`, `prompt_tokens` and the columns of `MEASURES`.
        groups: each prompt's kind; None where no kind has two prompts.
        permuted: generated activity of sets with permuted labels (sets, prompts).
    """

    family: str
    rows: Sequence[dict[str, Any]]
    groups: Sequence[str] | None
    permuted: NDArray[np.float64]


def correlations(points: Points, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All correlations of one family: rows for the table `correlations`, and the section of the summary.

    In a row, `given` says what is held: nothing, "length" (the prompt's and the completions' tokens) or "kind" (ranks
    within kinds of prompt); "between" is over the kinds' means. In a family with kinds the first two have no interval and
    no p, and none has where no order of the prompts could have p = 0.05. Activity that was not measured has no rows.
    """
    accuracy = [r["accuracy"] for r in points.rows]
    lengths = [[r["prompt_tokens"], r["tokens_per_problem"]] for r in points.rows]
    table = []
    for ((activity, poles), column), given in product(MEASURES.items(), ("nothing", "length", "kind", "between")):
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
        elif given == "kind":
            found = within_spearman(values, accuracy, points.groups, seed)
        elif len(set(points.groups)) < LEAST_KINDS:
            continue
        else:
            found = spearman(_means(values, points.groups), _means(accuracy, points.groups), seed)
        kinds = points.groups if given == "kind" and points.groups else [""] * len(values)
        if _orders(kinds) < 2 / LEVEL or (points.groups is not None and given in ("nothing", "length")):
            found = (found[0], None, None, None)
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
        "permuted": _among_permuted(points, lambda a: rank_correlation(a, accuracy)),
    }
    if points.groups is not None:
        groups = points.groups
        summary |= {
            "kinds": len(set(groups)),
            "within": of.get(("own", "all", "kind")),
            "fixed_within": of.get(("fixed", "all", "kind")),
            "between": of.get(("own", "all", "between")),
            "permuted_within": _among_permuted(points, lambda a: within_rank_correlation(a, accuracy, groups)),
        }
    return table, summary


def _orders(kinds: Sequence[str]) -> int:
    """In how many orders prompts can stand within their kinds."""
    return prod(factorial(count) for count in Counter(kinds).values())


def _means(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Each kind's mean."""
    return [float(np.mean([v for v, g in zip(values, groups) if g == kind])) for kind in dict.fromkeys(groups)]


def _among_permuted(points: Points, statistic: Callable[[Sequence[float]], float]) -> dict[str, Any] | None:
    """Where the reasoning poles' correlation lies among the permuted sets'; None if it, or all of theirs, is undefined."""
    target = statistic([r["poles_per_token"] for r in points.rows])
    found = [r for r in map(statistic, points.permuted.tolist()) if not np.isnan(r)]
    if not found or np.isnan(target):
        return None
    return {
        "sets": len(found),
        "median": float(np.median(found)),
        "quantiles": [float(q) for q in np.quantile(found, (0.025, 0.975))],
        "p_value": as_high_p(target, found),
    }
