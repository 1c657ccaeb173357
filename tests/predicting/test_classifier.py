"""The classifier: what it finds and does not find, its folds, its calibration, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cotscope.errors import UserError
from cotscope.predicting.classifier import Classifier, fit, folds_of, out_of_fold, packed, unpacked


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
    assert all(f is not None and np.argmax(np.abs(f.weights)) == 0 for f in fitted)


def test_finds_nothing_where_nothing_is() -> None:
    """With shuffled labels the areas lie about 0.5, however many features there are."""
    areas = []
    for seed in range(12):
        x, right, of = made(80, 300, seed=seed)
        shuffled = np.random.default_rng(seed).permutation(right).tolist()
        areas.append(roc_auc_score(shuffled, out_of_fold(x, shuffled, of, seed)[0]))
    assert abs(np.mean(areas) - 0.5) < 0.06


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
    strength = float(found.penalty.removeprefix("l2 "))
    plain = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit((x - found.mean) / found.scale, right)
    assert np.allclose(found.weights, plain.coef_[0], atol=2e-3 * np.abs(plain.coef_).max())


def test_probabilities_are_calibrated() -> None:
    x, right, of = made(1500, 5)
    found, _ = out_of_fold(x, right, of)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        here = (found >= low) & (found < low + 0.2)
        assert here.sum() > 50 and abs(np.mean(np.array(right)[here]) - found[here].mean()) < 0.1


def test_the_best_choice_is_taken() -> None:
    x, right, of = made()
    noise = np.random.default_rng(1).normal(size=x.shape)
    found, _ = out_of_fold(np.stack([noise, x, noise]), right, of)
    assert np.allclose(found, out_of_fold(x, right, of)[0])


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


def test_file(tmp_path: Path) -> None:
    x, right, of = made()
    found = fit(x, right, of)
    arrays, header = packed(found, {"model": "<script>", "neurons": [[1, 2]]})
    save_file(arrays, tmp_path / "p.safetensors", header)
    again, about = unpacked(tmp_path / "p.safetensors")
    assert np.array_equal(again.probabilities(x), found.probabilities(x))
    assert about["model"] == "<script>" and about["neurons"] == [[1, 2]]


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
