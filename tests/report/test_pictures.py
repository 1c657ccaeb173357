"""Pictures: each says of how many problems it is, stands before its table, and is fit for print, dark screens and a paper."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from made_runs import complete, did, read

from cotscope.report import judge
from cotscope.report.charts import PAPER
from cotscope.report.damage import damage, operations
from cotscope.report.first import changes
from cotscope.report.reading import Reading
from cotscope.runs.folder import Run

FOLDED = '<details class="figures">'
CHANGE = {"change": -0.5, "low": -0.9, "high": -0.1, "p_value": 0.3, "within": False}


def judged(folder: Path) -> Path:
    """A complete run whose annotator was tested, and gave free names."""
    complete(folder)
    decoys = {"measure": "accepted", "annotator": "judge", "count": 1, "value": 0.05, "low": 0.0, "high": 0.2}
    names = [{"layer": 2, "index": i, "sign": 1, "name": f"{name} {i}", "concept": name, "status": "answered",
              "strength": 9.0 - i} for i, name in enumerate(("digits", "<b>", "digits"))]  # fmt: skip
    tables = {"audit": [decoys | {"other": kind, "n": 20} for kind in ("random", "other_concept")], "names": names}
    summary = {"judge": {"annotator": "judge", "candidates": 24, "accepted": 22, "failed": 0, "calls": None, "decoys": {}}}
    did(folder, "annotate", tables, summary)
    return folder


def test_pictures_say_of_how_many(tmp_path: Path) -> None:
    text = " ".join(read(complete(tmp_path)).text.split())
    assert "at the mean of its kind. n = 96 problems." in text and "n = 96 problems under each prompt." in text
    about = {"neuron_set": "reasoning", "kind": "reasoning", "path": "total"}
    scores = [about | {"role": role, "problems": n} for role, n in (("operator", 24), ("result", 20))]
    effect = {"total": {"log_prob": CHANGE}}
    found = {"target": "reasoning", "effects": {"reasoning": {"operator": effect}}}
    found |= {"specific": {"solutions": {"operator": effect}}}
    did(tmp_path, "damage", {"damage_solutions": scores}, {"damage": found})
    test = {"contrast": -0.5, "ci": [-0.9, -0.1], "p_value": 0.04}
    did(tmp_path, "operations", summary={"operations": {"operator": test, "problems": 12}})
    run = Reading(Run.open(tmp_path))
    part = damage(run)
    assert part["chart"].figure and part["paths"].figure
    assert part["chart"].n == part["paths"].n == "20 to 24 reference solutions"
    assert operations(run)["chart"].n == "12 problems of each operation"


def test_the_judges_pictures(tmp_path: Path) -> None:
    found = judge.judge(Reading(Run.open(judged(tmp_path))))
    assert (found["chart"].n, found["named"].n) == ("20 cases of each test", "3 poles")
    assert "digits: 16.0" in found["named"].figure and "&lt;b&gt;: 8.0" in found["named"].figure


def test_the_phenomena_have_a_picture(tmp_path: Path) -> None:
    assert "phenomena-accuracy-title" in str(changes(Reading(Run.open(complete(tmp_path))).rows("phenomena")).figure)
    ends = {f"{of}_{end}": CHANGE[end] for of in ("accuracy", "activity", "fixed") for end in ("change", "low", "high")}
    row = {"phenomenon": "without_text", "n": 40, "verdict": "activity goes with accuracy"} | ends
    chart = changes([row])
    assert chart.figure.count("Examples without words: −0.50 [−0.90, −0.10]</title>") == 3 and chart.n == "40 problems"
    assert chart.rows == [row] and "teacher-forced" in chart.figure
    assert "teacher-forced" not in changes([row | {"fixed_change": None}]).figure and not changes([]).figure


def test_a_sections_picture_stands_before_its_table(tmp_path: Path) -> None:
    read(judged(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for order in (
        ('id="phenomena"', 'id="phenomena-say"', 'id="phenomena-activity-title"', FOLDED, 'id="phenomena-table"'),
        ('id="names"', "called digits, &lt;b&gt; have", 'id="names-figure-title"', FOLDED, "Names that the judge gave"),
        ('id="run"', FOLDED, '<table class="keys">'),
    ):
        at = 0
        for each in order:
            at = page.index(each, at)


def test_the_pictures_that_a_paper_would_show(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    shown = [attributes for tag, attributes in page.elements if tag == "figure" and attributes.get("class") == "paper"]
    assert len(shown) == page.text.count("For a paper.") == 3  # ablation, prompts, phenomena
    folder = resources.files("cotscope.report")
    sources = [f.read_text() for f in folder.iterdir() if f.name.endswith(".py") and f.name != "charts.py"]
    for name in PAPER:
        assert any(f'"{name}' in source for source in sources), name


def test_the_page_can_be_printed_and_read_in_the_dark(tmp_path: Path) -> None:
    read(complete(tmp_path))
    [style] = re.findall(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(encoding="utf-8"), re.S)
    light, dark = (set(re.findall(r"(--[\w-]+):", part)) for part in re.findall(r":root \{(.*?)\}", style, re.S))
    assert light == dark and len(light) > 10  # no colour is left as it is on white
    assert "@media screen and (prefers-color-scheme: dark)" in style
    printed = style[style.rindex("@media print") :]
    assert re.search(r"figure[^{]*\{ break-inside: avoid", printed) and ".paper { max-width: 17cm; }" in printed
    assert "details::details-content { content-visibility: visible" in printed  # what is folded is printed
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= light
