"""Factors of the default model are trained, measured and folded: in plain transformers it says what the engine says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import cotscope
from cotscope.edits.edit import Edit
from cotscope.lm.engine import Engine
from cotscope.lm.loading import load_model
from cotscope.lm.training import Training

SHORT = """Question: Tom has 5 pens and gets 3. How many pens has he?
Let's think step by step
Tom has 5 pens. 5 + 3 = 8.
The answer is 8.

"""
PROBLEMS = [
    (f"{who} has {i} {what} and gets {i + 2}. How many {what} has {who}?", 2 * i + 2)
    for i, (who, what) in enumerate([("Ann", "apples"), ("Ben", "cups"), ("Kim", "books"), ("Eva", "coins")], 4)
]
WORKED = [
    (f"A {box} holds {i} {things}. How many {things} do 2 of them hold?", f"Each holds {i}. 2 * {i} = {2 * i}.\n#### {2 * i}")
    for i, (box, things) in enumerate([("bag", "nuts"), ("jar", "beans"), ("van", "crates")], 11)
]
TOKENS = 16


def write(path: Path, rows: list[tuple[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return path


@pytest.mark.slow
@pytest.mark.model
def test_it_goes_on_where_it_was_killed_and_its_factors_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt := tmp_path / "short.txt").write_text(SHORT)
    data, worked = write(tmp_path / "data.jsonl", PROBLEMS), write(tmp_path / "worked.jsonl", WORKED)
    run = cotscope.discover(
        tmp_path / "run", data=data, prompt_files=(prompt,), limit=2, discover_limit=2, max_new_tokens=40, quiet=True
    )
    settings: dict[str, Any] = {
        "by": "all", "train_on": str(worked), "train": 2, "validation": 1, "batch": 1, "passes": 1, "rate": 0.003, "quiet": True
    }  # fmt: skip
    taken, step = 0, Training.step

    def killed(self: Training, *args: Any) -> list[float]:
        nonlocal taken
        if taken == 1:
            raise SystemError
        taken += 1
        return step(self, *args)

    monkeypatch.setattr(Training, "step", killed)
    with pytest.raises(SystemError):
        cotscope.tune(run, tmp_path / "found.json", **settings)
    taken = -5
    edit = cotscope.tune(run, tmp_path / "found.json", **settings)
    assert taken == -4  # the first step is not taken again
    [before, after] = edit.chosen["tuned"]["curve"]
    assert after["validation"] < before["validation"] - 0.01 and len(edit.factors) > 100_000
    cotscope.evaluate(run, edit=(tmp_path / "found.json",), solutions=1, skills=1, quiet=True)
    [measured] = Edit.read(tmp_path / "found.json").measured
    assert measured["n"] == 2 and measured["kl"] > 0

    loaded = load_model(edit.base.model, dtype="float32")
    text = SHORT + "Question: A cart holds 17 pots. How many pots do 3 of them hold?\nLet's think step by step\n"
    [base], [expected] = (
        [c.token_ids for c in Engine(loaded).generate([text], max_new_tokens=TOKENS, intervention=intervention)]
        for intervention in (None, edit.intervention(loaded.anatomy))
    )
    given = torch.tensor([loaded.encode(text)])
    with torch.inference_mode():
        untouched = loaded.model(input_ids=given).logits[0, -1]
        with edit.applied(loaded.model):
            logits = loaded.model(input_ids=given).logits[0, -1]
    assert not torch.allclose(logits, untouched, atol=0.05)
    del loaded
    made = cotscope.export(edit, tmp_path / "made", dtype="float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(made)(text, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
    assert tuple(out[0, ids.shape[1] :].tolist()) == expected and len(expected) == len(base) == TOKENS
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits[0, -1], logits, atol=1e-3, rtol=1e-4)
