"""The report's part on prediction: its sentence follows the tests, its curves the predictions, every text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import complete, did, discovered, predicted, read
from sklearn.metrics import roc_auc_score

from cotscope.report.curves import Curve, Spot, Square, squares
from cotscope.report.predict import calibration, predict, roc, says
from cotscope.report.reading import Reading
from cotscope.runs.folder import Run
from cotscope.stats import wilson


def way(name: str, kind: str, difference: float, p: float) -> dict[str, Any]:
    return {"predictor": name, "kind": kind, "difference": difference, "p_holm": p}


OWN = {"auroc": 0.8, "low": 0.7, "high": 0.9}


@pytest.mark.parametrize(
    ("own", "rows", "words"),
    [
        (OWN | {"low": 0.49}, [], "not shown to tell"),
        (OWN, [("r", "random neurons", 0.1, 0.01), ("b", "baseline", 0.1, 0.01)], "layers, and better than every"),
        (OWN, [("r", "random neurons", 0.1, 0.2), ("b", "baseline", 0.1, 0.01)], "not shown to be better than random"),
        (OWN, [("layers", "whole layers", 0.1, 0.2), ("b", "baseline", 0.1, 0.01)], "not shown to be better than random"),
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
    even = roc([{"correct": i >= 40, "probability": i / 80} for i in range(80)])
    assert even == [(0, 0), (0, 1), (1, 1)]  # only where it turns
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(right, probability))


def test_calibration_is_by_fifths() -> None:
    rows = [{"correct": i >= 5, "probability": i / 10} for i in range(10)]
    expected = [(0.05, 0), (0.25, 0), (0.45, 0.5), (0.65, 1), (0.85, 1)]
    found = calibration(rows)
    assert [v for spot in found for v in spot[:2]] == pytest.approx([v for point in expected for v in point])
    assert [spot[2:] for spot in found] == [wilson(round(2 * share), 2) for _, share in expected]
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
    drawn = str(squares("x", "about", [Square("<b>", "x", "y", [Curve("reasoning", "<script>", [Spot(0.5, 0.5)])])]))
    assert "<b>" not in drawn and "<script>" not in drawn and "&lt;script&gt;" in drawn
    assert str(squares("x", "about", [])) == ""


def more(folder: Path) -> Path:
    """A run with predictions on data whose name has a blank, early ones, estimated prompts, a cascade."""
    predicted(complete(folder))
    area = {"auroc": 0.7, "low": 0.6, "high": 0.8}
    way = {"data": "my data", "predictor": "reasoning", "kind": "activity", "n": 1200, "templates": 40, "accuracy": 0.5}
    said = [{"data": "my data", "predictor": "reasoning", "problem_id": str(i), "template": i % 9, "correct": 7919 * i % 13 > 5,
             "probability": 31 * i % 97 / 97} for i in range(600)]  # fmt: skip
    share = {"family": "variant", "kind": "full", "name": "<b>", "method": "reasoning", "accuracy": 0.25, "estimated": 0.5}
    did(
        folder, "predict",
        {"predictors": [way | area], "predictions": said,
         "early": [{"data": "my data", "predictor": "reasoning", "kind": "activity", "stop": 0.5, "tokens": 9.0} | area],
         "coverage": [{"data": "my data", "predictor": "reasoning", "coverage": 0.1, "accuracy": 0.9}],
         "shares": [share | {"problems": n} for n in (8, 32)]},
    )  # fmt: skip
    router = {"near": None, "share": 0.5, "cost": 0.55, "accuracy": 0.7, "kept": 0.875, "kept_low": 0.8, "kept_high": 0.95}
    about = {"larger_model": "large", "n": 64, "smaller": 0.5, "larger": 0.8, "smaller_cost": 0.2}
    rows = [{"data": "my data", "router": r, "share": s, "accuracy": 0.5 + s / 4, "cost": 0.2 + s} for r in ("reasoning", "<i>")
            for s in (0.0, 0.5, 1.0)]  # fmt: skip
    did(folder, "cascade", {"cascade": rows}, {"cascade": {"my data": about | {"routers": {"reasoning": router}}}})
    return folder


def test_a_cascade_that_does_not_hold_any_more_says_so(tmp_path: Path) -> None:
    folder = more(tmp_path)
    assert "of that share at" in read(folder).text
    (folder / "tables/cascade.parquet").unlink()
    said = read(folder).text
    assert "Sent on to a larger model" in said and "stale: cascade changed; again with cotscope cascade RUN" in said
    assert "of that share at" not in said


def test_a_pictures_file_holds_its_own_points(tmp_path: Path) -> None:
    found = predict(Reading(Run.open(more(tmp_path))))
    rows = found["curves"].rows
    of = {name: [r for r in rows if r["picture"] == name] for name in ("ROC", "calibration", "kept", "early")}
    assert sum(map(len, of.values())) == len(rows) and {r["data"] for r in rows} == {"my data"}
    assert (of["ROC"][0]["wrong answers passed"], of["ROC"][-1]["right ones passed"]) == (0, 1) and len(of["ROC"]) > 12
    assert len(of["calibration"]) == 5 and all(r["low"] < r["share right"] < r["high"] for r in of["calibration"])
    [kept], [early] = of["kept"], of["early"]
    assert (kept["share kept"], kept["share right"], kept["low"]) == (0.1, 0.9, None)
    assert (early["share of the answer seen"], early["area"], early["low"], early["high"]) == (0.5, 0.7, 0.6, 0.8)
    [prompt] = found["prompts"].rows
    assert (prompt["estimated"], prompt["true accuracy"], prompt["low"], prompt["high"]) == (0.5, 0.25, *wilson(8, 32))
    assert [r["share right"] for r in found["cascade"]["chart"].rows] == [0.5, 0.625]  # drawn: one router, costs up to 1


def test_how_the_curves_are_read_and_of_how_many_answers(tmp_path: Path) -> None:
    page = read(more(tmp_path))
    text = " ".join(page.text.split())
    for words in (
        "ROC: as more answers",
        "Calibration: fifths",
        "Kept: the share",
        "Early: the area",
        "ROC and kept have none",
    ):
        assert words in text
    for n in ("1,200 answers to problems of 40 templates", "1,200 answers", "32 problems under each prompt", "64 problems"):
        assert f"n = {n}." in text
    assert "my data: 0.500 of 64 problems are solved alone, 0.800 by large; with what the reasoning neurons trust least" in text
    assert "0.875 [0.800, 0.950] of that share at 0.55 of its cost." in text and "The curves have no interval" in text
    assert "reasoning: share of the answer seen 0.50, area 0.70 [0.60, 0.80]" in page.text
    assert "<b>: estimated 0.50, true accuracy 0.25 [0.13, 0.42]" in page.text
    assert not page.open and "b" not in {tag for tag, _ in page.elements}


def test_ids_have_no_blank_whatever_data_are_called(tmp_path: Path) -> None:
    page = read(more(tmp_path))
    ids = [a["id"] or "" for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) and not any(c.isspace() for name in ids for c in name)
    assert {each for _, a in page.elements for each in (a.get("aria-labelledby") or "").split()} <= set(ids)
    assert "areas-my data.csv" in {a.get("download") for _, a in page.elements}


def test_a_long_curve_has_tips_at_a_distance() -> None:
    spots = [Spot(i / 999, i / 999) for i in range(1000)]
    drawn = str(squares("x", "about", [Square("t", "passed", "right", [Curve("reasoning", "way", spots)])]))
    assert 12 < drawn.count('<circle class="tip"') < 30 and 'class="small"' not in drawn
    assert "way: passed 0.00, right 0.00" in drawn
    few = str(squares("x", "about", [Square("t", "passed", "right", [Curve("reasoning", "way", spots[:5])])]))
    assert few.count('<circle class="small"') == 5 and "whisker" not in few
