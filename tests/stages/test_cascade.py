"""Questions sent on to a larger model: costs and accuracy recomputed; a larger model that is the same changes no answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TinyStudy

from cotscope.cli import main
from cotscope.data.answers import parse_flexible
from cotscope.data.numbers import format_number
from cotscope.runs.folder import Run
from cotscope.runs.session import Session
from cotscope.stages.cascade import (
    AT_RANDOM,
    BEFORE,
    FIRST,
    GAINS,
    KNOWN,
    LOG_PROB,
    QUESTION,
    RANDOM_BEFORE,
    SHARES,
    SOURCES,
    Both,
    Routed,
    curve_point,
    said_of,
)
from cotscope.stats import clustered_ratio


def both() -> Both:
    """Ten problems: the smaller model has the first four right, the larger all but the last; 10 and 20 tokens, 1 and 3."""
    small, large = np.arange(10) < 4, np.arange(10) < 9
    return Both((small, large), (np.full(10, 10.0), np.full(10, 20.0)), (1, 3))


@pytest.mark.parametrize(
    ("share", "accuracy", "cost"), [(0, 0.4, 100 / 600), (0.5, 0.9, 400 / 600), (0.6, 0.9, 460 / 600), (1, 0.9, 700 / 600)]
)
def test_the_least_trusted_go_first_and_both_are_paid_for(share: float, accuracy: float, cost: float) -> None:
    trust = np.array([9, 8, 7, 6, 1, 1, 1, 1, 1, 2.0])  # knows what is wrong; the last is of no use
    found = curve_point(both(), Routed(trust, np.full(10, 10.0)), share)
    assert found == pytest.approx({"accuracy": accuracy, "cost": cost})


def test_who_is_sent_on_before_an_answer_is_not_paid_for_twice() -> None:
    trust = np.array([9, 8, 7, 6, 1, 1, 1, 1, 1, 2.0])
    found = curve_point(both(), Routed(trust, np.ones(10)), 0.5)
    assert found == pytest.approx({"accuracy": 0.9, "cost": (5 * 10 + 5 + 5 * 20 * 3) / 600})


def test_at_random_is_what_is_expected() -> None:
    found = curve_point(both(), Routed(None, np.full(10, 10.0)), 0.5)
    assert found == pytest.approx({"accuracy": 0.65, "cost": 400 / 600})
    before = curve_point(both(), Routed(None, np.zeros(10)), 0.5)
    assert before == pytest.approx({"accuracy": 0.65, "cost": 350 / 600}), "what is sent on unasked is not paid for twice"
    rng, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        drawn.append(curve_point(both(), Routed(rng.random(10), np.full(10, 10.0)), 0.5)["accuracy"])
    assert np.mean(drawn) == pytest.approx(0.65, abs=0.01)


def test_routers_are_compared_on_the_same_problems() -> None:
    knows, knows_not = np.array([9, 8, 7, 6, 1, 1, 1, 1, 1, 2.0]), np.array([1, 1, 1, 1, 9, 8, 7, 6, 6, 6.0])
    routers = {name: Routed(trust, np.full(10, 10.0)) for name, trust in (("reasoning", knows), ("random 1", knows_not))}
    routers["at random"] = Routed(None, np.full(10, 10.0))
    points = [{"router": n, "share": s, **curve_point(both(), r, s)} for n, r in routers.items() for s in SHARES]
    found = said_of(both(), routers, points, list(range(10)))
    assert found["reasoning"]["share"] == found["random 1"]["share"] == 0.4  # of 0.6 of the cost 0.17 are the small model's
    assert found["reasoning"]["accuracy"] == pytest.approx(0.8) and found["random 1"]["accuracy"] == pytest.approx(0.4)
    assert found["at random"]["accuracy"] == pytest.approx(0.6) and "kept_low" not in found["at random"]
    assert found["at random"]["kept"] == pytest.approx(0.6 / 0.9)
    asked = {**routers, "random 1, who gains": Routed(knows_not, np.full(10, 10.0), "random 1")}
    points += [p | {"router": "random 1, who gains"} for p in points if p["router"] == "random 1"]
    more = said_of(both(), asked, points, list(range(10)))
    assert more["random 1, who gains"]["difference"] == 0, "each is compared with its own"
    assert found["random 1"]["difference"] == pytest.approx(0.4) and "difference" not in found["reasoning"]
    assert 0 < found["random 1"]["difference_low"] < 0.4 < found["random 1"]["difference_high"]
    two = said_of(both(), routers, points, [0] * 5 + [1] * 5)["random 1"]  # t of one degree
    assert two["difference_low"] == -1 and two["difference_high"] == 1 and two["kept_low"] == 0


@pytest.mark.slow
def test_ratio_of_sums_over_clusters() -> None:
    rng = np.random.default_rng(1)
    ratio, low, high = clustered_ratio([1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 2])
    # 3/4 less one, 3/4 and two are left, -1/4 - 3/4 + 1/4 + 1/4: by cluster -1/2, 1/4, 1/4; t of 2 degrees
    assert ratio == 0.75 and high - ratio == pytest.approx(4.3027 * (3 / 2 * (1 / 4 + 1 / 16 + 1 / 16)) ** 0.5 / 4, abs=1e-3)
    assert ratio - low == high - ratio
    assert np.isnan(clustered_ratio([1.0], [0.0], [0])).all()
    alone = clustered_ratio([1, 0, 1], [1, 1, 1], [7, 7, 7])
    assert alone[0] == pytest.approx(2 / 3) and np.isnan(alone[1:]).all()
    assert clustered_ratio([1] * 20, [1] * 20, range(20))[1] == pytest.approx(1 - 2.093 / 22, abs=1e-3)  # it could be less
    for count in (10, 40):  # clusters of 5 that share half of their chance; the truth is 0.6
        hits = 0
        for _ in range(400):
            chance = np.clip(0.6 + rng.normal(0, 0.2, count), 0, 1).repeat(5)
            solved = (rng.random(5 * count) < chance).astype(float)
            _, low, high = clustered_ratio(solved, np.ones(5 * count), np.arange(count).repeat(5))
            hits += low <= 0.6 <= high
        assert 365 <= hits <= 396
    single = clustered_ratio([1, 0] * 50, [1] * 100, np.arange(20).repeat(5)[:100].tolist())
    apart = clustered_ratio([1, 0] * 50, [1] * 100, range(100))
    assert apart[1] < single[1] < 0.5 < single[2] < apart[2]


@pytest.mark.slow
def test_a_larger_model_that_says_the_same(
    few_choices: None, tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_study.model, dtype=torch.float32)
    config = model.config
    config.num_hidden_layers += 2
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *config.layer_types[:2]]
    larger = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    larger.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in larger.model.layers[-2:]:  # they add nothing
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    larger.save_pretrained(tmp_path / "larger")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "larger" / name).write_bytes((Path(tiny_study.model) / name).read_bytes())
    folder = str(tmp_path / "r")
    assert main(["discover", *tiny_study.options(), "--out", folder]) == 0
    assert main(["annotate", folder]) == 0
    assert main(["cascade", folder, "--larger", str(tmp_path / "larger")]) != 0
    assert "'predict'" in capsys.readouterr().err
    session = Session.reopen(Path(folder))
    draw = random.Random(0)
    questions = [" ".join("".join(draw.choices("abcdefghil", k=5)) for _ in range(5)) for _ in range(40)]
    written = session.engine.generate([session.prompt.text(q) for q in questions], max_new_tokens=16, stop=session.prompt.stop)
    said = [parse_flexible(c.text) for c in written]
    more = [{"id": f"q{i}", "question": q, "answer": format_number(s) if s is not None and i % 2 else "123456"}
            for i, (q, s) in enumerate(zip(questions, said, strict=True))]  # fmt: skip
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    assert main(["predict", folder, "--data", str(tmp_path / "more.jsonl"), "--rests", "0"]) == 0
    assert main(["cascade", folder, "--larger", tiny_study.model]) != 0
    assert "is not larger than the study's model" in capsys.readouterr().err
    assert main(["cascade", folder]) != 0
    assert "--larger MODEL" in capsys.readouterr().err
    assert main(["cascade", folder, "--larger", str(tmp_path / "larger")]) == 0
    run = Run.open(Path(folder))
    found = run.rows("SELECT * FROM cascade")
    small = run.rows("SELECT tokens, correct FROM completions WHERE condition = 'prediction.more'")
    large = run.rows("SELECT tokens, correct FROM completions WHERE condition = 'cascade.more'")
    assert small == large and len(small) == len(more)
    accuracy = np.mean([r["correct"] for r in small])
    assert {r["router"] for r in found} == {
        *(source + asks + when for source in SOURCES for asks in ("", GAINS) for when in ("", FIRST)),
        LOG_PROB, QUESTION + GAINS, AT_RANDOM, RANDOM_BEFORE, KNOWN,
    }  # fmt: skip
    assert all(r["accuracy"] == pytest.approx(accuracy) for r in found)
    alone = run.summary["cascade"]["more"]["smaller_cost"]
    assert 0 < alone < 1
    for r in found:
        if r["router"] == AT_RANDOM:
            assert r["cost"] == pytest.approx(alone + r["share"])
        if r["router"] == QUESTION + GAINS and r["share"] == 1:
            assert r["cost"] == pytest.approx(1)
        if r["router"] == BEFORE and r["share"] == 1:
            assert 1 < r["cost"] < 1 + alone
    assert len(found) == len(SHARES) * len({r["router"] for r in found})
    before = run.manifest["files"]["completions/cascade.more"]["sha256"]
    assert main(["cascade", folder, "--larger", str(tmp_path / "larger")]) == 0
    assert Run.open(Path(folder)).manifest["files"]["completions/cascade.more"]["sha256"] == before
    assert "Sent on to a larger model" in (run.folder / "report.html").read_text()
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more[1:]))
    assert main(["cascade", folder, "--larger", str(tmp_path / "larger")]) == 2
    assert f"is stale: {tmp_path / 'more.jsonl'} changed" in capsys.readouterr().err
