"""Neurons and poles as DataFrames, with what was measured of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import CONCEPTS, HOSTILE, complete, did

from cotscope.runs.folder import Run
from cotscope.runs.notebook import neurons, poles


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A complete run with attributions, one of a neuron that was never active."""
    complete(tmp_path)
    effects = [{"layer": layer, "index": i, "result_margin": margin} for layer, i, margin in ((2, 0, -0.125), (5, 5, 0.5))]
    checks = [{"layer": 2, "index": 0, "drawn": way, "predicted": -0.125, "zeroed": -0.25} for way in ("first", "random")]
    did(tmp_path, "attribute", {"attributions": effects, "attribution_checks": checks})
    did(tmp_path, "keystones", {"keystones": [{"layer": 2, "index": 1, "kl": 0.5}]})
    return Run.open(tmp_path)


def test_poles(run: Run) -> None:
    pytest.importorskip("pandas")
    found = poles(run)
    assert len(found) == 12 and found["sign"].tolist() == [1 - i % 2 * 2 for i in range(12)]
    first, last = found.iloc[0], found.iloc[11]
    assert list(first["promoted"]) == HOSTILE and list(first["suppressed"]) == ["x"] and first["steps"] == 1234
    assert first["accepted"] and not last["accepted"] and list(first["concepts"]) == list(last["concepts"]) == sorted(CONCEPTS)
    assert (first["attribution"], first["zeroed"]) == (-0.125, -0.25) and found["kl"].tolist()[1] == 0.5
    assert found[["attribution", "kl"]].notna().sum().tolist() == [1, 1]


def test_neurons(run: Run) -> None:
    pytest.importorskip("pandas")
    found = neurons(run).set_index(["layer", "index"])
    assert len(found) == 13
    active, other = found.loc[2, 0], found.loc[5, 5]
    assert active["steps"] == 1234 and active["accepted"] and list(active["promoted"]) == HOSTILE
    assert other["attribution"] == 0.5 and other["steps"] != other["steps"] and other["promoted"] is None
