"""Teacher forcing against one plain pass per prompt, and text scores against the definitions."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from cotscope.errors import PromptError
from cotscope.lm.engine import Engine
from cotscope.lm.hooks import coefficient_hooks
from cotscope.lm.interventions import scale
from cotscope.lm.loading import LoadedModel
from cotscope.lm.recorders import ActivePoles
from cotscope.lm.scoring import Given, score, text_scores
from cotscope.records import Neuron

PROMPTS = ("the same start and a", "the same start and bcdefgh", "the same start and xyz", "the same start")
ANSWERS = (" one two", " 3", " fourteen or so", " ")


def tokens(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(loaded.encode(text)[len(loaded.encode("")) :])


def plain(loaded: LoadedModel, ids: list[int], intervention: object = None) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities (positions, vocabulary) and each layer's coefficients (positions, neurons) of one sequence."""
    seen: list[Tensor] = []
    with (
        torch.inference_mode(),
        coefficient_hooks(loaded.anatomy, intervention, lambda _, m: seen.append(m.flatten(0, -2).clone())),
    ):
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.float(), dim=-1), seen


def test_scores_are_those_of_one_plain_pass(tiny: LoadedModel) -> None:
    answers = tuple(tokens(tiny, a) for a in ANSWERS)
    targets = [Neuron(layer, i) for layer in range(3) for i in range(0, 40, 3)]
    for intervention in (None, scale(tiny.anatomy, targets, 0.0)):
        got = score(Engine(tiny), Given(PROMPTS, answers, intervention=intervention))
        for prompt, answer, found in zip(PROMPTS, answers, got, strict=True):
            start = tiny.encode(prompt)
            log_prob, _ = plain(tiny, start + list(answer), intervention)
            for place, (token, mine) in enumerate(zip(answer, found, strict=True)):
                there = log_prob[len(start) - 1 + place]
                assert mine.log_prob == pytest.approx(there[token].item(), abs=2e-4)
                assert mine.greedy == (there.argmax().item() == token)


def test_only_the_tokens_asked_for_are_scored(qwen: LoadedModel) -> None:
    answers = tuple(tokens(qwen, a) for a in ANSWERS)
    every = score(Engine(qwen), Given(PROMPTS, answers))
    some = (frozenset({0, 2}), frozenset(), frozenset({5}), frozenset({0}))
    got = score(Engine(qwen), Given(PROMPTS, answers, some))
    assert [len(row) for row in got] == [2, 0, 1, 1]
    for row, chosen, found in zip(every, some, got):
        assert [f.log_prob for f in found] == pytest.approx([row[i].log_prob for i in sorted(chosen)], abs=1e-5)


def test_recorder_sees_every_given_token_under_its_label(tiny: LoadedModel) -> None:
    answers, tallies = tuple(tokens(tiny, a) for a in ANSWERS), []
    recorder = ActivePoles(
        tiny.anatomy, k=5, sink=tallies.append, keep_steps=True, label=lambda row, written: [t % 3 for t in written]
    )
    score(Engine(tiny), Given(PROMPTS, answers, tuple(frozenset() for _ in answers), recorder))
    expected: Counter[tuple[int, ...]] = Counter()
    for i, (prompt, answer) in enumerate(zip(PROMPTS, answers)):
        start = tiny.encode(prompt)
        _, seen = plain(tiny, start + list(answer))
        m = torch.stack(seen, dim=1)[len(start) - 1 :][: len(answer)].float()
        index, coefficient = recorder.steps[i]
        largest = (m.abs() * tiny.anatomy.norms).topk(5, dim=-1).indices
        assert torch.equal(index.long().sort(dim=-1).values, largest.sort(dim=-1).values)
        torch.testing.assert_close(coefficient, m.gather(-1, index.long()), atol=2e-4, rtol=1e-3)
        for step, token in enumerate(answer):
            for layer, neurons in enumerate(largest[step].tolist()):
                expected.update((i, token % 3, layer, n, int(m[step, layer, n].sign())) for n in neurons if m[step, layer, n])
    found: Counter[tuple[int, ...]] = Counter()
    for tally in tallies:
        for *key, steps in zip(tally.row, tally.label, tally.layer, tally.index, tally.sign, tally.steps):
            found[tuple(map(int, key))] += int(steps)
    assert found == expected


def test_a_continuation_beyond_the_context_is_refused(qwen: LoadedModel) -> None:
    with pytest.raises(PromptError, match="longer than the model's context"):
        score(Engine(qwen), Given(("a" * 200,), (tokens(qwen, "b" * 100),)))


def test_text_scores_by_definition(tiny: LoadedModel) -> None:
    text = "some words that nobody was taught, one after another"
    targets = [Neuron(layer, i) for layer in range(3) for i in range(0, 40, 2)]
    intervention = scale(tiny.anatomy, targets, 0.0)
    got = text_scores(tiny, text, {"none": None, "same": scale(tiny.anatomy, targets, 1.0), "zeroed": intervention})
    ids = tiny.encode(text)
    p, _ = plain(tiny, ids)
    q, _ = plain(tiny, ids, intervention)
    p, q = p[:-1], q[:-1]
    truth = torch.tensor(ids[1:])[:, None]
    assert got["none"].perplexity == pytest.approx(math.exp(-p.gather(1, truth).mean().item()), rel=1e-4)
    assert got["zeroed"].perplexity == pytest.approx(math.exp(-q.gather(1, truth).mean().item()), rel=1e-4)
    assert got["none"].kl == 0 and got["none"].rises == ()
    assert got["zeroed"].rises == pytest.approx((p - q).gather(1, truth)[:, 0].tolist(), abs=1e-4)
    ratio = got["zeroed"].perplexity / got["none"].perplexity
    assert math.exp(sum(got["zeroed"].rises) / len(ids[1:])) == pytest.approx(ratio, rel=1e-5)
    assert got["same"].kl == pytest.approx(0, abs=1e-5)
    kl = (p.exp() * (p - q)).sum(dim=-1).mean().item()
    assert got["zeroed"].kl == pytest.approx(kl, rel=1e-3)
    assert kl > 0.01
