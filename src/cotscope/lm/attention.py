"""Shared-prefix attention: the few-shot prompt's keys and values exist once, whatever the number of rows.

Softmax attention over two disjoint sets of keys is the average of the two partial outputs, weighted by their
log-sum-exp: out = Σ_j e^{lse_j} out_j / Σ_j e^{lse_j}. So a row's attention is one call over the prefix (the queries
of all rows folded into one long query, since they all see the whole prefix) and one over the row's own suffix.
Our own kernel, where it runs, goes on from one set of keys to the other and merges nothing.
(The same identity underlies FlashDecoding, Hydragen (Juravsky et al. 2024, arXiv:2402.05099) and cascade inference.)

Registered with transformers' `AttentionInterface` under `IMPLEMENTATION`; no mask is built by transformers for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from . import cpu

IMPLEMENTATION = "cotscope_shared_prefix"

# Arguments of an attention call that change its result and that this implementation does not know.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


class UnsupportedAttention(Exception):
    """The model's attention asks for something that shared-prefix attention does not do; the engine falls back."""


@dataclass
class Prefix:
    """The keys and values of tokens that rows share: per layer (1, kv_heads, length, head_dim) each."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int


@dataclass
class Pass:
    """One forward pass over some slots.

    Attributes:
        stage: "prefix" (the shared tokens), "prefill" (the rest of each prompt), "decode" (one token per row) or "score"
            (like prefill, but nothing is kept).
        slots: the slots of its rows, first and beyond the last.
        prefixes: which rows see which prefix: (prefix, row indices (n,)), None for all rows.
        ends: how many of its own columns each row sees, (rows,); None: each query those up to its own.
    """

    stage: str
    slots: tuple[int, int]
    prefixes: list[tuple[Prefix, Tensor | None]]
    ends: Tensor | None = None
    _bias: Tensor | None = field(default=None, init=False, repr=False)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Where each row's new token is kept while decoding: slots and columns, (rows,) each."""
        assert self.ends is not None
        return torch.arange(*self.slots, device=self.ends.device), self.ends - 1

    def bias(self, queries: int, columns: int, device: torch.device) -> Tensor:
        """The rows' own columns that are hidden, as an additive float32 mask (rows or 1, 1, queries, columns)."""
        if self._bias is None:
            if self.ends is None:
                hidden = torch.ones(queries, columns, dtype=torch.bool, device=device).triu(1)[None]
            else:
                hidden = (torch.arange(columns, device=device) >= self.ends[:, None])[:, None]
            self._bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, torch.finfo(torch.float32).min)[:, None]
        return self._bias


class SuffixLayer(CacheLayerMixin):
    """One layer's own keys and values of each row: buffers (slots, kv_heads, columns, head_dim)."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, owner: SharedPrefixCache) -> None:
        super().__init__()
        self._owner = weakref.ref(owner)  # no circle: the buffers go with the last who holds the cache

    @property
    def owner(self) -> SharedPrefixCache:
        """The cache that it is a layer of."""
        owner = self._owner()
        assert owner is not None
        return owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.owner.slots, key_states.shape[1], self.owner.columns)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Store new keys and values (rows, kv_heads, positions, head_dim); return those that the queries may see."""
        owner, now = self.owner, self.owner.now
        if now.stage == "prefix":
            [(prefix, _)] = now.prefixes
            prefix.keys.append(key_states.contiguous())
            prefix.values.append(value_states.contiguous())
            return key_states, value_states
        if now.stage == "score":
            return key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = slice(*now.slots)
        if now.stage == "prefill":
            self.keys[slots, :, : key_states.shape[2]] = key_states
            self.values[slots, :, : key_states.shape[2]] = value_states
            return key_states, value_states
        rows, columns = now.places
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        return self.keys[slots, :, : owner.end], self.values[slots, :, : owner.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return self.owner.end

    def get_max_length(self) -> int:
        return -1


class SharedPrefixCache(Cache):
    """The rows' own keys and values, beside prefixes that they share. A row's columns begin at 0.

    Args:
        layers: number of decoder layers.
        slots: rows that fit in.
        columns: tokens per row beyond its prefix.
        device: where the model runs.
        compiled: whether the model runs on compiled kernels.
    """

    def __init__(self, layers: int, slots: int, columns: int, device: torch.device, compiled: bool) -> None:
        self.slots, self.columns, self.compiled = slots, columns, compiled
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)  # columns in use, by slot
        self.end = 0  # columns that the current pass looks at
        self.now: Pass
        self._suffixes = [SuffixLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._suffixes))

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy one row's first `length` columns over another row (that has ended)."""
        for layer in self._suffixes:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
        self.lengths[target] = self.lengths[source]


_CURRENT: ContextVar[SharedPrefixCache | None] = ContextVar("cotscope_cache", default=None)


@contextmanager
def use_shared_prefix(model: PreTrainedModel, cache: SharedPrefixCache) -> Iterator[None]:
    """Let `model`'s attention be the shared-prefix one, on `cache`, within the block."""
    before = model.config._attn_implementation
    token = _CURRENT.set(cache)
    model.config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        model.config._attn_implementation = before
        _CURRENT.reset(token)


def _partial(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over one set of keys and its log-sum-exp. Query (b, h, q, d), key and value (b, h, k, d).

    Returns: output (b, h, q, d) in the query's dtype, log-sum-exp (b, h, q) in float32.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=bias, scale=scale
        )
    return _in_pytorch(query, key, value, bias, scale)


def _in_pytorch(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """`_partial` where PyTorch has no one operation for it. Scores are in float32 from the beginning: in 16 bits those of
    several hundred, before they are scaled, are rounded to whole numbers and more, or to infinity."""
    scores = (query.float() @ key.float().transpose(-1, -2)) * scale
    if bias is not None:
        scores = scores + bias
    lse = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - lse[..., None]).to(value.dtype) @ value, lse


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query (rows, heads, q, d), key and value (rows, kv_heads, k, d).

    Returns: (rows, q, heads, d), None.
    """
    if unknown := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise UnsupportedAttention(", ".join(unknown))
    cache = _CURRENT.get()
    assert cache is not None, "shared-prefix attention outside use_shared_prefix"
    now = cache.now
    rows, heads, queries, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    scale = dim**-0.5 if scaling is None else scaling
    if cache.compiled and cpu.attends(query, key, value):
        return _compiled(module.layer_idx, now, query, key, value, scale), None
    if now.stage == "prefix":
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=group > 1)
        return out.transpose(1, 2), None

    # The query heads of one group share their key head, so they too fold into the query axis.
    folded = query.reshape(rows, kv_heads, group * queries, dim)
    bias = now.bias(queries, key.shape[2], query.device)
    if group > 1:
        bias = bias.repeat(1, 1, group, 1) if queries > 1 else bias.expand(-1, -1, group, -1)
    bias = bias.expand(rows, -1, -1, -1)
    out, lse = _partial(folded, key, value, bias, scale)
    for prefix, index in now.prefixes:
        if not prefix.length:
            continue
        mine = folded if index is None else folded[index]
        long = mine.transpose(0, 1).reshape(1, kv_heads, -1, dim)
        layer = module.layer_idx
        prefix_out, prefix_lse = _partial(long, prefix.keys[layer], prefix.values[layer], None, scale)
        prefix_out = prefix_out.view(kv_heads, -1, group * queries, dim).transpose(0, 1)
        prefix_lse = prefix_lse.view(kv_heads, -1, group * queries).transpose(0, 1)
        if index is None:
            out = _merged(out, lse, prefix_out, prefix_lse)
        else:
            out[index] = _merged(out[index], lse[index], prefix_out, prefix_lse)
    return out.reshape(rows, heads, queries, dim).transpose(1, 2), None


def _compiled(layer: int, now: Pass, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same by our own kernel, which goes on from the rows' own keys to the prefix."""
    attention = cpu.Attention(query, scale)
    alone = now.stage == "prefix"
    attention.over(key, value, begins=True, finishes=alone, ends=now.ends, causal=now.ends is None)
    for prefix, rows in () if alone else now.prefixes:
        nothing = key[:1, :, :0], value[:1, :, :0]
        shared = (prefix.keys[layer], prefix.values[layer]) if prefix.length else nothing
        attention.over(*shared, begins=False, finishes=True, rows=rows)
    return attention.out


def _merged(out: Tensor, lse: Tensor, prefix_out: Tensor, prefix_lse: Tensor) -> Tensor:
    weight = torch.sigmoid(lse - prefix_lse).unsqueeze(-1)  # e^lse / (e^lse + e^prefix_lse)
    return torch.lerp(prefix_out.float(), out.float(), weight).to(out.dtype)


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
