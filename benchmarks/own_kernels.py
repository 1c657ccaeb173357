"""The compiled kernels beside PyTorch's own, alone: weights and keys come from memory, as between a model's layers.

python benchmarks/own_kernels.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from cotscope.lm.attention import _partial
from cotscope.lm.cpu import kernels

LAYERS = 24  # copies that take turns: more than fits any cache
HEADS, KV_HEADS, DIM, PREFIX = 14, 2, 64, 779  # of the default model, and of MultiArith's prompt


def medians(*ways: Callable[[int], object], rounds: int = 15) -> list[float]:
    """Median microseconds per layer of each way, taken in turns."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):
        for way, taken in zip(ways, times):
            began = time.perf_counter()
            for layer in range(LAYERS):
                way(layer)
            if turn:
                taken.append((time.perf_counter() - began) / LAYERS * 1e6)
    return [statistics.median(taken) for taken in times]


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def distance(out: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    return (out - exact).square().mean().sqrt()


def show(what: str, theirs: float, ours: float, flop: float) -> None:
    rates = f"   {flop / theirs / 1e3:.0f}, {flop / ours / 1e3:.0f} GFLOP/s"
    print(f"{what:44}{theirs:11.0f}{ours:9.0f}{theirs / ours:7.2f}{rates}", flush=True)


def products(dtype: torch.dtype) -> None:
    onednn = torch.ops.mkldnn
    for inner, out in ((896, 4864), (4864, 896)):
        weights = [normal(out, inner, dtype=dtype) for _ in range(LAYERS)]
        theirs, ours = ([f(w) for w in weights] for f in (lambda w: onednn._reorder_linear_weight(w, 96), kernels.pack))
        for rows in (1, 4, 16, 32, 96, 1440):
            x = normal(rows, inner, dtype=dtype)
            took = medians(
                lambda i, x=x, w=theirs: onednn._linear_pointwise(x, w[i], None, "none", [], ""),
                lambda i, x=x, w=ours: kernels.linear(x, w[i], None),
                rounds=5 if rows > 1000 else 15,
            )
            show(f"product, {rows} x {inner} x {out}", *took, 2 * rows * inner * out)


def attention() -> None:
    keys, values = ([normal(1, KV_HEADS, PREFIX, DIM) for _ in range(LAYERS)] for _ in range(2))
    for rows, queries in ((1, 1), (16, 1), (96, 1), (24, 60)):
        query = normal(rows, queries, HEADS, DIM).transpose(1, 2)
        folded = query.reshape(rows, KV_HEADS, -1, DIM).transpose(0, 1).reshape(1, KV_HEADS, -1, DIM)
        ours = kernels.Attention(query, DIM**-0.5)
        took = medians(
            lambda i, q=folded: _partial(q, keys[i], values[i], None, DIM**-0.5),
            lambda i, a=ours: a.over(keys[i], values[i], begins=True, finishes=True),
            rounds=5,
        )
        show(f"prefix of {PREFIX}, {rows} rows, {queries} queries", *took, 4 * DIM * HEADS * rows * queries * PREFIX)
        scores = folded.double() @ keys[-1].double().transpose(-1, -2) * DIM**-0.5
        exact = torch.softmax(scores, dim=-1) @ values[-1].double()
        theirs, _ = _partial(folded, keys[-1], values[-1], None, DIM**-0.5)
        got = ours.out.transpose(1, 2).reshape(rows, KV_HEADS, -1, DIM).transpose(0, 1).reshape(exact.shape)
        off = [(distance(out, exact) / exact.square().mean().sqrt()).item() for out in (theirs, got)]
        print(f"    root mean square distance from float64, of the output's: PyTorch {off[0]:.5f}, ours {off[1]:.5f}")


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        if (lacks := kernels.missing(dtype)) is not None:
            print(f"In {name} this machine takes PyTorch's own kernels: {lacks}.")
            continue
        print(f"{name:44}{'PyTorch us':>11}{'ours us':>9}{'ratio':>7}")
        products(dtype)
        if dtype == torch.bfloat16:
            attention()


if __name__ == "__main__":
    main()
