"""The report: true to the figures of its run folder, safe against what its tokens hold, openable offline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import CONCEPTS, PROMPTS, complete, did, discovered, read, rows_of

from cotscope.errors import RunError
from cotscope.report.build import write_report
from cotscope.report.charts import Look, Mark, Row, intervals
from cotscope.report.damage import _says
from cotscope.report.figures import Bar, Box, Point, ablation_bars, heat_map, place_labels, prompt_scatter
from cotscope.report.svg import text_width
from cotscope.report.terminal import headline
from cotscope.report.text import KINDS, chip, counted, interval, number, p_value, seconds, visible, with_interval
from cotscope.runs.files import hash_of
from cotscope.runs.folder import Run
from cotscope.stats import TOO_FEW


def test_the_headline_has_the_figures_of_the_summary(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    text = " ".join(page.text.split())
    assert "With the full prompt the model solves 0.63 [0.53, 0.72] of 96 problems." in text
    assert "With its 11 reasoning neurons zeroed: 0.10 [0.06, 0.18]; with as many matched random neurons: " in text
    assert "on average over 2 sets (from 0.27 to 0.40); unmatched: 0.58 on average over 1 set." in text
    assert "p = 0.333; with 2 matched sets it cannot be below 0.333." in text
    assert "no difference, however large, could reach p ≤ 0.05" in text
    assert "over 5 prompts: +0.81 [−0.12, +0.99], p = 0.046. The interval includes 0" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    ablation, correlation = summary["ablation"], summary["correlation"]
    figures = [summary["baseline"]["accuracy"], *summary["baseline"]["ci"], 96, ablation["p_value"], 11]
    figures += [ablation["matched_mean"]["accuracy"], ablation["unmatched_mean"]["accuracy"]]
    figures += [ablation["reasoning"]["accuracy"], *ablation["reasoning"]["ci"]]
    figures += [ablation[kind]["perplexity"] for kind in ("none", "reasoning", "matched_mean", "unmatched_mean")]
    figures += [correlation["spearman"], *correlation["ci"], correlation["p_value"], -0.302, 0.0008, -0.51]
    assert set(figures) <= page.figures


@pytest.mark.parametrize(
    ("reasoning", "matched", "said", "unsaid"),
    [
        (0.1, (0.3, 0.4), "more damage than matched sets do on average, and more than every one", "do no more"),
        (0.35, (0.3, 0.5), "more damage than matched sets do on average, and more than 1 of the 2", "do no more"),
        (0.4, (0.3, 0.4), "do no more damage than matched sets: this run gives no evidence", "more than every"),
        (0.64, (0.3, 0.4), "did not lower the accuracy. The reasoning neurons do no more damage", "more than every"),
        (0.1, (0.3,), "do more damage than the one matched set.", "on average, and"),
    ],
)
def test_the_headline_says_what_the_figures_say(
    tmp_path: Path, reasoning: float, matched: tuple[float, ...], said: str, unsaid: str
) -> None:
    text = " ".join(read(complete(tmp_path, reasoning, matched)).text.split())
    assert said in text and unsaid not in text


def test_what_is_said_of_a_part_of_the_neurons_names_it(tmp_path: Path) -> None:
    """Those without a counterpart can carry all of the damage."""
    folder = complete(tmp_path, 0.19, (0.6, 0.62))
    found = {"comparable": {"accuracy": 0.63, "ci": [0.5, 0.7], "neurons": 9}, "target": "comparable"}
    did(folder, "ablate", summary={"ablation": found})
    said = " ".join(read(folder).text.split())
    assert "did not lower the accuracy" not in said and "Those with a counterpart do no more damage than matched sets" in said
    none = {"accuracy": 0.0, "ci": [0.0, 0.1], "neurons": 9, "perplexity": 44.0}
    both = {"reasoning": none, "comparable": none}  # as few are solved without either
    did(folder, "ablate", summary={"ablation": both})
    assert "Those with a counterpart do more damage than" in " ".join(read(folder).text.split())


def test_a_stage_that_has_not_ended_has_no_finding(tmp_path: Path) -> None:
    run = Run.open(complete(tmp_path))
    run.manifest["stages"]["correlate"]["status"] = "started"
    del run.manifest["stages"]["correlate"]["finding"]
    run.save()
    assert "stopped before it ended; go on with cotscope correlate RUN" in " ".join(read(tmp_path).text.split())


def test_a_stage_that_came_to_nothing_has_run(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    did(folder, "damage", finding="no reference solutions")
    said = " ".join(read(folder).text.split())
    assert "it has run: no reference solutions." in said and "There was no solution to see what is lost, and why." in said
    assert "has not been measured yet" not in said and "--permuted" not in said


def test_how_many_permuted_sets_it_takes_is_said_where_there_were_too_few(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    rows = [{"problems": 3, "neuron_set": n, "kind": n, "role": "result", "path": "total"} for n in ("none", "reasoning")]
    few = {"verdict": TOO_FEW, "sets": 10, "neurons": 5, "pushes": None, "matters": None}
    tables = {"damage_solutions": rows, "damage": [{"neuron_set": r["neuron_set"]} for r in rows]}
    did(folder, "damage", tables, {"damage": {"headline": few}})
    said = " ".join(read(folder).text.split())
    assert "10 were drawn: 19 take cotscope ablate RUN --permuted 19, and" in said
    assert "No matched set was drawn: there is nothing to compare with." in said
    did(folder, "damage", summary={"damage": {"headline": few | {"sets": 19, "verdict": "not shown"}}})
    assert "were drawn" not in read(folder).text


def test_specific_damage_is_said_by_its_intervals() -> None:
    rows = [{"label": "results", "low": -0.3, "high": -0.1}, {"label": "operators", "low": -0.3, "high": 0.1}]
    assert "leaves 0 out (not corrected for 2 of them), suffer: results." in _says(rows)
    assert _says(rows[1:]) == "None of these 1 intervals lies below 0: no specific damage is shown."


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    source = (tmp_path / "report.html").read_text()
    assert not page.open  # every element was closed, in order
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    }
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "srcset", "style") for name in attributes)
        for name, value in attributes.items():
            inside = (value or "").startswith("#") or ("download" in attributes and (value or "").startswith("data:text/csv;"))
            assert name not in ("href", "xlink:href") or inside
            assert "://" not in (value or "")
    style = re.findall(r"<style>(.*?)</style>", source, re.S)
    assert len(style) == 1 and "url(" not in style[0] and "@import" not in style[0]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] or "" for _, a in page.elements if "href" in a and "download" not in a}
    assert links <= {f"#{name}" for name in ids}


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    source = (tmp_path / "report.html").read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\u2028\ud800]", source)
    for token in ("<script>alert(1)</script>", "</svg>", "</style>", "<img src=x onerror=alert(1)>", "{{ 7*7 }}",
                  "&lt;", "\"quoted\" 'token'", "中文", "\ufffd", "␣␣␣", "⏎", "⇥", "␣add", "\\x00", "\\x1b[31m",
                  "U+202Eabc", "U+2028", "∅", "◌\u0301"):  # fmt: skip
        assert token in page.chips, token
    assert "\\x1b and <em>." in page.text and "lone U+D800 surrogate" in page.text
    assert PROMPTS[-1] in page.text and "matched-0</svg>" in page.text
    assert "1,234" in page.text
    titles = {attributes.get("title") for tag, attributes in page.elements if tag == "bdi"}
    assert {r"'\x00'", r"'\u202eabc'", r"'\ufffd'"} <= titles


def test_cards_of_the_strongest_poles(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    assert page.chips.count("{{ 7*7 }}") == 11  # each accepted pole has one card, for both of its concepts
    seeds = [a for tag, a in page.elements if tag == "bdi" and a["class"] == "chip seed"]
    assert len(seeds) == 11 * 2  # " add" and 中文 are evidence
    assert not [attributes for tag, attributes in page.elements if tag == "details" and "open" in attributes]
    assert " ".join(page.text.split()).count("<script>alert(3)</script>, addition layer 2, neuron 4, +") == 1


def test_every_figure_is_named_and_described(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert [a["aria-labelledby"] for a in figures] == [
        f"{n}-title {n}-desc"
        for n in ("solved", "phenomenon-0", "ablation", "scatter", "phenomena-accuracy", "phenomena-activity", "heat")
    ]
    assert all(a["role"] == "img" for a in figures)
    assert "full: accuracy 0.60 at activity 3.00" in page.text  # the description
    assert "full: accuracy 0.60 [0.50, 0.70], activity 3.00" in page.text  # on hovering
    assert "addition, layer 2: 11" in page.text


def test_where_the_figures_come_from(tmp_path: Path) -> None:
    text = " ".join(read(complete(tmp_path)).text.split())
    for name, value in {"SHA-256 of the weights": "ab", "data.jsonlSHA-256": "cd", "c.tomlSHA-256": "ef"}.items():
        assert f"{name} {value * 32}" in text
    assert "computed infloat32 (asked for), pytorch kernels, 8 rows per batch" in text
    assert "fullderived010101010101700" in text and "01" * 7 not in text
    assert "cotscope 0.1.0 with tiny <b> on https://example.org/data.jsonl, begun" in text
    assert "cotscope 0.1.0, torch 2.8.0" in text and "cotscope study --model tiny" in text
    cite = text[text.index("How to cite") :]
    assert "@software{cotscope, title = {cotscope}, author = {{The cotscope contributors}}, version = {0.1.0}, }" in cite
    assert "@inproceedings{rai-yao-2024," in cite and "https://aclanthology.org/2024.acl-long.387" in cite


def test_a_partial_run_says_what_is_missing(tmp_path: Path) -> None:
    page = read(discovered(tmp_path))
    for verb in ("annotate", "ablate", "measure", "correlate", "sweep", "calibrate"):
        assert f"not run yet: cotscope {verb} RUN" in page.text
    assert "No accuracy has been measured in this run yet." in page.text
    assert "61.3 s" in page.text and "found <i>12</i>" in page.text and "96 test, 90 discovery" in page.text
    assert "svg" not in {tag for tag, _ in page.elements}


@pytest.mark.parametrize(
    ("gone", "stage"),
    [("ablation", "ablate"), ("matching", "sets"), ("prompts/study", "measure"), ("phenomena", "correlate"),
     ("annotations", "annotate"), ("candidates", "discover"), ("poles", "discover")],
)  # fmt: skip
@pytest.mark.parametrize("how", ["absent", "changed", "never written"])
def test_any_table_may_be_missing(tmp_path: Path, gone: str, stage: str, how: str) -> None:
    """One that has gone or changed makes its stage stale: nothing that it wrote is shown. A stage may have had no rows."""
    complete(tmp_path)
    path = tmp_path / "tables" / f"{gone}.parquet"
    if how == "absent":
        path.unlink()
    elif how == "changed":
        path.write_bytes(b"PAR1 no more")
    else:
        run = Run.open(tmp_path)
        del run.manifest["files"][gone]
        path.unlink()
        run.save()
        did(tmp_path, stage)
    page = read(tmp_path)
    if how == "never written":
        assert "0.63" in page.text and "stale" not in page.text
        return
    assert f"stale ({gone} changed)" in page.text
    # What the stage found, and what builds on it, is not there; the rest is.
    figures = {"discover": 24, "annotate": 11, "sets": -1, "ablate": 0.6251, "measure": 0.6, "correlate": 0.8123}
    shown = list(figures)[: list(figures).index(stage)]
    if stage == "measure":
        shown += ["ablate"]
    for name in shown:
        assert figures[name] in page.figures or name in ("discover", "annotate", "sets"), name
    assert any(found.get("id") == "matching" for _, found in page.elements) == (stage in ("ablate", "measure", "correlate"))
    assert figures[stage] not in page.figures


def test_missing_figures_are_dashes(tmp_path: Path) -> None:
    complete(tmp_path)
    did(tmp_path, "correlate", summary={"correlation": {"spearman": None, "ci": None, "p_value": None, "prompts": 1}})
    did(tmp_path, "ablate", summary={"ablation": {"none": {"perplexity": float("nan")}}, "baseline": {"ci": None}})
    page = read(tmp_path)
    assert not re.search(r"\b(nan|None)\b", page.text)
    assert "could not be computed" in page.text and "not run yet: cotscope correlate" not in page.text


def test_the_report_is_written_in_one_step_and_again(tmp_path: Path) -> None:
    folder = complete(tmp_path / "odd [a]*?")  # characters of a file pattern
    write_report(Run.open(folder))
    before = (folder / "report.html").read_text()
    write_report(Run.open(folder))
    assert (folder / "report.html").read_text() == before
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "report.html", "summary.json", "tables"]


def test_what_is_no_run_folder_or_cannot_be_read(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match=r"expected a folder with manifest\.json"):
            read(folder)
    complete(tmp_path)
    path = tmp_path / "tables" / "ablation.parquet"
    content = path.read_bytes()
    # Its hash says that it is what was written; no page, or no table, can be read from it.
    for damaged in (b"PAR1" + bytes(400) + content[404:], b"PAR1 no more"):
        path.write_bytes(damaged)
        run = Run.open(tmp_path)
        run.manifest["files"]["ablation"] |= {"sha256": hash_of(path), "bytes": path.stat().st_size}
        run.manifest["stages"]["ablate"]["wrote"]["ablation"] = hash_of(path)
        run.save()
        if len(damaged) > 400:
            with pytest.raises(RunError, match="ablation"):
                read(tmp_path)
            assert not (tmp_path / "report.html").exists()
    assert "stale (ablation changed)" in read(tmp_path).text
    (tmp_path / "report.html").unlink()
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(RunError, match="JSON object"):
        read(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="expected JSON"):
        read(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_report_does_not_read_the_summary(tmp_path: Path) -> None:
    complete(tmp_path)
    for content in ("{", '{"baseline": {"accuracy": 0.999}}'):
        (tmp_path / "summary.json").write_text(content)
        assert 0.6251 in read(tmp_path).figures


def test_labels_do_not_overlap() -> None:
    points = [(600.0, 100.0), (605.0, 104.0), (612.0, 98.0), (596.0, 110.0), (608.0, 120.0), (640.0, 90.0)]
    frame = Box(50, 10, 780, 420)
    boxes = place_labels(points, [90.0, 120.0, 60.0, 180.0, 100.0, 30.0], frame)
    for i, box in enumerate(boxes):
        assert frame.left <= box.left and box.right <= frame.right and frame.top <= box.top and box.bottom <= frame.bottom
        assert not any(box.overlap(other) for other in boxes[:i])
        assert not any(box.holds(point) for point in points)


def test_figures_of_odd_sizes() -> None:
    assert "NaN" not in prompt_scatter([Point("one", 2.0, 0.5, None, None)], "activity")
    assert "NaN" not in prompt_scatter([Point(str(i), 0.0, 0.0, 0.0, 0.0) for i in range(30)], "activity")
    many = [Bar(f"matched-{i}", "matched", i / 200, None, None) for i in range(200)]
    assert many[7].name in ablation_bars([*many, Bar("p", 'x" onload="', 0.0, 0.0, 0.0)], {})
    assert heat_map(["a"], 80, {("a", 79): 3}, "poles").count("<rect") == 80
    assert heat_map([], 0, {}, "poles")


def test_how_values_are_written() -> None:
    assert [number(v) for v in (0.6251, -0.5, None, float("nan"), True)] == ["0.63", "−0.50", "–", "–", "–"]
    assert [number(v, 1, True) for v in (0.04, -0.04, 0.5)] == ["0.0", "0.0", "+0.5"]
    assert number(1234567, 0) == "1,234,567"
    assert [p_value(v) for v in (0.0004, 0.001, 1 / 6, None)] == ["< 0.001", "0.001", "0.167", "–"]
    assert (interval(0.1, 0.25), interval(None, 0.2)) == ("[0.10, 0.25]", "")
    assert (with_interval(0.5, 0.1, 0.25), with_interval(0.5, None, 0.2)) == ("0.50 [0.10, 0.25]", "0.50")
    assert [counted(n, "x") for n in ([96, 96, None], [96, 8, 1200], [None], [])] == ["96 x", "8 to 1,200 x", "", ""]
    assert [seconds(v) for v in (1.04, 125, 7322, None)] == ["1.0 s", "2 min 5 s", "2 h 2 min", "–"]
    assert visible("a b\r\x7f\u200b") == "a b\\r\\x7fU+200B"
    assert len("".join(piece.text for piece in chip("x" * 500).pieces)) == 40


def with_variants(folder: Path) -> Path:
    """A complete run with variants and sentences, discovered under two prompts; names and kinds are hostile."""
    complete(folder)
    kinds = ["full", "text_only", "<script>alert(5)</script>"]
    rows = [
        {"prompt": f"{kind}.{i}</svg>", "family": family, "kind": kind, "exemplars": 3, "prompt_tokens": 100 + i,
         "n": 32, "correct": 10 + i, "accuracy": (10 + i) / 32, "low": 0.1, "high": 0.9, "tokens_per_problem": 40.0,
         "poles_per_token": 5.0 + i, "fixed_activity": None if family == "sentence" else 7.0 + i}
        for family in ("variant", "sentence") for i, kind in enumerate(kinds * 3)
    ]  # fmt: skip
    found = {"spearman": 0.4711, "low": 0.2111, "high": 0.6911, "p_value": 0.0123}
    correlations = [
        found | {"family": family, "prompts": 9, "activity": activity, "poles": poles, "given": given,
                 "p_value": None if given == "length" else 0.0123}
        for family in ("study", "variant", "sentence") for activity in ("own", "fixed") for poles in ("all", "first")
        for given in ("nothing", "length", "kind", "between") if (family, activity) != ("sentence", "fixed")
    ]  # fmt: skip
    kind = {"kind": "none<b>", "prompts": 1, "accuracy_n": 32, "fixed_n": 8}
    kind |= {f"{name}{end}": 0.5123 for name in ("accuracy", "activity", "fixed") for end in ("", "_low", "_high")}
    poles = [p | {"prompts": ["full", "<i>"] if i % 2 else ["<i>"]} for i, p in enumerate(rows_of(folder, "poles"))]
    did(folder, "discover", {"poles": poles})
    did(folder, "variants", {"prompts/extra": rows, "sentence_kinds": [kind]},
        {"variants": {"variants": 9, "sentences": 9, "problems": 32, "solutions": 8}})  # fmt: skip
    permuted = {"sets": 999, "median": 0.0511, "quantiles": [-0.3511, 0.3911], "p_value": 0.0198}
    section = {
        "spearman": 0.8711,
        "ci": [None, None],
        "p_value": None,
        "prompts": 9,
        "kinds": 7,
        "permuted": permuted,
        "within": found,
        "permuted_within": permuted | {"median": 0.1311},
        "between": found | {"low": -0.4},
    }
    over = {"variants": section, "sentences": section | {"within": found | {"low": -0.1}, "kinds": 4, "between": None}}
    did(folder, "correlate", {"correlations": correlations}, {"correlation": over})
    return folder


def test_many_prompts(tmp_path: Path) -> None:
    page = read(with_variants(tmp_path))
    text = " ".join(page.text.split())
    assert {0.4711, 0.2111, 0.6911, 0.0123, 0.0511, -0.3511, 0.0198, 0.1311, 0.5123} <= page.figures
    none = "shows no established relation to accuracy (the interval includes 0)"
    assert ("Over the variants generated activity goes with accuracy within perturbations, more closely than that of permuted "
            f"sets does. Between the 7 perturbations it {none}.") in text  # fmt: skip
    assert (f"Over the sentences generated activity {none} within kinds. Between kinds nothing can be told: there are 4, and 6 "
            "are needed.") in text  # fmt: skip
    assert "measured on 32 test problems, their teacher-forced activity on 8 reference solutions" in text
    for label in ("generated activity, given length", "teacher-forced activity, within kinds"):
        assert label in text
    assert not re.search(r"\b(own|fixed) activity|given solution", text)
    assert "Poles that discovery under the first prompt alone finds" in text
    assert "found under 2 prompts (full 5 of 11, <i> 11 of 11)" in text
    # A mark per prompt, and one per kind in the legend; sentences have no teacher-forced activity here.
    assert sum(tag == "path" and "mark" in (a.get("class") or "").split() for tag, a in page.elements) == 3 * (9 + 3)
    source = (tmp_path / "report.html").read_text()
    assert "<script>" not in source and not page.open
    section = source[source.index('id="variants"') :]
    places = [section.index(each) for each in ("Over the variants", "<svg", "<details", 'id="correlations"')]
    assert places == sorted(places)
    assert "variants-poles" in section[: section.index("<details")] and "n = 32 problems under each prompt." in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"within": {"spearman": -0.5, "low": -0.9, "high": -0.2, "p_value": 0.01}}, "goes against accuracy within perturb"),
        ({"permuted_within": {"p_value": 0.3}}, "but so does that of permuted sets: the relation is not particular"),
        ({"permuted_within": None}, "goes with accuracy within perturbations. Between the 7 perturbations it shows no"),
        ({"within": {"spearman": None}}, "Over the variants the correlation within perturbations could not be computed"),
        ({"within": {"spearman": 1.0, "p_value": None}}, "nothing can be told within perturbations: too few of them"),
        ({"within": None, "ci": [0.2, 0.9], "permuted": {"p_value": 0.01}},
         "Over the variants generated activity goes with accuracy, more closely than that of permuted sets does."),
    ],
)  # fmt: skip
def test_what_the_correlation_over_variants_says(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with_variants(tmp_path)
    section = Run.open(tmp_path).summary["correlation"]["variants"] | changed
    did(tmp_path, "correlate", summary={"correlation": {"variants": section}})
    assert said in " ".join(read(tmp_path).text.split())


def test_without_variants_the_command_is_named(tmp_path: Path) -> None:
    text = " ".join(read(complete(tmp_path)).text.split())
    assert "not run yet: cotscope measure RUN" in text
    assert "The reasoning set was discovered under one prompt, the first (full), so these counts favour it." in text


def test_activity_by_place_is_that_of_all_poles_and_no_sum_of_concepts(tmp_path: Path) -> None:
    complete(tmp_path)
    figures = {CONCEPTS[0]: 2.1111, CONCEPTS[1]: 3.2222, None: 4.4444}  # a pole of both counts once
    rows = [
        {"prompt": "full", "concept": concept, "role": "operator", "own_activity": value, "fixed_activity": None}
        for concept, value in figures.items()
    ]
    did(tmp_path, "measure", {"prompt_roles": rows})
    page = read(tmp_path)
    assert "4.44" in page.text and "5.33" not in page.text
    assert ("td", {"class": "n"}) in page.elements and ("table", {"id": "prompt-roles"}) in page.elements


def test_held_out_activity_stands_beside(tmp_path: Path) -> None:
    with_variants(tmp_path)
    assert "Activity held out" not in read(tmp_path).text
    rows = [
        {"prompt": p, "left_out": "full", "poles": 321, "own_activity": 2.3456, "fixed_activity": None} for p in PROMPTS[:3]
    ]
    did(tmp_path, "measure", {"held_out": rows})
    page = read(tmp_path)
    assert "Activity held out" in page.text and "without full (321)" in page.text and 2.3456 in page.figures
    assert not page.open


def test_the_terminal_says_what_can_be_told_and_what_the_rest_needs() -> None:
    within = {"spearman": 0.66, "low": 0.2, "high": 0.98, "p_value": 0.01}
    plain = {"spearman": 0.86, "ci": [None, None], "p_value": None}
    change = {"accuracy_change": -0.5, "detectable": 0.625, "activity_change": -0.294, "verdict": "too few problems to tell"}
    said = headline(
        {
            "correlation": plain | {
                "prompts": 4,
                "variants": plain | {"prompts": 9, "kinds": 8, "within": {"spearman": 1.0, "p_value": None}},
                "sentences": plain | {"prompts": 18, "kinds": 4, "within": within, "permuted_within": {"p_value": 0.65}},
            },
            "phenomena": {
                "without_text": change | {"verdict_needs": 260},
                "without_formulas": change | {"verdict": "activity goes with accuracy", "verdict_needs": None},
            },
        }
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines == [
        "Spearman over 4 prompts: 0.86, of too few to tell",
        "Spearman within the 8 kinds of 9 variants: 1.00, of too few to tell",
        "Spearman within the 4 kinds of 18 sentences: 0.66 [0.200, 0.980], p = 0.010; share of permuted sets as high 0.650",
        "",
        "change from the first prompt accuracy detectable active poles/token verdict",
        "without_text -0.500 0.625 -0.29 too few problems to tell (at least 260 problems)",
        "without_formulas -0.500 0.625 -0.29 activity goes with accuracy",
    ]


@pytest.mark.parametrize(
    ("p", "said"), [(0.346, "more stable than others is not shown"), (0.001, "share of them as high, p = 0.001.")]
)
def test_stability_stands_beside_permuted_sets(tmp_path: Path, p: float, said: str) -> None:
    complete(tmp_path)
    permuted = {"sets": 999, "mean": 0.5857, "quantiles": [0.563, 0.6083], "p_value": p}
    stability = {"jaccard": 0.5925, "permuted": permuted, "poles": [422, 387], "problems": [7, 7]}
    did(tmp_path, "correlate", summary={"stability": stability})
    text = " ".join(read(tmp_path).text.split())
    assert "(7 and 7) finds, 422 and 387, have a Jaccard overlap of 0.59" in text and "overlap by 0.59 [0.56, 0.61]" in text
    assert said in text and ("is not shown." in text) == (p > 0.05)


def test_phenomena_show_both_activities(tmp_path: Path) -> None:
    complete(tmp_path)
    [row] = rows_of(tmp_path, "phenomena")
    row |= {"detectable": 0.1234, "activity_p_holm": 0.0321, "fixed_change": -0.7777, "fixed_low": -0.9, "fixed_high": -0.6}
    row |= {"verdict_first": "<first>", "verdict_fixed_first": "no change"}
    row |= {"fixed_p_holm": 0.0456, "fixed_n": 24, "verdict": "activity goes with accuracy", "verdict_fixed": "no <change>"}
    row |= {"activity_p_beyond_holm": 0.0234, "activity_low90": -0.6789, "activity_high90": -0.2345, "activity_bound": 0.345}
    row |= {"verdict_needs": None, "verdict_fixed_needs": 1234}
    did(tmp_path, "correlate", {"phenomena": [row]})
    run = Run.open(tmp_path)
    rule = run.manifest["units"]["phenomena.verdict"] = "holds if <both> intervals lie below 0"
    run.manifest["rules"] = {"phenomena": rule}
    run.save()
    page = read(tmp_path)
    assert {0.0321, -0.7777, 0.0456, 0.0234, -0.6789, -0.2345} <= page.figures
    text = " ".join(page.text.split())
    assert "among permuted sets: p = 0.023" in text and "bound ±0.34" in text
    assert text.count("problems needed") == 1 and "at least 1,234 problems needed" in text
    assert "no <change>" in page.text and "24 reference" in page.text
    assert "poles of the first prompt: <first>" in page.text and "poles of the first prompt: no change" in page.text
    assert f"written down in the manifest when the study began: {rule}" in page.text


@pytest.mark.parametrize("length", [1, 12, 24, 38, 49, 80])
def test_no_bold_label_begins_outside_the_figure(length: int) -> None:
    drawn = intervals("x", "y", [Row("n" * length, [Mark("none", 0.1, 0.0, 0.2)])], "axis", Look())
    [(x, text)] = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end" class="strong">([^<]+)<', drawn)
    assert float(x) - 1.12 * text_width(text) >= 0 and len(text) >= min(length, 49)


@pytest.mark.parametrize("kinds", [{}, KINDS])
def test_no_label_of_the_ablation_begins_outside_the_figure(kinds: dict[str, str]) -> None:
    bars = [Bar(kind, kind, 0.5, 0.4, 0.6) for kind in KINDS]
    drawn = ablation_bars(bars, kinds)
    ends = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"[^>]*>([^<]+)<', drawn)}
    for kind in KINDS:
        label = kinds.get(kind, kind)
        assert ends[label] - 1.1 * text_width(label) >= 0, label
