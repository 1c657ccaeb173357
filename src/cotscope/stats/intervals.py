"""Intervals of proportions and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.05
LEAST_EQUIVALENT = 5
"""Pairs below which no equivalence is said: of fewer not even the sign test shows at 0.05 that they lie above a bound."""


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
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


def equivalence(differences: Sequence[float], bound: float, seed: int = 0) -> tuple[float, float, bool]:
    """Whether the mean of paired differences is no further from 0 than a bound that was set beforehand.

    Two one-sided tests at `LEVEL` (Schuirmann 1987) by the interval of `paired_bootstrap` at 90 %.

    Args:
        bound: in the unit of the differences, not below 0.

    Returns: low and high of that interval (NaN for no pairs), and whether it lies within ±`bound`; False with fewer than
    `LEAST_EQUIVALENT` pairs.
    """
    _, low, high = paired_bootstrap(differences, seed, level=1 - 2 * LEVEL)
    return low, high, len(differences) >= LEAST_EQUIVALENT and -bound <= low and high <= bound
