"""The report's part on prediction: its sentence follows the tests, its curves the predictions, every text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import complete, discovered, predicted, read
from sklearn.metrics import roc_auc_score

from cotscope.report.curves import Curve, Square, squares
from cotscope.report.predict import calibration, roc, says


def way(name: str, kind: str, difference: float, p: float) -> dict[str, Any]:
    return {"predictor": name, "kind": kind, "difference": difference, "p_holm": p}


OWN = {"auroc": 0.8, "low": 0.7, "high": 0.9}


@pytest.mark.parametrize(
    ("own", "rows", "words"),
    [
        (OWN | {"low": 0.49}, [], "not shown to tell"),
        (OWN, [("r", "random neurons", 0.1, 0.01), ("b", "baseline", 0.1, 0.01)], "layers, and better than every"),
        (OWN, [("r", "random neurons", 0.1, 0.2), ("b", "baseline", 0.1, 0.01)], "not shown to be better than random"),
        (OWN, [("r", "random neurons", -0.1, 0.01), ("b", "baseline", 0.1, 0.2)], "worse than r, and not shown"),
    ],
)  # fmt: skip
def test_sentence(own: dict[str, float], rows: list[tuple[str, str, float, float]], words: str) -> None:
    assert words in says(own, [way(*row) for row in rows])


def test_the_curve_has_the_area() -> None:
    rng = np.random.default_rng(0)
    right, probability = rng.random(80) < 0.5, rng.integers(0, 9, 80) / 9  # with ties
    points = roc([{"correct": bool(r), "probability": float(p)} for r, p in zip(right, probability)])
    x, y = np.array(points).T
    assert points[0] == (0, 0) and points[-1] == (1, 1)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(right, probability))


def test_calibration_is_by_fifths() -> None:
    rows = [{"correct": i >= 5, "probability": i / 10} for i in range(10)]
    expected = [(0.05, 0), (0.25, 0), (0.45, 0.5), (0.65, 1), (0.85, 1)]
    assert [v for point in calibration(rows) for v in point] == pytest.approx([v for point in expected for v in point])
    assert calibration([]) == []


def test_the_first_screen_says_how_well_answers_are_told(tmp_path: Path) -> None:
    assert "Right answers told from wrong ones" not in first(complete(tmp_path / "without"))
    said = first(predicted(complete(tmp_path / "with")))
    told = "by their activity: 1.00 [0.90, 1.00] on study, by that of random neurons –, by how sure the model was 0.50; 1.00"
    assert told in said
    (bare := tmp_path / "bare").mkdir()
    assert "No accuracy has been measured" not in first(predicted(discovered(bare)))


def first(folder: Path) -> str:
    return " ".join(read(folder).text.split()).split("Brackets are")[0]


def test_labels_are_escaped() -> None:
    drawn = str(squares("x", "about", [Square("<b>", "x", "y", [Curve("reasoning", "<script>", [(0.5, 0.5)])])]))
    assert "<b>" not in drawn and "<script>" not in drawn and "&lt;script&gt;" in drawn
    assert str(squares("x", "about", [])) == ""
