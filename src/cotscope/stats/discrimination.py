"""How well scores tell right answers from wrong ones: the area under the ROC curve, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Area(NamedTuple):
    """An area under the ROC curve, or a difference of two, with its 95 % interval; NaN where a class is missing."""

    value: float
    low: float
    high: float


def auroc(right: Sequence[bool], scores: Sequence[float], clusters: Sequence[int] | None = None, level: float = 0.95) -> Area:
    """The chance that a right answer has a higher score than a wrong one, ties counting half (Hanley & McNeil 1982).

    Its variance is DeLong's (DeLong et al. 1988, Biometrics 44:837), its interval on the logit scale, within 0 and 1. The
    quantile is that of t with one degree less than the class of fewer clusters has of them: of few the variance is estimated
    badly. With one cluster the interval is 0 to 1.

    Args:
        clusters: of each answer; answers of one cluster may go together (Obuchowski 1997, Biometrics 53:567). None: each
            is its own.
    """
    from scipy import special, stats

    places = _placements(right, [scores], clusters)
    if places is None:
        return Area(float("nan"), float("nan"), float("nan"))
    [value], covariance, fewest = places
    if fewest < 2:
        return Area(float(value), 0.0, 1.0)
    spread = float(np.sqrt(max(0.0, covariance[0, 0])))
    if not 0 < value < 1 or spread < 1e-12:  # no spread among so few: what a rule of three would say
        return Area(float(value), max(0.0, float(value) - 3 / fewest), min(1.0, float(value) + 3 / fewest))
    half = float(stats.t.ppf(0.5 + level / 2, fewest - 1)) * spread / (value * (1 - value))
    centre = special.logit(value)
    return Area(float(value), float(special.expit(centre - half)), float(special.expit(centre + half)))


def auroc_difference(
    right: Sequence[bool],
    scores: Sequence[float],
    others: Sequence[float],
    clusters: Sequence[int] | None = None,
    level: float = 0.95,
) -> tuple[Area, float]:
    """How much larger the area of one score is than another's on the same answers, and the two-sided p; as `auroc`."""
    from scipy import stats

    places = _placements(right, [scores, others], clusters)
    if places is None:
        return Area(float("nan"), float("nan"), float("nan")), float("nan")
    values, covariance, fewest = places
    difference = float(values[0] - values[1])
    spread = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    if fewest < 2:
        return Area(difference, -1.0, 1.0), 1.0
    if spread < 1e-12:  # as if by the signs of so many clusters
        width = 3 / fewest if abs(difference) > 1e-12 else 0.0
        ends = max(-1.0, difference - width), min(1.0, difference + width)
        return Area(difference, *ends), float(2.0 ** (1 - fewest)) if width else 1.0
    t = stats.t(fewest - 1)
    half = float(t.ppf(0.5 + level / 2)) * spread
    return Area(difference, difference - half, difference + half), float(2 * t.sf(abs(difference) / spread))


def _placements(
    right: Sequence[bool], scores: Sequence[Sequence[float]], clusters: Sequence[int] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int] | None:
    """Areas (scores,), their covariance (scores, scores), and how many clusters the class of fewer has; None: one is missing.

    Placements by midranks, as Sun & Xu 2014 (IEEE Signal Processing Letters 21:1389) find them.
    """
    from scipy import stats

    hits = np.asarray(right, bool)
    counts = int(hits.sum()), int((~hits).sum())
    if not all(counts):
        return None
    placed = np.zeros((len(hits), len(scores)))  # of each answer: the share of the other class that it is on the right side of
    for column, each in enumerate(scores):
        values = np.asarray(each, float)
        ranks = stats.rankdata(values)
        placed[hits, column] = (ranks[hits] - stats.rankdata(values[hits])) / counts[1]
        placed[~hits, column] = 1 - (ranks[~hits] - stats.rankdata(values[~hits])) / counts[0]
    areas = placed[hits].mean(axis=0)
    of = np.unique(np.arange(len(hits)) if clusters is None else np.asarray(clusters), return_inverse=True)[1]
    sums = []  # of both classes: by cluster, how far the placements lie from the area, over the class's size
    for here, count in zip((hits, ~hits), counts):
        total = np.zeros((of.max() + 1, len(scores)))
        np.add.at(total, of[here], (placed[here] - areas) / count)
        sums.append((total, len(np.unique(of[here]))))
    ours, theirs, every = sums[0][0], sums[1][0], of.max() + 1
    covariance = sum((part.T @ part) * (k / max(k - 1, 1)) for part, k in sums)
    covariance = covariance + (ours.T @ theirs + theirs.T @ ours) * (every / max(every - 1, 1))
    return areas, np.asarray(covariance), min(k for _, k in sums)
