"""The first screen: it says what the verdict says, and shows a problem that was chosen as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import CONCEPTS, complete, did, discovered, read

from cotscope.data.roles import formulas
from cotscope.report.charts import SHARE, Chart, Mark, Row, intervals
from cotscope.report.first import FINDINGS, LONGEST, SKILLS, _picture, finding, stretches
from cotscope.report.reading import Reading
from cotscope.runs.folder import Run
from cotscope.stats import ANSWERS, ARITHMETIC, NOT_SHOWN, VERDICTS, in_words, paired_bootstrap

CLAIM = {"change": -0.9, "permuted_mean": -0.1, "p_value": 0.0476, "p_beyond": 0.0476}
NOT_YET = "What is lost, and why, has not been measured yet."


def judged(folder: Path, verdict: str, skill: str = ARITHMETIC) -> Path:
    """A complete run with this verdict."""
    complete(folder)
    headline = {"verdict": verdict, "sets": 20, "neurons": 11, "pushes": CLAIM, "matters": None}
    did(folder, "damage", summary={"damage": {"headline": headline, "target": "reasoning", "skill": skill}})
    return folder


def solved(folder: Path, before: list[tuple[str, bool]], after: list[tuple[str, bool]]) -> Path:
    """A complete run whose problems p0, p1, … were answered so, untouched and with the reasoning neurons zeroed."""
    complete(folder)
    ids = [f"p{i}" for i in range(len(before))]
    run = Run.open(folder)
    from cotscope.runs.tables import PROBLEMS

    rows = [{"problem_id": i, "split": "test", "question": f"How <b>many</b>\n{i}?", "answer": "7"} for i in ids]
    run.write(PROBLEMS, rows)
    run.save()
    for condition, zeroed, said in (("study.full", "none", before), ("ablation.reasoning", "reasoning", after)):
        about = {"condition": condition, "family": condition.split(".")[0], "prompt": "full", "neuron_set": zeroed}
        rows = [
            about | {"split": "test", "problem_id": i, "text": text, "flexible": "7" if right else "8", "correct": right}
            for i, (text, right) in zip(ids, said)
        ]
        did(folder, "ablate", {f"completions/{condition}": rows})
    return folder


def first(folder: Path) -> str:
    """The text of the first screen."""
    return " ".join(read(folder).text.split()).split("Brackets are")[0]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_finding_is_the_verdicts(tmp_path: Path, verdict: str) -> None:
    said = first(judged(tmp_path, verdict))
    finding_of = {v: text.format(**SKILLS[ARITHMETIC]) for v, text in FINDINGS.items()}
    assert finding_of[verdict] in said and in_words(verdict) in said and f"Verdict: {verdict}" in said
    assert not any(other in said for v, other in finding_of.items() if v != verdict)
    beyond = {"change": -0.469, "low": -0.6, "high": -0.326, "p_value": 0.5}
    did(tmp_path, "ablate", summary={"ablation": {"specific": beyond}})
    told = "Fewer problems are solved without them than without their counterparts (−0.47 [−0.60, −0.33]), but the rule"
    assert (told in first(tmp_path)) == (verdict == NOT_SHOWN)
    did(tmp_path, "ablate", summary={"ablation": {"specific": beyond | {"high": 0.02}}})
    assert told[:60] not in first(tmp_path)
    assert "{" not in "".join(finding_of.values())
    assert "Random sets that do as much harm: 0 of 20 (p = 0.048, the least that so few sets can show)." in said
    assert "The model solves 0.62 [0.57, 0.68] of 96 problems (in brackets: 95 % interval), without them 0.10" in said


def test_every_verdict_has_a_finding() -> None:
    assert FINDINGS.keys() == VERDICTS.keys()


def test_what_is_missing_or_stale_is_no_finding(tmp_path: Path) -> None:
    only = discovered(tmp_path / "only")
    assert finding(Reading(Run.open(only))).startswith("Nothing has been found yet")
    assert "Discovery has found 24 candidates" in first(only) and "not run yet: cotscope ablate RUN" in first(only)
    assert NOT_YET in first(complete(tmp_path / "ablated"))
    stale = judged(tmp_path / "stale", "matters")
    run = Run.open(stale)
    run.manifest["stages"]["damage"]["after"] = ["ablate"]  # as a study's record has it
    run.save()
    (stale / "tables" / "ablation.parquet").unlink()
    said = first(stale)
    assert "What this run found does not hold any more: the stage ablate is stale." in said
    assert "depends on these neurons" not in said and "Verdict" not in said
    begun = complete(tmp_path / "begun")
    did(begun, "damage")
    run = Run.open(begun)
    run.manifest["stages"]["damage"]["status"] = "started"
    run.save()
    assert "What these neurons do can’t be said yet: the stage damage has not ended." in first(begun)
    annotated = discovered(tmp_path / "annotated")
    did(annotated, "annotate", summary={"neurons": {"total": 11, "by_concept": dict.fromkeys(CONCEPTS, 11)}})
    assert "What the model loses without these neurons has not been measured yet." in first(annotated)


def test_a_problem_that_is_lost(tmp_path: Path) -> None:
    before = [("It is 8.", False), ("3 + 4 = 7\nSo 7 - 0 = 7 <i>apples</i>.", True), ("7", True)]
    after = [("7", True), ("Three and four\nare 8, 7 - 0 = 7.", False), ("8", False)]
    page = read(solved(tmp_path, before, after))
    said = " ".join(page.text.split())
    assert "How <b>many</b>p1? Correct answer: 7" in said
    assert "Not picked by hand: the first of the 2 problems (of 3) that are solved only with the neurons; 1 is solved" in said
    assert "Without them: wrong (8)" in said and "<i>apples</i>" in said
    assert "<mark>3 + 4 = 7</mark>" in (tmp_path / "report.html").read_text()
    assert sum(tag == "mark" for tag, _ in page.elements) == 2  # the formula, and the word that explains it


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (
            (True, True),
            "No problem is lost (2 problems: 0 solved only with the neurons, 0 only without them); this is the first",
        ),
        ((False, False), "No problem is solved with the neurons in place"),
        ((False, True), "No problem is solved with the neurons in place (2 problems: 0 solved only with the neurons, 2 only"),
    ],
)
def test_where_none_is_lost_it_says_so(tmp_path: Path, right: tuple[bool, bool], said: str) -> None:
    page = first(solved(tmp_path, [("1 + 1 = 2", right[0])] * 2, [("1+1=2", right[1])] * 2))
    assert said in page and "None of the first’s formulas is lost in the second." in page


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_study_of_words_speaks_of_answers(tmp_path: Path, verdict: str) -> None:
    said = first(judged(tmp_path, verdict, ANSWERS))
    assert FINDINGS[verdict].format(**SKILLS[ANSWERS]) in said and in_words(verdict, ANSWERS) in said
    assert "rithmetic" not in FINDINGS[verdict] + in_words(verdict, ANSWERS)


def test_what_is_only_cut_from_the_picture_is_not_lost(tmp_path: Path) -> None:
    long = "x " * LONGEST + "3 + 4 = 7" + " y" * LONGEST
    page = first(solved(tmp_path, [("3 + 4 = 7", True)], [(long, False)]))
    assert "None of the first’s formulas is lost in the second." in page


def test_lines_that_are_lost_of_a_solution_in_words() -> None:
    found = stretches("One day on is Friday.\n\nThe answer is Friday.", "The answer is Friday. ", whole_lines=True)
    assert [[(s.text, s.lost) for s in line] for line in found] == [
        [("One day on is Friday.", True)], [], [("The answer is Friday.", False)],
    ]  # fmt: skip


def test_hostile_solutions_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> \u202e \x00 1 + 1 = 2</mark>\n\n<img src=x onerror=alert(2)>"
    page = read(solved(tmp_path, [(hostile, True)], [("", False)]))
    source = (tmp_path / "report.html").read_text()
    assert not page.open and not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "\u202e" not in source and "\x00" not in source and "U+202E" in page.text and "\\x00" in page.text


def test_formulas_and_what_is_lost_of_them() -> None:
    text = "He has 3 + 4 = 7, then 7 x 2.5 - 1 = 16.5 and $1,000/4 = $250. 5 apples."
    assert [text[a:b] for a, b in formulas(text)] == ["3 + 4 = 7", "7 x 2.5 - 1 = 16.5", "1,000/4 = $250"]
    assert formulas("no numbers, 12, 3 =") == []
    [line] = stretches("a 3 + 4 = 7 b 1,000/4 = $250", "3+4=7 and 1000 / 4 = 251")
    assert [s.text for s in line if s.lost] == ["1,000/4 = $250"]
    assert "".join(s.text for s in line) == "a 3 + 4 = 7 b 1,000/4 = $250"


def test_a_picture_has_what_its_file_has() -> None:
    rows: list[dict[str, Any]] = [
        {"name": 'a,"<b>\n', "value": 0.5}, {"name": "\ud800", "n": 3}, {"name": "=1+1", "value": -0.5},
    ]  # fmt: skip
    found = Chart(
        intervals("x", "X", [Row("<b>", [Mark("none", 0.5, 0.25, 0.75, small=False)])], "share", SHARE), "", "ablate", "x", rows
    )
    assert "&lt;b&gt;: 0.50 [0.25, 0.75]" in found.figure and "<b>" not in found.figure
    import csv
    from urllib.parse import unquote

    kind, _, content = found.csv.partition(",")
    assert kind == "data:text/csv;charset=utf-8"
    assert list(csv.DictReader(unquote(content).splitlines(keepends=True))) == [
        {"name": 'a,"<b>\n', "value": "0.5", "n": ""},
        {"name": "?", "value": "", "n": "3"},
        {"name": "'=1+1", "value": "-0.5", "n": ""},
    ]
    assert not intervals("x", "X", [Row("none", [])], "share") and not intervals("x", "X", [], "share")
    for value in (0.0, 1e9, -3.0):
        assert "nan" not in intervals("x", "X", [Row("r", [Mark("</svg>", value)])], "nats").lower()


def test_the_mean_of_other_sets_has_an_interval_over_problems() -> None:
    rows = {
        name: {"neuron_set": name, "kind": kind, "neurons": 3, "accuracy": accuracy, "n": 8, "correct": 8 * accuracy}
        for name, kind, accuracy in (("none", "none", 0.75), ("reasoning", "reasoning", 0.25), ("matched_0", "matched", 0.5),
                                     ("matched_1", "matched", 0.75))
    }  # fmt: skip
    shares = [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0]
    _, low, high = paired_bootstrap(shares)
    assert 0.2 < low < 0.625 < high <= 1
    chart, without = _picture(rows, "reasoning", shares), _picture(rows, "reasoning", [])
    assert chart and without
    label = "without others like them (2 sets, mean)"
    assert f"{label}: mean 0.62 [{low:.2f}, {high:.2f}]" in chart.figure
    assert label in without.figure and f"{label}: mean 0.62 [" not in without.figure and "nan" not in without.figure.lower()
