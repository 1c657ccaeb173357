"""The largest of many values, by chunks: the k largest lie in the k chunks with the largest maxima.

PyTorch's `topk` and, in bfloat16, `argmax` scan slowly on a CPU; a maximum per chunk is vectorised.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOPK_CHUNK, _ARGMAX_CHUNK = 64, 512
_SAMPLED = 16  # rows whose probabilities stand in float64 at once


def largest(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest per row (rows, n) → (rows, k), unsorted."""
    rows, n = values.shape
    whole = n // _TOPK_CHUNK * _TOPK_CHUNK
    if values.device.type != "cpu" or whole // _TOPK_CHUNK <= k:
        return values.topk(min(k, n), dim=1, sorted=False).indices
    chunks = values[:, :whole].unflatten(1, (-1, _TOPK_CHUNK))
    best = chunks.amax(dim=2).topk(k, dim=1, sorted=False).indices  # (rows, k)
    inside = chunks.gather(1, best[:, :, None].expand(-1, -1, _TOPK_CHUNK)).flatten(1)
    places = (best[:, :, None] * _TOPK_CHUNK + torch.arange(_TOPK_CHUNK)).flatten(1)
    if whole < n:
        rest = torch.arange(whole, n).expand(rows, -1)
        inside, places = torch.cat([inside, values[:, whole:]], dim=1), torch.cat([places, rest], dim=1)
    return places.gather(1, inside.topk(k, dim=1, sorted=False).indices)


def largest_updates(m: Tensor, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Per place of coefficients (places, neurons) the k with the largest update sizes |m|·norm, in no order.

    Returns: their indices, int32, and coefficients, float32; (places, k) each.
    """
    index = largest((m * norms).abs_(), k)
    return index.to(torch.int32), m.gather(-1, index).float()


def argmax(values: Tensor) -> Tensor:
    """Index of each row's largest value (rows, n) → (rows,); of equal ones the first."""
    n = values.shape[1]
    whole = n // _ARGMAX_CHUNK * _ARGMAX_CHUNK
    if values.device.type != "cpu" or not whole:
        return values.argmax(dim=1)
    chunks = values[:, :whole].unflatten(1, (-1, _ARGMAX_CHUNK))
    chunk = chunks.amax(dim=2).argmax(dim=1)
    winner = chunks[torch.arange(len(values)), chunk]
    place = chunk * _ARGMAX_CHUNK + winner.argmax(dim=1)
    if whole < n:
        rest = values[:, whole:]
        place = torch.where(rest.amax(dim=1) > winner.amax(dim=1), whole + rest.argmax(dim=1), place)
    return place


def sample(values: Tensor, temperatures: Tensor, uniform: Tensor) -> Tensor:
    """One index per row of logits (rows, n), drawn from the softmax of logits / temperature by inverting its sum.

    Args:
        temperatures: (rows,), above 0.
        uniform: (rows,), float64 in [0, 1): what is drawn is a function of it.
    """
    found = []
    for logits, heat, at in zip(values.split(_SAMPLED), temperatures.split(_SAMPLED), uniform.split(_SAMPLED)):
        total = torch.softmax(logits.double() / heat[:, None], dim=1).cumsum(dim=1)
        last = (total < total[:, -1:]).sum(dim=1)  # sums end a rounding short of 1, and tokens after it have no chance
        drawn = torch.searchsorted(total, at[:, None] * total[:, -1:], right=True)[:, 0]
        found.append(torch.minimum(drawn, last))
    return torch.cat(found)
