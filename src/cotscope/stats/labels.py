"""Permuted labels: what as many poles of the same strata do, if it were chance which of them stand for a concept.

Labels are exchangeable within strata then, so that the rank of what the labelled poles do among what permuted ones do
is an exact p-value (a stratified permutation test; Good 2005).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .random_sets import STRATUM

PERMUTATIONS = 999
Floats = NDArray[np.float64]


def strata(layers: NDArray[np.int_], *traits: Floats) -> NDArray[np.intp]:
    """The stratum of each pole, as a number: its layer, and the cell of each trait's logarithm, `STRATUM` wide."""
    cells = [np.floor(np.log(np.maximum(trait, np.finfo(float).tiny)) / STRATUM) for trait in traits]
    return np.unique(np.column_stack([layers, *cells]), axis=0, return_inverse=True)[1].ravel()


def permuted_sums(values: Floats, labelled: NDArray[np.bool_], groups: NDArray[np.intp], seed: int = 0,
                  permutations: int = PERMUTATIONS) -> Floats:  # fmt: skip
    """Sums over labelled poles, the labels permuted within groups. Where all poles of a group have one, nothing moves.

    Args:
        values: what is summed (poles, columns).
        labelled, groups: of each pole.

    Returns: (permutations, columns).
    """
    rng, sums = np.random.default_rng(seed), np.zeros((permutations, values.shape[1]))
    for group in np.unique(groups[labelled]):
        here = np.flatnonzero(groups == group)
        count = int(labelled[here].sum())
        if count == len(here):
            sums += values[here].sum(axis=0)
        else:
            drawn = rng.random((permutations, len(here))).argpartition(count - 1, axis=1)[:, :count]
            sums += values[here[drawn]].sum(axis=1)
    return sums


def as_high_p(target: float, permuted: Sequence[float] | Floats) -> float:
    """Share of permuted sets, this one among them, whose figure is as high: (1 + #) / (1 + sets) (Phipson & Smyth 2010)."""
    found = np.asarray(permuted, float)
    tie = 1e-9 * max(abs(target), float(np.abs(found).max(initial=0)))  # the same poles, summed in another order
    return (1 + int((found >= target - tie).sum())) / (1 + len(found))


def beyond_p(change: float, permuted: Sequence[float] | Floats) -> float:
    """Two-sided p that a change lies as far out in its own direction: twice the share of `as_high_p`, at most 1.

    A change that lags behind what permuted sets do in that direction has no small p. 1 where nothing changes.
    """
    direction = np.sign(change)
    return min(1.0, 2 * as_high_p(abs(change), direction * np.asarray(permuted, float))) if direction else 1.0
