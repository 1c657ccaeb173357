"""`cotscope tune` on a tiny study: an edit whose validation loss is the engine's, gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.edits.edit import Edit
from cotscope.lm.scoring import Given, score
from cotscope.lm.training import Training
from cotscope.measuring import tuning
from cotscope.measuring.solutions import solution
from cotscope.prompts.derive import render_solution
from cotscope.runs.session import Session

pytestmark = pytest.mark.slow
FEW = ["--train", "3", "--validation", "1", "--batch", "2", "--rate", "0.05", "--passes", "2"]


@pytest.fixture(scope="module")
def run(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 6 test and 6 discovery problems: 8 are left for tuning, 6 of them with solutions."""
    out = tmp_path_factory.mktemp("runs") / "tune"
    options = [*tiny_study.options(), "--limit", "6", "--discover-limit", "6", "--tune-limit", "8"]
    assert main(["discover", *options, "--out", str(out)]) == 0
    assert main(["annotate", str(out)]) == 0
    assert main(["ablate", str(out), "--outcomes", "accuracy", "--matched", "1", "--unmatched", "0"]) == 0
    return out


def tuned(run: Path, to: Path, *more: str) -> dict[str, object]:
    assert main(["tune", str(run), "--by", "reasoning", *FEW, "--to", str(to), *more]) == 0
    return dict(Edit.read(to).chosen["tuned"])


def test_the_validation_loss_is_the_engines(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "tuned.json"
    found = tuned(run, to)
    edit, session = Edit.read(to), Session.reopen(run, quiet=True)
    assert set(edit.neurons) and not (set(tmp_path.iterdir()) - {to})  # the state is gone
    worked = [p for p in session.inputs.split.tuning if p.steps or p.solution.strip()][:4]
    [last] = [solution(session.loaded, p, "gold", render_solution(p)) for p in worked[3:]]
    curve = found["curve"]
    assert isinstance(curve, list) and len(curve) == 3
    for intervention, point in ((None, curve[0]), (edit.intervention(session.loaded.anatomy), curve[found["taken"]])):
        given = Given((session.prompt.text(last.problem.question),), (last.tokens,), intervention=intervention)
        [scores] = score(session.engine, given)
        assert point["validation"] == pytest.approx(-sum(t.log_prob for t in scores) / len(scores), abs=1e-3)
    assert curve[found["taken"]]["validation"] < curve[0]["validation"]


def test_a_killed_training_goes_on_with_the_same_losses(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tuned(run, tmp_path / "whole.json")
    steps, step = 0, Training.step

    def killed(self: Training, *args: object, **more: object) -> list[float]:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise KeyboardInterrupt
        return step(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "step", killed)
    to = tmp_path / "again.json"
    assert main(["tune", str(run), "--by", "reasoning", *FEW, "--to", str(to)]) == 130
    assert not to.exists()
    steps = 5  # never again
    assert tuned(run, to)["curve"] == whole["curve"]
    assert steps == 5 + 3  # one of four steps was done
    assert Edit.read(to).factors == Edit.read(tmp_path / "whole.json").factors


def test_an_edit_says_which_problems_it_was_made_with(run: Path, tmp_path: Path) -> None:
    """`evaluate` refuses those (tests/stages/test_evaluate.py)."""
    to = tmp_path / "tuned.json"
    tuned(run, to)
    worked = [p for p in Session.reopen(run, quiet=True).inputs.split.tuning if p.steps or p.solution.strip()][:4]
    assert Edit.read(to).chosen["questions"] == [tuning.fingerprint(tuning.question_key(p.question)) for p in worked]


def test_wrong_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main(["tune", str(run), "--to", str(tmp_path / "x.json"), *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith("cotscope: error: ") and said.count("\n") == 1
        assert not list(tmp_path.glob("*x.json*"))
        return said

    assert "the run has no neurons chosen by attribution" in refused(*FEW)
    assert "unknown way of choosing" in refused("--by", "magic", *FEW)
    assert "too few problems with a solution" in refused("--by", "reasoning", "--validation", "16")
    assert "nothing was gained" in refused("--by", "reasoning", *FEW, "--rate", "1e-9")
    (tmp_path / "there.json").write_text("{}")
    assert main(["tune", str(run), "--to", str(tmp_path / "there.json")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_own_right_solutions_where_the_data_has_answers_only(run: Path, tiny_study: TinyStudy, tmp_path: Path) -> None:
    session = Session.reopen(run, quiet=True)
    rows = [json.loads(line) for line in Path(tiny_study.data).read_text().splitlines()]
    bare = [r | {"answer": str(r["answer"]).split()[-1]} for r in rows]
    data = tmp_path / "bare.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in bare))
    found = tuning.worked_problems(session, str(data), 3, lambda text: None)
    used = {p.question for p in (*session.inputs.split.test, *session.inputs.split.discovery)}
    assert found and not used & {p.question for p, _ in found}
    for problem, text in found:
        [again] = session.engine.generate([session.prompt.text(problem.question)], max_new_tokens=16, stop=session.prompt.stop)
        assert again.text.strip() == text and tuning.is_correct(tuning.parse_flexible(text), problem.answer)


def test_from_python(run: Path, tmp_path: Path) -> None:
    import cotscope

    few = {"train": 3, "validation": 1, "batch": 2, "rate": 0.05}
    edit = cotscope.tune(run, tmp_path / "a.json", by="all", quiet=True, **few)
    assert edit == Edit.read(tmp_path / "a.json") and edit.chosen["by"] == "all"
    with pytest.raises(cotscope.UserError, match="there is no option 'lr'"):
        cotscope.tune(run, tmp_path / "b.json", by="all", lr=1)
