"""A neuron whose value vector dwarfs all others is found, in whatever layer, and left out of every set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_model
from tqdm import tqdm

from cotscope.errors import RunError
from cotscope.lm.families import value_matrix
from cotscope.lm.interventions import scale
from cotscope.lm.loading import LoadedModel
from cotscope.lm.scoring import text_scores
from cotscope.measuring.neurons import active_neurons
from cotscope.records import Neuron
from cotscope.runs.folder import Run
from cotscope.runs.stage import Stage, require, run_stage
from cotscope.runs.tables import ANNOTATIONS, CANDIDATES, POLES
from cotscope.stages.keystones import KEYSTONE_KL, SCREENED, SCREENED_REASONING, STAGE, TOKENS
from cotscope.stages.registry import VERB_OF

HUGE = Neuron(0, 17)
REASONING = [Neuron(1, 3), Neuron(1, 4), Neuron(2, 40), HUGE]
REJECTED = Neuron(2, 41)


def model(huge: bool = True) -> LoadedModel:
    """A tiny model whose neurons are all but silent, save one."""
    loaded = tiny_model("qwen2")
    for down in loaded.anatomy.down:
        value_matrix(down).mul_(0.02)
    if huge:
        value_matrix(loaded.anatomy.down[HUGE.layer])[:, HUGE.index] *= 500
    return loaded


def session(folder: Path, loaded: LoadedModel, reasoning: list[Neuron] = REASONING) -> SimpleNamespace:
    """One whose stage `annotate` has accepted these, and rejected one more."""
    run = Run.create(folder, {"config": {}, "model": {}, "data": {}, "prompts": []}, {})
    here = SimpleNamespace(
        run=run,
        loaded=loaded,
        prompt=SimpleNamespace(name="plain"),
        bar=lambda what, total, unit: tqdm(total=total, disable=True),
    )
    poles = [{"layer": n, "index": i, "sign": 1, "steps": 3, "mean_update_size": 1.0} for n in range(3) for i in range(48)]
    named = [{"layer": n.layer, "index": n.index, "sign": 1, "concept": "c"} for n in (*reasoning, REJECTED)]
    run.write(POLES, poles)
    run.write(CANDIDATES, named)
    annotate(here, [r | {"accepted": r["index"] != REJECTED.index} for r in named])
    return here


def annotate(here: SimpleNamespace, said: list[dict]) -> None:
    """As the stage of that name."""

    def write(here: SimpleNamespace, options: object) -> str:
        here.run.write(ANNOTATIONS, said)
        return "made up"

    run_stage(here, Stage("annotate", "annotate", "", write, writes=(ANNOTATIONS,)))


def test_the_huge_neuron_is_found_and_left_out(tmp_path: Path) -> None:
    here = session(tmp_path / "run", model())
    before = here.loaded.weight_hash()
    finding = run_stage(here, STAGE)
    rows = here.run.rows("SELECT * FROM keystones")
    assert finding == f"1 of {len(rows)} neurons break the model when they alone are zeroed"
    assert here.run.state("keystones").current
    assert SCREENED <= len(rows) <= SCREENED + SCREENED_REASONING
    tried = {Neuron(r["layer"], r["index"]): r for r in rows}
    assert [n for n, r in tried.items() if r["keystone"]] == [HUGE]
    assert set(REASONING) <= set(tried) and all(r["reasoning"] == (n in REASONING) for n, r in tried.items())
    assert rows[0]["kl"] == max(r["kl"] for r in rows) > KEYSTONE_KL
    assert tried[HUGE]["relative_update_size"] > 100
    summary = here.run.summary["keystones"]
    assert (summary["found"], summary["reasoning"], summary["neurons"]) == (1, 1, [[*HUGE]])
    assert any("layer 0 neuron 17" in note for note in here.run.notes)
    assert here.loaded.weight_hash() == before

    known = active_neurons(here.run)
    assert known.keystones == {HUGE}
    assert known.reasoning == tuple(sorted(set(REASONING) - {HUGE}))
    assert known.rejected == (REJECTED,)
    assert HUGE in known.traits and HUGE not in known.pool
    assert len(known.pool) == 3 * 48 - len(REASONING) - 1


def test_the_figures_are_those_of_the_text(tmp_path: Path) -> None:
    here = session(tmp_path / "run", model())
    run_stage(here, STAGE)
    for row in here.run.rows("SELECT * FROM keystones")[:3]:
        neuron = Neuron(row["layer"], row["index"])
        text = (Path(__file__).parents[2] / "src/cotscope/data/general.txt").read_text()
        # One token is one character here, after the start token.
        start = " ".join(text[:260].split(" ")[:-1])
        while len(start) > TOKENS - 1:
            start = start.rpartition(" ")[0]
        trials = {"none": None, "zeroed": scale(here.loaded.anatomy, [neuron], 0.0)}
        scores = text_scores(here.loaded, start, trials)
        assert row["kl"] == pytest.approx(scores["zeroed"].kl, rel=1e-4)
        assert row["perplexity_ratio"] == pytest.approx(scores["zeroed"].perplexity / scores["none"].perplexity, rel=1e-4)
        seen: list[torch.Tensor] = []
        down = here.loaded.anatomy.down[neuron.layer]
        handle = down.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].clone()))
        with torch.inference_mode():
            here.loaded.model(input_ids=torch.tensor([here.loaded.encode(start)]))
        handle.remove()
        size = seen[0][0, :, neuron.index].abs().max() * value_matrix(down)[:, neuron.index].norm()
        assert row["max_update_size"] == pytest.approx(float(size), rel=1e-4)


def test_without_such_a_neuron_there_is_none(tmp_path: Path) -> None:
    here = session(tmp_path / "run", model(huge=False))
    run_stage(here, STAGE)
    assert here.run.summary["keystones"]["found"] == 0
    assert here.run.summary["keystones"]["largest_kl"] < KEYSTONE_KL
    assert here.run.notes == []
    assert HUGE in active_neurons(here.run).reasoning


def test_a_second_run_tries_nothing_again_unless_other_neurons_were_accepted(tmp_path: Path, monkeypatch) -> None:
    here = session(tmp_path / "run", model())
    run_stage(here, STAGE)
    rows = here.run.rows("SELECT * FROM keystones")
    passes = []
    forward = here.loaded.model.forward
    monkeypatch.setattr(here.loaded.model, "forward", lambda **given: passes.append(1) or forward(**given))
    run_stage(here, STAGE)
    assert not passes and here.run.rows("SELECT * FROM keystones") == rows
    said = here.run.rows("SELECT * FROM annotations")
    annotate(here, [r | {"accepted": r["accepted"] and r["index"] != 3, "description": "another's"} for r in said])
    assert here.run.state("keystones") == ("stale", "annotations changed")
    assert "keystones" not in here.run.summary
    passes.clear()
    run_stage(here, STAGE)
    fewer = here.run.rows("SELECT * FROM keystones WHERE reasoning")
    assert passes and {(r["layer"], r["index"]) for r in fewer} == {tuple(n) for n in REASONING if n.index != 3}
    annotate(here, [r | {"accepted": False} for r in said])
    run_stage(here, STAGE)
    assert not any(r["reasoning"] for r in here.run.rows("SELECT * FROM keystones"))
    assert here.run.notes == []  # what the earlier words made it say is gone with them


def test_other_words_on_the_same_neurons_try_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = session(tmp_path / "run", model())
    run_stage(here, STAGE)
    annotate(here, [r | {"description": "another's"} for r in here.run.rows("SELECT * FROM annotations")])
    assert not here.run.state("keystones").current
    monkeypatch.setattr(here.loaded.model, "forward", None)
    run_stage(here, STAGE)
    assert here.run.state("keystones").current and here.run.summary["keystones"]["found"] == 1


def test_it_wants_annotations(tmp_path: Path) -> None:
    here = session(tmp_path / "run", model())
    require(here, STAGE, VERB_OF)
    here.run.manifest["stages"] = {}
    with pytest.raises(RunError, match=r"stage 'annotate', which 'keystones' builds on, has not run. Run `cotscope annotate"):
        require(here, STAGE, VERB_OF)
