"""Attention where PyTorch has no one operation for it (GPUs), on the CPU; and the cache's memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from cotscope.lm.attention import SharedPrefixCache, _in_pytorch, _partial


@pytest.mark.parametrize("hidden", [False, True])
def test_any_device_has_the_cpus_attention(hidden: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16) for n in (5, 9, 9))
    bias = torch.zeros(2, 1, 5, 9)
    if hidden:
        bias[:, :, :, 6:] = torch.finfo(torch.float32).min
    expected, sums = _partial(query, key, value, bias, 0.25)
    got, own = _in_pytorch(query, key, value, bias, 0.25)
    assert torch.allclose(got, expected, atol=1e-5) and torch.allclose(own, sums, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_scores_are_not_rounded(dtype: torch.dtype) -> None:
    """Scores of some hundred before they are scaled, as of real models: in 16 bits they would be off by whole numbers."""
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, 2, n, 64) * size for n, size in ((4, 20.0), (50, 6.0), (50, 1.0)))
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    _, exact = _in_pytorch(query.double(), key.double(), value.double(), None, 0.125)
    _, own = _in_pytorch(query, key, value, None, 0.125)
    assert torch.allclose(own, exact.float(), rtol=1e-5, atol=1e-4)
    rounded = torch.logsumexp((query @ key.transpose(-1, -2)).float() * 0.125, dim=-1)
    assert (rounded - exact).abs().max() > 0.01


def test_a_cache_goes_with_its_last_holder() -> None:
    gc.collect()
    gc.disable()
    try:
        cache = SharedPrefixCache(2, 4, 8, torch.device("cpu"), False)
        layer = cache.layers[0]
        assert layer.owner is cache
        gone = weakref.ref(cache)
        del cache
        assert gone() is None, "a circle would keep the buffers until Python looks for one"
    finally:
        gc.enable()
