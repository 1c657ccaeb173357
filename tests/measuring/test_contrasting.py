"""Edits of chosen neurons beside others: which are compared, over what, and what is said of a difference that is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cotscope.edits.edit import Base, Edit
from cotscope.edits.made import training
from cotscope.measuring.editing.contrasting import contrasts, grouped, unpaired
from cotscope.records import Neuron
from cotscope.stats import groups_difference, holm, share_of_gain, unlike_p

BASE = Base("tiny", "0" * 64, 3, 48)


def trained(name: str, method: str, by: str, data: str = "study", **chosen: Any) -> Edit:
    tuned = {"method": method, "data": data, "seed": int(name[-1])}
    return Edit.scaled(name, BASE, [Neuron(0, 1)], 1.5, chosen={"by": by, "tuned": tuned} | chosen)


def answers(edits: list[Edit], solved: dict[str, list[bool]], data: str = "study") -> list[dict[str, Any]]:
    words = ("apples", "rooms", "trains", "fish")  # two problems of each template
    return [
        {"data": data, "edit": e.name, "problem_id": f"p{i}", "correct": right, "correct_base": i % 2 == 0}
        | {"question": f"{words[i // 2]} {words[i // 2]} and {i}?", "first_result": None, "first_result_base": None}
        for e in edits
        for i, right in enumerate(solved[e.name])
    ]


def test_chosen_neurons_stand_beside_random_ones_and_the_whole_model() -> None:
    edits = [
        *(trained(f"a{s}", "values", "attribution", first=10) for s in (0, 1)),
        *(trained(f"r{s}", "values", "attribution", first=10, random=s) for s in (0, 1)),
        trained("other0", "values", "attribution", first=20, random=0),
        trained("lora0", "lora", "lora"),
        trained("else0", "full", "full", data="others"),
        Edit.scaled("x", BASE, [Neuron(0, 1)], 2.0),
    ]
    rng = np.random.default_rng(0)
    solved = {e.name: (rng.random(8) < 0.5).tolist() for e in edits}
    rows = contrasts(edits, answers(edits, solved))
    assert [(r["chosen"], r["beside"], r["edits"], r["edits_beside"]) for r in rows] == [
        ("values by attribution", "values of random, like attribution, the first 10", 2, 2),
        ("values by attribution", "lora", 2, 1),
        ("values of random, like attribution, the first 10", "lora", 2, 1),
        ("values of random, like attribution, the first 20", "lora", 1, 1),
        ("values by attribution", "base", 2, 0),
        ("values of random, like attribution, the first 10", "base", 2, 0),
    ]
    first, untouched = rows[0], [float(i % 2 == 0) for i in range(8)]
    assert rows[4]["difference"] == pytest.approx(np.mean([solved["a0"], solved["a1"]]) - 0.5)
    shares = share_of_gain(untouched, [solved["a0"], solved["a1"]], [solved["lora0"]], [0, 0, 1, 1, 2, 2, 3, 3])
    assert tuple(rows[1][k] for k in ("share", "share_low", "share_high")) == pytest.approx(shares, nan_ok=True)
    assert all(r["share"] is None for r in rows if r["beside"] != "lora")
    assert (first["n"], first["templates"]) == (8, 4)
    expected = groups_difference(
        [solved["a0"], solved["a1"]], [solved["r0"], solved["r1"]], [0, 0, 1, 1, 2, 2, 3, 3]
    )  # fmt: skip
    assert tuple(first[k] for k in ("difference", "difference_low", "difference_high", "p_value")) == pytest.approx(expected)
    assert first["difference"] == pytest.approx(first["accuracy"] - first["accuracy_beside"])
    assert [r["p_holm"] for r in rows] == pytest.approx(holm([r["p_value"] for r in rows]))
    assert first["p_unlike"] == unlike_p(first["accuracy"], [np.mean(solved["r0"]), np.mean(solved["r1"])])
    assert [(r["p_unlike"], r["p_unlike_holm"]) for r in rows[1:]] == [(None, None)] * 5
    assert first["p_unlike_holm"] == first["p_unlike"]
    assert all(v is None for r in rows for k, v in r.items() if k.startswith("first"))  # no text has a formula


def test_first_results_are_compared_as_problems_solved_are() -> None:
    edits = [trained("a0", "values", "attribution"), *(trained(f"r{s}", "values", "attribution", random=s) for s in range(20))]
    solved = {e.name: [i < 4 for i in range(8)] for e in edits}
    right = {e.name: [i < (0 if e.name == "a0" else 5 + int(e.name[1:]) % 4) for i in range(8)] for e in edits}
    rows = [
        r | {"first_result": "right" if right[r["edit"]][int(r["problem_id"][1:])] else "wrong", "first_result_base": "right"}
        for r in answers(edits, solved)
    ]
    beside, base = contrasts(edits, rows)
    assert beside["difference"] == 0 and beside["p_unlike"] == 1
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    others = [right[f"r{s}"] for s in range(20)]
    expected = groups_difference([right["a0"]], others, clusters)
    assert tuple(beside[f"first_difference{end}"] for end in ("", "_low", "_high")) == pytest.approx(expected[:3])
    assert (beside["first"], beside["first_beside"]) == (0, pytest.approx(np.mean(others)))
    assert beside["first_unlike"] == pytest.approx(1 / 21)
    assert (base["first"], base["first_beside"], base["first_unlike"]) == (pytest.approx(np.mean(others)), 1, None)


def test_seeds_of_one_random_set_are_no_sets_of_their_own() -> None:
    """Two random sets that differ much, with three seeds each that differ little, are two and not six."""
    chosen = [trained(f"a{s}", "values", "attribution") for s in range(3)]
    random = [trained(f"{n}{s}", "values", "attribution", random=r) for r, n in enumerate("rq") for s in range(3)]
    counts = {"a": 4, "r": 1, "q": 6}
    solved = {e.name: [i < counts[e.name[0]] for i in range(8)] for e in (*chosen, *random)}
    row = contrasts([*chosen, *random], answers([*chosen, *random], solved))[0]
    assert (row["edits"], row["edits_beside"]) == (3, 6)
    expected = groups_difference([solved[f"a{s}"] for s in range(3)], [solved["r0"], solved["q0"]], [0, 0, 1, 1, 2, 2, 3, 3])
    assert tuple(row[k] for k in ("difference", "difference_low", "difference_high", "p_value")) == pytest.approx(expected)
    assert row["p_unlike"] == unlike_p(4 / 8, [1 / 8, 6 / 8])
    # Of one set its seeds are what there is.
    one = [*chosen, *random[:3]]
    row = contrasts(one, answers(one, solved | {"r1": [True] * 8}))[0]
    others = [solved["r0"], [True] * 8, solved["r2"]]
    expected = groups_difference([solved[f"a{s}"] for s in range(3)], others, [0, 0, 1, 1, 2, 2, 3, 3])
    assert row["p_value"] == pytest.approx(expected[3]) and row["p_unlike"] == 1


def test_what_a_file_says_is_of_any_kind() -> None:
    odd = [trained(f"a{s}", "values", "attribution", random=[s]) for s in range(2)]
    odd += [trained(f"h{s}", "val\udcff", "attr\udcff") for s in range(2)]
    rows = contrasts(odd, answers(odd, {e.name: [True, False] for e in odd}))
    assert [(r["chosen"], r["edits"]) for r in rows] == [("values of random, like attribution", 2), ("val? by attr?", 2)]


def test_draws_where_nothing_is_drawn_are_none() -> None:
    """An older file says how many were asked for; a newer one of the same training says 0."""
    edits = [trained(f"{n}0", "values", "attribution", **more) for n, more in (("a", {}), ("r", {"random": 0}))]
    edits[0].chosen["tuned"] |= {"draws": 4, "own": False}
    edits[1].chosen["tuned"] |= {"draws": 0, "own": False}
    assert not unpaired(edits) and training(edits[0])["draws"] == 0
    edits[0].chosen["tuned"]["own"] = True
    assert unpaired(edits) and training(edits[0])["draws"] == 4


def test_several_chosen_sets_beside_twenty_random_ones_each_are_as_many_tests() -> None:
    edits = [trained("x0", "values", by) for by in ("attribution", "lexicon")]
    edits = [replace(e, name=f"{e.chosen['by'][0]}0") for e in edits]
    edits += [
        replace(trained("x0", "values", by, random=r), name=f"{by[0]}r{r}")
        for by in ("attribution", "lexicon")
        for r in range(20)
    ]
    solved = {e.name: [i < (0 if len(e.name) == 2 else 4 + int(e.name[2:]) % 4) for i in range(8)] for e in edits}
    rows = [r for r in contrasts(edits, answers(edits, solved)) if r["p_unlike"] is not None]
    assert [(r["p_unlike"], r["p_unlike_holm"]) for r in rows] == [pytest.approx((1 / 21, 2 / 21))] * 2


@pytest.mark.parametrize("goal", ["worse", "better"])
def test_a_search_with_a_goal_is_one_more_of_the_random_sets_on_one_side(goal: str) -> None:
    """However far below the mean of four sets it lies: with a goal that was known before, how many are as far that way."""

    def steered(name: str, **random: int) -> Edit:
        return Edit.scaled(
            name, BASE, [Neuron(0, len(name))], 0.0, chosen={"by": "attribution", "steered": {"goal": goal}} | random
        )

    edits = [steered("chosen"), *(steered(f"r{s}", random=s) for s in range(4))]
    right = {"chosen": 1, "r0": 0, "r1": 3, "r2": 4, "r3": 6} if goal == "better" else {
        "chosen": 1, "r0": 2, "r1": 3, "r2": 4, "r3": 8
    }  # fmt: skip
    [row] = (r for r in contrasts(edits, answers(edits, {n: [i < k for i in range(8)] for n, k in right.items()}))
             if r["chosen"].endswith("attribution") and "random" in r["beside"])  # fmt: skip
    assert row["edits_beside"] == 4 and row["p_unlike"] == {"worse": 1 / 5, "better": 4 / 5}[goal]


def test_trainings_in_other_dtypes_are_no_seeds_of_one_another() -> None:
    def within(edit: Edit, dtype: str) -> Edit:
        return replace(edit, chosen=edit.chosen | {"tuned": edit.chosen["tuned"] | {"dtype": dtype}})

    half = [within(trained(n, "values", "attribution"), "bfloat16") for n in ("a0", "a1")]
    edits = [
        *half,
        within(trained("b0", "values", "attribution"), "float32"),
        within(trained("r0", "values", "attribution", random=0), "float32"),
        within(trained("full0", "full", "full"), "float32"),
    ]
    rows = contrasts(edits, answers(edits, {e.name: [True, False] for e in edits}))
    assert [(r["chosen"], r["beside"], r["edits"]) for r in rows] == [
        ("values by attribution", "full", 2),
        ("values by attribution", "values of random, like attribution", 1),
        ("values by attribution", "full", 1),
        ("values of random, like attribution", "full", 1),
        ("values by attribution", "base", 2),
    ]


def test_trainings_that_are_written_in_other_dtypes_are_named_apart() -> None:
    edits = [trained(f"full{s}", "full", "full") for s in range(4)]
    for edit in edits[2:]:
        edit.chosen["tuned"] |= {"stored": "float32", "warmup": 8}
    groups = grouped(edits)
    assert {g.name: names for g, names in groups.items()} == {
        "full": ["full0", "full1"],
        "full, written in float32, warm-up of 8 steps": ["full2", "full3"],
    }
    rows = contrasts(edits, answers(edits, {e.name: [True, False] for e in edits}))
    assert ("full", "full, written in float32, warm-up of 8 steps") in {(r["chosen"], r["beside"]) for r in rows}


def test_what_was_trained_of_the_whole_model_stands_beside_one_another() -> None:
    edits = [*(trained(f"all{s}", "factors", "all") for s in (0, 1)), *(trained(f"full{s}", "full", "full") for s in (0, 1)),
             trained("lora0", "lora", "lora", data="others")]  # fmt: skip
    rows = contrasts(
        edits,
        [{"data": "study", "edit": e.name, "problem_id": f"p{i}", "correct": True, "correct_base": i % 2 == 0}
         | {"question": f"How many {chr(97 + i) * 5} are {chr(97 + i) * 7}?", "first_result": None, "first_result_base": None}
             for e in edits for i in range(24)],
    )  # fmt: skip
    assert [(r["chosen"], r["beside"], r["edits"], r["edits_beside"]) for r in rows] == [
        ("factors of all neurons", "full", 2, 2), ("factors of all neurons", "base", 2, 0), ("full", "base", 2, 0)
    ]  # fmt: skip
    assert [r["difference"] for r in rows] == [0, 0.5, 0.5] and rows[0]["share"] == 1


def test_what_is_no_seed_of_another_is_not_averaged_with_it() -> None:
    def told(name: str, **tuned: Any) -> Edit:
        edit, factors = trained(name, "values", "attribution"), {Neuron(0, ord(name[0]) % 48): (0.5, 0.5)}
        return replace(edit, chosen=edit.chosen | {"tuned": edit.chosen["tuned"] | tuned}, factors=factors)

    whole = [replace(told("l0", method="lora"), chosen={"by": "lora", "tuned": {"method": "lora", "data": "study", "seed": 0}})]

    def groups(*edits: Edit) -> list[tuple[str, int]]:
        every = [*edits, *whole]
        rows = contrasts(every, answers(every, {e.name: [True, False] for e in every}))
        return [(r["chosen"], r["edits"]) for r in rows]

    # Seeds may have each a rate of their own.
    assert groups(told("a0", rate=0.1), told("b1", rate=0.3)) == [("values by attribution", 2)] * 2  # beside lora, and the base
    # One seed at two rates is two trainings.
    assert groups(told("a0", rate=0.1), told("b0", rate=0.3)) == [
        ("values by attribution, rate 0.1", 1), ("values by attribution, rate 0.3", 1)
    ]  # fmt: skip
    # More numbers, or more passes (which the whole model was not given), are another training.
    assert groups(told("a0", numbers=5), told("b1", numbers=6)) == [("values by attribution", 1), ("values by attribution", 1)]
    assert groups(told("a0"), told("b1", passes=6)) == [("values by attribution", 1)]
    # A renamed copy is no second seed.
    assert groups(told("a0"), replace(told("a0"), name="c0")) == [("values by attribution", 1)]
    # A table tells groups apart by their keys: of seeds at two rates each, too, which are of one name otherwise.
    of = grouped([told(f"{name}{seed}", rate=rate) for name, rate in (("a", 0.1), ("b", 0.3)) for seed in (0, 1)])
    assert list(of.values()) == [["a0", "a1"], ["b0", "b1"]] and len({group.key for group in of}) == 2
    again = grouped([told("a0"), told("b1", passes=6)])
    assert len({group.key for group in again}) == 2 and len({group.name for group in again}) == 1


def test_trainings_of_one_name_on_other_problems_are_no_seeds() -> None:
    """`study` of two runs, or a file that has changed: its name does not tell, the fingerprint of what is in it does."""

    def on(name: str, method: str, by: str, of: str, **chosen: Any) -> Edit:
        edit = trained(name, method, by, **chosen)
        return replace(edit, chosen=edit.chosen | {"tuned": edit.chosen["tuned"] | {"of": of}})

    here, there = (on(f"l{i}", "lora", "lora", of) for i, of in enumerate("ab"))
    assert list(grouped([here, there]).values()) == [["l0"], ["l1"]]
    assert list(grouped([here, on("l1", "lora", "lora", "a")]).values()) == [["l0", "l1"]]
    chosen = on("v0", "values", "attribution", "a")
    rows = contrasts(
        [chosen, here, there], answers([chosen, here, there], {name: [True, False] for name in ("v0", "l0", "l1")})
    )
    assert [(r["chosen"], r["beside"], r["edits_beside"]) for r in rows] == [("values by attribution", "lora", 1)]
    # Neurons that were found with other problems are others, whatever the run's folder is called.
    found = [trained(f"a{i}", "values", "attribution", found=of) for i, of in enumerate("ab")]
    assert list(grouped(found).values()) == [["a0"], ["a1"]]


def test_a_training_that_was_cut_is_no_seed_of_one_that_was_not() -> None:
    edits = [trained(f"a{i}", "values", "attribution") for i in range(3)]
    for edit, more in zip(edits[1:], ({"ended": "stopped after 10 min"}, {"checkpointing": True}), strict=True):
        edit.chosen["tuned"].update(more)
    assert [g.name for g in grouped(edits)] == [
        "values by attribution", "values by attribution, stopped after 10 min", "values by attribution, prompts trained through"
    ]  # fmt: skip


def test_a_search_of_rates_that_was_stopped_is_a_seed_if_its_passes_are_whole() -> None:
    """As with `compare --minutes`: the first seed searches, the others take its rate."""
    edits = [
        trained(f"{n}{s}", "values", "attribution", **more) for s in range(2) for n, more in (("a", {}), ("r", {"random": s}))
    ]
    edits[0].chosen["tuned"].update({"ended": "stopped after 10 min", "cut": False})
    assert list(grouped(edits).values()) == [["a0", "a1"], ["r0", "r1"]]
    assert unpaired(edits) == []


def test_edits_of_one_way_of_choosing_are_told_apart_by_what_differs() -> None:
    def made(name: str, factor: float = 0.0, **chosen: Any) -> Edit:
        return Edit.scaled(name, BASE, [Neuron(0, 1)], factor, chosen={"by": "size", "found": "x", "among": "y"} | chosen)

    edits = [made("a", first=10), made("b", first=50), made("c", first=50, random=0), made("d", 2.0, first=50)]
    edits += [made("e", layers=[0, 1]), made("f", by="reasoning", concepts=["addition"]), made("g", by="words", first=7)]
    assert [group.name for group in grouped(edits)] == [
        "an edit by size, the first 10, × 0", "an edit by size, the first 50, × 0", "an edit of random, like size",
        "an edit by size, the first 50, × 2", "an edit by size, layers 0 to 1, × 0", "an edit by reasoning", "an edit by words",
    ]  # fmt: skip
    assert [group.name for group in grouped(edits[1:3])] == ["an edit by size", "an edit of random, like size"]


def test_chosen_neurons_whose_control_was_made_otherwise_are_named() -> None:
    edits = [
        trained("a0", "values", "attribution"),
        trained("r0", "values", "attribution", random=0),
        trained("full0", "full", "full"),
    ]
    assert unpaired(edits) == []
    edits[1].chosen["tuned"].update({"ended": "stopped after 10 min", "cut": True})
    [said] = unpaired(edits)
    assert said.startswith(
        "a0 (values by attribution) and r0 (values of random, like attribution, stopped after 10 min) are not"
    )
    assert unpaired([edits[0], edits[2]]) == [], "there is no control"
    plain = [Edit.scaled(n, BASE, [Neuron(0, i)], f, chosen={"by": "size"} | ({"random": 0} if n == "c" else {}))
             for i, (n, f) in enumerate((("a", 0.0), ("b", 0.5), ("c", 0.0)))]  # fmt: skip
    [said] = unpaired(plain)
    assert said.startswith("b (an edit by size, × 0.5) and c (an edit of random, like size) are not"), "a and c are"


def test_searches_and_plain_edits_have_random_ones_beside_them() -> None:
    def steered(name: str, goal: str, **chosen: Any) -> Edit:
        found = {"goal": goal, "data": "study", "problems": 8, "candidates": 32}
        return Edit.scaled(name, BASE, [Neuron(0, 1)], 1.5, chosen={"by": "attribution", "steered": found} | chosen)

    edits = [steered("s", "better"), steered("r", "better", random=0), steered("w", "worse", random=0)]
    edits += [Edit.scaled(n, BASE, [Neuron(0, i)], f, chosen={"by": "reasoning"} | ({"random": 0} if n == "c" else {}))
              for i, (n, f) in enumerate((("b", 0.0), ("c", 0.0), ("d", 0.5)))]  # fmt: skip
    rows = contrasts(edits, answers(edits, {e.name: [True] * 8 for e in edits}))
    assert [(r["chosen"], r["beside"]) for r in rows] == [
        ("steered to be better by attribution", "steered to be better of random, like attribution"),
        ("an edit by reasoning, × 0", "an edit of random, like reasoning"),
    ]
    assert {r["difference"] for r in rows} == {0} and all(r["difference_low"] < 0 < r["difference_high"] for r in rows)


def test_searches_over_other_factors_or_in_another_precision_are_no_controls() -> None:
    def searched(name: str, chosen: dict[str, Any], **settings: Any) -> Edit:
        found = {"goal": "worse", "data": "study", "candidates": 6, "factors": [0, 2], "dtype": "bfloat16"} | settings
        return Edit.scaled(name, BASE, [Neuron(0, 1)], 1.5, chosen={"by": "attribution", "steered": found} | chosen)

    own = searched("s", {})
    for other, beside in (({}, 1), ({"factors": [0, 3]}, 0), ({"dtype": "float32"}, 0)):
        edits = [own, searched("r", {"random": 0}, **other)]
        assert len(contrasts(edits, answers(edits, {e.name: [True] * 8 for e in edits}))) == beside


def test_searches_of_one_seed_that_chose_otherwise_are_no_seeds() -> None:
    found = {"goal": "better", "data": "study", "problems": 32, "candidates": 40, "groups": ["first"], "last": 2}
    edits = [Edit.scaled(f"s{i}", BASE, [Neuron(0, i)], 1.5, chosen={"by": "attribution", "steered": found}) for i in range(2)]
    assert sorted(map(len, grouped(edits).values())) == [1, 1]
    assert [g.alone for g in grouped(edits)] == ["s0", "s1"]


def test_nothing_to_compare() -> None:
    edits = [trained("a0", "values", "attribution"), trained("b0", "factors", "attribution", random=1)]
    edits.append(Edit.scaled("x", BASE, [Neuron(0, 1)], 2.0, chosen={"by": ["?"], "tuned": 7}))
    assert contrasts(edits, answers(edits, {e.name: [True] * 8 for e in edits})) == []


def test_models_that_differ_by_their_seeds_alone_are_seldom_told_apart() -> None:
    """Four templates of each seed go their own way; over problems alone that is "shown" far more often than at 0.05."""
    rng, said, over_problems = np.random.default_rng(0), 0, 0
    clusters = np.repeat(np.arange(30), 3)
    for _ in range(400):
        groups = []
        common = rng.normal(0, 1.5, 30)
        for _group in range(2):
            of = [common + rng.normal(0, 0.7, 30) + rng.normal(0, 0.5) for _seed in range(3)]
            groups.append([(rng.random(90) < 1 / (1 + np.exp(-np.repeat(t, 3)))).tolist() for t in of])
        said += groups_difference(*groups, clusters)[3] <= 0.05
        pooled = np.subtract(*(np.mean(g, axis=0) for g in groups))
        over_problems += abs(pooled.mean()) > 1.96 * pooled.std() / np.sqrt(90)
    assert said / 400 <= 0.07 < 0.12 < over_problems / 400


def test_one_model_each_is_over_clusters_and_one_cluster_says_nothing() -> None:
    a, b = [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0]
    difference, low, high, p = groups_difference([a], [b], range(6))
    assert difference == pytest.approx(1 / 3) and low < 0 < high < 1 and p > 0.05
    assert groups_difference([a], [b], [0] * 6) == (pytest.approx(1 / 3), -1.0, 1.0, 1.0)
    assert all(np.isnan(groups_difference([[]], [[]], [])))
