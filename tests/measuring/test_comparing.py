"""An edit beside its base on one data set: what is asked of problems of templates that it was not made with."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from cotscope.edits.edit import Base, Edit
from cotscope.measuring.editing import comparing
from cotscope.measuring.editing.comparing import BASE, OF_TEXT, ON_NEW, compare, rounding_name
from cotscope.measuring.editing.worked import made_with
from cotscope.measuring.problems import TrialData
from cotscope.records import Neuron, Problem
from cotscope.stats import clustered_p, clustered_proportions

WORDS = ("apples", "rooms", "trains", "fish")  # three problems of each template
DATA = TrialData("data", "data.jsonl", "", tuple(Problem(f"p{i}", f"{WORDS[i // 3]} {i}?", "7") for i in range(12)))
EDIT = Edit.scaled("e", Base("tiny", "0" * 64, 3, 48), [Neuron(0, 1)], 2.0)
BEFORE = [True, False, False, False, False, False, True, True, False, False, True, False]
ROUNDED = [True, True, False, False, True, False, True, False, False, True, True, False]
AFTER = [False, True, False, True, True, True, False, True, True, True, True, True]
HITS = {BASE: [True] * 6 + [False] * 2, "e": [True] + [False] * 6 + [True]}
SKILLS = {name: {"hits": hits} | dict.fromkeys(OF_TEXT, 1.0) for name, hits in HITS.items()}


def row_of(edit: Edit, after: list[bool] = AFTER, tests: int = 1, rounding: str = "") -> dict:
    wrote = {
        f"{name} on data": {
            p.id: {"text": "", "flexible": None, "first_result": None, "correct": c}
            for p, c in zip(DATA.problems, hits, strict=True)
        }
        for name, hits in ((BASE, BEFORE), ("e", after), *([(rounding_name(rounding), ROUNDED)] if rounding else []))
    }
    return compare(DATA, edit, wrote, {}, SKILLS, 0, tests, rounding)[0]


def test_what_changes_nothing_by_its_making_differs_by_nothing() -> None:
    nothing = Edit.scaled("n", EDIT.base, [], 1.0, chosen={"nothing": "no candidate was better"} | made_with({}, ["fish 8?"]))
    row = row_of(nothing)
    assert [row[key] for key in ("difference", "difference_low", "difference_high", "p_value")] == [0, 0, 0, 1]
    assert row["detectable"] is row["new_difference"] is None
    assert row_of(EDIT, BEFORE)["difference_high"] > 0.1  # another edit with the same answers could have other ones elsewhere


def test_the_untouched_model_in_another_precision_stands_beside_base_and_edit() -> None:
    row, templates_of = row_of(EDIT, rounding="float32"), [i // 3 for i in range(12)]
    assert (row["rounding_dtype"], row["rounding_accuracy"]) == ("float32", 0.5)
    for key, (one, other) in (("rounding_difference", (BEFORE, ROUNDED)), ("less_rounding", (ROUNDED, AFTER))):
        expected = clustered_proportions(one, other, templates_of)[:3]
        assert tuple(row[f"{key}{end}"] for end in ("", "_low", "_high")) == pytest.approx(expected)
    assert (row["rounding_difference"], row["less_rounding"]) == pytest.approx((2 / 12, 3 / 12))
    assert {row_of(EDIT)[key] for key in ("rounding_dtype", "rounding_difference", "less_rounding_low")} == {None}


def test_problems_and_other_skills_are_counted_by_what_changed() -> None:
    row = row_of(EDIT)
    assert (row["lost"], row["gained"]) == (2, 7)
    assert row["p_mcnemar"] == pytest.approx(binomtest(2, 9).pvalue)
    assert (row["battery_base"], row["battery"], row["items"]) == (0.75, 0.25, 8)
    assert row["battery_p"] == pytest.approx(binomtest(1, 6).pvalue)


def test_what_n_could_show_reckons_with_other_tests_and_with_few_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_of(EDIT)["detectable"] == 1  # the signs of four templates show nothing below 1/8
    data = replace(DATA, problems=tuple(Problem(f"p{i}", f"{chr(97 + i // 4) * 5} {i}?", "7") for i in range(80)))
    monkeypatch.setattr(sys.modules[__name__], "DATA", data)
    monkeypatch.setattr(sys.modules[__name__], "BEFORE", [i % 3 == 0 for i in range(80)])
    after = [i % 5 == 0 for i in range(80)]
    one, many = (row_of(EDIT, after, tests)["detectable"] for tests in (1, 20))
    assert 0.1 < one < many < 1
    assert row_of(EDIT, after, 10**6)["detectable"] == 1


def test_the_difference_on_new_templates_is_of_these_alone() -> None:
    row = row_of(replace(EDIT, chosen=made_with({}, ["rooms 77?", "fish 8?"])))
    new = [0, 1, 2, 6, 7, 8]
    base, own, of = [BEFORE[i] for i in new], [AFTER[i] for i in new], [0, 0, 0, 1, 1, 1]
    difference, low, high, _ = clustered_proportions(base, own, of)
    assert row["templates_trained_on"] == 6 and row["difference"] == pytest.approx(5 / 12) and difference == 0
    expected = (6, 2, difference, low, high, clustered_p(base, own, of))
    assert tuple(row[key] for key in ON_NEW) == pytest.approx(expected)
    assert row_of(replace(EDIT, chosen=made_with({}, ["apples 1?"])))["new_difference"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("trained", [None, ["boats 1?"], ["apples 1?", "rooms 1?", "trains 1?", "fish 1?"]])
def test_where_all_are_new_or_none_nothing_more_is_said(trained: list[str] | None) -> None:
    row = row_of(EDIT if trained is None else replace(EDIT, chosen=made_with({}, trained)))
    assert [row[key] for key in ON_NEW] == [None] * 6
    assert row["templates_trained_on"] == (trained if trained is None else 12 * (len(trained) > 1))


@pytest.mark.parametrize(("least", "told"), [(0.25, 9), (0.26, None)])
def test_where_next_to_all_are_new_none_are_told_apart(monkeypatch: pytest.MonkeyPatch, least: float, told: int | None) -> None:
    monkeypatch.setattr(comparing, "LEAST_SEEN", least)
    row = row_of(replace(EDIT, chosen=made_with({}, ["apples 1?"])))
    assert (row["templates_trained_on"], row["new_n"]) == (3, told)
