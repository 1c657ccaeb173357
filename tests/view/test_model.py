"""What the viewer has the model of a run do: tokens with their activity, questions of one's own, alike neurons, edits."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from cotscope.cli import main
from cotscope.edits.edit import Edit
from cotscope.errors import UserError
from cotscope.lm.interventions import scale
from cotscope.records import Neuron, Pole
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.runs.tables import COMPLETIONS, PREDICTED, SELECTED, SELECTIONS, SETS
from cotscope.view import desk
from cotscope.view.solutions import Marks, differing, intervention_of, words

pytest_plugins = ("small_study",)
TOKEN = {"x-cotscope-token": "the-token"}


@pytest.fixture(scope="module")
def client(small_run: Path, viewer: Any) -> Any:
    return viewer(small_run)


@pytest.fixture(scope="module")
def run(small_run: Path) -> Run:
    return Run.open(small_run)


def post(client: Any, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = client.post(f"/api/runs/run/{path}", json=body, headers=TOKEN)
    assert answer.status_code == status, answer.text
    return answer.json()


def told(client: Any, **asked: Any) -> list[dict[str, Any]]:
    """What `try` tells, line by line."""
    answer = client.post("/api/runs/run/try", json={"question": "What is 0 and 0?", "prompt": "plain"} | asked, headers=TOKEN)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def texts(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["side"]: line["text"] for line in lines if "text" in line}


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["study.plain", "discovery.plain"])
def test_activity_by_token_sums_to_what_the_study_recorded(client: Any, run: Run, condition: str) -> None:
    """Accepted poles' active steps of each problem, as `activity` has them."""
    recorded = {
        r["problem_id"]: r["steps"]
        for r in run.rows(
            """SELECT problem_id, sum(steps)::INT AS steps FROM activity
               WHERE condition = ? AND (layer, index, sign) IN (SELECT (layer, index, sign) FROM annotations WHERE accepted)
               GROUP BY ALL""",
            [condition],
        )
    }
    for r in run.rows("SELECT problem_id, token_ids, tokens FROM completions WHERE condition = ?", [condition])[:3]:
        [side] = post(client, "activity", {"problem": r["problem_id"], "condition": condition})
        assert len(side["pieces"]) == len(r["token_ids"]) == r["tokens"]  # none of them ended by an end token
        assert sum(side["active"][""]) == recorded[r["problem_id"]]
        assert max(side["active"]["small"]) <= max(side["active"][""])


def test_tokens_of_two_conditions_and_where_they_differ(client: Any, run: Run) -> None:
    asked = {"problem": "p0", "condition": "study.plain", "beside": "ablation.reasoning"}
    one, other = post(client, "activity", asked)
    for side, condition in ((one, "study.plain"), (other, "ablation.reasoning")):
        [row] = run.rows("SELECT text FROM completions WHERE condition = ? AND problem_id = 'p0'", [condition])
        assert "".join(side["pieces"]).startswith(row["text"])
    kept = [[p for i, p in enumerate(s["pieces"]) if i not in s["differs"]] for s in (one, other)]
    assert kept[0] == kept[1] and one["differs"]
    assert sum(other["active"][""]) < sum(one["active"][""])  # these were zeroed
    plain = client.get("/api/runs/run/solution", params=asked).json()
    assert ["".join(s["words"]) for s in plain["sides"]] == [r["text"] for r in run.rows(
        "SELECT text FROM completions WHERE problem_id = 'p0' AND condition IN ('study.plain', 'ablation.reasoning') "
        "ORDER BY condition DESC")]  # fmt: skip


def test_conditions_and_problems(client: Any, run: Run) -> None:
    found = client.get("/api/runs/run/conditions").json()
    assert found["prompts"] == ["plain"]
    assert found["conditions"][0]["condition"] == "study.plain"
    assert {c["condition"] for c in found["conditions"]} == {
        r["condition"] for r in run.rows("SELECT DISTINCT condition FROM completions")
    }
    asked = {"condition": "study.plain", "beside": "ablation.reasoning"}
    problems = client.get("/api/runs/run/problems", params=asked).json()
    assert sum(p["correct"] for p in problems) == found["conditions"][0]["correct"]
    assert all(p["beside"] is not None and p["question"] for p in problems)


def test_a_pole_and_a_token(client: Any) -> None:
    where = {"problem": "p2", "condition": "study.plain"}
    rows = post(client, "token", where | {"token": 3})
    assert {r["layer"] for r in rows} <= {0, 1, 2} and len(rows) <= 30
    sizes = [r["size"] for r in rows if r["layer"] == 1]
    assert sizes == sorted(sizes, reverse=True)
    pole = {k: rows[0][k] for k in ("layer", "index", "sign")}
    [side] = post(client, "activity", where | {"pole": pole})
    assert side["of_pole"][3] == pytest.approx(rows[0]["size"], rel=1e-3)
    [opposite] = post(client, "activity", where | {"pole": pole | {"sign": -pole["sign"]}})
    assert opposite["of_pole"][3] == 0
    for wrong in ({"token": 99}, {"token": None}, {"token": 1, "problem": "nothing"}, {"token": 1, "condition": "'"}):
        assert post(client, "token", where | wrong, 400)["error"]
    assert post(client, "activity", where | {"pole": {"layer": 3, "index": 0}}, 400)["error"]


def test_predicted_answers_are_watched_with_their_own_questions(client: Any, small_copy: Path, viewer: Any) -> None:
    """Of a problem of other data that has the name of one of the study's; what was zeroed for them is not known again."""
    where = {"problem": "p0", "condition": "study.plain"}
    run = Run.open(small_copy)
    [row] = run.rows("SELECT * FROM completions WHERE condition = 'study.plain' AND problem_id = 'p0'")
    [text] = run.rows("SELECT question, answer FROM problems WHERE problem_id = 'p0'")
    for family, name, zeroed, split in (
        ("prediction", "more", "none", "more"),
        ("prediction", "zeroed rests", "rests", "test"),
        ("cascade", "more", "none", "more"),
    ):
        about = {"condition": f"{family}.{name}", "family": family, "neuron_set": zeroed, "split": split}
        run.write(COMPLETIONS, [row | about | {"problem_id": "p1"}], f"{family}.{name}")
    run.write(PREDICTED, [{"data": "more", "problem_id": "p1", **text}])
    run.save()
    other = viewer(small_copy)
    assert post(other, "activity", {"problem": "p1", "condition": "prediction.more"}) == post(client, "activity", where)
    for condition in ("prediction.zeroed rests", "cascade.more"):
        said = post(other, "activity", {"problem": "p1", "condition": condition}, 400)["error"]
        assert "does not hold what was done" in said, "of another model the words alone are known"


def test_what_was_zeroed_may_be_another_set_by_now(small_copy: Path, viewer: Any) -> None:
    """The text of a stale stage is shown, with a word on it; no set of now is zeroed for it."""
    run = Run.open(small_copy)
    run.write(SETS, [row | {"index": row["index"] + 1} for row in run.rows("SELECT * FROM sets")])
    run.save()
    other, asked = viewer(small_copy), {"problem": "p0", "condition": "ablation.reasoning"}
    [one] = run.rows("SELECT problem_id FROM completions WHERE condition = 'discovery.plain' LIMIT 1")
    found = other.get("/api/runs/run/solution", params=asked).json()
    assert found["sides"][0]["stale"].startswith("ablate is stale")
    assert "may be something else by now" in post(other, "activity", asked, 400)["error"]
    assert (
        other.get("/api/runs/run/solution", params={"problem": one["problem_id"], "condition": "discovery.plain"}).json()[
            "sides"
        ][0]["stale"]
        == ""
    )


def test_one_side_is_shown_where_the_other_can_not_be(small_copy: Path, viewer: Any) -> None:
    """The other was not asked this problem, or another one of its name; or it can't be computed again."""
    run = Run.open(small_copy)
    [row] = run.rows("SELECT * FROM completions WHERE condition = 'study.plain' AND problem_id = 'p0'")
    for family, split in (("prediction", "more"), ("cascade", "test")):
        about = {"condition": f"{family}.more", "family": family, "split": split}
        run.write(COMPLETIONS, [row | about], f"{family}.more")
    run.write(PREDICTED, [{"data": "more", "problem_id": "p0", "question": "What else?", "answer": "1"}])
    run.save()
    other, asked = viewer(small_copy), {"problem": "p0", "condition": "study.plain"}
    for beside, why in (("prediction.more", "is another one"), ("discovery.plain", "nothing was written")):
        found = other.get("/api/runs/run/solution", params=asked | {"beside": beside}).json()
        assert [side["condition"] for side in found["sides"]] == ["study.plain"] and why in found["fault"]
    for beside, right in (("prediction.more", None), ("cascade.more", row["correct"])):
        problems = other.get("/api/runs/run/problems", params=asked | {"beside": beside}).json()
        assert {p["problem_id"]: p["beside"] for p in problems}["p0"] == right
    good, bad = post(other, "activity", asked | {"beside": "cascade.more"})
    assert good["pieces"] and good["active"] and "does not hold what was done" in bad["error"]


@pytest.mark.slow
def test_an_edit_that_was_evaluated_is_made_again_if_it_is_the_same(small_copy: Path, viewer: Any, tmp_path: Path) -> None:
    other, file = viewer(small_copy), tmp_path / "mine.json"
    rows = Run.open(small_copy).rows("SELECT layer, index, sign FROM poles ORDER BY steps DESC LIMIT 30")
    kept = {"name": "mine", "poles": [[r["layer"], r["index"], r["sign"]] for r in rows], "factor": 0}
    file.write_bytes(other.post("/api/runs/run/edit", json=kept, headers=TOKEN).content)
    assert main(["evaluate", str(small_copy), "--edit", str(file), "--solutions", "1", "--skills", "1"]) == 0
    asked = {"problem": "p0", "condition": "evaluation.mine on study", "beside": "evaluation.base on study", "pole": rows[0]}
    edited, base = post(other, "activity", asked)
    said = {r["condition"]: r["text"] for r in Run.open(small_copy).rows(
        "SELECT condition, text FROM completions WHERE family = 'evaluation' AND problem_id = 'p0'")}  # fmt: skip
    assert "".join(edited["pieces"]).startswith(said[asked["condition"]])
    assert "".join(base["pieces"]).startswith(said[asked["beside"]])
    assert max(edited["of_pole"]) == 0 < max(base["of_pole"])
    file.write_bytes(other.post("/api/runs/run/edit", json=kept | {"factor": 0.5}, headers=TOKEN).content)
    edited, base = post(viewer(small_copy), "activity", asked)
    assert "does something else now" in edited["error"] and max(base["of_pole"]) > 0
    # Evaluated again, while the viewer runs: what it kept was of the former edit.
    nothing = kept | {"factor": 1}
    file.write_bytes(other.post("/api/runs/run/edit", json=nothing, headers=TOKEN).content)
    assert main(["evaluate", str(small_copy), "--edit", str(file), "--solutions", "1", "--skills", "1"]) == 0
    edited, base = post(other, "activity", asked)
    assert edited["of_pole"] == base["of_pole"]
    later = Edit.read(file)
    replace(later, factors=dict.fromkeys(later.factors, (0.0, 0.0)), scope="generated").write(file)  # no text that is read
    assert main(["evaluate", str(small_copy), "--edit", str(file), "--solutions", "1", "--skills", "1"]) == 0
    edited, base = post(other, "activity", asked)
    assert min(edited["of_pole"]) == 0 != edited["of_pole"] != base["of_pole"]
    assert main(["evaluate", str(small_copy), "--rounding"]) == 0
    rounded, _ = post(viewer(small_copy), "activity", asked | {"condition": "evaluation.base in bfloat16 on study"})
    assert "was written by the untouched model, 'base in bfloat16'. Its text can be read" in rounded["error"]
    replace(later, factors={}, weights="ab" * 32).write(file)
    edited, _ = post(viewer(small_copy), "activity", asked)
    assert "is a model of its own" in edited["error"]
    replace(later, factors=dict.fromkeys(later.factors, (0.0, 0.0)), scope="generated").write(file)
    file.rename(tmp_path / "elsewhere.json")
    edited, _ = post(viewer(small_copy), "activity", asked)
    assert "is not found from where the viewer was started" in edited["error"]


def test_the_first_neurons_of_a_selection_are_found_again(small_copy: Path) -> None:
    run = Run.open(small_copy)
    chosen = [{"selection": "attribution", "rank": rank, "layer": 1, "index": index} for rank, index in enumerate((7, 3, 5))]
    parts = [("attribution", "all", 3), ("attribution, first 2", "first", 2)]
    run.write(SELECTIONS, chosen)
    run.write(SELECTED, [{"neuron_set": n, "selection": "attribution", "part": p, "neurons": c} for n, p, c in parts])
    run.save()
    session = Session.reopen(small_copy)
    for name, _, count in parts:
        found = intervention_of(session, {"family": "selection", "neuron_set": name, "condition": f"selection.{name}"})
        expected = scale(session.loaded.anatomy, [Neuron(1, r["index"]) for r in chosen[:count]], 0.0)
        assert found is not None and found.key == expected.key


def test_the_base_writes_what_the_study_wrote(client: Any, run: Run) -> None:
    rows = run.rows("SELECT neuron_set, text FROM completions WHERE condition IN ('study.plain', 'ablation.reasoning') "
                    "AND problem_id = 'p0'")  # fmt: skip
    known = {r["neuron_set"]: r["text"] for r in rows}
    lines = told(client, tokens=16, change={"by": "reasoning", "factor": 0})
    assert texts(lines) == {"base": known["none"], "changed": known["reasoning"]}
    for side in ("base", "changed"):
        streamed = [line for line in lines if line.get("side") == side and "token" in line]
        assert "".join(line["token"] for line in streamed).startswith(texts(lines)[side])
        assert all(len(line["active"]) == len(lines[0]["concepts"]) + 1 for line in streamed)
    [active] = post(client, "activity", {"problem": "p0", "condition": "study.plain"})
    assert [line["active"][-1] for line in lines if line.get("side") == "base" and "token" in line] == active["active"][""]


def test_changes(client: Any, run: Run) -> None:
    assert texts(told(client, tokens=8)).keys() == {"base"}
    poles = [[r["layer"], r["index"], r["sign"]] for r in run.rows("SELECT layer, index, sign FROM poles LIMIT 30")]
    same = texts(told(client, tokens=8, change={"by": "list", "poles": poles, "factor": 1}))
    assert same["base"] == same["changed"]
    other = texts(told(client, tokens=8, change={"by": "list", "poles": poles, "factor": 0}))
    assert other["base"] != other["changed"]
    answer = client.post("/api/runs/run/edit", json={"name": "mine", "poles": poles, "factor": 0}, headers=TOKEN)
    assert texts(told(client, tokens=8, change={"by": "edit", "edit": answer.json()})) == other


@pytest.mark.parametrize(
    "asked",
    [
        {"question": " "}, {"prompt": "none"}, {"change": {"by": "magic"}}, {"change": {"by": "list", "poles": []}},
        {"change": {"by": "list", "poles": [[9, 9, 1]]}}, {"change": {"by": "edit", "edit": {"format": "x"}}},
        {"change": {"by": "reasoning", "concepts": ["<script>"]}}, {"question": "x" * 19_000},
    ],
)  # fmt: skip
def test_what_can_not_be_tried_is_said(client: Any, asked: dict[str, Any]) -> None:
    lines = told(client, **asked)
    assert lines[-1]["error"] and not texts(lines)


def test_a_stop_ends_the_writing(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cotscope.view import trying

    seen = []
    watch = trying._Watch.__call__

    def stops(self: Any, row: int, token: int) -> None:
        seen.append(token)
        if len(seen) == 4:
            assert client.post("/api/stop", json={}, headers=TOKEN).status_code == 200
        watch(self, row, token)

    monkeypatch.setattr(trying._Watch, "__call__", stops)
    assert told(client, tokens=100)[-1] == {"stopped": True}
    assert len(seen) == 4
    monkeypatch.undo()
    assert texts(told(client, tokens=4))  # and the model is free again


def test_alike_neurons(client: Any, run: Run) -> None:
    found = post(client, "similar", {"layer": 1, "index": 5, "sign": -1})
    cosines = [r["cosine"] for r in found["rows"]]
    assert cosines == sorted(cosines, reverse=True) and 0 < cosines[0] <= 1
    assert [1, 5] not in [[r["layer"], r["index"]] for r in found["rows"]]
    opposite = post(client, "similar", {"layer": 1, "index": 5, "sign": 1})
    assert opposite["own"]["promoted"] == found["own"]["suppressed"]
    assert [-r["sign"] for r in opposite["rows"]] == [r["sign"] for r in found["rows"]]
    [row] = run.rows("SELECT layer, index, sign, promoted FROM poles LIMIT 1")
    assert post(client, "similar", {k: row[k] for k in ("layer", "index", "sign")})["own"]["promoted"] == row["promoted"][:8]


def test_a_list_is_an_edit_of_the_run(client: Any, tmp_path: Path) -> None:
    kept = {"name": "mine", "poles": [[1, 5, -1], [2, 3, 0]], "factor": 0.5, "scope": "generated"}
    answer = client.post("/api/runs/run/edit", json=kept, headers=TOKEN)
    (tmp_path / "edit.json").write_bytes(answer.content)
    edit = Edit.read(tmp_path / "edit.json")
    assert edit.factors == {(1, 5): (1.0, 0.5), (2, 3): (0.5, 0.5)} and edit.scope == "generated"
    assert post(client, "edit", kept | {"poles": [[9, 0, 1]]}, 400)["error"]


def test_a_model_that_does_not_fit_leaves_the_rest(small_run: Path, viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_ROOM", 1e12)
    client = viewer(small_run)
    said = post(client, "activity", {"problem": "p0", "condition": "study.plain"}, 400)["error"]
    assert "does not fit" in said and "GB" in said
    assert told(client)[-1]["error"] == said
    assert client.get("/api/runs/run/neurons").status_code == 200
    assert client.get("/api/runs/run/model").json()["loaded"] is False


def test_a_few_wait_for_the_model_and_nobody_who_has_left(small_run: Path) -> None:
    """Each that waits holds a thread of the server: one too many is told at once."""
    busy, left = desk.Desk(), Event()

    def ask() -> str:
        try:
            with busy.held(small_run, "asking", left=left.is_set):
                return ""
        except UserError as error:
            return str(error)

    with busy._lock, ThreadPoolExecutor(desk._WAITING) as pool:
        waiting = [pool.submit(ask) for _ in range(desk._WAITING)]
        while busy.waiting < desk._WAITING:
            time.sleep(0.01)
        began = time.monotonic()
        assert "is busy" in ask() and time.monotonic() - began < 1
        left.set()
        assert all("is busy" in found.result(10) for found in waiting) and busy.waiting == 0


def test_differences_of_texts() -> None:
    one, other = words("3 + 4 = 7."), words("3 - 4 = 8.")
    assert "".join(one) == "3 + 4 = 7."
    assert [[w[i] for i in places] for w, places in zip((one, other), differing(one, other))] == [["+", "7"], ["-", "8"]]


def test_marks_count_active_poles_only() -> None:
    marks = Marks({Pole(0, 1, 1): ["a", "b"], Pole(1, 2, -1): ["b"]}, (2, 4))
    index, coefficient = np.array([[[1, 3], [2, 0]]]), np.array([[[2.0, 1.0], [-1.0, 0.0]]])
    assert marks.count(index, coefficient).tolist() == [[1, 2, 2]]
    assert marks.count(index, -coefficient).tolist() == [[0, 0, 0]]
    assert marks.count(index, 0 * coefficient).tolist() == [[0, 0, 0]]
