"""A benchmark that no noise can touch: how much the engine computes, counted. It fails when work is done twice."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from test_engine import prompts
from torch import Tensor, nn

from cotscope.lm.engine import Engine
from cotscope.lm.jobs import Job
from cotscope.lm.loading import LoadedModel
from cotscope.lm.recorders import ActivePoles
from cotscope.lm.rows import REFILL
from cotscope.lm.scoring import Given, score


class Counted(Engine):
    """Counts tokens that pass through the model, unembedded rows, passes and matrix products."""

    def __init__(self, loaded: LoadedModel, **settings: object) -> None:
        super().__init__(loaded, **settings)
        self.seen: Counter[str] = Counter()
        assert self.shares_prefix(1)
        self.seen.clear()
        linears = [m for m in loaded.model.modules() if isinstance(m, nn.Linear)]
        for linear in linears:
            linear.register_forward_hook(lambda module, args, out: self._count(module, out))
        self.linears = len(linears)
        self._forward, self.passes.forward = self.passes.forward, self._counted_forward

    def _count(self, module: nn.Module, x: Tensor) -> None:
        self.seen["products"] += 1
        if module is self.loaded.model.get_output_embeddings():
            self.seen["unembedded"] += x.shape[:-1].numel()
        elif module is self.loaded.anatomy.down[0]:
            self.seen["tokens"] += x.shape[:-1].numel()

    def _counted_forward(self, *arguments: object) -> Tensor:
        self.seen["passes"] += 1
        return self._forward(*arguments)


def test_every_token_is_computed_once(qwen: LoadedModel) -> None:
    texts = prompts(9, shared=30)
    engine = Counted(qwen)
    completions = engine.generate(texts, max_new_tokens=12, recorder=ActivePoles(qwen.anatomy, k=4))
    ids = [qwen.encode(t) for t in texts]
    common = next(i for i in range(100) if len({row[i] for row in ids}) > 1)
    widest = max(map(len, ids)) - common
    steps = [c.steps for c in completions]
    # The prefix once, one padded pass over the rest, then each generated token but a row's last.
    assert engine.seen["tokens"] == common + 9 * widest + sum(steps) - 9
    assert engine.seen["unembedded"] == 1 + sum(steps)
    assert engine.seen["passes"] == 2 + max(steps) - 1
    assert engine.seen["products"] == engine.seen["passes"] * engine.linears


def test_jobs_share_passes(qwen: LoadedModel) -> None:
    """Three conditions take little more passes than the longest chain of rows in one slot."""
    jobs = [Job(tuple(prompts(8, seed=seed)), 12) for seed in range(3)]
    alone = 0
    for job in jobs:
        engine = Counted(qwen, rows=8)
        engine.run([job])
        alone += engine.seen["passes"]
    together = Counted(qwen, rows=24)
    done = together.run(jobs)
    assert together.seen["passes"] == 2 * len(jobs) + max(c.steps for job in done for c in job) - 1
    assert together.seen["passes"] < alone
    # With fewer slots than rows, slots are refilled as soon as a share of them is free.
    refilled = Counted(qwen, rows=8)
    done = refilled.run(jobs)
    steps = sum(c.steps - 1 for job in done for c in job)
    decoding = refilled.seen["passes"] - len(jobs)
    assert decoding <= steps / (8 * (1 - 1 / REFILL)) + 24 + 12


def test_scoring_is_one_pass(qwen: LoadedModel) -> None:
    texts = tuple(prompts(6, shared=30))
    answers = tuple(tuple(range(5, 9 + i % 2)) for i in range(6))
    engine = Counted(qwen)
    score(engine, Given(texts, answers, tuple(frozenset({0, 3}) for _ in texts)))
    assert engine.seen["passes"] == 2
    assert engine.seen["unembedded"] == 1 + 12


def test_buffers_do_not_grow_with_the_rows(qwen: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of keys and values: slots x columns, whatever the number of prompts."""
    sizes: list[int] = []
    zeros = Tensor.new_zeros

    def counted(self: Tensor, *shape: int, **settings: object) -> Tensor:
        made = zeros(self, *shape, **settings)
        sizes.append(made.nbytes)
        return made

    monkeypatch.setattr(Tensor, "new_zeros", counted)
    totals = []
    for count in (6, 60):
        sizes.clear()
        engine = Engine(qwen, rows=6, share_prefix=True)
        engine.generate((prompts(6) * 10)[:count], max_new_tokens=8, recorder=ActivePoles(qwen.anatomy, k=4))
        totals.append(sum(sizes))
    assert totals[0] == totals[1] > 0
    longest = max(len(qwen.encode(t)) for t in prompts(6))
    heads, dim = 2, 8
    assert totals[0] <= qwen.anatomy.layers * 2 * 6 * heads * (longest + 8) * dim * torch.float32.itemsize
