"""The classifier: what it finds and does not find, its folds, its calibration, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cotscope.errors import UserError
from cotscope.predicting.classifier import Classifier, fit, folds_of, out_of_fold, packed, suffices, together, unpacked
from cotscope.predicting.trees import COUNTS, boosted, staged


def made(n: int = 200, p: int = 20, signal: float = 2.0, seed: int = 0) -> tuple[np.ndarray, list[bool], list[int]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * rng.uniform(0.1, 10, p)
    right = rng.random(n) < 1 / (1 + np.exp(-signal * x[:, 0] / x[:, 0].std()))
    return x, right.tolist(), list(range(n))


def test_finds_what_is_there() -> None:
    x, right, of = made()
    found, fitted = out_of_fold(x, right, of)
    assert roc_auc_score(right, found) > 0.8
    assert abs(np.mean(found) - np.mean(right)) < 0.05
    assert all(f is not None and f.trees is None and np.argmax(np.abs(f.weights)) == 0 for f in fitted)


def test_a_few_features_that_tell_are_heard_beside_many_that_do_not() -> None:
    rng = np.random.default_rng(1)
    sure = rng.normal(size=(160, 3)) * [0.05, 1, 40]
    right = (rng.random(160) < 1 / (1 + np.exp(-4 * sure[:, 0] / 0.05))).tolist()
    many, of = rng.normal(size=(160, 600)), [i // 2 for i in range(160)]
    found = together([many, sure], right, of)
    assert roc_auc_score(right, found) > 0.85 and abs(np.mean(found) - np.mean(right)) < 0.05
    assert roc_auc_score(right, out_of_fold(np.hstack([many, sure]), right, of)[0]) < 0.7, (
        "one classifier of all is deaf to them"
    )
    moved = rng.permutation(80)  # what is said of a problem is of no problem of its template
    assert 0.25 < roc_auc_score(moved[of] % 2 == 0, together([np.eye(80)[of], sure], (moved[of] % 2 == 0).tolist(), of)) < 0.75


@pytest.mark.slow
def test_finds_nothing_where_nothing_is() -> None:
    """With shuffled labels the areas lie about 0.5, however many features there are."""
    areas = []
    for seed in range(12):
        x, right, of = made(80, 300, seed=seed)
        shuffled = np.random.default_rng(seed).permutation(right).tolist()
        areas.append(roc_auc_score(shuffled, out_of_fold(x, shuffled, of, seed)[0]))
    assert abs(np.mean(areas) - 0.5) < 0.06


@pytest.mark.slow
def test_folds_part_no_template() -> None:
    """Where right answers go by template, features that name the template tell nothing of a new one."""
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(30), 8)
    right = np.repeat(rng.random(30) < 0.5, 8)
    for train, test in folds_of(right, of, 5, 0):
        assert not set(of[train]) & set(of[test])
    x = np.eye(30)[of] + 0.1 * rng.normal(size=(240, 30))
    assert roc_auc_score(right, out_of_fold(x, right.tolist(), list(range(240)))[0]) > 0.95
    assert roc_auc_score(right, out_of_fold(x, right.tolist(), of.tolist())[0]) < 0.65


def test_many_features_are_fitted_in_the_span_of_the_problems() -> None:
    """As the same penalty on all features finds it."""
    x, right, of = made(60, 500)
    found = fit(x, right, of)
    strength = float(found.chosen.removeprefix("l2 "))
    plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit((x - found.mean) / found.scale, right)
    assert np.allclose(found.weights, plain.coef_[0], atol=2e-3 * np.abs(plain.coef_).max())


@pytest.mark.slow
def test_probabilities_are_calibrated() -> None:
    x, right, of = made(1500, 5)
    found, _ = out_of_fold(x, right, of)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        here = (found >= low) & (found < low + 0.2)
        assert here.sum() > 50 and abs(np.mean(np.array(right)[here]) - found[here].mean()) < 0.1


@pytest.mark.slow
def test_the_best_choice_is_taken() -> None:
    x, right, of = made()
    noise = np.random.default_rng(1).normal(size=x.shape)
    found, _ = out_of_fold(np.stack([noise, x, noise]), right, of)
    assert np.allclose(found, out_of_fold(x, right, of)[0])


def crossed(n: int = 400, seed: int = 0) -> tuple[np.ndarray, list[bool], list[int]]:
    """What no weighted sum tells: right where two features have one sign."""
    x = np.random.default_rng(seed).normal(size=(n, 6))
    return x, (x[:, 0] * x[:, 1] > 0).tolist(), list(range(n))


@pytest.mark.slow
def test_trees_are_taken_where_they_are_better() -> None:
    x, right, of = crossed()
    found, fitted = out_of_fold(x, right, of)
    assert roc_auc_score(right, found) > 0.9
    assert all(f is not None and f.chosen.startswith("trees") and f.chosen.endswith("of depth 3") for f in fitted)


@pytest.mark.parametrize("data", [made, crossed])
def test_what_moves_the_log_odds(data: Callable[[], tuple[np.ndarray, list[bool], list[int]]]) -> None:
    """As far as they move if the feature is put to its mean."""
    x, right, of = data()
    found = fit(x, right, of)
    moved = found.moved_by(x)
    for i in range(x.shape[1]):
        other = x.copy()
        other[:, i] = x[:, i].mean()
        assert moved[i] == pytest.approx((found.logits(x) - found.logits(other)).std(), abs=1e-9)
    assert 0 in np.argsort(-moved)[:2]


@pytest.mark.parametrize("depth", [1, 3])
def test_trees_say_what_scikit_learn_says(depth: int) -> None:
    x, right, _ = crossed()
    made = GradientBoostingClassifier(
        n_estimators=40, learning_rate=0.2, max_depth=depth, min_samples_leaf=10, random_state=0
    ).fit(x, right)
    other = np.vstack([crossed(seed=1)[0], x])
    found = boosted(depth, 40, x, np.array(right)).scores(other)
    assert np.allclose(found, made.decision_function(other), atol=1e-9)
    *_, last = [s for s, count in zip(staged(depth, x, np.array(right), other), COUNTS, strict=True) if count <= 40]
    assert np.allclose(found, last, atol=1e-9)


@pytest.mark.slow
def test_constant_features_and_one_feature() -> None:
    x, right, of = made()
    x[:, 1:] = 7.0
    assert np.allclose(out_of_fold(x, right, of)[0].mean(), np.mean(right), atol=0.05)
    assert roc_auc_score(right, out_of_fold(x[:, :1], right, of)[0]) > 0.8
    assert np.ptp(out_of_fold(np.zeros((200, 3)), right, of)[0]) < 0.2


@pytest.mark.parametrize(
    ("right", "of", "words"),
    [
        ([True] * 10 + [False] * 10, range(20), "at least 30"),
        ([True] * 35 + [False] * 5, range(40), "35 right, 5 wrong"),
        ([True] * 20 + [False] * 20, [0] * 40, "too few templates"),
        (
            [True] * 30 + [False] * 12,
            [*range(30), *[30, 31, 32, 33] * 3],
            "got 30 of right answers, 4 of wrong",
        ),
    ],
)
def test_too_little(right: list[bool], of: list[int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        out_of_fold(np.random.default_rng(0).normal(size=(len(right), 3)), right, list(of))


def test_as_few_as_are_asked_for_are_enough() -> None:
    """A fold's training problems are fewer, and are not asked for as many again."""
    right = [True] * 10 + [False] * 20
    x = np.random.default_rng(0).normal(size=(30, 3)) + 3 * np.array(right)[:, None]
    found, _ = out_of_fold(x, right, list(range(30)))
    assert roc_auc_score(right, found) > 0.9


@pytest.mark.parametrize("data", [made, crossed])
def test_file(tmp_path: Path, data: Callable[[], tuple[np.ndarray, list[bool], list[int]]]) -> None:
    x, right, of = data()
    found = fit(x, right, of)
    arrays, header = packed(found, {"model": "<script>", "neurons": [[1, 2]]})
    save_file(arrays, tmp_path / "p.safetensors", header)
    again, about = unpacked(tmp_path / "p.safetensors")
    assert np.array_equal(again.probabilities(x), found.probabilities(x))
    assert about["model"] == "<script>" and about["neurons"] == [[1, 2]]


def test_trees_of_a_file_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    x, right, of = crossed()
    arrays, header = packed(fit(x, right, of), {})
    path = tmp_path / "p.safetensors"
    for name, value in (("feature", 6), ("left", arrays["trees.left"].shape[1]), ("right", -1), ("value", np.nan)):
        broken = {k: v.copy() for k, v in arrays.items()}
        broken[f"trees.{name}"][0, 0] = value
        save_file(broken, path, header)
        with pytest.raises(UserError, match="holds no predictor"):
            unpacked(path)
    for gone in ("trees.left", "trees.start"):
        save_file({k: v for k, v in arrays.items() if k != gone}, path, header)
        with pytest.raises(UserError, match="holds no predictor"):
            unpacked(path)


@pytest.mark.parametrize("how", ["bytes", "header", "shape", "nan", "version", "missing", "scale"])
def test_a_broken_file_is_refused(tmp_path: Path, how: str) -> None:
    classifier = Classifier(np.zeros(3), np.ones(3), np.ones(3), 1.0, 0.0, "l2 1")
    arrays, header = packed(classifier, {})
    if how == "shape":
        arrays["weights"] = np.ones(4)
    elif how == "nan":
        arrays["weights"] = np.array([1.0, np.nan, 0.0])
    elif how == "scale":
        arrays["scale"] = np.zeros(3)
    elif how == "version":
        header = {"predictor": json.dumps(json.loads(header["predictor"]) | {"version": 9})}
    elif how == "header":
        header = {}
    path = tmp_path / "p.safetensors"
    if how != "missing":
        save_file(arrays, path, header)
    if how == "bytes":
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="holds no predictor"):
        unpacked(path)


def test_whether_there_is_enough_is_asked_without_an_error() -> None:
    right, templates = np.arange(40) % 2 == 0, np.arange(40)
    assert suffices(right, templates)
    assert not suffices(right[:20], templates[:20]) and not suffices(right, templates % 3)
    assert not suffices(templates < 3, templates) and not suffices(right[:0], templates[:0])
