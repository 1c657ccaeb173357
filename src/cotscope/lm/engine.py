"""Batched greedy generation with recording and interventions on any Hugging Face decoder.

The tokens that all prompts share at their start are run once (`attention.py`); the rest of each prompt and the
generated tokens are per row. Rows leave the batch as they end. Models whose attention can't take a shared prefix run
on the plain path: whole prompts, padded on the left, transformers' own attention and cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import PromptError
from ..records import Completion
from .attention import SharedPrefixCache, use_shared_prefix
from .interventions import Intervention, coefficient_hooks
from .loading import LoadedModel
from .recorders import Recorder

log = logging.getLogger(__name__)

PREFILL_TOKENS = 1536  # tokens per prefill pass: enough to reach the GEMM rate, small enough to pad little
MAX_ROWS = {"shared": 128, "plain": 16}  # plain: transformers' cache is copied at every step, 16 is its best
Progress = Callable[[int, int], None]  # (rows that ended, tokens that they generated) since the last call


class _Batch(Protocol):
    """The model's state for the rows that are still generating, in slots 0…active-1."""

    def prefill(self) -> Tensor:
        """Run the prompts; logits (rows, vocabulary) that choose the first token."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Append one token per active row (active,); logits (active, vocabulary)."""

    def drop(self, slots: list[int]) -> list[int]:
        """Remove ended slots; returns, for each new slot, the old slot that it was."""


class _SharedBatch:
    """Rows over a shared prefix."""

    def __init__(self, engine: Engine, prefix: SharedPrefixCache, suffixes: list[list[int]], new: int) -> None:
        model = engine.loaded.model
        self.model, self.suffixes, self.engine = model, suffixes, engine
        self.longest = max(map(len, suffixes))
        self.device = model.device
        self.cache = SharedPrefixCache(engine.loaded.anatomy.layers, len(suffixes), self.longest + new)
        self.cache.share_prefix(prefix)
        self.cache.end = self.longest
        lengths = torch.tensor([len(s) for s in suffixes], device=self.device)
        columns = torch.arange(self.cache.capacity, device=self.device)
        padding = columns[None] < (self.longest - lengths)[:, None]
        self.bias = torch.zeros(padding.shape, device=self.device).masked_fill_(padding, torch.finfo(torch.float32).min)
        self.padded = bool(padding.any())
        self.positions = self.cache.prefix_length + lengths  # of the next token
        self.active = len(suffixes)

    def prefill(self) -> Tensor:
        cache, logits, first = self.cache, [], 0
        cache.stage = "prefill"
        while first < len(self.suffixes):
            # Rows are sorted longest first, so the first row of a pass gives its width.
            width = len(self.suffixes[first])
            last = min(len(self.suffixes), first + max(1, PREFILL_TOKENS // width))
            ids = torch.tensor([[0] * (width - len(s)) + s for s in self.suffixes[first:last]], device=self.device)
            pad = width - torch.tensor([len(s) for s in self.suffixes[first:last]], device=self.device)
            columns = torch.arange(width, device=self.device)
            hidden = (columns[None, None, :] < pad[:, None, None]) | (columns[None, :] > columns[:, None])[None]
            cache.bias = torch.zeros(hidden.shape, device=self.device).masked_fill_(
                hidden, torch.finfo(torch.float32).min
            )[:, None]
            cache.active_rows = slice(first, last)
            positions = (cache.prefix_length + columns[None] - pad[:, None]).clamp_(min=0)
            logits.append(self._forward(ids, positions))
            first = last
        cache.stage = "decode"
        return torch.cat(logits)

    def decode(self, tokens: Tensor) -> Tensor:
        cache = self.cache
        cache.end += 1
        cache.active_rows = slice(0, self.active)
        cache.bias = self.bias[: self.active, None, None, cache.start : cache.end] if self.padded else None
        positions = self.positions[: self.active, None].clone()
        self.positions[: self.active] += 1
        return self._forward(tokens[:, None], positions)

    def drop(self, slots: list[int]) -> list[int]:
        order = list(range(self.active))
        for slot in sorted(slots, reverse=True):
            last = self.active - 1
            if slot != last:
                self.cache.move_row(last, slot)
                self.bias[slot] = self.bias[last]
                self.positions[slot] = self.positions[last]
                order[slot] = order[last]
            order.pop()
            self.active = last
        return order

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.engine._before_pass(ids)
        with use_shared_prefix(self.model, self.cache):
            out = self.model(
                input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1
            )
        self.engine._after_pass(self.cache.active_rows)
        return out.logits[:, -1]


class _PlainBatch:
    """Whole prompts, padded on the left, with transformers' own attention and cache."""

    def __init__(self, engine: Engine, prompts: list[list[int]]) -> None:
        self.model, self.engine = engine.loaded.model, engine
        self.cache = DynamicCache(config=self.model.config)
        self.active = len(prompts)
        width, device = max(map(len, prompts)), self.model.device
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)

    def prefill(self) -> Tensor:
        return self._forward(self.ids, (self.mask.cumsum(1) - 1).clamp_(min=0))

    def decode(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(self.active, 1)], dim=1)
        return self._forward(tokens[:, None], self.mask.sum(1, keepdim=True) - 1)

    def drop(self, slots: list[int]) -> list[int]:
        order = [slot for slot in range(self.active) if slot not in set(slots)]
        index = torch.tensor(order, dtype=torch.long, device=self.model.device)
        if order:
            self.cache.batch_select_indices(index)
        self.mask, self.active = self.mask[index], len(order)
        return order

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.engine._before_pass(ids)
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.engine._after_pass(slice(0, self.active))
        return out.logits[:, -1]


class Engine:
    """Generates for many prompts at once on one loaded model.

    Args:
        loaded: the model.
        rows: rows per batch; None chooses from the memory that is free, at most 128.
        share_prefix: False forces the plain path; None takes the shared prefix where the model can (checked once by
            comparing both paths on this model).
    """

    def __init__(self, loaded: LoadedModel, rows: int | None = None, share_prefix: bool | None = None) -> None:
        self.loaded, self.rows, self._share = loaded, rows, share_prefix
        self._recorder: Recorder | None = None
        self._said = False  # that the plain path is taken
        self._rows_of_pass = 0
        self._slots: list[int] = []  # the row number in each slot of the batch that is running

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 120,
        stop: tuple[str, ...] = (),
        recorder: Recorder | None = None,
        intervention: Intervention | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Greedy completions, in the order of `prompts`.

        In float32 the tokens are those of `model.generate(do_sample=False)` for each prompt alone, whatever the
        batch, the padding and the order. A row ends at the model's end token, at a stop string or after
        `max_new_tokens`. `recorder` sees every generated token; `intervention` acts on the whole sequence.

        Raises: PromptError if a prompt and its new tokens do not fit the model's context.
        """
        if not prompts:
            return []
        ids = [self.loaded.encode(p) for p in prompts]
        context = self.loaded.context
        longest = max(map(len, ids))
        if longest + max_new_tokens > context:
            raise PromptError(
                "a prompt is longer than the model's context",
                expected=f"at most {context - max_new_tokens} tokens ({context} less {max_new_tokens} to generate)",
                got=f"{longest}",
                remedy="Use fewer exemplars, or --max-new-tokens.",
            )
        shared = self.shares_prefix(longest + max_new_tokens)
        common = _common_prefix(ids) if shared else 0
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        size = self.rows or self.batch_rows(longest + max_new_tokens)
        done: dict[int, Completion] = {}
        with coefficient_hooks(self.loaded.anatomy, intervention, None if recorder is None else self._observe):
            prefix = self._run_prefix(ids[0][:common]) if shared else None
            for first in range(0, len(order), size):
                numbers = order[first : first + size]
                if prefix is not None:
                    batch = _SharedBatch(self, prefix, [ids[i][common:] for i in numbers], max_new_tokens)
                else:
                    batch = _PlainBatch(self, [ids[i] for i in numbers])
                self._run_batch(batch, numbers, done, max_new_tokens, stop, recorder, progress)
        return [done[i] for i in range(len(prompts))]

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run_batch(
        self,
        batch: _Batch,
        numbers: list[int],
        done: dict[int, Completion],
        max_new_tokens: int,
        stop: tuple[str, ...],
        recorder: Recorder | None,
        progress: Progress | None,
    ) -> None:
        slots = self._slots = list(numbers)
        written: dict[int, list[int]] = {n: [] for n in numbers}
        tails: dict[int, str] = dict.fromkeys(numbers, "")
        longest_stop = max(map(len, stop), default=0)
        self._recorder = recorder
        logits = batch.prefill()
        while slots:
            tokens = logits.argmax(dim=-1)
            ended = []
            for slot, token in enumerate(tokens.tolist()):
                number = slots[slot]
                ends = token in self.loaded.end_tokens
                if ends:
                    finish = "stop"
                else:
                    written[number].append(token)
                    tail = tails[number] = (tails[number] + self.loaded.piece(token))[-longest_stop - 32 :]
                    if any(s in tail for s in stop):
                        finish = "stop"
                    elif len(written[number]) >= max_new_tokens:
                        finish = "length"
                    else:
                        continue
                done[number] = self._completion(written[number], len(written[number]) + ends, stop, finish)
                ended.append(slot)
            if ended:
                if progress is not None:
                    progress(len(ended), sum(len(written[slots[s]]) for s in ended))
                kept = batch.drop(ended)
                slots[:] = [slots[s] for s in kept]
                tokens = tokens[kept]
            if slots:
                logits = batch.decode(tokens)
        if recorder is not None:
            recorder.end_batch()
        self._recorder = None

    def _observe(self, layer: int, m: Tensor) -> None:
        if self._recorder is not None:
            if m.ndim == 2:  # OPT flattens rows and positions
                m = m.unflatten(0, (self._rows_of_pass, -1))
            self._recorder.observe(layer, m)

    def _before_pass(self, ids: Tensor) -> None:
        self._rows_of_pass = len(ids)

    def _after_pass(self, slots: slice) -> None:
        if self._recorder is not None:
            self._recorder.end_step(self._slots[slots])

    def _completion(self, tokens: list[int], steps: int, stop: tuple[str, ...], finish: str) -> Completion:
        text = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        cut = min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))
        return Completion(tuple(tokens), text[:cut], steps, finish)

    # -- the shared prefix ----------------------------------------------------------------------------------------

    def _run_prefix(self, ids: list[int]) -> SharedPrefixCache:
        cache = SharedPrefixCache(self.loaded.anatomy.layers, 1, 1)
        if ids:
            with use_shared_prefix(self.loaded.model, cache):
                self.loaded.model(
                    input_ids=torch.tensor([ids], device=self.loaded.model.device),
                    past_key_values=cache,
                    position_ids=torch.arange(len(ids), device=self.loaded.model.device)[None],
                    use_cache=True,
                    logits_to_keep=1,
                )
        cache.prefix_length = len(ids)
        return cache

    def shares_prefix(self, length: int) -> bool:
        """Whether prompts of this many tokens can share a prefix on this model."""
        window = getattr(self.loaded.model.config.get_text_config(), "sliding_window", None)
        if self.loaded.slides and window is not None and length > window:
            self._say(f"its attention slides over {window} tokens")
            return False
        if self._share is None:
            self._share = self._check_shared_prefix()
        return self._share

    def _say(self, why: str) -> None:
        if not self._said:
            log.warning("%s can't share a prompt's prefix (%s): using the slower plain path", self.loaded.name, why)
        self._said = True

    def _check_shared_prefix(self) -> bool:
        """Compare both paths' logits on this very model: no list of architectures could be as sure."""
        ids = [[3 + (7 * i + 5 * row) % 90 for i in range(9 + row)] for row in range(3)]
        ids = [[5] * 6 + row for row in reversed(ids)]
        try:
            plain = _PlainBatch(self, ids).prefill().float()
            shared = _SharedBatch(self, self._run_prefix(ids[0][:6]), [row[6:] for row in ids], 1).prefill().float()
        except Exception as error:  # whatever a foreign architecture's forward raises, the plain path remains
            self._say(f"{type(error).__name__}: {error}")
            return False
        spread = plain.std().item()
        difference = (plain - shared).abs().max().item()
        tolerance = 1e-3 if self.loaded.dtype == torch.float32 else 0.15
        if difference > tolerance * max(spread, 1e-6):
            self._say(f"its logits differ by {difference:.2g}")
            return False
        return True

    def batch_rows(self, length: int) -> int:
        """Rows whose caches and logits fit into 40 % of the memory that is free now, if each had `length` tokens."""
        shared = self.shares_prefix(length)
        config = self.loaded.model.config.get_text_config()
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_token = 2 * self.loaded.anatomy.layers * kv_heads * dim * self.loaded.dtype.itemsize
        per_row = per_token * length * (1 if shared else 2) + 8 * config.vocab_size
        return max(1, min(MAX_ROWS["shared" if shared else "plain"], int(self.loaded.free_memory() * 0.4 / per_row)))


def _common_prefix(ids: list[list[int]]) -> int:
    """Tokens that all rows share at their start, leaving at least one to each row."""
    first, last = min(ids), max(ids)  # in lexicographic order these two share the least
    limit = min(map(len, ids)) - 1
    return next((i for i, (a, b) in enumerate(zip(first, last)) if a != b or i >= limit), limit)
