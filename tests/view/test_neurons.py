"""The table of neurons and the card of one."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from made_runs import CONCEPTS, HOSTILE, complete, did
from viewer import million

from cotscope.view.listing import PAGE
from cotscope.view.neurons import Neurons, Wanted


def found(client: Any, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/api/runs/made/neurons?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def indices(client: Any, query: str) -> list[int]:
    return [row["index"] for row in found(client, query)["rows"]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, viewer: Any) -> Any:
    """Of a run with twelve poles, two other neurons that were attributed, and contexts."""
    folder = complete(tmp_path_factory.mktemp("runs") / "made")
    attributed = [{"layer": 2, "index": i, "result_margin": (i - 5) / 10} for i in (0, 3, 40)] + [{"layer": 4, "index": 7}]
    did(folder, "attribute", {"attributions": attributed, "attribution_checks": [{"layer": 2, "index": 3, "drawn": "top",
                              "predicted": -0.2, "zeroed": -0.3}]})  # fmt: skip
    return viewer(folder)


def test_filters(client: Any) -> None:
    """Of the made run: poles 0…11 of layer 2, of signs + and − in turn, active at 1234 − i tokens; 11 was rejected."""
    assert indices(client, "verdict=accepted") == list(range(11))
    assert indices(client, "verdict=rejected") == [11]
    assert indices(client, "sign=-1") == [1, 3, 5, 7, 9, 11]
    assert indices(client, "sign=0") == [40, 7]
    assert indices(client, "least=1232") == [0, 1, 2]
    assert indices(client, "attribution=0.3") == [0, 40]
    assert indices(client, "token=2:5") == [5]
    assert indices(client, "first_layer=3") == [7]
    assert indices(client, "last_layer=1") == []
    assert found(client, "concept=addition&verdict=accepted")["total"] == 11
    assert found(client, "concept=nothing")["total"] == 0


def test_tokens_are_found_by_part_whole_and_without_case_or_blanks(client: Any) -> None:
    for token in ("ADD", '"add"', '" add "', "中", "<script>", '"<img src=x onerror=alert(1)>"', "{{ 7*7 }}", "%3Cscript%3E"):
        assert found(client, f"token={token}")["total"] == 12, token
    for token in ('"ad"', "addition", "'; DROP TABLE neurons; --", "%25", "_"):
        assert found(client, f"token={token}")["total"] == 0, token
    assert found(client)["total"] == 14


def test_order(client: Any) -> None:
    assert indices(client, "sort=steps&descending=false")[:2] == [11, 10]
    assert indices(client, "sort=attribution")[:3] == [40, 3, 0]
    assert indices(client, "sort=attribution&descending=false")[:3] == [0, 3, 40]  # those without one are last, either way
    for query in ("sort=index;--", "sort=", "verdict=maybe", "sign=2", "page=-1", "least=x"):
        answer = client.get(f"/api/runs/made/neurons?{query}")
        assert answer.status_code == 422 and answer.json()["error"]


def test_what_filters_can_be_set_to(client: Any) -> None:
    about = found(client)["about"]
    assert about["layers"] == [2, 4] and about["neurons"] == 14 and about["attributed"]
    assert about["concepts"] == dict.fromkeys(CONCEPTS, 12) and about["accepted"] == sorted(CONCEPTS)
    assert about["verdicts"] == {"accepted": 11, "rejected": 1, "none": 2}


def test_hostile_tokens_come_as_they_are_and_as_json_only(client: Any) -> None:
    answer = client.get("/api/runs/made/neurons")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["rows"][0]["promoted"] == HOSTILE[:8]
    assert client.get("/api/runs/made/neurons/2/3/-1").json()["pole"][0]["promoted"] == HOSTILE


def test_card(client: Any) -> None:
    card = client.get("/api/runs/made/neurons/2/3/-1").json()
    assert card["pole"][0]["steps"] == 1231
    assert {a["concept"]: a["accepted"] for a in card["annotations"]} == dict.fromkeys(CONCEPTS, True)
    assert card["attribution"][0]["result_margin"] == pytest.approx(-0.2)
    assert card["checked"][0]["zeroed"] == -0.3
    assert client.get("/api/runs/made/neurons/2/40/0").json()["pole"] == []
    for wrong in ("6/0/1", "-1/0/1", "2/64/1", "2/0/5"):
        assert client.get(f"/api/runs/made/neurons/{wrong}").status_code == 400


@pytest.mark.slow
def test_a_million_poles_are_paged_in_less_than_half_a_second(tmp_path: Path) -> None:
    """Half a second of a processor, whoever else uses it."""
    neurons = Neurons(million(tmp_path / "run"))
    seconds = []
    for wanted in (
        Wanted(), Wanted(page=15_000), Wanted(sort="mean_update_size", descending=False), Wanted(token="word123"),
        Wanted(token='"word77"', sort="layer"), Wanted(sign=1, first_layer=5, last_layer=9, least=5000),
    ):  # fmt: skip
        began = time.process_time()
        page = neurons.page(wanted)
        seconds.append(time.process_time() - began)
        assert len(page["rows"]) == PAGE
    assert median(seconds) < 0.5, seconds
    print(seconds)
