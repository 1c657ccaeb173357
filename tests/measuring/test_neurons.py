"""The sets of a study, on tables made up here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cotscope.measuring.neurons import (
    NeuronSet,
    active_neurons,
    comparison,
    matching_rows,
    neuron_sets,
    overlap,
    read_sets,
)
from cotscope.records import Neuron
from cotscope.runs.folder import Run
from cotscope.runs.tables import ANNOTATIONS, CANDIDATES, KEYSTONES, POLES, SETS


def session(folder: Path, rejected: int = 0, busiest: int = 30) -> SimpleNamespace:
    """Layer 3 has 20 candidates (0…19) and 80 others; steps are 1 + index % 10, but `busiest` for neuron 0."""
    run = Run.create(folder, {"config": {}, "model": {}, "data": {}, "prompts": []}, {})
    run.write(
        POLES,
        [
            {
                "layer": 3, "index": i, "sign": sign, "steps": busiest if i == 0 else 1 + i % 10, "mean_update_size": 2.0,
            }
            for i in range(100)
            for sign in (1, -1)
        ],
    )  # fmt: skip
    named = [{"layer": 3, "index": i, "sign": 1, "concept": c} for i in range(20) for c in ("addition", "numbers")]
    run.write(CANDIDATES, named)
    # Rejected are those whose concepts are all rejected; neuron 19 is accepted for one of two.
    run.write(
        ANNOTATIONS,
        [r | {"accepted": r["index"] >= rejected and not (r["index"] == 19 and r["concept"] == "numbers")} for r in named],
    )
    return SimpleNamespace(run=run, config=SimpleNamespace(seed=7))


def by_name(here: SimpleNamespace) -> dict[str, NeuronSet]:
    """The sets, which the table of that name gives back as they are."""
    found = neuron_sets(here, active_neurons(here.run), 6, 2)
    rows = [{"neuron_set": s.name, "kind": s.kind, "seed": s.seed} | n._asdict() for s in found for n in s.neurons]
    here.run.write(SETS, rows)
    assert list(read_sets(here.run).values()) == found
    return {s.name: s for s in found}


def test_all_have_an_equal(tmp_path: Path) -> None:
    here = session(tmp_path, busiest=1)
    sets = by_name(here)
    assert list(sets) == ["reasoning", *(f"matched_{i}" for i in range(6)), "unmatched_0", "unmatched_1"]
    assert {len(s.neurons) for s in sets.values()} == {20}
    assert [s.seed for s in sets.values()] == [None, *range(7, 13), 7, 8]
    assert [n for n in here.run.notes if "equal" in n] == []
    assert comparison(sets.values()) == comparison(read_sets(here.run).values()) == "reasoning"


def test_the_busiest_has_none(tmp_path: Path) -> None:
    here = session(tmp_path, busiest=500)
    sets = by_name(here)
    assert set(sets["reasoning"].neurons) - set(sets["comparable"].neurons) == {Neuron(3, 0)}
    assert {len(s.neurons) for s in sets.values() if s.kind != "reasoning"} == {19}
    assert any(n.startswith("1 of 20 reasoning neurons (with 82% of") for n in here.run.notes)
    assert comparison(sets.values()) == comparison(read_sets(here.run).values()) == "comparable"
    known = active_neurons(here.run)
    rows = {r["neuron_set"]: r for r in matching_rows(list(sets.values()), "comparable", known.traits)}
    assert rows["reasoning"]["steps_max"] == 1000 and rows["comparable"]["steps_max"] == 20
    # Equal steps and sizes are to be had for all of them.
    for name, row in rows.items():
        assert row["target_mean_steps"] == rows["comparable"]["mean_steps"]
        if name.startswith("matched"):
            assert row["mean_steps"] / row["target_mean_steps"] == pytest.approx(1, abs=0.05)
            assert abs(row["steps_smd"]) < 0.1
    found = overlap(list(sets.values()), known.pool)
    assert 0 < found["jaccard"] < 0.6


def test_no_equal_at_all_means_no_matched_sets(tmp_path: Path) -> None:
    here = session(tmp_path)
    rows = here.run.rows("SELECT * FROM poles")
    here.run.write(POLES, [r | {"steps": 9999} if r["index"] < 20 else r for r in rows])
    sets = by_name(here)
    assert {s.kind for s in sets.values()} == {"reasoning", "unmatched"}
    assert any("There are no matched sets" in n for n in here.run.notes)
    assert overlap(list(sets.values()), []) == {"caliper": 0.25, "jaccard": None, "by_chance": None}


def test_keystones_are_in_no_set(tmp_path: Path) -> None:
    here = session(tmp_path, rejected=5)
    keystones = [(3, i) for i in (2, 6, 25, 75)]
    rows = [{"layer": layer, "index": i, "keystone": (layer, i) in keystones} for layer, i in [*keystones, (3, 7)]]
    here.run.write(KEYSTONES, rows)
    sets = by_name(here)
    assert {s.kind for s in sets.values()} >= {"reasoning", "matched", "unmatched", "rejected"}
    for s in sets.values():
        assert not {n.index for n in s.neurons} & {2, 6, 25, 75}
    assert Neuron(3, 7) in sets["reasoning"].neurons


def test_rejected_candidates_are_in_the_pool_of_permuted_sets_alone(tmp_path: Path) -> None:
    here = session(tmp_path, rejected=5)
    here.run.write(KEYSTONES, [{"layer": 3, "index": i, "keystone": True} for i in (2, 7, 30)])
    known = active_neurons(here.run)
    assert {n.index for n in known.others} == {0, 1, 3, 4, *range(20, 30), *range(31, 100)}
    assert {n.index for n in known.pool} == {*range(20, 30), *range(31, 100)}
    assert all(known.others[n] == known.traits[n] for n in known.others)


def test_poles_are_counted_with_the_traits(tmp_path: Path) -> None:
    here = session(tmp_path)
    rows = here.run.rows("SELECT * FROM poles")
    here.run.write(POLES, [r for r in rows if r["sign"] > 0 or r["index"] < 30])
    traits = active_neurons(here.run).traits
    assert {n.index for n, t in traits.items() if t.poles == 2} == set(range(30))
    assert {t.poles for t in traits.values()} == {1, 2}


def test_rejected_candidates(tmp_path: Path) -> None:
    assert not {"rejected", "lexicon"} & set(by_name(session(tmp_path / "none")))
    sets = by_name(session(tmp_path / "some", rejected=5))
    assert {n.index for n in sets["lexicon"].neurons} == set(range(20))
    assert {n.index for n in sets["rejected"].neurons} == set(range(5))
    assert {n.index for n in sets["reasoning"].neurons} == set(range(5, 20))
    sets = by_name(session(tmp_path / "most", rejected=15))
    assert len(sets["reasoning"].neurons) == len(sets["rejected"].neurons) == 5
    assert Neuron(3, 0) in sets["rejected"].neurons  # the busiest
    for s in sets.values():
        if s.kind == "matched":
            assert all(n.index >= 20 for n in s.neurons)
