"""How many of some answers are right, without labels: estimates from labelled answers (the source) to unlabelled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def threshold_share(source: Sequence[float], right: Sequence[bool], target: Sequence[float]) -> float:
    """Average thresholded confidence (ATC; Garg et al. 2022, arXiv:2201.04234, eq. 2).

    The threshold is such that as many of the source's scores lie below it as are wrong.
    """
    scores = np.sort(np.asarray(source, float))
    wrong = len(scores) - int(np.sum(np.asarray(right, bool)))
    if wrong == len(scores):
        return float(np.mean(np.asarray(target, float) > scores[-1]))
    return float(np.mean(np.asarray(target, float) >= scores[wrong]))


def difference_share(source: Sequence[float], right: Sequence[bool], target: Sequence[float]) -> float:
    """Difference of confidences (DoC; Guillory et al. 2021, arXiv:2107.03315): accuracy moves as mean confidence does."""
    moved = float(np.mean(np.asarray(target, float)) - np.mean(np.asarray(source, float)))
    return float(np.clip(np.mean(np.asarray(right, bool)) + moved, 0, 1))


def expected_share(
    probabilities: Sequence[float], off: float = 0.0, templates: Sequence[int] | None = None, together: float = 0.0
) -> tuple[float, float, float]:
    """The share that calibrated probabilities expect to be right, with a 95 % interval.

    The spread of a count of answers (normal; Poisson's binomial, and what those of one template have in common), and that of
    the probabilities' own mean. That they hold for problems unlike those they were learned on is not in it.

    Args:
        off: standard error of how far the probabilities lie from the truth on average.
        templates: of each answer's question; None: none share one.
        together: correlation of answers of one template about their probabilities (`correlation_within`).
    """
    p = np.asarray(probabilities, float)
    spread = np.sqrt(p * (1 - p))
    own = (spread**2).sum()
    whole = own if templates is None else sum(spread[np.asarray(templates) == t].sum() ** 2 for t in set(templates))
    mean, half = float(p.mean()), 1.96 * float(np.hypot(np.sqrt(own + together * (whole - own)) / len(p), off))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def correlation_within(probabilities: Sequence[float], right: Sequence[bool], templates: Sequence[int]) -> float:
    """How far answers of one template are right or wrong together, beyond what their probabilities say: the mean product of two
    of one template, each less its probability and in its standard deviation; 0 for less, or where none share a template."""
    p = np.clip(np.asarray(probabilities, float), 0.01, 0.99)
    apart = (np.asarray(right, float) - p) / np.sqrt(p * (1 - p))
    products, pairs = 0.0, 0
    for t in set(templates):
        of = apart[np.asarray(templates) == t]
        products += (of.sum() ** 2 - (of**2).sum()) / 2
        pairs += len(of) * (len(of) - 1) // 2
    return float(np.clip(products / pairs, 0, 1)) if pairs else 0.0


def risk_coverage(scores: Sequence[float], right: Sequence[float]) -> list[tuple[float, float]]:
    """(coverage, share right) where the answers with the highest scores are kept, one point per tenth.

    Args:
        right: of each answer whether it is right, or the probability that it is.
    """
    order: NDArray[np.intp] = np.argsort(-np.asarray(scores, float), kind="stable")
    kept = np.cumsum(np.asarray(right, float)[order])
    counts = [max(1, round(len(order) * tenth / 10)) for tenth in range(1, 11)]
    return [(count / len(order), float(kept[count - 1] / count)) for count in counts]
