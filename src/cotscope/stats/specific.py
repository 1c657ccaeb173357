"""The rule by which a set of neurons is said to matter to arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .intervals import LEVEL
from .significance import permutation_p

LEAST_EFFECT = 0.05  # nats; a token loses 5 % of its probability
LEAST_PERMUTED = round(1 / LEVEL) - 1  # with fewer no p-value reaches the level
TOO_FEW = "too few permuted sets to tell"
SPECIFIC_RULE = (
    "A set matters to arithmetic if its removal lowers the log-probability of the arithmetic tokens (operators, equals signs, "
    "results) of given solutions more than the removal of permuted sets does (as many neurons of each layer and stratum of "
    f"steps and update size, drawn from all that are there; permutation p at most 0.05), by at least {LEAST_EFFECT} nats more "
    "than their mean (less is no finding, however sure), and if it still does after the change at the solutions' other tokens "
    "has been taken off (p at most 0.05 too: not everything just suffers more). All three: matters. Not all: not shown. Fewer "
    f"than {LEAST_PERMUTED} permuted sets: too few to tell."
)


class SpecificDamage(NamedTuple):
    """What `SPECIFIC_RULE` says of a set.

    Attributes:
        change: of the mean log-probability of arithmetic tokens (nats).
        permuted_mean: mean change under the permuted sets.
        p_value: permutation p of `change` among the permuted sets.
        p_beyond: the same for the change less that of the other tokens.
        verdict: "matters", "not shown" or `TOO_FEW`.
    """

    change: float
    permuted_mean: float
    p_value: float
    p_beyond: float
    verdict: str


def specific_damage(
    untouched: tuple[float, float], target: tuple[float, float], permuted: Sequence[tuple[float, float]]
) -> SpecificDamage:
    """Apply `SPECIFIC_RULE`.

    Args:
        untouched: mean log-probability of arithmetic tokens, and of the others, with nothing disrupted.
        target: the same without the set.
        permuted: the same without each permuted set, at least one.
    """
    assert all(math.isfinite(v) for pair in (untouched, target, *permuted) for v in pair)
    changes = [(a - untouched[0], e - untouched[1]) for a, e in (target, *permuted)]
    arithmetic, beyond = [a for a, _ in changes], [a - e for a, e in changes]
    p, p_beyond = permutation_p(arithmetic[0], arithmetic[1:]), permutation_p(beyond[0], beyond[1:])
    mean = sum(arithmetic[1:]) / len(permuted)
    if len(permuted) < LEAST_PERMUTED:
        verdict = TOO_FEW
    else:
        verdict = "matters" if max(p, p_beyond) <= LEVEL and mean - arithmetic[0] >= LEAST_EFFECT else "not shown"
    return SpecificDamage(arithmetic[0], mean, p, p_beyond, verdict)
