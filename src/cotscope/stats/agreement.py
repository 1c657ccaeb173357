"""How far two sets, or two judges, agree."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import numpy as np


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Size of the intersection over size of the union of two sets (Jaccard 1912), 0…1; NaN if both are empty."""
    union = len(set(a) | set(b))
    return len(set(a) & set(b)) / union if union else float("nan")


def expected_jaccard(size_a: int, size_b: int, universe: int) -> float:
    """The mean Jaccard index of random sets of these sizes out of as many things as `universe`.

    Exact: the intersection is hypergeometric, and the index is averaged over its distribution. NaN if both are empty.
    """
    from scipy import stats as scipy_stats

    assert min(size_a, size_b) >= 0 and max(size_a, size_b) <= universe, (size_a, size_b, universe)
    if not size_a and not size_b:
        return float("nan")
    shared = np.arange(min(size_a, size_b) + 1)
    chance = scipy_stats.hypergeom.pmf(shared, universe, size_a, size_b)
    return float((chance * shared / (size_a + size_b - shared)).sum())


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable], level: float = 0.95) -> tuple[float, float, float]:
    """Cohen's kappa of two judges' words on the same things (Cohen 1960), with its asymptotic interval.

    The variance is that of Fleiss, Cohen & Everitt 1969; the interval is cut at -1 and 1. It is too narrow for few things.

    Returns: kappa, low, high; all NaN for no things, or when both judges say one and the same word of all; the ends NaN where
    that variance is 0, as it is when the judges agree on all of them.
    """
    from scipy import stats as scipy_stats

    words = {word: i for i, word in enumerate(dict.fromkeys((*a, *b)))}
    if len(words) < 2:
        return (float("nan"),) * 3
    table = np.zeros((len(words), len(words)))
    for one, other in zip(a, b, strict=True):
        table[words[one], words[other]] += 1 / len(a)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    by_chance = float(rows @ columns)
    kappa = (float(np.trace(table)) - by_chance) / (1 - by_chance)
    weight = -(rows[None, :] + columns[:, None]) * (1 - kappa) + np.eye(len(words))
    spread = (table * weight**2).sum() - (kappa - by_chance * (1 - kappa)) ** 2
    if spread <= 1e-12:
        return kappa, float("nan"), float("nan")
    error = np.sqrt(spread / len(a)) / (1 - by_chance)
    half = float(scipy_stats.norm.ppf(0.5 + level / 2) * error)
    return kappa, max(-1.0, kappa - half), min(1.0, kappa + half)
