"""The least time that this machine could need for a job: FLOPs over its GEMM rate, plus bytes over its bandwidth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from cotscope.lm.cpu import PackedLinear
from cotscope.lm.cpu.kernels import missing
from cotscope.lm.cpu.packing import packs
from cotscope.lm.loading import LoadedModel
from cotscope.lm.rows import PREFILL_TOKENS

ROWS = (1, 4, 16, 64, 96, 256, 1024)


def median_seconds(work: Callable[[], object], least: float = 0.3) -> float:
    """Median time of one call."""
    work()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def gemm_rate(rows: int, inner: int, outer: int, dtype: torch.dtype) -> float:
    """FLOP/s of (rows, inner) x (inner, outer), the fastest of PyTorch's own call, its packed one and ours."""
    linear = torch.nn.Linear(inner, outer, bias=False, dtype=dtype)
    x = torch.randn(rows, inner, dtype=dtype)
    with torch.inference_mode():
        ways: list[Callable[[torch.Tensor], torch.Tensor]] = [linear]
        if packs(linear.weight):
            ways += [PackedLinear(linear, None, compiled) for compiled in {False, missing(dtype) is None}]
        return 2 * rows * inner * outer / min(median_seconds(lambda way=way: way(x)) for way in ways)


def bandwidth(megabytes: int = 1024) -> float:
    """Bytes per second that a sum over a large array reads."""
    array = torch.ones(megabytes * 2**18, dtype=torch.float32)
    return array.nbytes / median_seconds(lambda: array.sum())


def floor(loaded: LoadedModel, prefix: int, suffixes: list[int], steps: list[int], rows: int) -> dict[str, float]:
    """Seconds for rows of these lengths over one prefix, nothing padded, each token computed once.

    Args:
        prefix: tokens that all rows share.
        suffixes: the tokens of each prompt beyond them.
        steps: the tokens that each row generates.
        rows: rows at once.
    """
    model, config = loaded.model, loaded.model.config.get_text_config()
    head = loaded.anatomy.head
    linears = [m for m in model.modules() if isinstance(m, PackedLinear | torch.nn.Linear) and m is not head]
    body = sum(m.in_features * m.out_features for m in linears)
    top = head.in_features * head.out_features
    width, hidden = loaded.anatomy.width, config.hidden_size
    rates = [gemm_rate(n, hidden, width, loaded.dtype) for n in ROWS]
    dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    attended = 4 * dim * config.num_attention_heads * config.num_hidden_layers  # FLOPs per query and key
    read = bandwidth()
    # (tokens, unembedded rows, query-key pairs) of every pass
    passes = [(prefix, 0, prefix * (prefix + 1) // 2)]
    total = sum(suffixes)
    pairs = sum(s * prefix + s * (s + 1) // 2 for s in suffixes)
    count = max(1, -(-total // PREFILL_TOKENS))
    passes += [(total / count, len(suffixes) / count, pairs / count)] * count
    for first in range(0, len(steps), rows):
        batch = list(zip(suffixes, steps))[first : first + rows]
        for step in range(1, max(s for _, s in batch)):
            active = [suffix for suffix, s in batch if s > step]
            passes.append((len(active), len(active), sum(prefix + suffix + step for suffix in active)))
    flops = compute = memory = 0.0
    for tokens, unembedded, seen in passes:
        work = 2 * body * tokens + 2 * top * unembedded + attended * seen
        flops += work
        compute += work / float(np.interp(np.log(max(tokens, 1)), np.log(ROWS), rates))
        memory += (body + (top if unembedded else 0)) * loaded.dtype.itemsize / read
    return {
        "floor_s": round(compute + memory, 2),
        "tflop": round(flops / 1e12, 2),
        "gemm_gflop_s": round(rates[ROWS.index(96)] / 1e9),
        "bandwidth_gb_s": round(read / 1e9, 1),
        "compute_s": round(compute, 2),
        "bytes_s": round(memory, 2),
    }
