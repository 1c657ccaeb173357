"""`cotscope steer` on a tiny study: what it found is what the engine says, and it goes on where it was stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TinyStudy

from cotscope.cli import main, tune
from cotscope.data.answers import is_correct, parse_flexible
from cotscope.edits.edit import Edit
from cotscope.edits.made import candidates, search
from cotscope.errors import EditError, UserError
from cotscope.lm import scoring
from cotscope.lm.engine import Engine
from cotscope.lm.interventions import scale
from cotscope.lm.scoring import Given, score
from cotscope.measuring.choosing import Choice, choose
from cotscope.measuring.editing import steering
from cotscope.measuring.editing.steering import Search, steer
from cotscope.measuring.solutions import solution
from cotscope.prompts.derive import render_solution
from cotscope.records import Neuron, Problem
from cotscope.runs.folder import Run
from cotscope.runs.kept import Kept
from cotscope.runs.session import Session
from cotscope.stats import mcnemar_exact

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ends")]
WORSE = Search("worse", problems=8, factors=(0.0, 0.5, 3.0), sizes=(3,), groups=("first",))


@pytest.fixture(scope="module")
def session(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A study of 6 test and 6 discovery problems: 8 are left for tuning."""
    out = tmp_path_factory.mktemp("runs") / "steer"
    options = [*tiny_study.options(), "--limit", "6", "--discover-limit", "6", "--tune-limit", "8"]
    assert main(["discover", *options, "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), "--outcomes", "keystones"]) == 0
    assert list(Run.open(out).states()) == ["discover", "annotate", "keystones"]
    return Session.reopen(out, quiet=True)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's perplexity says nothing."""
    monkeypatch.setattr(steering, "PERPLEXITY", {"better": 1e9, "worse": 1e9})


def right(session: Session, edit: Edit | None) -> list[bool]:
    """Which tuning problems are solved, by the engine asked apart."""
    problems = session.inputs.split.tuning[:8]
    written = session.engine.generate(
        [session.prompt.text(p.question) for p in problems],
        max_new_tokens=session.config.new_tokens(session.prompt),
        stop=session.prompt.stop,
        intervention=None if edit is None else edit.intervention(session.loaded.anatomy),
    )
    return [is_correct(parse_flexible(c.text), p.answer) for p, c in zip(problems, written, strict=True)]


@pytest.mark.usefixtures("lenient")
def test_what_it_found_is_what_the_engine_says(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "templates", lambda questions: list(range(len(questions))))  # each of its own
    monkeypatch.setattr(steering, "RUNGS", (1, 2))
    edit = steer(session, tmp_path / "worse.json", Choice("reasoning"), WORSE)
    found = edit.chosen["steered"]
    before, after = right(session, None), right(session, edit)
    assert found["untouched"] == sum(before) > found["solved"] == sum(after)
    worked = [i for i, p in enumerate(session.inputs.split.tuning) if p.has_solution]
    fresh = worked[1] + 1  # after the second solution, the last that is scored
    expected = mcnemar_exact(before[fresh:], after[fresh:])
    assert found["p_value"] == pytest.approx(min(1, 3 * expected)) and 0 < fresh < 6
    assert found["candidates"] == 6 and len(found["survivors"]) == 3
    assert found["solved"] == min(s[2] for s in found["survivors"])
    assert len(edit.neurons) == found["neurons"] and {f for f, _ in edit.factors.values()} == {found["factor"]}
    assert len(edit.chosen["questions"]) >= 8
    assert [p.name for p in tmp_path.iterdir()] == ["worse.json"]
    assert Edit.read(tmp_path / "worse.json") == edit


@pytest.mark.usefixtures("lenient")
def test_what_was_tried_stands_in_the_edit(session: Session, tmp_path: Path) -> None:
    edit = steer(session, tmp_path / "worse.json", Choice("reasoning"), replace(WORSE, survivors=1))
    rows = candidates(edit)
    assert len(rows) == edit.chosen["steered"]["candidates"] == 6
    [taken] = [r for r in rows if r["taken"]]
    assert taken is rows[0] and taken["factor"] == edit.chosen["steered"]["factor"]
    assert taken["solved"] == edit.chosen["steered"]["solved"] and taken["perplexity"] > 0
    assert [r["solved"] for r in rows[1:]] == [None] * 5
    assert all(r["perplexity_begins"] > 0 and r["round_1"] is not None for r in rows)
    assert sum(r["round_2"] is not None for r in rows) == 2  # the better third
    assert {r["neurons"] for r in rows} == set(edit.chosen["steered"]["groups"])


@pytest.mark.parametrize(("goal", "taken"), [("better", 6), ("worse", 3)])
def test_what_scores_best_goes_on_and_what_solves_most_or_least_is_taken(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str, taken: int
) -> None:
    every = [("all", float(i)) for i in range(12)]
    problems = [Problem(f"p{i}", f"{i}?", "7") for i in range(8)]
    trial = steering._Trial(session, {"all": [Neuron(0, 1)]}, Search(goal), problems, 0, Kept(tmp_path / "e", ""))
    given, asked = list(range(20)), dict[int, list[float]]()

    def score(candidate: Any, some: Any, progress: Any) -> float:
        asked.setdefault(len(some), []).append(candidate[1])
        if len(some) == steering.RUNGS[0]:  # 10, 9, 8, 7 are the best third
            return float({11: -1, 10: 99}.get(candidate[1], candidate[1]))
        return -abs(candidate[1] - 8.9)  # 9, 8, 10, 7

    monkeypatch.setattr(trial, "score", score)
    monkeypatch.setattr(trial, "fitting", lambda some, progress=None, at_most=None: [c for c in some if at_most or c[1] != 9])
    left = trial.halved(every, given)  # type: ignore[arg-type]
    first, second = steering.RUNGS
    assert asked == {first: [c[1] for c in every], second: [10, 9, 8, 7]}
    assert left == [("all", 8), ("all", 10), ("all", 7)], "the best of the second round that leave the whole text alone"
    solves = {None: 5, left[0]: 4, left[1]: 6, left[2]: 3}
    monkeypatch.setattr(trial, "solved", lambda c, progress: [i < solves[c] for i in range(8)])
    found, error = trial.decided(left)
    assert error is None and found["solved"] == taken and found["untouched"] == 5
    assert solves[found["group"], found["factor"]] == taken
    solves[None] = taken
    found, error = trial.decided(left)
    assert error is not None and found["solved"] == taken and found["neurons"] == 0


@pytest.mark.parametrize("goal", steering.GOALS)
def test_a_score_is_what_the_engine_makes_of_the_solutions(session: Session, tmp_path: Path, goal: str) -> None:
    problems = [p for p in session.inputs.split.tuning if p.has_solution][:2]
    given = [solution(session.loaded, p, "", render_solution(p)) for p in problems]
    neurons = [Neuron(layer, i) for layer in range(3) for i in range(0, 48, 3)]
    trial = steering._Trial(session, {"all": neurons}, Search(goal), problems, 0, Kept(tmp_path / "e", ""))
    off = scale(session.loaded.anatomy, neurons, 0.0)
    means = []
    for s in given:
        [tokens] = score(session.engine, Given((session.prompt.text(s.problem.question),), (s.tokens,), intervention=off))
        better = [t.log_prob for t in tokens]
        means.append(fmean(better) if goal == "better" else -fmean(tokens[i].margin for i in s.results))
    assert trial.score(("all", 0.0), given, lambda: None) == pytest.approx(fmean(means), abs=1e-4)
    assert abs(trial.score(("all", 1.0), given, lambda: None) - fmean(means)) > 0.01


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("p", [0.01, 0.02])
def test_what_so_few_problems_can_show_is_said_before_and_after(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], p: float
) -> None:
    monkeypatch.setattr(steering, "clustered_p", lambda *a: p)
    monkeypatch.setattr(steering, "RUNGS", (1, 1))
    said = list[str]()
    edit = steer(session, tmp_path / "worse.json", Choice("reasoning"), WORSE, say=said.append)
    found = edit.chosen["steered"]
    assert any("problems, by which no candidate is scored before, are too few to show" in text for text in said)
    assert found["detectable"] == 1
    assert found["p_value"] == pytest.approx(3 * p) and found["shown"] is (p == 0.01)  # it is the best of three
    tune._say_steered(False, Path("worse.json"), edit)
    assert ("A difference is not shown on so few problems" in capsys.readouterr().out) is not found["shown"]
    assert ("not shown on so few problems" in search(edit)) is not found["shown"]
    monkeypatch.setattr(steering, "detectable_difference", lambda changing, n, tests: 0.25 if tests == 3 else 0.1)
    steer(session, tmp_path / "again.json", Choice("reasoning"), WORSE, say=said.append)
    shows = "change, by which no candidate is scored before, a difference of 0.25 is found in 4 of 5 tries"
    assert any(shows in text for text in said)


@pytest.mark.usefixtures("lenient")
def test_it_goes_on_where_it_was_stopped(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = steer(session, tmp_path / "whole.json", Choice("reasoning"), WORSE)
    calls, generate = [], Engine.generate

    def stopped(self: Engine, *args: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 3:  # the first writes solutions, the second answers without an edit
            raise KeyboardInterrupt
        return generate(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "generate", stopped)
    scored = []
    roles = steering.score_roles
    monkeypatch.setattr(steering, "score_roles", lambda *a: scored.append(1) or roles(*a))
    (other := tmp_path / "other").mkdir()  # solutions that stand beside an edit are taken from there
    with pytest.raises(KeyboardInterrupt):
        steer(session, other / "again.json", Choice("reasoning"), WORSE)
    assert scored and not (other / "again.json").exists()
    scored.clear()
    again = steer(session, other / "again.json", Choice("reasoning"), WORSE)
    assert not scored and len(calls) == 3 + 3  # neither solutions nor that of four conditions that was done
    assert again.factors == whole.factors and again.chosen["steered"] == whole.chosen["steered"]


@pytest.mark.usefixtures("lenient")
def test_random_neurons_go_through_the_same_search(session: Session, tmp_path: Path) -> None:
    own = steer(session, tmp_path / "own.json", Choice("reasoning"), WORSE)
    found = [_tried(session, tmp_path / f"random_{seed}.json", seed) for seed in range(4)]
    drawn = [e for e in found if e is not None]
    assert drawn
    for edit in drawn:
        assert all(row["neurons"].startswith("random ones for ") for row in candidates(edit))
        assert edit.chosen["random"] in range(4) and not set(edit.neurons) & set(own.neurons)
        same = ("goal", "of", "problems", "candidates", "groups", "factors", "last")
        assert [edit.chosen["steered"][k] for k in same] == [own.chosen["steered"][k] for k in same]
        assert len(candidates(edit)) == len(candidates(own)) == 6


@pytest.mark.usefixtures("lenient")
def test_controls_are_made_with_it_and_gone_on_with(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to, run = tmp_path / "worse.json", str(session.run.folder)
    words = ["steer", run, "--by", "reasoning", "--goal", "worse", "--problems", "4", "--survivors", "1", "--group", "first"]
    assert main([*words, "--controls", "2", "--to", str(to), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["worse.json", "worse-random-0.json", "worse-random-1.json"]
    assert [Path(one["edit"]).name for one in told] == names and {p.name for p in tmp_path.glob("worse*")} == {*names}
    edits = [Edit.read(tmp_path / name) for name in names]
    assert [e.chosen.get("random") for e in edits] == [None, 0, 1] and [e.name for e in edits] == [n[:-5] for n in names]
    alone = steer(session, tmp_path / "alone.json", Choice("reasoning", random=1),
                  Search("worse", problems=4, survivors=1, groups=("first",)), null=True)  # fmt: skip
    assert alone.factors == edits[2].factors and alone.chosen["steered"] == edits[2].chosen["steered"]
    (tmp_path / names[1]).unlink()
    assert main([*words, "--controls", "2", "--to", str(to), "--json"]) == 0
    assert [Path(json.loads(line)["edit"]).name for line in capsys.readouterr().out.splitlines()] == names[1:2]
    assert main([*words, "--controls", "2", "--to", str(to)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"left as it is: {tmp_path / name}" for name in names]
    assert main([*words[:5], "better", *words[6:], "--controls", "2", "--to", str(to)]) == 2
    assert "worse.json is another edit; expected one that was made so, or none. Give another --to." in capsys.readouterr().err
    for other in (["--first", "20"], ["--layers", "1-2"], ["--concept", "large"]):
        assert main([*words, *other, "--controls", "2", "--to", str(to)]) == 2
        assert "worse.json is another edit" in capsys.readouterr().err
    for at, value in (("--problems", "3"), ("--group", "layers"), ("--survivors", "2")):
        else_ = [value if words[max(i - 1, 0)] == at else word for i, word in enumerate(words)]
        assert main([*else_, "--controls", "2", "--to", str(to)]) == 2
        assert "worse.json is another edit" in capsys.readouterr().err
    assert Edit.read(tmp_path / names[1]).chosen["steered"] == edits[1].chosen["steered"]
    assert main([*words, "--controls", "2", "--random", "1", "--to", str(tmp_path / "x.json")]) == 2
    assert "random neurons are a control themselves; expected --random or --controls, not both" in capsys.readouterr().err
    assert main([*words, "--to", str(to)]) == 2 and "exists already" in capsys.readouterr().err
    zero = ["edit", run, "--factor", "0", "--controls", "3", "--to", str(tmp_path / "zero.json")]
    assert main([*zero, "--name", "none of them"]) == 0
    (tmp_path / "zero-random-1.json").unlink()
    assert main([*zero[:3], "0.5", *zero[4:]]) == 2 and "zero.json is another edit" in capsys.readouterr().err
    assert main(zero) == 0 and capsys.readouterr().out.count("left as it is") == 3
    zeroed = [Edit.read(p) for p in sorted(tmp_path.glob("zero*.json"))]
    assert sorted(e.name for e in zeroed) == ["none of them", *(f"zero-random-{i}" for i in range(3))]
    assert sorted(str(e.chosen.get("random")) for e in zeroed) == ["0", "1", "2", "None"]
    assert main([*zero[:4], "--poles", *zero[4:6], "--to", str(tmp_path / "y.json")]) == 2
    assert "expected --controls without --poles" in capsys.readouterr().err and not (tmp_path / "y.json").exists()
    several = ["evaluate", run, "--edit", *map(str, sorted(tmp_path.glob("zero*.json"))), "--edit", str(to), "--test", "4"]
    assert main([*several, "--solutions", "1", "--skills", "1"]) == 0
    assert len(Run.open(run).rows("SELECT DISTINCT edit FROM evaluations")) == 5
    [beside] = Run.open(run).rows("SELECT * FROM evaluation_contrasts WHERE chosen = 'an edit by reasoning'")
    assert beside["edits_beside"] == 3 and beside["p_unlike"] >= 1 / 4


@pytest.mark.usefixtures("lenient")
def test_thirds_of_the_layers_and_concepts_are_tried_too(session: Session, tmp_path: Path) -> None:
    search = replace(WORSE, groups=("first", "layers", "concepts"), factors=(0.0,))
    of: dict[int | None, dict[str, list[Neuron]]] = {}
    for random in (3, None):
        of[random], chosen = steering._groups(session, Choice("reasoning", random=random), search)
        whole = next(iter(of[random].values()))
        blocks = [group for name, group in of[random].items() if name.startswith("layers")]
        assert sorted(n for block in blocks for n in block) == sorted(whole) and chosen.get("random") == random
    groups, control, whole = of[None], of[3], choose(session, Choice("reasoning"))[0]
    assert list(groups)[:2] == [f"all {len(whole)}", "the first 3"] and set(groups) >= {"concept small", "concept large"}
    assert (
        groups["the first 3"] == whole[:3]
        and groups["concept small"] == choose(session, Choice("reasoning", concepts=("small",)))[0]
    )
    # The control is searched as what it controls is, and holds none of it; a neuron has one stand-in in all of its groups.
    assert set(control) <= set(groups) and not {n for group in control.values() for n in group} & set(whole)
    assert {n for group in control.values() for n in group} == set(control[f"all {len(whole)}"])
    for name, group in control.items():
        assert len(group) <= len(groups[name]) and {n.layer for n in group} <= {n.layer for n in groups[name]}
    few = steering._groups(session, Choice("reasoning", first=4), search)[0]
    assert {n for group in few.values() for n in group} == set(choose(session, Choice("reasoning", first=4))[0])
    some = steering._groups(session, Choice("reasoning", first=1), search)[0]
    assert list(some) == ["all 1"], "a concept without a neuron among them is no group"
    edit = steer(session, tmp_path / "e.json", Choice("reasoning"), search)
    found = edit.chosen["steered"]
    assert found["candidates"] == len(groups) and set(found["groups"]) == set(groups) and found["group"] in groups
    for name, value, expected in (("groups", ("colours",), "some of first, layers, concepts"),
                                  ("goal", "best", "better or worse"),
                                  ("problems", 0, "a whole number, 1 or more")):  # fmt: skip
        with pytest.raises(UserError, match=f"option '{name}' can't have this value; expected {expected}"):
            replace(search, **{name: value})


def _nobody() -> Any:
    raise AssertionError("it was computed before")


def test_a_control_that_finds_nothing_has_a_result(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steering, "PERPLEXITY", {"better": 0.0, "worse": 0.0})
    with pytest.raises(EditError, match="every candidate changes general text too much"):
        steer(session, tmp_path / "e.json", Choice("reasoning", random=1), WORSE)
    computed = steering.Kept.value
    monkeypatch.setattr(steering.Kept, "value", lambda self, name, compute: computed(self, name, _nobody))
    edit = steer(session, tmp_path / "e.json", Choice("reasoning", random=1), WORSE, null=True)  # all of it was kept
    monkeypatch.setattr(steering.Kept, "value", computed)
    assert edit.nothing and edit.chosen["random"] == 1 and edit.chosen["steered"]["goal"] == "worse"
    monkeypatch.setattr(steering, "PERPLEXITY", {"better": 1e9, "worse": 1e9})
    same = Search("better", problems=8, factors=(1.0,), sizes=())
    edit = steer(session, tmp_path / "f.json", Choice("reasoning"), same, null=True)
    assert edit.nothing and edit.chosen["steered"]["solved"] == edit.chosen["steered"]["untouched"]
    monkeypatch.setattr(steering, "FACTORS", (1.0,))
    words = ["steer", str(session.run.folder), "--by", "reasoning", "--problems", "4", "--group", "first", "--layers", "0-1"]
    monkeypatch.setattr(Search, "factors", (1.0,))
    assert main([*words, "--null", "--to", str(tmp_path / "g.json")]) == 0
    assert "changes nothing" in capsys.readouterr().out and Edit.read(tmp_path / "g.json").chosen["layers"] == [0, 1]


def test_worse_may_change_general_text_in_neither_direction(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that becomes easier without the skill has changed too."""
    perplexities = {"None": 100.0, "('all', 0.0)": 96.0, "('all', 0.5)": 98.0, "('all', 2.0)": 100.5, "('all', 3.0)": 104.0}
    found = {name: SimpleNamespace(perplexity=perplexity) for name, perplexity in perplexities.items()}
    monkeypatch.setattr("cotscope.lm.scoring.text_scores", lambda *a, **more: found)
    memory = SimpleNamespace(value=lambda name, compute: compute())
    neurons, factors = {"all": [Neuron(0, 1)]}, (0.0, 0.5, 2.0, 3.0)
    fitting = {
        goal: steering._Trial(session, neurons, Search(goal), [], 0, memory).fitting([("all", f) for f in factors])  # type: ignore
        for goal in ("better", "worse")
    }
    assert fitting == {"better": [("all", 0.0), ("all", 0.5), ("all", 2.0)], "worse": [("all", 0.5), ("all", 2.0)]}


@pytest.mark.usefixtures("lenient")
def test_the_last_candidates_are_held_against_the_whole_text(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves only the beginning of the text alone is not taken, however much worse it makes the model."""
    best = steer(session, tmp_path / "a.json", Choice("reasoning"), WORSE).chosen["steered"]
    chosen, fitting, asked = (best["group"], best["factor"]), steering._Trial.fitting, []

    def fits(self: Any, candidates: Any, progress: Any = lambda: None, at_most: int | None = None) -> Any:
        asked.append((len(candidates), at_most))
        return [c for c in fitting(self, candidates, progress, at_most) if at_most or c != chosen]

    monkeypatch.setattr(steering._Trial, "fitting", fits)
    other = steer(session, tmp_path / "b.json", Choice("reasoning"), WORSE, null=True).chosen["steered"]
    assert chosen not in [(group, factor) for group, factor, _ in other["survivors"]]
    assert asked[0] == (best["candidates"], 1) and set(asked[1:]) == {(1, None)}


def _tried(session: Session, to: Path, seed: int) -> Edit | None:
    try:
        return steer(session, to, Choice("reasoning", random=seed), WORSE)
    except EditError:  # none of the candidates is worse
        return None


@pytest.mark.usefixtures("lenient")
def test_a_factor_that_breaks_the_model_is_left_out(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = scoring.text_scores

    def broken(loaded: Any, text: str, interventions: Any, *args: Any) -> Any:
        found = texts(loaded, text, interventions, *args)
        return {name: replace(score, perplexity=math.inf) if "3.0" in name else score for name, score in found.items()}

    monkeypatch.setattr(scoring, "text_scores", broken)
    rows = candidates(steer(session, tmp_path / "worse.json", Choice("reasoning"), WORSE))
    assert (
        {r["perplexity_begins"] is None for r in rows if r["factor"] == 3}
        == {True}
        == {r["round_1"] is None for r in rows if r["factor"] == 3}
    )
    assert len(rows) == 6


@pytest.mark.parametrize("sizes", [5, (0,), (-1,), ("a",), (True,), (2.5,)])
def test_sizes_that_are_none_are_refused(sizes: Any) -> None:
    with pytest.raises(UserError, match="sizes are no numbers of neurons"):
        Search(sizes=sizes)


@pytest.mark.parametrize("factors", [(), 0.5, (math.nan,), (1.0, math.inf), ("a",)])
def test_factors_that_are_no_numbers_are_refused(factors: Any) -> None:
    with pytest.raises(UserError, match="factors are no numbers"):
        Search(factors=factors)


def test_wrong_input(session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(search: Search, to: str = "x.json") -> str:
        with pytest.raises(EditError) as error:
            steer(session, tmp_path / to, Choice("reasoning"), search)
        assert {p.name.split("-")[0] for p in tmp_path.iterdir()} <= {"there", "own", ".x.json.kept"}  # what is gone on with
        return str(error.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "PERPLEXITY", {"better": 0.0, "worse": 0.0})
        assert "every candidate changes general text too much" in refused(WORSE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "PERPLEXITY", {"better": 1e9, "worse": 1e9})
        assert "no candidate is better than none" in refused(Search("better", problems=8, factors=(1.0,), sizes=()))
    assert "got 1. Give a larger --problems." in refused(replace(WORSE, problems=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.inputs, "split", replace(session.inputs.split, tuning=()))
        with pytest.raises(UserError, match=r"tests and discovers on all\. .*--train-on FILE"):
            steer(session, tmp_path / "x.json", Choice("reasoning"), WORSE)
    (tmp_path / "there").write_text("{}")
    assert "exists already" in refused(WORSE, "there")
    capsys.readouterr()
    assert main(["steer", str(session.run.folder), "--by", "magic", "--to", str(tmp_path / "y.json")]) == 2
    assert "unknown way of choosing" in capsys.readouterr().err
