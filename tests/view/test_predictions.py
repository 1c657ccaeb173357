"""The table of predictions: sorted, filtered, paged, joined with the right problems; and answers in Solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, complete, predicted

from cotscope.runs.folder import Run
from cotscope.runs.tables import COMPLETIONS, EVALUATIONS_BY_PROBLEM, PROBLEMS
from cotscope.view.listing import PAGE
from cotscope.view.solutions import question

COUNT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predicted(complete(tmp_path_factory.mktemp("runs") / "made"), COUNT)


@pytest.fixture(scope="module")
def client(folder: Path, viewer: Any) -> Any:
    return viewer(folder)


def found(client: Any, **asked: Any) -> dict[str, Any]:
    answer = client.get("/api/runs/made/predictions", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_likeliest_come_first_with_their_problems(client: Any) -> None:
    page = found(client)
    assert page["data"] == "study" and page["every"] == ["study", "other<i>"] and page["total"] == COUNT
    probabilities = [row["probability"] for row in page["rows"]]
    assert len(probabilities) == PAGE and probabilities == sorted(probabilities, reverse=True)
    assert all(row["correct"] for row in page["rows"])
    first = page["rows"][0]
    assert (first["problem_id"], first["said"], first["answer"]) == (f"{HOSTILE[0]}#0", "0", "0") and first["written"]
    assert first["question"] == f"How many {HOSTILE[0]}#0?" and "searched" not in first
    rest = [found(client, page=n)["rows"] for n in (1, 2, 3)]
    assert [len(rows) for rows in rest] == [PAGE, COUNT - 2 * PAGE, 0]
    assert len({row["problem_id"] for rows in (page["rows"], *rest) for row in rows}) == COUNT
    assert found(client, descending=False)["rows"][0]["probability"] == min(r["probability"] for r in rest[1])


def test_each_way_of_telling_has_its_figures_and_its_order(client: Any) -> None:
    page = found(client, predictor="confidence")
    assert [w["predictor"] for w in page["ways"]] == ["reasoning", "confidence"]
    assert page["ways"][1]["difference"] == 0.5 and page["ways"][0]["difference"] is None
    assert len(page["coverage"]) == 10
    assert page["rows"][0]["problem_id"].endswith(f"#{COUNT - 1}") and not page["rows"][0]["correct"]


def test_filters(client: Any) -> None:
    assert found(client, correct=False)["total"] == COUNT // 2
    assert found(client, predictor="confidence", least=0.25, most=0.5)["total"] == COUNT // 4 + 1
    assert found(client, text="<SCRIPT>")["total"] == 1 + COUNT // len(HOSTILE)
    assert found(client, text="#17")["total"] == 1
    assert found(client, text="'; DROP TABLE listed; --")["total"] == found(client, data="nothing")["total"] == 0
    other = found(client, data="other<i>")
    assert other["total"] == COUNT and not other["rows"][0]["written"] and other["rows"][0]["question"] is None
    for wrong in ({"page": -1}, {"least": 2}, {"correct": "perhaps"}):
        assert client.get("/api/runs/made/predictions", params=wrong).status_code == 422


def test_a_run_that_predicted_nothing_says_what_does(made: Path, viewer: Any) -> None:
    page = found(viewer(made))
    assert page["every"] == [] and page["again"] == f"cotscope predict {made / 'made'}"


def test_a_problem_of_one_name_is_that_of_its_data(folder: Path, client: Any) -> None:
    """`test` and `study` hold the same problems; other data may give their problems the same names."""
    run, name = Run.open(folder), f"{HOSTILE[0]}#0"
    run.write(PROBLEMS, [{"problem_id": name, "split": "discovery", "question": "Another", "answer": "1"},
                         {"problem_id": "p", "split": "test", "question": "Its own", "answer": "2"}])  # fmt: skip
    run.save()
    run = Run.open(folder)
    assert question(run, {"family": "prediction", "problem_id": name, "split": "study"})["question"] == f"How many {name}?"
    assert question(run, {"family": "prediction", "problem_id": name, "split": "discovery"})["question"] == "Another"
    assert question(run, {"family": "prediction", "problem_id": "p", "split": "study"})["question"] == "Its own"
    asked = {"condition": "prediction.study", "problem": name}
    assert client.get("/api/runs/made/solution", params=asked).json()["problem"]["question"] == f"How many {name}?"
    [problem] = [p for p in client.get("/api/runs/made/problems", params=asked).json() if p["problem_id"] == name]
    assert problem["question"] == f"How many {name}?"
    [written] = run.rows("SELECT * FROM completions WHERE condition = 'prediction.study' AND problem_id = ?", [name])
    about = {"condition": "evaluation.base on study", "family": "evaluation"}  # of another file of that name
    run.write(COMPLETIONS, [written | about], "evaluation.base on study")
    run.write(
        EVALUATIONS_BY_PROBLEM, [{"edit": "mine", "data": "study", "problem_id": name, "question": "Others'", "answer": "3"}]
    )
    run.save()
    for condition, expected in (("prediction.study", f"How many {name}?"), ("evaluation.base on study", "Others'")):
        found = client.get("/api/runs/made/solution", params={"condition": condition, "problem": name}).json()
        assert found["problem"]["question"] == expected
