"""Tests of paired outcomes and of permutations, their multiplicity and power."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from .intervals import RESAMPLES, in_blocks


def mcnemar_exact(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired outcomes (McNemar 1947): the binomial test on the discordant pairs.

    Returns: the p-value; 1 if no pair differs.
    """
    from scipy import stats as scipy_stats

    right, still = np.asarray(before, bool), np.asarray(after, bool)
    lost, won = int((right & ~still).sum()), int((~right & still).sum())
    return float(scipy_stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that paired differences have mean 0, by random sign flips (Fisher 1935; Phipson & Smyth 2010).

    Returns: at least 1 / 10,001; 1 if no pair differs.
    """
    values = np.asarray(differences, float)
    if not np.any(values):
        return 1.0
    rng = np.random.default_rng(seed)
    flipped = np.abs(in_blocks(len(values), lambda count: rng.choice([-1.0, 1.0], (count, len(values))) @ values))
    tie = 1e-9 * np.abs(values).sum()  # sums of the same size, summed in another order
    return (1 + int((flipped >= abs(values.sum()) - tie).sum())) / (RESAMPLES + 1)


def clustered_p(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[int]) -> float:
    """Two-sided p-value that two paired proportions are the same, where problems of one cluster may change together.

    Of the clusters' sums of changes, by sign flips; where each problem is its own cluster, exact McNemar.
    """
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(np.unique(number)) == len(before):
        return mcnemar_exact(before, after)
    return sign_flip_p(np.bincount(number, weights=np.asarray(after, float) - np.asarray(before, float)).tolist())


def permutation_p(target: float, controls: Sequence[float]) -> float:
    """One-sided p-value that `target` is as low as this if it were one more control: (1 + #{c ≤ target}) / (1 + m).

    (Phipson & Smyth 2010, eq. 2.) With m controls it can't be below 1 / (m + 1).
    """
    return (1 + sum(c <= target for c in controls)) / (1 + len(controls))


def unlike_p(target: float, controls: Sequence[float]) -> float:
    """Two-sided p-value that `target` is as far from the rest as this if it were one more control.

    The share of all m + 1 values that lie at least as far from the mean of all as `target` does: exact if each could as well
    have been the target (Phipson & Smyth 2010, eq. 2), a rank and no more where controls resemble one another more than it.
    With m controls it can't be below 1 / (m + 1); with one it is 1.
    """
    values = np.asarray([target, *controls], float)
    far = np.abs(values - values.mean())
    return float(np.mean(far >= far[0] - 1e-12))


def diagonal_contrast(
    changes: Sequence[Sequence[Sequence[float]]], seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """How far the diagonal of a square table of means lies below what its rows and columns say.

    The table's cells have the means of their row and of their column taken off (an interaction); the contrast is the
    mean of the diagonal. p is that of the diagonal being as low if the rows stood in random order, over all orders, or
    10,000 of them; the interval is a percentile bootstrap over the cases of each column, which its rows share.

    Args:
        changes: changes[i][j]: the values in row i and column j, one per case; a column has the same cases in each row.

    Returns: contrast, low, high, p.
    """
    columns = [np.array([row[j] for row in changes], float) for j in range(len(changes))]  # each (rows, cases)
    size, rng = len(columns), np.random.default_rng(seed)
    order = np.arange(size)

    def diagonal(table: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Mean over j of the centred table (…, rows, columns) at (rows[…, j], j)."""
        centred = table - table.mean(-1, keepdims=True) - table.mean(-2, keepdims=True) + table.mean((-1, -2), keepdims=True)
        return centred[..., rows, order].mean(-1)

    table = np.stack([c.mean(axis=1) for c in columns], axis=1)
    observed = float(diagonal(table, order))

    def means(column: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of resamples of its cases, (RESAMPLES, rows)."""
        cases = column.shape[1]
        return in_blocks(size * cases, lambda count: column[:, rng.integers(0, cases, (count, cases))].mean(axis=2).T)

    resampled = np.stack([means(c) for c in columns], axis=2)
    low, high = np.quantile(diagonal(resampled, order), [0.5 - level / 2, 0.5 + level / 2])
    if size <= 7:
        orders = np.array(list(permutations(range(size))))
        p = float(np.mean(diagonal(table, orders) <= observed + 1e-12))
    else:
        orders = np.stack([rng.permutation(size) for _ in range(RESAMPLES)])
        p = (1 + int((diagonal(table, orders) <= observed + 1e-12).sum())) / (RESAMPLES + 1)
    return observed, float(low), float(high), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(p_values)), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted.tolist()


def detectable_difference(discordant: float, n: int, tests: int = 1, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest paired change in a proportion that the exact McNemar test shows with this power.

    Args:
        discordant: the share of problems whose outcome differs between the conditions; the change needs at least
            as many.
        n: problems.
        tests: how many tests share the level (Bonferroni, which bounds Holm from above).

    Returns: a multiple of 1/n; 1 if no change can be shown with so few problems.
    """
    for k in range(1, n + 1):
        if _mcnemar_power(k, n, discordant, (1 - level) / tests) >= power:
            return k / n
    return 1.0


def problems_needed(discordant: float, change: float, tests: int = 1, power: float = 0.8, level: float = 0.95) -> int:
    """The fewest problems with which `detectable_difference` is at most `change` (above 0, at most 1)."""
    from scipy import stats as scipy_stats

    alpha, share = (1 - level) / tests, max(discordant, change)
    normal = (scipy_stats.norm.ppf(1 - alpha / 2) + scipy_stats.norm.ppf(power)) ** 2 * share / change**2
    n = max(1, int(normal / 2))  # well below: the power of an exact test goes up and down with n
    while (k := int(change * n + 1e-9)) < 1 or _mcnemar_power(k, n, discordant, alpha) < power:
        n += 1
    return n


def _mcnemar_power(k: int, n: int, discordant: float, alpha: float) -> float:
    """Chance that the exact McNemar test at `alpha` shows a change by k of n problems, if at least so many are discordant."""
    from scipy import stats as scipy_stats

    share, counts = max(discordant, k / n), np.arange(n + 1)
    chance = scipy_stats.binom.pmf(counts, n, share)
    # The largest number of pairs on the rarer side at which the two-sided p is still within alpha.
    limit = scipy_stats.binom.ppf(alpha / 2, counts, 0.5)
    limit = np.where(2 * scipy_stats.binom.cdf(limit, counts, 0.5) <= alpha, limit, limit - 1)
    rarer = (1 - k / n / share) / 2
    return float((chance * scipy_stats.binom.cdf(limit, counts, rarer)).sum())
