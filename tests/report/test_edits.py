"""The report's part on edits: its figures are those of the tables, it says no more, and what a model wrote is shown as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import Page, complete, did, read, rows_of

from cotscope.report.evaluate import EXAMPLES, FEW, LONGEST, _more, says
from cotscope.runs.folder import Run

HOSTILE = "<script>alert('edit')</script>"
NAMES = ("log_prob", "operator", "equals", "result", "elsewhere")


def figures(edit: str, data: str, p: float, difference: float, **others: Any) -> dict[str, Any]:
    """A row of `evaluations`; no figure in it stands twice in a report."""
    i, j = len(edit + data) / 1000, len(edit) / 1000
    row: dict[str, Any] = {"edit": edit, "data": data, "neurons": 50, "n": 96, "gained": 2, "lost": 13, "p_value": p}
    row |= {"p_holm": p, "solutions": 23, "detectable": 0.1354 + i, "battery_base": 0.8125 + j, "battery": 0.7625 + j}
    row |= {"items": 80, "battery_p": 0.2188 + j, "perplexity_base": 43.5 + j, "perplexity": 44.1 + j}
    row |= {
        "perplexity_ratio": 1.0138 + j,
        "perplexity_ratio_low": 0.9771 + j,
        "perplexity_ratio_high": 1.0519 + j,
        "kl": 0.0213 + j,
    }
    for k, name in enumerate(("accuracy_base", "accuracy", "difference", *NAMES)):
        value = {"accuracy_base": 0.6354, "accuracy": 0.6354 + difference, "difference": difference}.get(
            name, -0.3 - k / 10 - i
        )
        row |= {name: value, f"{name}_low": value - 0.0911, f"{name}_high": value + 0.0922}
    return row | others


def answer(edit: str, problem: str, before: bool, after: bool, **others: Any) -> dict[str, Any]:
    row = {"edit": edit, "data": "study", "problem_id": problem, "question": f"What of {problem}?", "answer": "12",
           "text_base": f"base says of {problem}", "flexible_base": "12" if before else "11", "correct_base": before,
           "text": f"{edit} says of {problem}", "flexible": "12" if after else None, "correct": after}  # fmt: skip
    return row | others


def edited(folder: Path) -> Path:
    """A run with edits on two data sets: one that is shown to lose, one that shows nothing, one that changes nothing."""
    complete(folder)
    rows = [
        figures("less", "study", 0.0074, -0.1146),
        figures("less", "more\u202e", 0.125, 0.0521),
        figures(f"same {HOSTILE}", "study", 1.0, 0.0, gained=0, lost=0, detectable=None, operator=None, operator_low=None,
                operator_high=None),
    ]  # fmt: skip
    each = [answer("less", f"gained-{i}", False, True) for i in range(2)]
    each += [answer("less", f"kept-{i}", True, True) for i in range(4)]
    each[-4]["text"] = each[-4]["text_base"]
    each += [answer("less", f"lost-{i}", True, False) for i in range(4)]
    each[-4] |= {"text": f"one\n  two {HOSTILE}\x1b[31m\u202e", "text_base": "a" * 5 * LONGEST, "question": "<b>How</b> many?"}
    beside = [contrast("values by attribution", "lora", 0.0149, -0.2083), contrast(f"edit {HOSTILE}", "full", 0.2541, 0.0313)]
    beside[0] |= {"share": 0.4512, "share_low": -0.0815, "share_high": 0.9371}
    beside[0] |= {"first": 0.1198, "first_beside": 0.6931, "first_difference": -0.5733, "first_difference_low": -0.6561,
                  "first_difference_high": -0.4902, "first_unlike": 0.0476}  # fmt: skip
    beside.append(contrast("lora", "base", 0.0321, 0.1511) | {"edits_beside": 0})
    went = [course("less", 0.00333, i, i == 2, 0.5 - i / 10) for i in range(3)]
    went += [course("less", 0.01, 1, False, 0.611), course(f"same {HOSTILE}", None, 0, False, None)]
    tried = [
        {"edit": "less", "neurons": "the first 10", "factor": 0.25, "perplexity_begins": 1.0037, "round_1": -1.871,
         "round_2": -2.062, "perplexity": 1.0054, "solved": 7, "taken": True},
        {"edit": "less", "neurons": HOSTILE, "factor": 3.0, "perplexity_begins": 1.4142, "round_1": None, "round_2": None,
         "perplexity": None, "solved": None, "taken": False},
    ]  # fmt: skip
    tables = {"evaluations": rows, "evaluations_by_problem": each, "evaluation_contrasts": beside, "evaluation_curves": went,
              "evaluation_candidates": tried}  # fmt: skip
    did(folder, "evaluate", tables)
    return folder


def course(edit: str, rate: float | None, passes: int, taken: bool, loss: float | None) -> dict[str, Any]:
    """A row of `evaluation_curves`."""
    row = {"edit": edit, "rate": rate, "passes": passes, "validation": loss}
    row["training"] = loss + 0.017 if loss and passes else None  # there is none before the first pass
    return row | {"solved": 15 + passes, "problems": 32, "taken": taken}


def contrast(chosen: str, beside: str, p: float, difference: float) -> dict[str, Any]:
    """A row of `evaluation_contrasts`."""
    row = {"data": "study", "chosen": chosen, "beside": beside, "edits": 3, "edits_beside": 1 + (p < 0.05), "n": 96}
    row |= {"templates": 61, "accuracy": 0.4271, "accuracy_beside": 0.4271 - difference, "difference": difference}
    row |= {"difference_low": difference - 0.1717, "difference_high": difference + 0.1818, "p_value": p / 2, "p_holm": p}
    return row


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_figures_are_those_of_the_tables(tmp_path: Path) -> None:
    page = read(edited(tmp_path))
    rows = rows_of(tmp_path, "evaluations")
    assert len(rows) == 3
    left = ("n", "neurons", "items", "solutions")  # shown without their value
    found = {v for row in rows for k, v in row.items() if isinstance(v, int | float) and k not in left}
    assert found <= page.figures
    for row in rows:
        assert f"{row['solutions']}" in page.text and f"{row['neurons']}" in page.text


def test_what_rounding_alone_changes_is_told_once_for_each_data_set(tmp_path: Path) -> None:
    complete(tmp_path)
    rounded = {"rounding_dtype": "float32", "rounding_accuracy": 0.1823, "rounding_difference": 0.0365}
    rounded |= {"rounding_difference_low": 0.0014, "rounding_difference_high": 0.0712}
    rows = [
        figures(edit, data, 0.5, 0.03)
        | rounded
        | {"less_rounding": less, "less_rounding_low": -0.05, "less_rounding_high": 0.07}
        for edit, data, less in (("a", "study", -0.0052), ("b", "study", 0.0156), ("b", "more", 0.0219))
    ]
    did(tmp_path, "evaluate", {"evaluations": rows})
    text = words(read(tmp_path))
    said = "Untouched, but in float32, the model solves 0.182 of {}, +0.036 [+0.001, +0.071] beside the base"
    assert text.count(said.format("study")) == text.count(said.format("more")) == 1
    assert "b less that: +0.022 [−0.050, +0.070]." in text and "b less that: +0.016" not in text
    assert "astudyfloat320.182+0.036[+0.001,+0.071]−0.005[−0.050,+0.070]" in text.replace(" ", "")


def test_a_training_is_told_pass_by_pass_and_rate_by_rate(tmp_path: Path) -> None:
    page = read(edited(tmp_path))
    text = words(page)
    assert "less|0.00333|0 → 1 → 2|– → 0.417 → 0.317|0.500 → 0.400 → 0.300|15 → 16 → 17|32|2".replace("|", "") in text
    assert "less|0.01|1|0.628|0.611|16|32|–".replace("|", "") in text
    assert {v for r in rows_of(tmp_path, "evaluation_curves") for v in r.values() if isinstance(v, float)} <= page.figures


def test_a_search_is_told_candidate_by_candidate(tmp_path: Path) -> None:
    page = read(edited(tmp_path))
    text = words(page)
    assert "less|the first 10|0.25|1.004|−1.871|−2.062|1.005|7|yes".replace("|", "") in text
    assert "3.00|1.414|–|–|–|–".replace("|", "") in text
    found = {v for r in rows_of(tmp_path, "evaluation_candidates") for v in r.values() if isinstance(v, float)}
    assert found <= page.figures


def test_chosen_neurons_beside_others_are_said_as_the_table_has_them(tmp_path: Path) -> None:
    page = read(edited(tmp_path))
    text = words(page)
    assert (
        "On study values by attribution solves 0.427, lora 0.635 of the problems: −0.208 [−0.380, −0.027], p = 0.015 over 3 "
        "such: they solve fewer. Of what lora gains it gains 0.45 [−0.08, 0.94]. The first formula’s result is right in "
        "0.120 of the texts, beside 0.693: −0.573 [−0.656, −0.490], as one more such set p = 0.048 (not corrected). On study"
    ) in text
    assert (
        "solves 0.427, full 0.396 of the problems: +0.031 [−0.140, +0.213], p = 0.254 over 3 such: a difference is not shown. "
        "It speaks of one training, or search, only"
    ) in text
    assert "lora solves 0.427 (mean of 3 edits), base 0.276 of the problems: +0.151" in text
    assert "p = 0.032 over 3 such: they solve more." in text
    for row in rows_of(tmp_path, "evaluation_contrasts"):
        assert {v for v in row.values() if isinstance(v, float)} <= page.figures


def test_sentences_say_what_the_paired_tests_say(tmp_path: Path) -> None:
    text = words(read(edited(tmp_path)))
    assert (
        "less (50 neurons) on study: accuracy goes from 0.635 to 0.521 on 96 problems, a difference of −0.115 "
        "[−0.206, −0.022], p = 0.007 (0.007 over 3 comparisons): it solves fewer. "
        "less (50 neurons) on moreU+202E: accuracy goes from 0.635 to 0.688 on 96 problems, a difference of +0.052 "
        "[−0.039, +0.144], p = 0.125 (0.125 over 3 comparisons): a difference is not shown. With so many problems "
        "a difference of 0.144 or more would be shown in four of five tries, among so many comparisons."
    ) in text
    assert (
        "p = 1.000 (1.000 over 3 comparisons): a difference is not shown. No problem was solved by only one of the two." in text
    )
    assert text.count("it solves fewer") == 1 and "it solves more" not in text
    assert "less on study: p 0.007, −0.115 [−0.206, −0.022]; less on moreU+202E: p 0.125, +0.052" in text  # the figure


@pytest.mark.parametrize(("many", "p"), [(1, 0.001), (4, 0.001), (5, 0.001), (1, 0.2)])
def test_what_became_of_the_first_formula(tmp_path: Path, many: int, p: float) -> None:
    complete(tmp_path)
    became = [("right", "right", 3), ("right", "wrong", 24), ("right", "missing", 130), ("right", None, 29)]
    became += [("wrong", "missing", 28), ("wrong", "right", 1)]
    names = [f"less{i}" for i in range(many)]
    each = [
        answer(name, f"{i}-{j}", True, False, first_result_base=before, first_result=after)
        for name in names
        for i, (before, after, count) in enumerate(became)
        for j in range(count)
    ]
    keys = [f"first_{outcome}{end}" for end in ("_base", "") for outcome in ("right", "wrong", "missing")]
    found = dict(zip(keys, (186, 29, 0, 4, 24, 158), strict=True))
    rows = [figures(name, "study", p, -0.3, **found) for name in names]
    rows.append(figures("words", "days", 0.0042, -0.25, **dict.fromkeys(keys, 0)))
    did(tmp_path, "evaluate", {"evaluations": rows, "evaluations_by_problem": each, "evaluation_contrasts": [],
                               "evaluation_curves": [], "evaluation_candidates": []})  # fmt: skip
    text = words(read(tmp_path))
    said = (
        "With less0 on study the first formula’s result is right in 4 texts, untouched in 186. Of these 3 stay so; in 24 a "
        "wrong number stands there, in 130 no number, in 29 there is no such formula."
    )
    assert (said in text) == (p < 0.05 and many <= FEW) and "With words on days" not in text
    assert "less0study96186290424158" + "32413029" in text and "wordsdays960" not in text  # a row of the table


def test_what_was_trained_stands_in_one_table(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for seed, difference in ((0, 0.0625), (1, 0.1875)):
        about = {"method": "values", "chosen_by": f"size{HOSTILE}", "numbers": 51234, "rate": 0.01, "seed": seed}
        about |= {
            "terms": "a",
            "validation_base": 0.5123,
            "validation": 0.4 + seed / 8,
            "minutes": 2.5,
            "peak_gib": 3.25 + seed,
        }
        rows += [figures(f"v{seed}", data, 0.2, difference / scale, **about) for data, scale in (("study", 1), ("more", 2))]
        rows.append(figures(f"r{seed}", "study", 0.2, -difference, **about | {"random": seed, "terms": "b", "written": 0.25}))
    rows.append(figures("by-hand", "study", 0.2, 0.3))
    did(complete(tmp_path), "evaluate", {"evaluations": rows})
    text = words(read(tmp_path))
    trained = text[text.index("What was trained") :]
    assert f"size{HOSTILE}51,23420.5120.463+0.125[+0.062, +0.188]+0.062[+0.031, +0.094]−0.050" in trained.replace(" [", "[")
    assert f"random, like size{HOSTILE}51,23420.5120.463written 0.250−0.125[−0.188, −0.062]–" in trained.replace(" [", "[")
    assert "by-hand" not in trained[: trained.index("How often")]
    assert "<script>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("p", "difference", "said"),
    [(0.0499, 0.1, "it solves more"), (0.0499, -0.1, "it solves fewer"), (0.05, -0.5, "a difference is not shown"),
     (1.0, 0.0, "a difference is not shown"), (None, None, "nothing was compared")],
)  # fmt: skip
def test_the_test_decides_and_not_the_difference(p: float | None, difference: float | None, said: str) -> None:
    assert says({"p_value": 0.001, "p_holm": p, "difference": difference}) == said


def test_fewer_than_random_ones_on_average_is_not_unlike_them() -> None:
    row = {"p_holm": 0.005, "difference": -0.223}
    assert _more(row | {"p_unlike_holm": None}) == _more(row) == "they solve fewer"
    assert _more(row | {"p_unlike": 0.04, "p_unlike_holm": 1 / 6}) == (
        "they solve fewer than random ones on average; that another random set would not is not shown (p 0.167 by its rank as "
        "one more of those)"
    )
    assert "would not is shown (p 0.048" in _more(row | {"p_unlike_holm": 1 / 21})
    assert _more(row | {"p_holm": 0.05, "p_unlike_holm": 1 / 21}) == "a difference is not shown"


def test_too_few_problems_to_show_anything(tmp_path: Path) -> None:
    did(complete(tmp_path), "evaluate", {"evaluations": [figures("e", "study", 0.5, -0.4, n=5, detectable=1.0, neurons=1)]})
    text = words(read(tmp_path))
    assert "e (1 neuron) on study" in text and "not shown. So few problems can show no difference below 1." in text


def test_what_was_written_is_shown_as_text(tmp_path: Path) -> None:
    page = read(edited(tmp_path))
    source = (tmp_path / "report.html").read_text()
    assert not page.open
    assert not {tag for tag, _ in page.elements} & {"script", "b"}
    assert "\x1b" not in source and "\u202e" not in source and "<script>" not in source
    assert "&lt;script&gt;alert(&#39;edit&#39;)&lt;/script&gt;\\x1b[31mU+202E" in source
    assert f"one  two {HOSTILE}\\x1b[31mU+202E" in page.text and "one<br>  two " in source
    assert f"same {HOSTILE}" in page.text and "<b>How</b> many?" in page.text
    assert "a" * 1313 + " … " + "a" * 184 in page.text and "a" * LONGEST not in page.text
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_some_of_each_kind_are_side_by_side(tmp_path: Path) -> None:
    text = words(read(edited(tmp_path)))
    text = text[text.index("Answers side by side where they differ") :]
    names = ("lost-0", "lost-1", "lost-2", "gained-0", "gained-1", "kept-1", "kept-2", "kept-3")
    places = [text.index(f"study, {name}") for name in names]
    assert places == sorted(places) and EXAMPLES == 3
    assert "lost-3" not in text and "kept-0" not in text  # that one is the same
    assert "less: 4 lost, 2 gained, 3 written otherwise; all data sets together" in text
    assert "written otherwise study, kept-1" in text
    assert (
        "lost study, lost-1What of lost-1?right: 12base says of lost-1read as 12less says of lost-1no answer was read" in text
    )
    assert "gained study, gained-0What of gained-0?right: 12base says of gained-0read as 11" in text


def test_without_edits_it_takes_no_room(tmp_path: Path) -> None:
    page = read(complete(tmp_path))
    assert "#edits" not in (tmp_path / "report.html").read_text() and "cotscope evaluate" not in page.text
    assert "edits" not in [attributes.get("id") for _, attributes in page.elements]


def test_what_is_stale_is_not_shown(tmp_path: Path) -> None:
    edited(tmp_path)
    (tmp_path / "tables/evaluations.parquet").unlink()
    page = read(tmp_path)
    assert -0.1146 not in page.figures and "it solves fewer" not in page.text and "alert('edit')" not in page.text
    assert "evaluations changed" in page.text and "cotscope evaluate RUN" in page.text
    assert Run.open(tmp_path).states()["evaluate"].status == "stale"
