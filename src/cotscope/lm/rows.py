"""The rows that are being continued at one time: over shared prefixes, or as whole prompts on the plain path."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from .attention import Pass
from .jobs import Row, Work
from .passes import Passes, View

PREFILL_TOKENS = 1536  # tokens per prefill pass: enough to reach the GEMM rate, small enough to pad little
REFILL = 8  # rows join when this share of the slots (one in so many) is free: a pass over few questions wastes little


def groups_of(rows: list[Row], device: torch.device) -> tuple[list[tuple[Work, Tensor | None]], list[list[int]]]:
    """Rows by the work that they belong to: (work, row indices or None for all), and their row numbers."""
    places: dict[Work, list[int]] = {}
    for i, row in enumerate(rows):
        places.setdefault(row.work, []).append(i)
    numbers = [[rows[i].number for i in found] for found in places.values()]
    if len(places) == 1:
        return [(rows[0].work, None)], numbers
    return [(work, torch.tensor(found, device=device)) for work, found in places.items()], numbers


def padded(suffixes: list[list[int]], start: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens (rows, width), padded on the right, and their positions, which begin at `start`."""
    width = max(map(len, suffixes))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in suffixes], device=device)
    positions = (start + torch.arange(width, device=device)).clamp(max=context - 1)
    return ids, positions.expand(len(suffixes), -1)


class Table(Protocol):
    """The rows in slots 0…len(rows)-1, and the model's state for them."""

    rows: list[Row]

    def admit(self, queue: deque[Row]) -> Tensor | None:
        """Run the prompts of rows that now find room; logits (new rows, vocabulary) of their first tokens."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Append one token per row (rows,); logits (rows, vocabulary)."""

    def drop(self, slots: list[int]) -> list[int]:
        """Remove ended slots; returns, for each new slot, the old slot that it was."""


class SharedTable:
    """Rows over shared prefixes. Rows of several jobs stand in it at once; as some end, others take their slots."""

    def __init__(self, passes: Passes, slots: int, columns: int) -> None:
        self.passes, self.slots, self.device = passes, slots, passes.device
        self.rows: list[Row] = []
        self.cache = passes.cache(slots, columns)
        self.prefix_lengths = torch.zeros(slots, dtype=torch.long, device=self.device)  # by slot
        self.lengths: list[int] = []  # columns in use by slot, as the host knows them
        self._groups: tuple[list[tuple[Work, Tensor | None]], list[list[int]]] | None = None

    def admit(self, queue: deque[Row]) -> Tensor | None:
        free = self.slots - len(self.rows)
        if not queue or (self.rows and free < max(1, self.slots // REFILL)):
            return None
        logits = []
        while queue and free:
            work, width = queue[0].work, len(queue[0].suffix)
            room = min(free, max(1, PREFILL_TOKENS // width))
            new: list[Row] = []
            while queue and queue[0].work is work and len(new) < room:
                new.append(queue.popleft())
            logits.append(self._prefill(work, new))
            free -= len(new)
        self._groups = None
        return torch.cat(logits)

    def _prefill(self, work: Work, new: list[Row]) -> Tensor:
        if work.prefix is None:
            work.prefix = self.passes.run_prefix(work)
        first, width = len(self.rows), max(len(row.suffix) for row in new)
        suffixes = [row.suffix for row in new]
        self.rows += new
        self.lengths += map(len, suffixes)
        slots = slice(first, len(self.rows))
        lengths = torch.tensor([len(s) for s in suffixes], device=self.device)
        self.cache.lengths[slots] = lengths
        self.prefix_lengths[slots] = work.prefix.length
        self.cache.end = width
        self.cache.now = Pass("prefill", (first, len(self.rows)), [(work.prefix, None)])
        ids, positions = padded(suffixes, work.prefix.length, self.passes.loaded.context, self.device)
        last = (torch.arange(len(new), device=self.device), lengths - 1)
        view = View("prompt", [(work, None)], len(new), last, last, [[row.number for row in new]])
        return self.passes.forward(self.cache, ids, positions, view)

    def decode(self, tokens: Tensor) -> Tensor:
        count = len(self.rows)
        if self._groups is None:
            self._groups = groups_of(self.rows, self.device)
        groups, numbers = self._groups
        lengths = self.cache.lengths[:count]
        self.cache.end = max(self.lengths) + 1
        prefixes = [(work.prefix, index) for work, index in groups if work.prefix is not None]
        assert len(prefixes) == len(groups)
        self.cache.now = Pass("decode", (0, count), prefixes, lengths + 1)
        positions = (self.prefix_lengths[:count] + lengths)[:, None]
        logits = self.passes.forward(
            self.cache, tokens[:, None], positions, View("generated", groups, count, None, None, numbers)
        )
        lengths += 1
        self.lengths = [n + 1 for n in self.lengths]
        return logits

    def drop(self, slots: list[int]) -> list[int]:
        order = list(range(len(self.rows)))
        for slot in sorted(slots, reverse=True):
            last = len(self.rows) - 1
            if slot != last:
                self.cache.move_row(last, slot, self.lengths[last])
                self.prefix_lengths[slot] = self.prefix_lengths[last]
                self.rows[slot], self.lengths[slot], order[slot] = self.rows[last], self.lengths[last], order[last]
            self.rows.pop()
            self.lengths.pop()
            order.pop()
        self._groups = None
        return order


class PlainTable:
    """Whole prompts of one job at a time, padded on the left, with transformers' own attention and cache."""

    def __init__(self, passes: Passes, slots: int) -> None:
        self.passes, self.slots, self.device = passes, slots, passes.device
        self.rows: list[Row] = []

    def admit(self, queue: deque[Row]) -> Tensor | None:
        if self.rows or not queue:
            return None
        work = queue[0].work
        while queue and queue[0].work is work and len(self.rows) < self.slots:
            self.rows.append(queue.popleft())
        self.cache = DynamicCache(config=self.passes.loaded.model.config)
        prompts = [work.ids[row.number] for row in self.rows]
        width = max(map(len, prompts))
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        return self._forward(ids, (self.mask.cumsum(1) - 1).clamp_(min=0), "prompt")

    def decode(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        return self._forward(tokens[:, None], self.mask.sum(1, keepdim=True) - 1, "generated")

    def drop(self, slots: list[int]) -> list[int]:
        gone = set(slots)
        order = [slot for slot in range(len(self.rows)) if slot not in gone]
        index = torch.tensor(order, dtype=torch.long, device=self.device)
        if order:
            self.cache.reorder_cache(index)  # type: ignore[arg-type]  # batch_select_indices recurrent layers have not
        self.mask, self.rows = self.mask[index], [self.rows[slot] for slot in order]
        return order

    def _forward(self, ids: Tensor, positions: Tensor, stage: str) -> Tensor:
        groups, numbers = groups_of(self.rows, self.device)
        view = View(stage, groups, len(self.rows), None, None, numbers)
        return self.passes.forward(self.cache, ids, positions, view, self.mask)
