"""Shared-prefix attention: the few-shot prompt's keys and values exist once, whatever the number of rows.

Softmax attention over two disjoint sets of keys is the average of the two partial outputs, weighted by their
log-sum-exp: out = Σ_j e^{lse_j} out_j / Σ_j e^{lse_j}. So a row's attention is one call over the prefix (the queries
of all rows folded into one long query, since they all see the whole prefix) and one over the row's own suffix.
(The same identity underlies FlashDecoding, Hydragen (Juravsky et al. 2024, arXiv:2402.05099) and cascade inference.)

Registered with transformers' `AttentionInterface` under `IMPLEMENTATION`; no mask is built by transformers for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

IMPLEMENTATION = "cotscope_shared_prefix"

# Arguments of an attention call that change its result and that this implementation does not know.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


class UnsupportedAttention(Exception):
    """The model's attention asks for something that shared-prefix attention does not do; the engine falls back."""


class PrefixLayer(CacheLayerMixin):
    """One layer's keys and values: a prefix shared by all rows, and a fixed-size suffix buffer per row.

    Shapes: prefix (1, kv_heads, P, head_dim); suffix buffers (rows, kv_heads, capacity, head_dim), the used columns
    being [start, end) of the owning `SharedPrefixCache`.
    """

    is_sliding = False

    def __init__(self, owner: SharedPrefixCache) -> None:
        super().__init__()
        self.owner = owner
        self.prefix_keys: Tensor | None = None
        self.prefix_values: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.owner.rows, key_states.shape[1], self.owner.capacity)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, ...]:
        """Store new keys and values (rows, kv_heads, columns, head_dim); return those that the queries may see."""
        owner = self.owner
        if owner.stage == "prefix":
            self.prefix_keys, self.prefix_values = key_states.contiguous(), value_states.contiguous()
            return key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, columns = owner.active_rows, slice(owner.end - key_states.shape[2], owner.end)
        self.keys[rows, :, columns] = key_states
        self.values[rows, :, columns] = value_states
        if owner.stage == "prefill":
            return key_states, value_states
        return self.keys[rows, :, owner.start : owner.end], self.values[rows, :, owner.start : owner.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return self.owner.prefix_length + self.owner.end - self.owner.start

    def get_max_length(self) -> int:
        return -1


class SharedPrefixCache(Cache):
    """The cache of one batch. Rows end at the same column (questions are padded on the left).

    Args:
        layers: number of decoder layers.
        rows: rows in the batch.
        capacity: columns of the suffix buffers (longest question + tokens to generate).
    """

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.prefix_length = 0
        self.stage = "prefix"
        self.active_rows = slice(0, rows)
        self.start = self.end = 0
        self.bias: Tensor | None = None  # additive mask of the current call, (rows, 1, queries, keys)
        super().__init__(layers=[PrefixLayer(self) for _ in range(layers)])

    def share_prefix(self, other: SharedPrefixCache) -> None:
        """Use the prefix that another cache computed."""
        self.prefix_length = other.prefix_length
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.prefix_keys, mine.prefix_values = theirs.prefix_keys, theirs.prefix_values

    def move_row(self, source: int, target: int) -> None:
        """Copy one row's suffix over another's (a row that has ended)."""
        for layer in self.layers:
            layer.keys[target, :, self.start : self.end] = layer.keys[source, :, self.start : self.end]
            layer.values[target, :, self.start : self.end] = layer.values[source, :, self.start : self.end]


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
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    lse = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - lse[..., None]).to(value.dtype) @ value, lse


def shared_prefix_attention(
    module: torch.nn.Module,
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
    rows, heads, queries, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    scale = dim**-0.5 if scaling is None else scaling
    if cache.stage == "prefix":
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=group > 1)
        return out.transpose(1, 2), None

    # The query heads of one group share their key head, so they too fold into the query axis.
    folded = query.reshape(rows, kv_heads, group * queries, dim)
    bias = cache.bias
    if bias is not None and group > 1:
        bias = bias.repeat(1, 1, group, 1) if queries > 1 else bias.expand(-1, -1, group, -1)
    out, lse = _partial(folded, key, value, bias, scale)
    if cache.prefix_length:
        layer = cache.layers[module.layer_idx]
        long = folded.transpose(0, 1).reshape(1, kv_heads, rows * group * queries, dim)
        prefix_out, prefix_lse = _partial(long, layer.prefix_keys, layer.prefix_values, None, scale)
        prefix_out = prefix_out.view(kv_heads, rows, group * queries, dim).transpose(0, 1)
        prefix_lse = prefix_lse.view(kv_heads, rows, group * queries).transpose(0, 1)
        weight = torch.sigmoid(lse - prefix_lse).unsqueeze(-1)  # e^lse / (e^lse + e^prefix_lse)
        out = torch.lerp(prefix_out.float(), out.float(), weight).to(query.dtype)
    return out.reshape(rows, heads, queries, dim).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
