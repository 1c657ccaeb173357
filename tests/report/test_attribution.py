"""The report's parts on the push and on attribution: they say what their figures say, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import complete, did, read

from cotscope.report.attribute import _push_says, attribution, push
from cotscope.report.terminal import headline


def way(name: str, accuracy: float, untouched: float, zeroed: float) -> dict[str, Any]:
    return {
        "way": name, "correct": int(accuracy * 100), "n": 100, "accuracy": accuracy, "low": accuracy - 0.1,
        "high": accuracy + 0.1, "against_untouched": untouched, "against_zeroed": zeroed, "operator": -1.2345, "equals": -0.5,
    }  # fmt: skip


def ways(back: tuple[float, float, float], bias: tuple[float, float, float], lost: float = 0.001) -> list[dict[str, Any]]:
    return [
        way("untouched", 0.8, 1, lost), way("zeroed", 0.2, lost, 1), way("direct", 0.3, 0.01, 0.5), way("indirect", *back),
        way("bias", *bias),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("back", "bias", "lost", "said"),
    [
        (
            (0.78, 0.9, 0.001),
            (0.22, 0.001, 0.9),
            0.001,
            "more is solved (0.78, zeroed 0.20, untouched 0.80); a difference from the untouched model is not shown.",
        ),
        ((0.5, 0.01, 0.01), (0.5, 0.01, 0.01), 0.001, "and less than untouched. With a bias on"),
        (
            (0.25, 0.001, 0.8),
            (0.79, 0.9, 0.001),
            0.001,
            "put back is not shown (0.25, zeroed 0.20, untouched 0.80). That less is solved with a bias on operators and",
        ),
        ((0.95, 0.01, 0.01), (0.5, 0.01, 0.01), 0.001, "untouched 0.80), and more than untouched. With a bias on"),
        ((0.78, 0.9, 0.001), (0.22, 0.001, 0.9), 0.3, "there is nothing to take apart"),
    ],
)
def test_what_the_push_says(tmp_path: Path, back: Any, bias: Any, lost: float, said: str) -> None:
    complete(tmp_path)
    did(tmp_path, "push", {"push": ways(back, bias, lost)}, {"push": {"biases": {"operator": -7.6543, "equals": -2.0}}})
    page = read(tmp_path)
    assert said in " ".join(page.text.split()) and "n = 100 problems." in page.text
    assert {-7.6543, -1.2345, 0.78 if back[0] == 0.78 else back[0]} <= page.figures and not page.open


@pytest.mark.parametrize(("whole", "said"), [(-0.06, True), (-1.2, False), (None, False)])
def test_what_of_the_push_is_missing_is_said(whole: float | None, said: bool) -> None:
    text = _push_says(ways((0.5, 0.01, 0.01), (0.5, 0.01, 0.01)), whole)
    assert ("by −1.23 nats with it, by −0.06 with the untouched model's push." in text) == said


def selected(name: str, margin: float, verdict: str | None, **more: Any) -> dict[str, Any]:
    row = {
        "neuron_set": name, "selection": name, "part": "all", "neurons": 500, "shared": 17,
        "shared_by_chance": 2.1, "compared": 480, "controls": 20,
        "compared_margin": margin + 0.5, "controls_margin": -0.4321, "p_value": 0.0476, "p_beyond": 0.0476, "p_sums": 0.0476,
        "compared_sums": 0.35, "sums": 0.31, "sums_low": 0.2, "sums_high": 0.4,
        "controls_sums": 0.7, "sums_p": 0.001, "accuracy": 0.1, "accuracy_low": 0.05, "accuracy_high": 0.2, "n": 100,
        "controls_accuracy": 0.6, "battery": 0.9, "controls_battery": 0.91, "kl": 0.05, "verdict": verdict,
    }  # fmt: skip
    for key in (
        "result_margin_total",
        "result_margin_direct",
        "result_margin_indirect",
        "operator",
        "equals",
        "result",
        "elsewhere",
    ):
        row |= {key: margin, f"{key}_low": margin - 1, f"{key}_high": margin + 1}
    return row | more


SUMMARY: dict[str, Any] = {
    "attribution": {"solutions": 16, "value": 8.0, "stability": {"jaccard": 0.4567, "spearman": 0.5},
                    "concentration": {"50": 0.2, "500": 0.5}, "check": {"neurons": 24, "spearman": 0.9123, "slope": 0.8}},
    "selected": {"solutions": 24, "sums": {"sums": 0.81, "sums_low": 0.7, "sums_high": 0.9},
                 "accuracy": {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "n": 100}, "battery": 0.9},
}  # fmt: skip


def test_the_finding_has_its_interval_and_its_controls(tmp_path: Path) -> None:
    complete(tmp_path)
    rows = [
        selected("lexicon", -1.25, "not shown"),
        selected("attribution", -9.0123, "calculates"),
        selected(
            "attribution",
            -3.5,
            None,
            neuron_set="attribution, first 10",
            part="first",
            neurons=10,
            p_value=None,
            p_beyond=None,
            controls=None,
            controls_margin=None,
        ),
        selected("<script>", -1.0, None),
    ]
    did(tmp_path, "attribute", {"selected": rows}, SUMMARY)
    page = read(tmp_path)
    text = " ".join(page.text.split())
    assert "Results rest on 500 neurons that attribution finds on other problems: without them the results' logit" in text
    assert "changes by −9.01 [−10.01, −8.01] nats through later layers; without the 480 of them" in text
    assert "by −8.51, without those by −0.43. They calculate: 0.35 of sums right, against 0.70 under random" in text
    assert "words the margin changes by −1.25" in text and "first 10 alone by −3.50" in text
    assert {0.4567, 0.9123, -9.0123, 0.81} <= page.figures and "n = 24 reference solutions. For a paper." in text
    assert "by the words that they promote" in text and "<script>" in text and not any(e == "script" for e, _ in page.elements)
    assert ("table", {"id": "attribution-table"}) in page.elements and not page.open


def test_without_a_verdict_nothing_is_claimed(tmp_path: Path) -> None:
    complete(tmp_path)
    assert "not run yet: cotscope attribute RUN" in " ".join(read(tmp_path).text.split())
    did(tmp_path, "attribute", {"selected": [selected("attribution", -0.5, "not shown")]}, SUMMARY)
    text = " ".join(read(tmp_path).text.split())
    assert "That results rest on 500 neurons is not shown" in text and "Results rest on" not in text
    did(tmp_path, "attribute", {"selected": [selected("attribution", -5.5, "results rest on them")]}, SUMMARY)
    text = " ".join(read(tmp_path).text.split())
    assert "Results rest on 500" in text and "That sums need them is not shown" in text and "They calculate" not in text
    did(tmp_path, "attribute", {"selected": [selected("attribution", -5.5, "too few random sets to tell")]}, SUMMARY)
    text = " ".join(read(tmp_path).text.split())
    assert "too few random sets to tell" in text and "Results rest on" not in text and "is not shown: without" not in text


def test_where_paths_can_not_be_told_apart_the_total_stands(tmp_path: Path) -> None:
    complete(tmp_path)
    gone = {f"result_margin_{path}{end}": None for path in ("direct", "indirect") for end in ("", "_low", "_high")}
    did(tmp_path, "attribute", {"selected": [selected("attribution", -5.5, "calculates", **gone)]}, SUMMARY)
    text = " ".join(read(tmp_path).text.split())
    assert "changes by −5.50 [−6.50, −4.50] nats; without" in text and "through later layers;" not in text


def test_the_terminal_has_a_line_for_each_choice() -> None:
    rows = {
        r["neuron_set"]: r
        for r in (
            selected("attribution", -9.0, "calculates"),
            selected("attribution, first 10", -3.5, None, controls_margin=None),
        )
    }
    lines = headline({"selected": SUMMARY["selected"] | rows}).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["attribution", "(500)", "-9.00", "[-10.00,", "-8.00]", "-0.43", "0.31", "0.100"],
        ["attribution,", "first", "10", "(500)", "-3.50", "[-4.50,", "-2.50]", "0.31", "0.100"],
    ]


def test_parts_are_empty_where_there_is_nothing(tmp_path: Path) -> None:
    complete(tmp_path)
    from cotscope.report.reading import Reading
    from cotscope.runs.folder import Run

    reading = Reading(Run.open(tmp_path))
    assert push(reading)["says"] == "" and attribution(reading)["says"] == "" and not attribution(reading)["chart"].figure
