"""The stage that asks whether the neurons' push is all that they do for the skill, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TinyStudy, assert_same

from cotscope.cli import main
from cotscope.lm.interventions import logit_bias, scale, without_component
from cotscope.lm.scoring import Given, score
from cotscope.measuring.neurons import comparison, read_sets
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages.push import PUSHED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "push"
    few = ["--matched", "2", "--unmatched", "1", "--permuted", "0", "--given", "4", "--battery", "1"]
    assert main(["study", *tiny_study.options(), *few, "--out", str(out)]) == 0
    return Run.open(out)


def test_every_way_is_there_with_its_problems(finished: Run) -> None:
    rows = {r["way"]: r for r in finished.rows("SELECT * FROM push")}
    assert list(rows) == ["untouched", "zeroed", "direct", "indirect", "within", "beyond", "bias"]
    assert {r["n"] for r in rows.values()} == {8}
    ablation = {r["neuron_set"]: r for r in finished.rows("SELECT * FROM ablation")}
    target = "comparable" if "comparable" in ablation else "reasoning"
    for way, name in (("untouched", "none"), ("zeroed", target)):
        assert rows[way]["correct"] == ablation[name]["correct"]
    assert rows["untouched"]["against_untouched"] == rows["zeroed"]["against_zeroed"] == 1
    assert rows["untouched"]["operator"] is None and rows["bias"]["operator"] is not None


def test_texts_and_figures_are_those_of_the_engine(finished: Run) -> None:
    """Each way's texts, and log-probabilities, come out of the engine asked apart."""
    session = Session.reopen(finished.folder)
    sets = read_sets(finished)
    neurons = sets[comparison(sets.values())].neurons
    zeroed = scale(session.loaded.anatomy, neurons, 0.0)
    biases = finished.summary["push"]["biases"]
    by_token = {
        i: biases[role]
        for role, pieces in PUSHED.items()
        for i, t in enumerate(session.model.vocabulary)
        if t.strip() in pieces
    }
    assert by_token and min(by_token.values()) > -40 and max(by_token.values()) <= 0
    ways = {"direct": zeroed.along("direct"), "indirect": zeroed.along("indirect")}
    ways["bias"] = logit_bias(session.loaded.anatomy, by_token)
    rows = session.loaded.anatomy.unembedding[sorted(by_token)] * session.loaded.anatomy.final_norm.weight
    for way in ("within", "beyond"):
        ways[way] = without_component(session.loaded.anatomy, neurons, rows, way == "within")
    problems = session.inputs.split.test
    texts = [session.prompt.text(p.question) for p in problems]
    for way, intervention in ways.items():
        written = finished.rows("SELECT * FROM completions WHERE neuron_set = ? ORDER BY problem_id", [way])
        got = {r["problem_id"]: tuple(r["token_ids"]) for r in written}
        asked = session.engine.generate(
            texts, max_new_tokens=session.config.max_new_tokens, stop=session.prompt.stop, intervention=intervention
        )
        assert got == {p.id: c.token_ids for p, c in zip(problems, asked, strict=True)}
    solutions = {r["problem_id"]: r["text"] for r in finished.rows("SELECT * FROM solutions WHERE role = 'equals'")}
    assert solutions
    for way, intervention in ways.items():
        for role in PUSHED:
            values = []
            for problem in problems:
                if problem.id not in solutions:
                    continue
                from cotscope.measuring.solutions import solution

                s = solution(session.loaded, problem, "gold", solutions[problem.id])
                places = [i for i, r in enumerate(s.roles) if r == role]
                if not places:
                    continue
                means = []
                for change in (intervention, None):
                    given = Given((session.prompt.text(problem.question),), (s.tokens,), intervention=change)
                    [scores] = score(session.engine, given)
                    means.append(sum(scores[i].log_prob for i in places) / len(places))
                values.append(means[0] - means[1])
            [row] = finished.rows("SELECT * FROM push WHERE way = ?", [way])
            assert row[role] == pytest.approx(sum(values) / len(values), abs=2e-3)


def test_the_bias_makes_the_tokens_as_unlikely_as_zeroing_does(finished: Run) -> None:
    rows = {r["way"]: r for r in finished.rows("SELECT * FROM push")}
    for role, bias in finished.summary["push"]["biases"].items():
        lost = rows["zeroed"][role] < 0
        assert (bias < 0) == lost
        if lost:
            assert rows["bias"][role] == pytest.approx(rows["zeroed"][role], abs=0.03)
        else:
            assert rows["bias"][role] == pytest.approx(0, abs=0.5)  # the other role's bias may move it


def test_it_is_found_done_again(finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = finished.rows("SELECT * FROM push")
    assert main(["ablate", str(finished.folder), "--outcomes", "push"]) == 0
    assert "[  done ] push" in capsys.readouterr().out
    assert_same(before, Run.open(finished.folder).rows("SELECT * FROM push"))
