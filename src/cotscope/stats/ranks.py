"""Rank correlation: plain, partial, and within groups."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .intervals import RESAMPLES

Floats = NDArray[np.float64]
NO_CORRELATION = (float("nan"),) * 4
"""rho, low, high and p where there is none."""
LEAST_POINTS = 6
"""Below it, and of a partial correlation below as many more as columns are taken away, there is no interval: of five points
without relation one in eight left 0 out, with two columns taken away four in ten."""


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation alone; NaN where `spearman` gives NaN."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 3 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return float("nan")
    return float(_rank_correlation(a[None], b[None])[0])


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float, float]:
    """Spearman's rank correlation, its percentile bootstrap interval over points, and its permutation p-value.

    Returns: rho, low, high, p; all NaN with fewer than 3 points, with a NaN among them, or when one variable does not
    vary; the ends of fewer than `LEAST_POINTS`. Bootstrap samples in which one does not vary have no rho and are left out.
    """
    rho = rank_correlation(x, y)
    if np.isnan(rho):
        return NO_CORRELATION
    a, b, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(seed)
    draws = rng.integers(0, len(a), (RESAMPLES, len(a)))
    low, high = np.nanquantile(_rank_correlation(a[draws], b[draws]), [0.5 - level / 2, 0.5 + level / 2])
    if len(a) < LEAST_POINTS:
        low = high = float("nan")
    shuffled = _rank_correlation(np.broadcast_to(a, draws.shape), rng.permuted(np.broadcast_to(b, draws.shape), axis=1))
    p = (1 + int((np.abs(shuffled) >= abs(rho) - 1e-12).sum())) / (RESAMPLES + 1)
    return float(rho), float(low), float(high), float(p)


def partial_spearman(
    x: Sequence[float], y: Sequence[float], z: Sequence[float] | Sequence[Sequence[float]], seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:  # fmt: skip
    """Spearman's partial rank correlation of x and y given z, and its percentile bootstrap interval over points.

    It is the correlation of what least squares on the ranks of z (and a constant) leaves of the ranks of x and of y.

    Args:
        z: one value for each point, or one row of values (points × columns). A column that says nothing new is harmless.

    Returns: rho, low, high; all NaN with fewer than 3 points more than columns, with a NaN among them, or when the
    ranks of z determine those of x or y; the ends with fewer than `LEAST_POINTS` more than columns. Bootstrap samples in which
    they do have no rho and are left out.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    c = np.asarray(z, float).reshape(len(a), -1) if len(a) else np.empty((0, 1))
    if len(a) < c.shape[1] + 3 or np.isnan(a).any() or np.isnan(b).any() or np.isnan(c).any():
        return NO_CORRELATION[:3]
    rho = float(_rank_correlation(a[None], b[None], c[None])[0])
    if np.isnan(rho):
        return NO_CORRELATION[:3]
    draws = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
    resampled = _rank_correlation(a[draws], b[draws], c[draws])
    low, high = np.nanquantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
    if len(a) < c.shape[1] + LEAST_POINTS:
        low = high = float("nan")
    return rho, float(low), float(high)


def within_spearman(
    x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable], seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Rank correlation inside groups, pooled: what is left of it when groups may differ for any reason.

    Points are ranked within their group; the ranks, less their mean and divided by the group's size + 1 (so that a
    point weighs the same in a small group as in a large one; van Elteren 1960), are correlated over all groups.
    p is two-sided, y being permuted within groups; the interval is a percentile bootstrap over points within groups.

    Returns: rho, low, high, p; all NaN with a NaN among the points, or when one variable does not vary within any
    group. Bootstrap samples in which it does not have no rho and are left out.
    """
    rho = within_rank_correlation(x, y, groups)
    if np.isnan(rho):
        return NO_CORRELATION
    a, b, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(seed)
    members = _members(groups)
    draws = [m[rng.integers(0, len(m), (RESAMPLES, len(m)))] for m in members]
    low, high = np.nanquantile(_within([(a[d], b[d]) for d in draws]), [0.5 - level / 2, 0.5 + level / 2])
    whole = [np.broadcast_to(m, d.shape) for m, d in zip(members, draws)]
    shuffled = _within([(a[m], rng.permuted(b[m], axis=1)) for m in whole])
    p = (1 + int((np.abs(shuffled) >= abs(rho) - 1e-12).sum())) / (RESAMPLES + 1)
    return rho, float(low), float(high), float(p)


def within_rank_correlation(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> float:
    """The correlation of `within_spearman` alone; NaN where it gives NaN."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if not len(a) or np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    return float(_within([(a[m][None], b[m][None]) for m in _members(groups)])[0])


def _members(groups: Sequence[Hashable]) -> list[NDArray[np.intp]]:
    """The places of each group's points."""
    return [np.array([i for i, g in enumerate(groups) if g == name]) for name in dict.fromkeys(groups)]


def _within(parts: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Row-wise correlation of ranks within parts, which are x and y of a group, (rows, points) each."""
    products = squares_x = squares_y = np.zeros(len(parts[0][0]))
    for x, y in parts:
        a, b = (_centred_ranks(v) / (v.shape[1] + 1) for v in (x, y))
        products, squares_x, squares_y = products + (a * b).sum(1), squares_x + (a * a).sum(1), squares_y + (b * b).sum(1)
    varies = (squares_x > 0) & (squares_y > 0)
    return np.divide(products, np.sqrt(squares_x * squares_y), out=np.full(len(products), np.nan), where=varies)


def _rank_correlation(x: Floats, y: Floats, z: Floats | None = None) -> Floats:
    """Row-wise Spearman (average ranks for ties), given z (rows × points × columns) if it is not None.

    NaN where a row of x or y does not vary, or not beyond what z determines.
    """
    a, b = (_centred_ranks(v) for v in (x, y))
    least = [1e-20 * (v * v).sum(axis=1) for v in (a, b)]  # rounding errors of what z determines
    if z is not None:
        c = _centred_ranks(z)
        inverse = np.linalg.pinv(c, rcond=1e-10)
        a, b = (v - (c @ (inverse @ v[:, :, None]))[:, :, 0] for v in (a, b))
    left = [(v * v).sum(axis=1) for v in (a, b)]
    varies = (left[0] > least[0]) & (left[1] > least[1])
    return np.divide((a * b).sum(axis=1), np.sqrt(left[0] * left[1]), out=np.full(len(a), np.nan), where=varies)


def _centred_ranks(values: Floats) -> Floats:
    """Ranks along axis 1, less their mean."""
    from scipy import stats as scipy_stats

    ranks = scipy_stats.rankdata(values, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)
