"""The rule by which a set of neurons is said to push arithmetic tokens, or to matter to arithmetic; and how far a set goes
beyond others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .intervals import LEVEL, RESAMPLES, in_blocks, paired_shares
from .significance import permutation_p

LEAST_EFFECT = 0.05  # nats of log-probability; a token loses 5 % of its probability
LEAST_MARGIN = 0.1  # nats of logit margin
LEAST_PERMUTED = round(1 / LEVEL) - 1  # with fewer no p-value reaches the level
MATTERS, PUSH, NOT_SHOWN = "matters", "only a push is shown", "not shown"
TOO_FEW = "too few permuted sets to tell"
UNSPLIT = "damage, but its own push can't be told from the rest"
ARITHMETIC, ANSWERS = "arithmetic", "answers"
"""What a study is of: problems whose answers are numbers, or words."""
VERDICTS = {
    MATTERS: "Taken out, these neurons make {tokens} tokens less likely, more so than as many random neurons like them, and "
    "still do with what they write to the output directly (their push) put back: later layers depend on them.",
    PUSH: "Taken out, these neurons make {tokens} tokens less likely, more so than as many random neurons like them. With only "
    "what they write to the output directly (their push) put back, no more harm than that of random neurons is shown: the push "
    "may be all that they do for {skill}.",
    NOT_SHOWN: "It is not shown that taking these neurons out makes {tokens} tokens less likely, more so than taking out as "
    "many random neurons like them.",
    UNSPLIT: "Taken out, these neurons make {tokens} tokens less likely, more so than as many random neurons like them. "
    "Whether that is more than what they write to the output directly can't be told on this model.",
    TOO_FEW: f"It takes {LEAST_PERMUTED} permuted sets (as many random neurons like them) to say anything.",
}
"""What each verdict says of a set, for `in_words`."""
SPECIFIC_RULE = (
    "A set of neurons is taken out while the model is made to write given solutions, and so are permuted sets: as many neurons "
    "of each layer and stratum of what neurons did in discovery, drawn from all that are there. A claim on the set holds if "
    "its arithmetic tokens (operators, equals signs, results; where answers are words: the answer, wherever it stands) lose "
    f"more than under the permuted sets (permutation p at most {LEVEL}), by a least amount more than under their mean, and "
    "still do after the change at the other tokens has been taken "
    f"off (p at most {LEVEL} too: not everything just suffers more). There are two claims, each at that level. The set pushes "
    f"arithmetic: the total change in log-probability, at least {LEAST_EFFECT} nats. The set matters to arithmetic: the "
    "indirect change in logit margin (the token's logit less the largest of the others), that which is left when the set's "
    f"own push on the logits has been put back, at least {LEAST_MARGIN}. The second holds: matters. Only the first: only its "
    f"own push is shown. Neither: not shown. Fewer than {LEAST_PERMUTED} permuted sets: too few to tell. “No effect” is said "
    f"of a change only where its interval at 90 % lies within ±{LEAST_EFFECT} nats of log-probability, or ±{LEAST_MARGIN} of "
    "margin."
)


def in_words(verdict: str, skill: str = ARITHMETIC) -> str:
    """What a verdict says of a set in a study of this skill."""
    tokens = "answer" if skill == ANSWERS else skill
    return VERDICTS[verdict].format(tokens=tokens, skill=skill)


class ByKind(NamedTuple):
    """A figure at the arithmetic tokens of reference solutions, and at the other tokens."""

    arithmetic: float
    elsewhere: float


class Scored(NamedTuple):
    """What `SPECIFIC_RULE` asks of a set, or of the untouched model.

    Attributes:
        total: mean log-probability (nats) with the set zeroed.
        indirect: mean logit margin (nats) with the set zeroed and its own push put back; None: not measured.
    """

    total: ByKind
    indirect: ByKind | None


class Claim(NamedTuple):
    """One claim of `SPECIFIC_RULE` on a set.

    Attributes:
        change: at arithmetic tokens (nats).
        permuted_mean: mean change under the permuted sets.
        p_value: permutation p of `change` among the permuted sets.
        p_beyond: the same for the change less that at the other tokens.
        holds: with enough permuted sets.
    """

    change: float
    permuted_mean: float
    p_value: float
    p_beyond: float
    holds: bool


class SpecificDamage(NamedTuple):
    """What `SPECIFIC_RULE` says of a set.

    Attributes:
        pushes: the claim on the total change in log-probability.
        matters: the claim on the indirect change in logit margin; None: it was not measured.
        verdict: `MATTERS`, `PUSH`, `NOT_SHOWN`, `TOO_FEW`, or, where paths can't be told apart, `UNSPLIT`.
    """

    pushes: Claim
    matters: Claim | None
    verdict: str


def specific_damage(untouched: Scored, target: Scored, permuted: Sequence[Scored]) -> SpecificDamage:
    """Apply `SPECIFIC_RULE`.

    Args:
        untouched: with nothing disrupted.
        target: without the set.
        permuted: without each permuted set, at least one.
    """
    every = (untouched, target, *permuted)
    pushes = _claim([s.total for s in every], LEAST_EFFECT)
    margins = [s.indirect for s in every if s.indirect is not None]
    matters = _claim(margins, LEAST_MARGIN) if len(margins) == len(every) else None
    if len(permuted) < LEAST_PERMUTED:
        verdict = TOO_FEW
    elif matters is not None and matters.holds:
        verdict = MATTERS
    elif pushes.holds:
        verdict = UNSPLIT if matters is None else PUSH
    else:
        verdict = NOT_SHOWN
    return SpecificDamage(pushes, matters, verdict)


def _claim(values: Sequence[ByKind], least: float) -> Claim:
    """Of the untouched model's value, the set's, and the permuted sets'."""
    assert all(math.isfinite(v) for places in values for v in places)
    before = values[0]
    own, *permuted = [ByKind(v.arithmetic - before.arithmetic, v.elsewhere - before.elsewhere) for v in values[1:]]
    p = permutation_p(own.arithmetic, [c.arithmetic for c in permuted])
    p_beyond = permutation_p(own.arithmetic - own.elsewhere, [c.arithmetic - c.elsewhere for c in permuted])
    mean = sum(c.arithmetic for c in permuted) / len(permuted)
    enough = len(permuted) >= LEAST_PERMUTED
    return Claim(own.arithmetic, mean, p, p_beyond, enough and max(p, p_beyond) <= LEVEL and mean - own.arithmetic >= least)


def beyond_controls(
    target: Sequence[float], controls: Sequence[Sequence[float]], seed: int = 0, level: float = 0.95, shares: bool = False
) -> tuple[float, float, float]:
    """Mean over problems of a set's value less the mean of control sets', with an interval over problems and sets.

    Both are resampled at once (the pigeonhole bootstrap; Owen 2007), one fewer of each than there are, so that the spread
    is that of a mean of so many (Rao & Wu 1988). The percentiles are as much further out as those of t are than the
    normal's (Hesterberg 2015), with Satterthwaite's degrees of freedom. With one control set it is over problems alone.

    Args:
        target: one value per problem.
        controls: the same of each control set, at least one.
        shares: values are shares, so that an interval of no width says nothing: there it is that of `paired_shares`.

    Returns: mean, low, high.
    """
    beyond = np.asarray(target, float) - np.asarray(controls, float)  # (sets, problems)
    if shares and np.ptp(beyond) < 1e-9:
        return paired_shares(beyond[0].tolist(), seed, level)
    (sets, problems), rng = beyond.shape, np.random.default_rng(seed)

    def weights(n: int, count: int) -> NDArray[np.float64]:
        draws = max(1, n - 1)
        return rng.multinomial(draws, np.full(n, 1 / n), count) / draws

    of_sets = iter(weights(sets, RESAMPLES))

    def mean_of(count: int) -> NDArray[np.float64]:
        return ((np.stack([*islice(of_sets, count)]) @ beyond) * weights(problems, count)).sum(axis=1)

    means = in_blocks(problems, mean_of)
    tail = _tail(beyond, 0.5 - level / 2)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(beyond.mean()), float(low), float(high)


def specific_change(
    own: Sequence[float], controls: Sequence[Sequence[float]], seed: int, shares: bool = False
) -> dict[str, float]:
    """A set's change beyond control sets': change, low and high (`beyond_controls`), and its rank p among them."""
    ends = dict(zip(("change", "low", "high"), beyond_controls(own, controls, seed, shares=shares)))
    return ends | {"p_value": permutation_p(fmean(own), [fmean(c) for c in controls])}


def _tail(beyond: NDArray[np.float64], tail: float) -> float:
    """The normal tail beyond t's quantile at `tail`; degrees of freedom from the spread of sets and of problems."""
    from scipy import stats as scipy_stats

    spreads = [beyond.mean(axis=1 - axis).var(ddof=1) / n if n > 1 else 0.0 for axis, n in enumerate(beyond.shape)]
    if not any(spreads):
        return tail
    of_each = sum(v**2 / (n - 1) for v, n in zip(spreads, beyond.shape, strict=True) if n > 1)
    return float(scipy_stats.norm.sf(scipy_stats.t.isf(tail, sum(spreads) ** 2 / of_each)))
