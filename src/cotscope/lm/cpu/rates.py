"""Which dtype this machine multiplies faster: bfloat16 is half the bytes, but many a CPU has no instructions for it."""

from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_INNER, _OUTER = 896, 4864  # of the default model's feed-forward blocks
_ROWS = (16, 96)  # as many as are decoded at once
_ROUNDS = 5


@dataclass(frozen=True)
class Choice:
    """A dtype and, in words, why this one.

    Attributes:
        dtype: "bfloat16" or "float32".
        why: a clause without its full stop.
    """

    dtype: str
    why: str

    def __str__(self) -> str:
        return f"{self.dtype}: {self.why}"


@functools.cache
def choose_dtype(device: str | None = None) -> Choice:
    """The dtype that `load_model(dtype="auto")` takes on a device; None: the GPU if there is one.

    A GPU and a CPU with AVX512-BF16 or AMX are known to be faster in bfloat16. Other CPUs are measured, once in a
    process and for a fraction of a second.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bfloat16", "this GPU computes in it")
        return Choice("float32", "this GPU does not compute in bfloat16")
    if torch.device(device).type != "cpu":
        return Choice("float32", f"what {device} does in bfloat16 is not known")
    if (instructions := bfloat16_instructions()) is not None:
        return Choice("bfloat16", f"this CPU has instructions for it ({instructions})")
    single, half = gflops(torch.float32), gflops(torch.bfloat16)
    faster, slower = max(single, half), min(single, half)
    names = ("bfloat16", "float32") if half > single else ("float32", "bfloat16")
    rates = f"{faster:.0f} and {slower:.0f} GFLOP/s"
    return Choice(names[0], f"this CPU multiplies it {faster / slower:.1f} times as fast as {names[1]} ({rates})")


def bfloat16_instructions() -> str | None:
    """What an x86 CPU multiplies bfloat16 with; None: nothing, PyTorch was told not to use it, or it is not known."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


@torch.inference_mode()
def gflops(dtype: torch.dtype) -> float:
    """Giga-FLOP per second over products of few rows, as decoding asks for them."""
    weight = torch.ones(_OUTER, _INNER, dtype=dtype)
    seconds = 0.0
    for rows in _ROWS:
        x = torch.ones(rows, _INNER, dtype=dtype)
        F.linear(x, weight)
        times = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            F.linear(x, weight)
            times.append(time.perf_counter() - began)
        seconds += statistics.median(times)
    return 2e-9 * sum(_ROWS) * _INNER * _OUTER / seconds
