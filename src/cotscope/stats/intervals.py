"""Intervals of proportions and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

FEW = 6
"""Pairs below which resamples say too little: 95 % intervals of three held the mean 0.71 of the time."""
RESAMPLES = 10_000
DRAWS = 2**22
"""At once: of some hundred problems all resamples, of more a block of them after another, from the same generator."""
LEVEL = 0.05
LEAST_SPREAD = 0.25
"""Of a resample, as a share of the sample's. Without it one change among 48 problems has an interval as long as the change."""
LEAST_EQUIVALENT = 5
"""Pairs below which no equivalence is said: of fewer not even the sign test shows at 0.05 that they lie above a bound."""


def in_blocks(n: int, work: Callable[[int], NDArray[np.float64]]) -> NDArray[np.float64]:
    """What `work` makes of blocks of so many resamples of n things, (RESAMPLES, …)."""
    most = max(1, DRAWS // max(1, n))
    return np.concatenate([work(min(most, RESAMPLES - first)) for first in range(0, RESAMPLES, most)])


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). (0, 1) for n = 0."""
    from scipy import stats as scipy_stats

    if n == 0:
        return 0.0, 1.0
    z = float(scipy_stats.norm.ppf(0.5 + level / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Of none and of all the bound is 0 or 1 itself; rounding would miss it.
    return float(centre - half) if successes else 0.0, float(centre + half) if successes < n else 1.0


def clustered_share(hits: Sequence[bool], clusters: Sequence[Hashable], level: float = 0.95) -> tuple[float, float]:
    """`wilson`'s interval of a proportion where hits of one cluster may go together: with as many independent hits as have its
    standard error (`clustered_error`), at most as many as there are, and fewer where clusters are few: by the square of the
    normal's quantile over t's (Korn & Graubard 1998, Survey Methodology 24:193)."""
    from scipy import stats as scipy_stats

    n, share = len(hits), float(np.mean(hits)) if len(hits) else 0.0
    count = len(set(clusters))
    if not 0 < share < 1 or count < 2:
        return wilson(share * count, count, level)
    if count == n:
        return wilson(share * n, n, level)
    error = clustered_error(np.asarray(hits, float), clusters)
    effective = min(float(n), share * (1 - share) / error**2) if error > 0 else float(n)
    effective *= float((scipy_stats.norm.ppf(0.5 + level / 2) / scipy_stats.t.ppf(0.5 + level / 2, count - 1)) ** 2)
    return wilson(share * effective, effective, level)


def paired_bootstrap(differences: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of paired differences with its bootstrap-t interval over pairs (Efron & Tibshirani 1993, ch. 12.5).

    Differences of few problems are skewed, with heavy tails: the percentile interval and BCa are too narrow for them, this
    one is less so (docs/log.md). A resample's spread counts for at least `LEAST_SPREAD` of the sample's, and no end lies
    beyond all differences: where most of them are 0, some resamples have no spread. Of fewer than `FEW` pairs Student's t.

    Returns: mean, low, high; of no width if all are the same; ends of one pair, and all of none, are NaN.
    """
    from scipy import stats as scipy_stats

    values = np.asarray(differences, float)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    n, mean, spread, rng = len(values), values.mean(), values.std(), np.random.default_rng(seed)
    if n < FEW:
        half = float(scipy_stats.t.ppf(0.5 + level / 2, n - 1) * spread / np.sqrt(n - 1)) if n > 1 else float("nan")
        return float(mean), float(mean) - half, float(mean) + half

    def studentized(count: int) -> NDArray[np.float64]:
        around = (values - mean)[rng.integers(0, n, (count, n))]
        means = around.mean(axis=1)
        spreads = np.sqrt(np.maximum(np.einsum("ij,ij->i", around, around) / n - means**2, (LEAST_SPREAD * spread) ** 2))
        return np.divide(means, spreads, out=np.zeros(count), where=spreads > 0)

    t = in_blocks(n, studentized)
    high, low = mean - spread * np.quantile(t, [0.5 - level / 2, 0.5 + level / 2])
    return float(mean), float(max(low, min(mean, values.min()))), float(min(high, max(mean, values.max())))


def paired_shares(differences: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """`paired_bootstrap` of shares, or of differences of shares: values from -1 to 1, one per problem.

    Where all are the same, which says nothing of how far others would differ, its ends are those that Agresti and Min's
    (2005) interval has of as many problems of which so large a share changes.
    """
    from scipy import stats as scipy_stats

    mean, low, high = paired_bootstrap(differences, seed, level)
    if n := len(differences) * (not np.ptp(differences) > 1e-9 if len(differences) else 0):
        quantile = float(scipy_stats.norm.ppf(0.5 + level / 2))
        low, high = _adjusted(n * max(mean, 0.0), n * max(-mean, 0.0), n, quantile)
    return mean, low, high


def paired_proportions(before: Sequence[bool], after: Sequence[bool], level: float = 0.95) -> tuple[float, float, float]:
    """Difference of two paired proportions with its adjusted Wald interval (Agresti & Min 2005, Stat. Med. 24:729).

    Half an observation is added to each of the four cells, so that few or no changes leave an interval of some width.

    Returns: difference, low, high; NaN for no pairs.
    """
    from scipy import stats as scipy_stats

    n = len(before)
    if not n:
        return float("nan"), float("nan"), float("nan")
    lost, gained = (sum(bool(b) == x and bool(a) != x for b, a in zip(before, after, strict=True)) for x in (True, False))
    return (gained - lost) / n, *_adjusted(gained, lost, n, float(scipy_stats.norm.ppf(0.5 + level / 2)))


def _adjusted(gained: float, lost: float, n: int, quantile: float) -> tuple[float, float]:
    """Agresti and Min's ends, with half an observation more in each cell."""
    p, q = (gained + 0.5) / (n + 2), (lost + 0.5) / (n + 2)
    half = quantile * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def clustered_proportions(
    before: Sequence[bool], after: Sequence[bool], clusters: Sequence[int], level: float = 0.95
) -> tuple[float, float, float, float]:
    """The same of problems of which those of one cluster may change together: so that it says something of other clusters.

    By `clustered_error`, with t of one degree less than there are clusters; never shorter than `paired_proportions` has it, and
    where no problem changes, or all do alike, or clusters are too few for their signs to show anything, not shorter than that
    has it of as many problems as there are clusters, with that t. As that has it where each problem is its own cluster.

    Returns: difference, low, high; and how many independent problems would say as much, at most as many as there are.
    """
    from scipy import stats as scipy_stats

    n, number = len(before), np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(number.max()) + 1 if n else 0
    difference, low, high = paired_proportions(before, after, level)
    if count == n:
        return difference, low, high, float(n)
    if count < 2:
        return difference, -1.0, 1.0, 1.0
    changes = np.asarray(after, float) - np.asarray(before, float)
    quantile = float(scipy_stats.t.ppf(0.5 + level / 2, count - 1))
    if _say_nothing(changes, count):
        share = count / n
        low, high = _adjusted(share * float((changes > 0).sum()), share * float((changes < 0).sum()), count, quantile)
    if not changes.var():
        return difference, low, high, float(count)
    error = clustered_error(changes, clusters)
    half = quantile * error
    effective = min(float(n), changes.var() / error**2) if error > 1e-9 else float(count)
    return difference, max(-1.0, min(low, difference - half)), min(1.0, max(high, difference + half)), effective


def _say_nothing(changes: NDArray[np.float64], clusters: int) -> bool:
    """Whether problems say nothing of how far clusters differ: all change alike, or clusters are so few that their signs
    would show nothing if all had the same."""
    return float(np.ptp(changes)) < 1e-9 or least_p_of_signs(clusters) > LEVEL


def least_p_of_signs(clusters: int) -> float:
    """The least two-sided p that the signs of so many clusters' changes can have: if all are the same."""
    return 2.0 ** (1 - clusters)


def clustered_error(values: Sequence[float] | NDArray[np.float64], clusters: Sequence[Hashable]) -> float:
    """Standard error of a mean of values of which those of one cluster may go together (Liang & Zeger 1986, Biometrika 73:13).

    Returns: NaN for fewer than two clusters.
    """
    apart = np.asarray(values, float)
    number = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    sums = np.bincount([number[c] for c in clusters], weights=apart - apart.mean())
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums @ sums))) / len(apart) if len(sums) > 1 else float("nan")


def series_mean(values: Sequence[float], block: int, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a series of which neighbours may go together, with its interval: blocks of so many are taken for clusters
    (`clustered_error`), t of one degree less than there are blocks.

    Returns: mean, low, high; the ends are NaN for fewer than two blocks and where a value is not finite.
    """
    from scipy import stats as scipy_stats

    series = np.asarray(values, float)
    blocks = np.arange(len(series)) // block
    mean = float(series.mean()) if len(series) else float("nan")
    if len(series) <= block or not math.isfinite(mean):
        return mean, float("nan"), float("nan")
    half = float(scipy_stats.t.ppf(0.5 + level / 2, int(blocks[-1]))) * clustered_error(series, blocks.tolist())
    return mean, mean - half, mean + half


def groups_difference(
    ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]], clusters: Sequence[Hashable], level: float = 0.95
) -> tuple[float, float, float, float]:
    """Mean of some models' answers less that of others' to the same problems; over clusters of problems, and over models.

    Both variances are added: that of clusters (`clustered_error` of the means over models) and that of the models of each
    group, where it has two or more; what is in both counts twice, so that the interval is rather too long. t with
    Satterthwaite's degrees of freedom; no p is less than clusters' signs could have. With one model in either group it speaks
    of that one, and not of others that were chosen so: `unlike_p` does. With two or three models that differ much among
    themselves it is too short. No error of clusters is less than Agresti and Min's (2005) of as many independent problems, or
    of as many as there are clusters where no problem differs, all do alike, or clusters are too few to show anything.

    Args:
        ours, others: one row of values (1: right) per model, at least one each; a column per problem.

    Returns: difference, low, high, p; NaN for no problems, p 1 and (-1, 1) for one cluster.
    """
    from scipy import stats as scipy_stats

    both = [np.asarray(group, float) for group in (ours, others)]
    if not both[0].shape[1]:
        return (float("nan"),) * 4
    if len(set(clusters)) < 2:
        return float(both[0].mean() - both[1].mean()), -1.0, 1.0, 1.0
    difference, error, freedom = _weighed([(1.0, both[0]), (-1.0, both[1])], clusters)
    half = float(scipy_stats.t.ppf(0.5 + level / 2, freedom)) * error
    p = max(float(2 * scipy_stats.t.sf(abs(difference) / error, freedom)), least_p_of_signs(len(set(clusters))))
    return difference, max(-1.0, difference - half), min(1.0, difference + half), p


def share_of_gain(
    base: Sequence[float],
    ours: Sequence[Sequence[float]],
    others: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    level: float = 0.95,
) -> tuple[float, float, float]:
    """What some models gain over a base, as a share of what others gain.

    Fieller's interval (1954, J. R. Stat. Soc. B 16:175) with the errors of `groups_difference`: every share s for which ours
    less s times the others' less (1 - s) times the base is not told from 0. It has ends only where the others' own gain is
    told from 0.

    Args:
        base: a value (1: right) per problem.
        ours, others: one row of such per model, at least one each.

    Returns: share, low, high; NaN where the others' gain is not shown to be above 0.
    """
    from scipy import optimize
    from scipy import stats as scipy_stats

    if not groups_difference(others, [base], clusters, level)[1] > 0:
        return (float("nan"),) * 3
    untouched, mine, theirs = (np.asarray(values, float) for values in ([base], ours, others))
    gain = float(theirs.mean() - untouched.mean())
    share = float(mine.mean() - untouched.mean()) / gain

    def beyond(s: float) -> float:
        difference, error, freedom = _weighed([(1.0, mine), (-s, theirs), (s - 1, untouched)], clusters)
        return abs(difference) - float(scipy_stats.t.ppf(0.5 + level / 2, freedom)) * error

    ends = []
    for step in (-1.0, 1.0):
        while beyond(share + step) < 0 and abs(step) < 1e6:
            step *= 2
        last = share + step
        ends.append(float(optimize.brentq(beyond, share, last)) if beyond(last) > 0 else math.copysign(math.inf, step))
    return share, ends[0], ends[1]


def _weighed(groups: Sequence[tuple[float, NDArray[np.float64]]], clusters: Sequence[Hashable]) -> tuple[float, float, float]:
    """A weighted sum of groups' means. Returns: it, its error and degrees of freedom, as of `groups_difference`."""
    each = np.sum([weight * group.mean(axis=0) for weight, group in groups], axis=0)
    count = len(set(clusters))
    n = count if _say_nothing(each, count) else len(each)
    square, mean = (n * float((each**2).mean()) + 1) / (n + 2), n * float(each.mean()) / (n + 2)
    error = max(clustered_error(each, clusters), math.sqrt((square - mean**2) / (n + 2)))
    parts = [(error**2, count - 1)]
    parts += [(weight**2 * float(g.mean(axis=1).var(ddof=1)) / len(g), len(g) - 1) for weight, g in groups if len(g) > 1]
    variance = sum(v for v, _ in parts)
    return float(each.mean()), float(np.sqrt(variance)), variance**2 / sum(v * v / df for v, df in parts)


def equivalence(differences: Sequence[float], bound: float, seed: int = 0) -> tuple[float, float, bool]:
    """Whether the mean of paired differences is no further from 0 than a bound that was set beforehand.

    Two one-sided tests at `LEVEL` (Schuirmann 1987) by the interval of `paired_bootstrap` at 90 %.

    Args:
        bound: in the unit of the differences, not below 0.

    Returns: low and high of that interval (NaN for no pairs), and whether it lies within ±`bound`; False with fewer than
    `LEAST_EQUIVALENT` pairs, and for a bound of 0: where nothing is active nothing stands still.
    """
    _, low, high = paired_bootstrap(differences, seed, level=1 - 2 * LEVEL)
    return low, high, len(differences) >= LEAST_EQUIVALENT and bound > 0 and -bound <= low and high <= bound


def clustered_ratio(
    values: Sequence[float] | NDArray[np.float64],
    of: Sequence[float] | NDArray[np.float64],
    clusters: Sequence[Hashable],
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Sum of values over sum of others, with its interval over clusters of them.

    Its error is that of the mean of what is left of each value less ratio times the other (Cochran 1977, ch. 6), by
    `clustered_error`, with t of one degree less than there are clusters; not less than Agresti and Min (2005) have it where
    nothing changes in as many cases, or where nothing is left of any, in as many as there are clusters.

    Returns: ratio, low, high; NaN where the others sum to 0, ends NaN for fewer than two clusters.
    """
    from scipy import stats as scipy_stats

    top, bottom = np.asarray(values, float), np.asarray(of, float)
    if not bottom.sum():
        return float("nan"), float("nan"), float("nan")
    ratio, count = float(top.sum() / bottom.sum()), len(set(clusters))
    if count < 2:
        return ratio, float("nan"), float("nan")
    left = (top - ratio * bottom) / bottom.mean()
    least = 1 / ((count if np.ptp(left) < 1e-9 else len(left)) + 2) / float(bottom.mean())
    half = float(scipy_stats.t.ppf(0.5 + level / 2, count - 1)) * max(clustered_error(left, clusters), least)
    return ratio, ratio - half, ratio + half
