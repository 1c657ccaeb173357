"""The part on disruptions: true to its table, safe against names, silent where the stage has not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import complete, did, read

from cotscope.report.sweep import dose_curves

SETS = {"reasoning": "reasoning", "matched_0</svg><script>": "matched", "matched_1": "matched", "other\u202e": "<i>new"}
WAYS = [("scale", 0.0, "all"), ("scale", 0.5, "all"), ("scale", 2.0, "all"), ("noise", 1.0, "all"), ("noise", 3.0, "all"),
        ("mean", None, "all"), ("paper_noise", None, "all"), ("scale", 0.0, "prompt"), ("scale", 0.0, "generated"),
        ("<b>kind", None, "<u>scope")]  # fmt: skip


def rows(outcome: str) -> list[dict]:
    found = [
        {"neuron_set": s, "set_kind": kind, "kind": way[0], "dose": way[1], "scope": way[2], "outcome": outcome, "n": 24,
         "value": -1.0, "change": -0.37 - n - i / 16, "low": -0.9 - n, "high": 0.1, "p": 0.02}
        for n, (s, kind) in enumerate(SETS.items()) for i, way in enumerate(WAYS)
    ]  # fmt: skip
    if outcome in ("kl", "perplexity"):
        found = [r | {"low": None, "high": None, "p": None} for r in found]
        found = [r | {"value": None, "change": None} if r["scope"] == "generated" else r for r in found]
    return found


def swept(folder: Path) -> Path:
    complete(folder)
    outcomes = ("operator", "result", "battery", "perplexity", "kl", "<em>outcome")
    untouched = {"neuron_set": "none", "set_kind": "none", "kind": "none", "dose": None, "scope": "all", "outcome": "result",
                 "n": 24, "value": -0.6, "change": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}  # fmt: skip
    specific = {
        f"way{i}": {
            "kind": kind, "dose": dose, "scope": scope,
            "outcomes": {
                "operator": {"change": -0.25, "low": -0.5, "high": 0.5},
                "result": {"change": -0.75 - i, "low": -2.0, "high": -0.1 if i < 4 else 0.1},
                "battery": {"change": 0.0, "low": 0.0, "high": 0.0},
            },
        }
        for i, (kind, dose, scope) in enumerate(WAYS)
    }  # fmt: skip
    names = {"target": "reasoning", "matched": [s for s, kind in SETS.items() if kind == "matched"]}
    table = [untouched, *(r for o in outcomes for r in rows(o))]
    did(folder, "sweep", {"sweep": table}, {"disruptions": names | {"specific": specific}})
    return folder


def test_figures_and_words_are_those_of_the_run(tmp_path: Path) -> None:
    page = read(swept(tmp_path))
    text = " ".join(page.text.split())
    assert "under 4 of 10 disruptions at the results" in text
    assert "under 0 of 10 at the operators, and under 0 of 10 in other skills" in text
    assert "Compared with the mean of 2 matched sets, the target set (reasoning neurons) suffers more" in text
    assert {-0.75, -9.75, -0.37, -0.4325} <= page.figures
    for label in ("zeroed", "× 0.50", "noise, 3.0 × own size", "set to the mean", "prompt only", "generated only"):
        assert label in text
    tips = [attrs for tag, attrs in page.elements if tag == "circle"]
    assert len(tips) >= 5 * len(SETS) * 4  # a dot for each dose and set in each figure
    assert "matched_1, noise, 3.0 × own size: −2.620 [−2.900, +0.100]" in text
    assert "as a share), with 95 % intervals over problems or items. n = 24 reference solutions." in text
    assert "over problems or items. n = 24 items." in text and "as a share), no interval. n = 24 tokens of text." in text


def test_names_are_escaped_and_elements_closed(tmp_path: Path) -> None:
    page = read(swept(tmp_path))
    assert not page.open
    assert not {tag for tag, _ in page.elements} & {"script", "em", "u"}
    assert "\u202e" not in (tmp_path / "report.html").read_text()
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))


def test_without_the_stage_its_command_is_named(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    assert "cotscope sweep RUN" in page.text
    assert "disruptions-specific" not in [attrs.get("id") for _, attrs in page.elements]


def test_a_line_goes_through_the_untouched_model() -> None:
    one = [r for r in rows("result") if r["neuron_set"] == "reasoning" and r["scope"] == "all"]
    svg = str(dose_curves(0, "results", one, {"reasoning": "reasoning"}))
    paths = [part.split('"')[0] for part in svg.split('<path d="')[1:]]
    assert [path.count("L") for path in paths] == [3, 2]  # three factors and 1; two doses of noise and 0
    x = [float(spot.strip("M").split()[0]) for spot in paths[0].split("L")]
    assert x == sorted(x)
    heights = [float(spot.split()[1]) for spot in paths[0].split("L")]
    assert min(heights) == heights[2]  # all losses lie below the untouched model
    doses = sorted([(0.0, -0.37), (0.5, -0.4325), (1.0, 0.0), (2.0, -0.495)])
    scale = (heights[3] - heights[2]) / 0.495
    assert heights == pytest.approx([heights[2] - scale * change for _, change in doses], abs=0.02)


def test_without_doses_there_is_no_figure() -> None:
    assert not dose_curves(0, "results", [r for r in rows("result") if r["dose"] is None], SETS)
