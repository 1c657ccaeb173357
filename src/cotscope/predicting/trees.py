"""Boosted trees as arrays: fitted by scikit-learn, evaluated and kept as numbers, so that a file of them runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNT = 40
"""Trees tried, at most; the number is chosen among `COUNTS`."""
COUNTS = (5, 10, 20, COUNT)
DEPTHS = (1, 3)
LEAF, RATE = 10, 0.2  # problems in a leaf, at least; the learning rate
_LEAF = -1


@dataclass(frozen=True)
class Trees:
    """Log-odds = `start` + the sum over trees of the value of the leaf that a row comes to.

    Attributes:
        feature: (trees, nodes), what a node asks, -1 for leaves; rows with `threshold` or less go to `left`, others to `right`.
        value: (trees, nodes), of the leaves.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]
    start: float

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Log-odds, (rows,), of features (rows, features)."""
        x = np.asarray(features, np.float32)  # as scikit-learn compares
        rows, trees = np.arange(len(x))[:, None], np.arange(len(self.feature))[None]
        at = np.zeros((len(x), len(self.feature)), np.int64)
        for _ in range(max(DEPTHS)):
            asked = self.feature[trees, at]
            below = np.where(x[rows, asked] <= self.threshold[trees, at], self.left[trees, at], self.right[trees, at])
            at = np.where(asked == _LEAF, at, below)
        return np.asarray(self.start + self.value[trees, at].sum(axis=1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps."""
        names = ("feature", "threshold", "left", "right", "value")
        return {f"trees.{name}": getattr(self, name) for name in names} | {"trees.start": np.array([self.start])}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]], features: int) -> Trees:
        """The same from a file. Raises: ValueError for what are no trees on so many features; KeyError."""
        feature, left, right = (np.asarray(arrays[f"trees.{n}"], np.int64) for n in ("feature", "left", "right"))
        threshold, value = (np.asarray(arrays[f"trees.{n}"], float) for n in ("threshold", "value"))
        (start,) = np.asarray(arrays["trees.start"], float).tolist()
        shapes = {a.shape for a in (feature, left, right, threshold, value)}
        if len(shapes) != 1 or feature.ndim != 2 or not feature.size:
            raise ValueError("trees of different shapes")
        nodes = feature.shape[1]
        if not ((feature >= _LEAF) & (feature < features)).all() or any(((a < 0) | (a >= nodes)).any() for a in (left, right)):
            raise ValueError("trees that lead nowhere")
        if not all(np.isfinite(a).all() for a in (threshold, value, [start])):
            raise ValueError("numbers that are not finite")
        return cls(feature, threshold, left, right, value, start)


def boosted(depth: int, count: int, x: NDArray[Any], right: NDArray[np.bool_]) -> Trees:
    """Gradient boosting (Friedman 2001) of the log-loss."""
    made = _made(depth, count).fit(x, right)
    every = [t.tree_ for t in made.estimators_[:, 0]]
    nodes = max(t.node_count for t in every)

    def padded(name: str, fill: float, kind: Any) -> NDArray[Any]:
        found = np.full((len(every), nodes), fill, kind)
        for row, tree in zip(found, every, strict=True):
            row[: tree.node_count] = np.ravel(getattr(tree, name))
        return found

    leaves = padded("children_left", _LEAF, np.int64) == _LEAF
    feature = np.where(leaves, _LEAF, padded("feature", _LEAF, np.int64))
    left, right_of = (np.maximum(padded(name, 0, np.int64), 0) for name in ("children_left", "children_right"))
    start = float(np.log(right.mean() / (1 - right.mean())))
    return Trees(feature, padded("threshold", 0, float), left, right_of, RATE * padded("value", 0, float), start)


def staged(depth: int, x: NDArray[Any], right: NDArray[np.bool_], other: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Log-odds of `other` rows after each of `COUNTS` trees fitted on `x`."""
    made = _made(depth, COUNT).fit(x, right)
    for count, scores in enumerate(made.staged_decision_function(other), 1):
        if count in COUNTS:
            yield np.ravel(scores).astype(float)


def _made(depth: int, count: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(
        n_estimators=count, learning_rate=RATE, max_depth=depth, min_samples_leaf=LEAF, random_state=0
    )
