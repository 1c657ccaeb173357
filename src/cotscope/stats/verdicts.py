"""The rule by which a phenomenon of the chain-of-thought prompt is judged, written down when a study begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from . import LEVEL
from .labels import PERMUTATIONS

LARGEST_BLIND_CHANGE = 0.15  # of accuracy: who could only have seen a larger one can't say that there was none
STILL = 0.05  # of the activity under the first prompt: a change that surely is no larger counts as none

MANY = 1_000_000  # problems needed, at most

TOO_FEW_PROBLEMS = "too few problems to tell"
TOGETHER, AGAINST = "activity goes with accuracy", "activity goes against accuracy"
RULE = (
    "Accuracy has changed if its exact McNemar p, Holm-adjusted over the phenomena, is below 0.05; activity has changed "
    "if the sign-flip permutation p of its paired change, Holm-adjusted likewise, is below 0.05. It has changed beyond that "
    f"of other neurons if its change is also further out in its direction than that of {PERMUTATIONS} permuted sets (as many "
    "poles of each layer and stratum of steps and update size, drawn from all that are there; two-sided p, Holm-adjusted "
    "likewise, below 0.05). It has stood still if there was any under the first prompt, and the 90 % interval of its change "
    f"lies within ±{STILL} of that. Accuracy and activity have changed in the same direction, activity beyond that of other "
    f"neurons: {TOGETHER}. The same in opposite directions: {AGAINST}. Both, but activity not beyond: activity moves as any "
    "neurons' does. Accuracy has changed and activity stood still: accuracy moves without activity. Accuracy has not changed, "
    "and these problems could show (with 80 % power, the level shared by the phenomena) a change of 0.15 or less: if activity "
    "has changed, activity moves without accuracy; if it stood still, no change. All else: too few problems to tell. A "
    "phenomenon that several prompts show is judged on each problem's mean over them, accuracy then by a sign-flip "
    "permutation test. The verdict is on generated activity; beside it stands the same on teacher-forced activity."
)


class ActivityChange(NamedTuple):
    """How activity changed.

    Attributes:
        mean: change, active poles per token.
        p: of the paired changes, adjusted.
        p_beyond: of its place among permuted sets, adjusted.
        still: whether it is equivalent to no change.
    """

    mean: float
    p: float
    p_beyond: float
    still: bool


def verdict(accuracy: tuple[float, float], activity: ActivityChange, detectable: float) -> str:
    """`RULE` on one phenomenon.

    Args:
        accuracy: mean change and its adjusted p.
        detectable: the smallest change of accuracy that the problems can show.
    """
    moves = activity.p < LEVEL
    if accuracy[1] < LEVEL:
        if moves and activity.p_beyond < LEVEL:
            return TOGETHER if (accuracy[0] > 0) == (activity.mean > 0) else AGAINST
        if moves:
            return "activity moves as any neurons' does"
        return "accuracy moves without activity" if activity.still else TOO_FEW_PROBLEMS
    if detectable > LARGEST_BLIND_CHANGE or not (moves or activity.still):
        return TOO_FEW_PROBLEMS
    return "activity moves without accuracy" if moves else "no change"


def problems_to_tell(changes: Sequence[float], bound: float, tests: int) -> int:
    """Problems with which activity would have changed, or stood still, if mean and spread of its changes stayed as they are.

    By Student's t, so a round figure: either the mean's interval at the level shared by `tests` leaves 0 out, or its 90 %
    interval lies within the bound. At least one more than there are, and as many as sign flips need.

    Args:
        changes: of the problems there are, at least one.
    """
    mean, spread = abs(fmean(changes)), stdev(changes) if len(changes) > 1 else 0.0
    ways = [(mean, 1 - LEVEL / tests / 2), (bound - mean, 1 - LEVEL)]
    found = [_fewest(room, spread, level) for room, level in ways if room > 0]
    flips = 2 + math.floor(math.log2(tests / LEVEL))  # of all sign flips two are as extreme as can be
    return max(min(found, default=0), flips, len(changes) + 1)


def _fewest(room: float, spread: float, level: float) -> int:
    """The fewest values of this standard deviation whose mean's one-sided t interval at the level is no wider than `room`.

    At most `MANY`.
    """
    from scipy import stats as scipy_stats

    n = max(2, math.floor(min(MANY, (scipy_stats.norm.ppf(level) * spread / room) ** 2)))
    while n < MANY and scipy_stats.t.ppf(level, n - 1) * spread > room * math.sqrt(n):
        n += 1
    return n
