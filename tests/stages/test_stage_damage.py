"""The stage that takes effects apart, on a tiny model: its figures against those of another stage, and its tables."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.runs.folder import Run


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "paths"
    few = ["--matched", "2", "--unmatched", "1", "--permuted", "0", "--given", "3", "--battery", "1"]
    assert main(["study", *tiny_study.options(), *few, "--out", str(out)]) == 0
    return Run.open(out)


def test_total_is_what_damage_measures(finished: Run) -> None:
    damage = {(r["neuron_set"], r["role"]): r for r in finished.rows("SELECT * FROM damage_solutions")}
    rows = finished.rows("SELECT * FROM paths WHERE path = 'total' AND kind != 'matched_mean'")
    assert {(r["neuron_set"], r["role"]) for r in rows} == {key for key in damage if key[0] != "none"}
    for row in rows:
        other = damage[row["neuron_set"], row["role"]]
        assert row["problems"] == other["problems"]
        assert row["log_prob"] == pytest.approx(other["change"], abs=1e-3)


def test_every_set_has_three_paths_and_the_matched_their_mean(finished: Run) -> None:
    rows = {(r["neuron_set"], r["role"], r["path"]): r for r in finished.rows("SELECT * FROM paths")}
    assert {path for _, _, path in rows} == {"total", "direct", "indirect"}
    for (name, role, path), row in rows.items():
        assert row["margin_low"] - 1e-9 <= row["margin"] <= row["margin_high"] + 1e-9
        if name == "matched":
            each = [rows[f"matched_{i}", role, path] for i in range(2)]
            assert row["log_prob"] == pytest.approx(fmean(r["log_prob"] for r in each), abs=1e-9)
    differs = [
        abs(r["log_prob"] - rows[n, role, "total"]["log_prob"]) for (n, role, path), r in rows.items() if path == "direct"
    ]
    assert max(differs) > 0.01
    summary = finished.summary["paths"]
    assert summary["target"] in ("comparable", "reasoning")
    assert set(summary["reasoning"]["elsewhere"]) == {"total", "direct", "indirect"}
    page = (finished.folder / "report.html").read_text()
    assert 'id="paths-table"' in page and "with their own push put back" in page


def test_sets_that_were_scored_are_not_scored_again(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", str(finished.folder), "--outcomes", "paths"]) == 0
    assert "[  done ] paths" in capsys.readouterr().out
    parts = {p.name: p.stat().st_mtime_ns for p in Path(finished.folder, "tables/path_scores").iterdir()}
    assert len(parts) >= 5
