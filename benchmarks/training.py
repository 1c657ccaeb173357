"""How long a step of training takes, in bfloat16 and in float32, beside its products' floor (docs/benchmarks.md).

    python benchmarks/training.py
    python benchmarks/training.py --model smollm2-135m --batch 4

The first built-in problems with their solutions after the package's exemplars, which are run once per step; a step is of
`--batch` of them, forward and back. Medians of `--steps` steps after the first, one dtype and way after another,
`--rounds` times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from floor import gemm_rate

from cotscope.data.load import load_problems
from cotscope.lm.loading import DTYPES, LoadedModel, load_model
from cotscope.lm.passes import common_prefix
from cotscope.lm.trained import Factors, Trained, Vectors, Weights
from cotscope.lm.training import Text, Training
from cotscope.prompts.derive import derive_prompts, render_solution
from cotscope.prompts.exemplars import load_exemplars
from cotscope.records import Neuron

NEURONS = 590  # as many as the reasoning set of the default study on MultiArith has
WAYS: dict[str, tuple[Callable[[LoadedModel, list[Neuron]], Trained], float]] = {
    "factors": (Factors, 0.01),
    "values": (Vectors, 1e-3),
    "full": (lambda loaded, neurons: Weights(loaded), 1e-5),
}


def texts_of(loaded: LoadedModel, count: int) -> list[Text]:
    """Built-in problems after the exemplars, with what is to be written."""
    prompt = derive_prompts(load_exemplars())[0]
    found = load_problems("builtin:200").problems[:count]
    return [
        Text(tuple(loaded.encode(prompt.text(p.question))), tuple(loaded.encode(f" {render_solution(p)}\n\n"))) for p in found
    ]


def seconds(source: str, way: str, dtype: str, batch: int, steps: int) -> tuple[float, float, float]:
    """Of a step: median seconds, billions of operations of its products, loss before the last."""
    make, rate = WAYS[way]
    loaded = load_model(source, dtype=dtype, differentiable=True)
    rng, anatomy = np.random.default_rng(0), loaded.anatomy
    drawn = rng.choice(anatomy.layers * anatomy.width, NEURONS, replace=False)
    neurons = [Neuron(int(i) // anatomy.width, int(i) % anatomy.width) for i in drawn]
    texts = texts_of(loaded, batch * (steps + 1))
    shared = common_prefix([list(t.prompt) for t in texts])
    training = Training(loaded, make(loaded, neurons), shared=shared)
    training.begin(rate)
    times, work, losses = [], [], list[float]()
    head = anatomy.head.weight.numel()
    body = sum(m.weight.numel() for m in loaded.model.modules() if isinstance(m, torch.nn.Linear)) - head
    passes = 3 if way == "full" else 2  # forward, back to what comes before, and to the weights
    for step in range(steps + 1):
        part = texts[step * batch :][:batch]
        began = time.perf_counter()
        losses = training.step(part)
        times.append(time.perf_counter() - began)
        own, said = (sum(len(x) for x in found) for found in ([[*t.prompt[shared:], *t.continuation] for t in part],
                                                              [t.continuation for t in part]))  # fmt: skip
        work.append(2 * (shared * body + passes * (own * body + said * head)) / 1e9)
    return statistics.median(times[1:]), statistics.median(work[1:]), statistics.fmean(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    rates = {dtype: gemm_rate(100, 896, 4864, DTYPES[dtype]) for dtype in ("bfloat16", "float32")}
    print("products of 100 rows: " + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items()))
    for _ in range(arguments.rounds):
        for way in WAYS:
            for dtype, rate in rates.items():
                if way == "full" and dtype != "float32":
                    continue  # every weight is trained in float32
                took, work, loss = seconds(arguments.model, way, dtype, arguments.batch, arguments.steps)
                floor = work * 1e9 / rate
                print(f"{way:8} {dtype:8} {took:6.2f} s, {took / floor:.2f} times the floor; loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
