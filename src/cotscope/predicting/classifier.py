"""A calibrated classifier that never sees what it is tested on; and the file that one is kept in.

A regularised logistic regression; boosted trees instead, where features are few and the inner folds do better with them.
Everything that is chosen is chosen by cross-validation within the training problems, by templates: kind, penalty and strength
by log-loss, the calibration on what the inner folds said of problems that they had not seen (Platt 1999).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, shown
from .trees import COUNTS, DEPTHS, Trees, boosted, staged

Floats = NDArray[np.float64]
FORMAT, VERSION = "cotscope-predictor", 5
OUTER, INNER = 5, 3
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties tried, for features of mean 0 and of variance 1 in sum."""
FEW = 128
"""Up to so many features sparse weights (L1) are tried too, and boosted trees if there is more than one."""
LEAST_CLASS, LEAST, LEAST_TEMPLATES, LEAST_OF_CLASS = 10, 30, 10, 5
"""Right answers, and wrong ones, that a classifier needs at least; problems; templates of them, and of either class."""


@dataclass(frozen=True)
class Classifier:
    """Probability of a right answer = σ(a · s(x) + b), x the features less `mean` and divided by `scale`, s(x) = w·x or trees.

    Attributes:
        mean, scale, weights: (features,); where there are trees the weights are nought.
        slope, intercept: a and b.
        chosen: "l1" or "l2" and its strength, or the trees' depth and number.
        loss: log-loss of the inner folds (nats per problem).
    """

    mean: Floats
    scale: Floats
    weights: Floats
    slope: float
    intercept: float
    chosen: str
    loss: float = float("nan")
    trees: Trees | None = None

    def logits(self, features: NDArray[Any]) -> Floats:
        """Calibrated log-odds of a right answer, (problems,), of features (problems, features)."""
        x = (np.asarray(features, float) - self.mean) / self.scale
        found = x @ self.weights if self.trees is None else self.trees.scores(x)
        return np.asarray(self.slope * found + self.intercept)

    def moved_by(self, features: NDArray[Any]) -> Floats:
        """How far each feature moves the log-odds from where its mean would have them: standard deviation, (features,)."""
        x = (np.asarray(features, float) - self.mean) / self.scale
        if self.trees is None:
            return np.asarray(np.abs(self.slope * self.weights) * x.std(axis=0))
        found, without = self.trees.scores(x), np.zeros(x.shape[1])
        for i in range(x.shape[1]):
            at_mean = x.copy()
            at_mean[:, i] = 0
            without[i] = (found - self.trees.scores(at_mean)).std()
        return abs(self.slope) * without

    def probabilities(self, features: NDArray[Any]) -> Floats:
        """The same as probabilities."""
        from scipy.special import expit

        return np.asarray(expit(self.logits(features)))


def fit(features: NDArray[Any], right: Sequence[bool], templates: Sequence[int], seed: int = 0) -> Classifier:
    """A classifier from all problems given, right ones and wrong ones among them (`enough` says whether they are enough).

    Args:
        features: (problems, features).
        templates: of each problem: inner folds don't part them.
    """
    from sklearn.linear_model import LogisticRegression

    y, groups = np.asarray(right, bool), np.asarray(templates)
    x = np.asarray(features, float)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    # A feature that hardly ever moves must not be blown up: its scale is at least a tenth of the usual one.
    scale = np.maximum(spread, 0.1 * float(np.median(spread[spread > 0])) if np.any(spread > 0) else 1.0) * x.shape[1] ** 0.5
    x = (x - mean) / scale
    # With more features than problems all that L2 can find lies in the span of the problems: fit there, then go back.
    basis = np.linalg.svd(x, full_matrices=False)[2] if x.shape[1] > len(x) else None
    spans: dict[str, Floats] = {"l2": x if basis is None else x @ basis.T}
    if x.shape[1] <= FEW:
        spans["l1"] = x
    folds = list(folds_of(y, groups, INNER, seed + 1))
    tried: dict[tuple[str, float, int], Floats] = {}  # kind, strength or number, depth → what the inner folds said
    for penalty, z in spans.items():
        for strength in STRENGTHS if penalty == "l2" else STRENGTHS[1:4]:
            said = tried[penalty, strength, 0] = np.zeros(len(y))
            for train, test in folds:
                said[test] = _regression(penalty, strength).fit(z[train], y[train]).decision_function(z[test])
    for depth in DEPTHS if 1 < x.shape[1] <= FEW else ():
        tried |= {("trees", count, depth): np.zeros(len(y)) for count in COUNTS}
        for train, test in folds:
            for count, scores in zip(COUNTS, staged(depth, x[train], y[train], x[test]), strict=True):
                tried["trees", count, depth][test] = scores
    losses = {how: _log_loss(y, said) for how, said in tried.items()}
    best = kind, strength, depth = min(losses, key=lambda how: round(losses[how], 9))  # the first of equals: the plainer
    said, trees, weights, start = tried[best], None, np.zeros(x.shape[1]), 0.0
    if kind in spans:
        model = _regression(kind, strength).fit(spans[kind], y)
        weights = model.coef_[0] if basis is None or kind == "l1" else model.coef_[0] @ basis
        start = float(model.intercept_[0])
    else:
        trees = boosted(depth, int(strength), x, y)
    platt = LogisticRegression(C=1e6).fit(said[:, None], y)
    slope, shift = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    if slope <= 0:  # the inner folds found nothing: what is left is the share that is right
        slope, shift = 0.0, float(np.log(y.mean() / (1 - y.mean())))
    chosen = f"{kind} {strength:g}" + (f" of depth {depth}" if depth else "")
    return Classifier(mean, scale, np.asarray(weights, float), slope, slope * start + shift, chosen, losses[best], trees)


def together(parts: Sequence[NDArray[Any]], right: Sequence[bool], templates: Sequence[int], seed: int = 0) -> Floats:
    """What several ways of telling say together, of each problem by classifiers that saw no problem of its template: a last one
    learns from the log-odds of theirs, as these are for problems that they did not see (stacking; Wolpert 1992).

    Args:
        parts: the features of each way, (problems, features).

    Raises: UserError as `out_of_fold`.
    """
    y, groups = np.asarray(right, bool), np.asarray(templates)
    enough(y, groups)
    found = np.full(len(y), float(y.mean()))

    def learned(x: NDArray[Any], of: NDArray[np.intp], asked: NDArray[np.intp]) -> Floats:
        return fit(x[of], y[of].tolist(), groups[of].tolist(), seed).logits(x[asked])

    for train, test in folds_of(y, groups, OUTER, seed):
        share = float(y[train].mean())
        own = np.full((len(train), len(parts)), np.log(share / (1 - share)))
        for some, others in folds_of(y[train], groups[train], INNER, seed + 2):
            own[others] = np.stack([learned(x, train[some], train[others]) for x in parts], axis=1)
        last = fit(own, y[train].tolist(), groups[train].tolist(), seed)
        found[test] = last.probabilities(np.stack([learned(x, train, test) for x in parts], axis=1))
    return found


def out_of_fold(
    features: NDArray[Any], right: Sequence[bool], templates: Sequence[int], seed: int = 0, check: bool = True
) -> tuple[Floats, list[Classifier | None]]:
    """The probability of each problem by a classifier that saw no problem of its template, and the classifier of each problem.

    Args:
        features: (problems, features), or (choices, problems, features): then each fold takes the choice with the least loss
            in its inner folds.
        check: whether there are enough of everything; who shuffles labels has asked before.

    Raises: UserError if there are too few right or wrong answers, or of too few templates.
    """
    y, groups = np.asarray(right, bool), np.asarray(templates)
    if check:
        enough(y, groups)
    choices = features if features.ndim == 3 else features[None]
    found, fitted = np.full(len(y), float(y.mean())), list[Classifier | None]([None] * len(y))
    folds = folds_of(y, groups, OUTER, seed)
    if check and sum(len(test) for _, test in folds) < len(y):
        raise _few_templates(LEAST_OF_CLASS, "right or wrong answers to learn from in all folds but one")
    for train, test in folds:
        tried = [fit(x[train], y[train].tolist(), groups[train].tolist(), seed) for x in choices]
        best = min(range(len(tried)), key=lambda i: tried[i].loss)
        found[test] = tried[best].probabilities(choices[best][test])
        for i in test:
            fitted[i] = tried[best]
    return found, fitted


def folds_of(
    right: NDArray[np.bool_], templates: NDArray[Any], count: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Training and test indices of `count` folds that part no template and have about the same share of right answers."""
    return list(_folds(np.asarray(right, bool).tobytes(), tuple(np.asarray(templates).tolist()), count, seed))


@functools.lru_cache(maxsize=64)  # every way of telling asks for the same ones
def _folds(
    right: bytes, templates: tuple[Any, ...], count: int, seed: int
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    from sklearn.model_selection import StratifiedGroupKFold

    hits = np.frombuffer(right, bool)
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32).split(hits, hits, np.array(templates))
    return tuple((train, test) for train, test in split if 0 < hits[train].sum() < len(train) and len(test))


def enough(right: NDArray[np.bool_], templates: NDArray[Any]) -> None:
    """Raises: UserError if there are too few problems, or too few right or wrong answers among them."""
    hits, n = int(right.sum()), len(right)
    if n < LEAST:
        raise UserError(
            "too few problems to learn which answers are right", expected=f"at least {LEAST}", got=str(n),
            remedy="Give more problems: --data FILE, or --data builtin:300.",
        )  # fmt: skip
    if (count := len(np.unique(templates))) < LEAST_TEMPLATES:
        raise _few_templates(LEAST_TEMPLATES, str(count))
    if min(hits, n - hits) < LEAST_CLASS:
        raise UserError(
            "too few right or too few wrong answers to learn from", expected=f"at least {LEAST_CLASS} of each",
            got=f"{hits} right, {n - hits} wrong", remedy="Give more problems, or such as are neither too easy nor too hard.",
        )  # fmt: skip
    of = {name: len(np.unique(templates[here])) for name, here in (("right", right), ("wrong", ~right))}
    if min(of.values()) < LEAST_OF_CLASS:
        raise _few_templates(LEAST_OF_CLASS, ", ".join(f"{k} of {name} answers" for name, k in of.items()))


TOO_FEW = "too few right or wrong answers of other templates are left to learn from"
"""Said where there is not what `suffices` asks for."""


def suffices(right: NDArray[np.bool_], templates: NDArray[Any]) -> bool:
    """Whether a classifier can learn from so many (`enough`)."""
    try:
        enough(right, templates)
    except UserError:
        return False
    return True


def _few_templates(least: int, got: str) -> UserError:
    return UserError(
        "the problems are of too few templates to learn on some and test on others",
        expected=f"at least {least}, by the words of their questions", got=got,
        remedy="Give problems that differ in more than numbers and names.",
    )  # fmt: skip


def _regression(penalty: str, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    if penalty == "l1":
        return LogisticRegression(C=strength, l1_ratio=1.0, solver="liblinear", max_iter=1000, random_state=0)
    return LogisticRegression(C=strength, solver="lbfgs", max_iter=400)


def _log_loss(right: NDArray[np.bool_], logits: Floats) -> float:
    """Of log-odds, nats per problem; those beyond ±14 count as ±14, so that one problem does not decide."""
    return float(np.mean(np.logaddexp(0, np.where(right, -1, 1) * np.clip(logits, -14, 14))))


# -- as a file ----------------------------------------------------------------------------------------------------------


def packed(classifier: Classifier, about: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and header of a safetensors file: numbers, and JSON; nothing in it can run."""
    arrays = {"mean": classifier.mean, "scale": classifier.scale, "weights": classifier.weights}
    if classifier.trees is not None:
        arrays |= classifier.trees.arrays()
    more = {k: getattr(classifier, k) for k in ("slope", "intercept", "chosen")}
    header = {"format": FORMAT, "version": VERSION, **about, **more}
    return arrays, {"predictor": json.dumps(header, sort_keys=True)}


def unpacked(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """A classifier from such a file, and what was said about it. Raises: UserError if the file holds none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["predictor"])
            names = set(file.keys())
            arrays = {k: np.asarray(file.get_tensor(k), float) for k in ("mean", "scale", "weights")}
            others = {k: file.get_tensor(k) for k in names if k.startswith("trees.")}
        if about["format"] != FORMAT or about["version"] != VERSION or len({a.shape for a in arrays.values()}) != 1:
            raise ValueError("another format")
        slope, intercept = float(about["slope"]), float(about["intercept"])
        if not np.isfinite(np.concatenate([[slope, intercept], *arrays.values()])).all() or not (arrays["scale"] > 0).all():
            raise ValueError("numbers that are not finite")
        mean, scale, weights = arrays.values()
        trees = Trees.of_arrays(others, len(mean)) if others else None
        return Classifier(mean, scale, weights, slope, intercept, str(about["chosen"]), trees=trees), about
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no predictor", expected=f"a file that `cotscope predict` wrote, version {VERSION}",
            got=shown(str(error)), remedy="Run `cotscope predict RUN` to make one.",
        ) from error  # fmt: skip
