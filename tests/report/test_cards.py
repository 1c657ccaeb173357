"""Cards of poles: what they promote, where they are active, what was said and measured; hidden characters are visible."""

from __future__ import annotations

from pathlib import Path

from made_runs import CONCEPTS, complete, did, predicted, read, rows_of

from cotscope.report.cards import CARDS, cards
from cotscope.report.reading import Reading
from cotscope.runs.folder import Run

STUDY = {"condition": "study.full", "family": "study", "prompt": "full"}


def carded(folder: Path) -> Path:
    """A complete run in which pole 2.0+ has a context, activity by place, a judge's word and an attribution."""
    complete(folder)
    roles = ["operator"] * 4 + ["result"] * 2 + ["elsewhere"] * 14
    written = [STUDY | {"neuron_set": "none", "problem_id": "p", "roles": roles}]
    active = [
        STUDY | {"problem_id": p, "role": role, "layer": 2, "index": 0, "sign": sign, "steps": steps}
        for p, role, sign, steps in (
            ("p", "operator", 1, 1),
            ("q", "operator", 1, 2),
            ("p", "elsewhere", 1, 7),
            ("p", "result", -1, 2),
        )
    ]
    did(folder, "ablate", {"completions/study.full": written, "activity/study.full": active})
    place = {"layer": 2, "index": 0, "sign": 1, "problem_id": "p"}
    words = [
        {"layer": 2, "index": i, "sign": 1 - i % 2 * 2, "concept": c, "accepted": True, "annotator": "judge<b>",
         "status": "answered", "confidence": 0.875 if i == 0 else None, "description": "sums </dd>\u202e" if i == 0 else ""}
        for c in CONCEPTS for i in range(12)
    ]  # fmt: skip
    contexts = [
        place | {"before": "x" * 200 + " 5 ", "token": "+\n", "after": " 7<img>", "coefficient": 3.25},
        place | {"before": "", "token": "\U0001f600", "after": "", "coefficient": 1.5},
        place | {"before": None, "token": None, "after": None, "coefficient": None, "index": 2},
    ]
    did(folder, "annotate", {"annotations": words, "contexts/x": contexts})
    did(folder, "attribute", {"attributions": [{"layer": 2, "index": 0, "result_margin": -0.125, "operator": 0.0625}]})
    return folder


def test_a_card_has_what_the_tables_have(tmp_path: Path) -> None:
    found = {(c["pole"]["index"], c["pole"]["sign"]): c for c in cards(Reading(Run.open(carded(tmp_path))))}
    assert len(found) == CARDS
    one = found[0, 1]
    assert one["places"] == [("operator", 0.75), ("result", 0.0), ("elsewhere", 0.5)]
    assert [c["coefficient"] for c in one["contexts"]] == [3.25, 1.5]
    assert one["contexts"][0]["before"] == "…" + "x" * 87 + " 5 "
    assert one["effect"]["result_margin"] == -0.125
    assert sorted(one["concepts"]) == sorted(CONCEPTS) and len(one["words"]) == 2
    other = found[1, -1]
    assert not other["places"] and not other["contexts"] and other["effect"] is None and not other["words"]


def test_it_is_shown_escaped(tmp_path: Path) -> None:
    page = read(carded(tmp_path))
    text = " ".join(page.text.split())
    assert "operator 75.0 % result 0.0 % elsewhere 50.0 %" in text
    assert "sums </dd>U+202E" in text and "judge<b>" in text and "confidence 0.88" in text
    assert "results’ logit margin −0.125 nats, operators’ log-probability +0.062 nats" in text
    assert "+⏎" in page.chips and "\U0001f600" in page.chips and "7<img>" in text
    assert [a["value"] for tag, a in page.elements if tag == "meter"] == ["0.75", "0.0", "0.5"]
    assert not page.open and not {"img"} & {tag for tag, _ in page.elements}


def test_what_was_measured_of_a_neuron_stands_beside_its_attribution(tmp_path: Path) -> None:
    carded(tmp_path)
    said = "measured with it alone zeroed"
    assert said not in read(tmp_path).text
    checks = [{"layer": 2, "index": 0, "drawn": "first", "predicted": -0.125, "zeroed": -0.25}]
    alone = [{"layer": 2, "index": i, "kl": 0.01234, "perplexity_ratio": 1.5, "keystone": False} for i in (0, 1)]
    did(tmp_path, "attribute", {"attribution_checks": checks})
    did(tmp_path, "keystones", {"keystones": alone})
    text = " ".join(read(tmp_path).text.split())
    assert f"{said}results’ logit margin −0.250 nats; on general text KL 0.0123 nats, perplexity × 1.500" in text
    assert f"{said}on general text KL 0.0123 nats" in text and text.count(said) == 2


def test_why_there_are_no_contexts_is_said_once(tmp_path: Path) -> None:
    said = "No contexts: they are collected when a model judges, cotscope annotate RUN --annotator llm."
    assert read(complete(tmp_path / "without")).text.count(said) == 1
    assert said not in read(carded(tmp_path / "with")).text


def test_text_from_right_to_left_is_isolated(tmp_path: Path) -> None:
    folder = carded(tmp_path)
    poles = [p | {"promoted": ["جمع", "add"]} for p in rows_of(folder, "poles")]
    place = {"layer": 2, "index": 0, "sign": 1, "problem_id": "p", "before": "كان المجموع ", "token": "جمع", "after": " خمسة"}
    did(folder, "discover", {"poles": poles})
    did(folder, "annotate", {"contexts/x": [place | {"coefficient": 2.0}]})
    page = read(folder)
    assert page.chips.count("جمع") == 2 * CARDS + 1  # in the summary, among what it promotes; in the one context
    isolated = '<p class="context"><bdi>كان المجموع <bdi class="chip seed">جمع</bdi> خمسة</bdi> <span class="meta">'
    assert isolated in (folder / "report.html").read_text(encoding="utf-8")


def test_cards_of_the_neurons_that_the_prediction_rests_on(tmp_path: Path) -> None:
    run = Reading(Run.open(carded(tmp_path)))
    found = cards(run, [(2, 3), (2, 0), (5, 5)])
    assert [(c["pole"]["index"], c["pole"]["sign"]) for c in found] == [(3, -1), (0, 1)]
    assert sorted(found[1]["concepts"]) == sorted(CONCEPTS) and found[1]["effect"]["result_margin"] == -0.125
    assert "by activity rests on most" not in read(predicted(tmp_path)).text
    summary = {"rests_on": [{"layer": 2, "index": 3, "weight": 1.5}], "told_by": "reasoning", "cause": None}
    assert "by activity rests on most" in read(predicted(tmp_path, summary=summary)).text


def test_the_strongest_of_each_concept_come_by_turns(tmp_path: Path) -> None:
    complete(tmp_path)
    words = [
        {"layer": 2, "index": i, "sign": 1 - i % 2 * 2, "concept": CONCEPTS[i == 11], "accepted": True, "annotator": "lexicon"}
        for i in range(12)
    ]
    did(tmp_path, "annotate", {"annotations": words})
    shown = [c["pole"]["index"] for c in cards(Reading(Run.open(tmp_path)))]
    assert set(shown[:2]) == {0, 11} and shown[2:] == list(range(1, 11))
