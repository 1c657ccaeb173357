"""The statistics of an effect: pure functions, seeded where they draw. Checked against scipy and statsmodels in tests.

Proportions are 0…1. Every interval is two-sided at 95 % unless `level` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats as scipy_stats

RESAMPLES = 10_000


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = float(scipy_stats.norm.ppf(0.5 + level / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def mcnemar_exact(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired outcomes (McNemar 1947): the binomial test on the discordant pairs.

    Returns: the p-value; 1 if no pair differs.
    """
    before, after = np.asarray(before, bool), np.asarray(after, bool)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    return float(scipy_stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def paired_bootstrap(differences: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of paired differences with its percentile bootstrap interval over pairs (Efron & Tibshirani 1993, ch. 13).

    Returns: mean, low, high; NaN for no pairs.
    """
    values = np.asarray(differences, float)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(values.mean()), float(low), float(high)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that paired differences have mean 0, by random sign flips (Fisher 1935; Phipson & Smyth 2010).

    Returns: at least 1 / 10,001; 1 if no pair differs.
    """
    values = np.asarray(differences, float)
    if not np.any(values):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (RESAMPLES, len(values)))
    flipped = np.abs(signs @ values)
    return (1 + int((flipped >= abs(values.sum()) - 1e-12).sum())) / (RESAMPLES + 1)


def spearman(
    x: Sequence[float], y: Sequence[float], seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Spearman's rank correlation, its percentile bootstrap interval over points, and its permutation p-value.

    Returns: rho, low, high, p; all NaN with fewer than 3 points or when one variable does not vary. Bootstrap
    samples in which one does not vary have no rho and are left out.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return (float("nan"),) * 4
    rng = np.random.default_rng(seed)
    rho = _rank_correlation(x[None], y[None])[0]
    draws = rng.integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.nanquantile(_rank_correlation(x[draws], y[draws]), [0.5 - level / 2, 0.5 + level / 2])
    shuffled = _rank_correlation(np.broadcast_to(x, draws.shape), rng.permuted(np.broadcast_to(y, draws.shape), axis=1))
    p = (1 + int((np.abs(shuffled) >= abs(rho) - 1e-12).sum())) / (RESAMPLES + 1)
    return float(rho), float(low), float(high), float(p)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row-wise Spearman (average ranks for ties); NaN where a row does not vary."""
    a, b = (scipy_stats.rankdata(v, axis=1) for v in (x, y))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norm, out=np.full(len(a), np.nan), where=norm > 0)


def permutation_p(target: float, controls: Sequence[float]) -> float:
    """One-sided p-value that `target` is as low as this if it were one more control: (1 + #{c ≤ target}) / (1 + m).

    (Phipson & Smyth 2010, eq. 2.) With m controls it can't be below 1 / (m + 1).
    """
    return (1 + sum(c <= target for c in controls)) / (1 + len(controls))


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
    alpha = (1 - level) / tests
    for k in range(1, n + 1):
        share = max(discordant, k / n)
        counts = np.arange(n + 1)
        chance = scipy_stats.binom.pmf(counts, n, share)
        # The largest number of pairs on the rarer side at which the two-sided p is still within alpha.
        limit = scipy_stats.binom.ppf(alpha / 2, counts, 0.5)
        limit = np.where(2 * scipy_stats.binom.cdf(limit, counts, 0.5) <= alpha, limit, limit - 1)
        rarer = (1 - k / n / share) / 2
        if float((chance * scipy_stats.binom.cdf(limit, counts, rarer)).sum()) >= power:
            return k / n
    return 1.0
