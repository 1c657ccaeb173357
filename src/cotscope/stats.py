"""The statistics of an effect: pure functions, seeded where they draw. Checked against scipy and statsmodels in tests.

Proportions are 0…1. Every interval is two-sided at 95 % unless `level` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

RESAMPLES = 10_000
LEVEL = 0.05


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = float(scipy_stats.norm.ppf(0.5 + level / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Of none and of all the bound is 0 or 1 itself; rounding would miss it.
    return float(centre - half) if successes else 0.0, float(centre + half) if successes < n else 1.0


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
    tie = 1e-9 * np.abs(values).sum()  # sums of the same size, summed in another order
    return (1 + int((flipped >= abs(values.sum()) - tie).sum())) / (RESAMPLES + 1)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation alone; NaN where `spearman` gives NaN."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return float("nan")
    return float(_rank_correlation(x[None], y[None])[0])


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float, float]:
    """Spearman's rank correlation, its percentile bootstrap interval over points, and its permutation p-value.

    Returns: rho, low, high, p; all NaN with fewer than 3 points, with a NaN among them, or when one variable does not
    vary. Bootstrap samples in which one does not vary have no rho and are left out.
    """
    rho = rank_correlation(x, y)
    if np.isnan(rho):
        return (float("nan"),) * 4
    x, y, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(seed)
    draws = rng.integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.nanquantile(_rank_correlation(x[draws], y[draws]), [0.5 - level / 2, 0.5 + level / 2])
    shuffled = _rank_correlation(np.broadcast_to(x, draws.shape), rng.permuted(np.broadcast_to(y, draws.shape), axis=1))
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
    ranks of z determine those of x or y. Bootstrap samples in which they do have no rho and are left out.
    """
    x, y, z = np.asarray(x, float), np.asarray(y, float), np.asarray(z, float)
    z = z.reshape(len(x), -1) if len(x) else np.empty((0, 1))
    if len(x) < z.shape[1] + 3 or np.isnan(x).any() or np.isnan(y).any() or np.isnan(z).any():
        return (float("nan"),) * 3
    rho = float(_rank_correlation(x[None], y[None], z[None])[0])
    if np.isnan(rho):
        return (float("nan"),) * 3
    draws = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    resampled = _rank_correlation(x[draws], y[draws], z[draws])
    low, high = np.nanquantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
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
        return (float("nan"),) * 4
    x, y, rng = np.asarray(x, float), np.asarray(y, float), np.random.default_rng(seed)
    members = _members(groups)
    draws = [m[rng.integers(0, len(m), (RESAMPLES, len(m)))] for m in members]
    low, high = np.nanquantile(_within([(x[d], y[d]) for d in draws]), [0.5 - level / 2, 0.5 + level / 2])
    whole = [np.broadcast_to(m, d.shape) for m, d in zip(members, draws)]
    shuffled = _within([(x[m], rng.permuted(y[m], axis=1)) for m in whole])
    p = (1 + int((np.abs(shuffled) >= abs(rho) - 1e-12).sum())) / (RESAMPLES + 1)
    return rho, float(low), float(high), float(p)


def within_rank_correlation(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> float:
    """The correlation of `within_spearman` alone; NaN where it gives NaN."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not len(x) or np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    return float(_within([(x[m][None], y[m][None]) for m in _members(groups)])[0])


def _members(groups: Sequence[Hashable]) -> list[np.ndarray]:
    """The places of each group's points."""
    return [np.array([i for i, g in enumerate(groups) if g == name]) for name in dict.fromkeys(groups)]


def _within(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Row-wise correlation of ranks within parts, which are x and y of a group, (rows, points) each."""
    products = squares_x = squares_y = np.zeros(len(parts[0][0]))
    for x, y in parts:
        a, b = (_centred_ranks(v) / (v.shape[1] + 1) for v in (x, y))
        products, squares_x, squares_y = products + (a * b).sum(1), squares_x + (a * a).sum(1), squares_y + (b * b).sum(1)
    varies = (squares_x > 0) & (squares_y > 0)
    return np.divide(products, np.sqrt(squares_x * squares_y), out=np.full(len(products), np.nan), where=varies)


def _rank_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray | None = None) -> np.ndarray:
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


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along axis 1, less their mean."""
    ranks = scipy_stats.rankdata(values, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


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

    def diagonal(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean over j of the centred table (…, rows, columns) at (rows[…, j], j)."""
        centred = table - table.mean(-1, keepdims=True) - table.mean(-2, keepdims=True) + table.mean((-1, -2), keepdims=True)
        return centred[..., rows, order].mean(-1)

    table = np.stack([c.mean(axis=1) for c in columns], axis=1)
    observed = float(diagonal(table, order))
    draws = [rng.integers(0, c.shape[1], (RESAMPLES, c.shape[1])) for c in columns]
    resampled = np.stack([c[:, d].mean(axis=2).T for c, d in zip(columns, draws)], axis=2)
    low, high = np.quantile(diagonal(resampled, order), [0.5 - level / 2, 0.5 + level / 2])
    if size <= 7:
        orders = np.array(list(permutations(range(size))))
        p = float(np.mean(diagonal(table, orders) <= observed + 1e-12))
    else:
        orders = np.stack([rng.permutation(size) for _ in range(RESAMPLES)])
        p = (1 + int((diagonal(table, orders) <= observed + 1e-12).sum())) / (RESAMPLES + 1)
    return observed, float(low), float(high), p


def permutation_p(target: float, controls: Sequence[float]) -> float:
    """One-sided p-value that `target` is as low as this if it were one more control: (1 + #{c ≤ target}) / (1 + m).

    (Phipson & Smyth 2010, eq. 2.) With m controls it can't be below 1 / (m + 1).
    """
    return (1 + sum(c <= target for c in controls)) / (1 + len(controls))


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


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Size of the intersection over size of the union of two sets (Jaccard 1912), 0…1; NaN if both are empty."""
    union = len(set(a) | set(b))
    return len(set(a) & set(b)) / union if union else float("nan")


def expected_jaccard(size_a: int, size_b: int, universe: int) -> float:
    """The mean Jaccard index of random sets of these sizes out of as many things as `universe`.

    Exact: the intersection is hypergeometric, and the index is averaged over its distribution. NaN if both are empty.
    """
    assert min(size_a, size_b) >= 0 and max(size_a, size_b) <= universe, (size_a, size_b, universe)
    if not size_a and not size_b:
        return float("nan")
    shared = np.arange(min(size_a, size_b) + 1)
    chance = scipy_stats.hypergeom.pmf(shared, universe, size_a, size_b)
    return float((chance * shared / (size_a + size_b - shared)).sum())


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable], level: float = 0.95) -> tuple[float, float, float]:
    """Cohen's kappa of two judges' words on the same things (Cohen 1960), with its asymptotic interval.

    The variance is that of Fleiss, Cohen & Everitt 1969; the interval is cut at -1 and 1. It is too narrow for
    few things, and of no width when the judges agree on all of them.

    Returns: kappa, low, high; all NaN for no things, or when both judges say one and the same word of all.
    """
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
    error = np.sqrt(max(0.0, spread) / len(a)) / (1 - by_chance)
    half = float(scipy_stats.norm.ppf(0.5 + level / 2) * error)
    return kappa, max(-1.0, kappa - half), min(1.0, kappa + half)


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
