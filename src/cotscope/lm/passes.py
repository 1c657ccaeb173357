"""One forward pass of a model, with what interventions and recorders do in it. Who runs in it is `rows.py`'s to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .attention import Pass, Prefix, SharedPrefixCache, use_shared_prefix
from .carried import At, Carried
from .changes import Places
from .hooks import arrival_hook, block_hooks
from .jobs import Job, Work
from .loading import LoadedModel
from .prefixes import PREFIX_BYTES, Prefixes
from .stream import check_writes


@dataclass
class View:
    """What a forward pass means for interventions and recorders.

    Attributes:
        stage: "prompt" or "generated": whose positions the pass runs over.
        groups: (work, indices of its rows in the pass or None for all).
        rows: rows in the pass.
        unembedded: places (rows (n,), positions (n,)) whose logits are wanted; None: the last position of all rows.
        recorded: places that recorders see, likewise.
        numbers: for each group, whose the recorded places are; None where nothing is recorded.
        given: which tokens of the pass belong to continuations that are given, (rows, positions): they count as
            generated, whatever `stage` says; None: none.
    """

    stage: str
    groups: list[tuple[Work, Tensor | None]]
    rows: int
    unembedded: tuple[Tensor, Tensor] | None = None
    recorded: tuple[Tensor, Tensor] | None = None
    numbers: list[list[int]] | None = None
    given: Tensor | None = None


class Passes:
    """Forward passes of one model, and the prefixes that they left behind.

    Args:
        loaded: the model.
        prefix_bytes: how much of earlier jobs' prefixes is kept for later ones that share them.
    """

    def __init__(self, loaded: LoadedModel, prefix_bytes: int = PREFIX_BYTES) -> None:
        self.loaded, self.device = loaded, loaded.model.device
        self._prefixes = Prefixes(prefix_bytes)
        self._carried = Carried(loaded.anatomy)
        self.residuals: list[Tensor] | None = None
        """Where what enters the final norm at the unembedded places (places, hidden) is put, pass by pass; None: nowhere."""
        self._view: View
        self._places: Places

    def cache(self, slots: int, columns: int) -> SharedPrefixCache:
        """Room for the keys and values of so many rows, so many tokens each beyond their prefix."""
        compiled = self.loaded.kernels == "compiled"
        return SharedPrefixCache(self.loaded.anatomy.layers, slots, columns, self.device, compiled)

    @contextmanager
    def hooks(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Coefficients pass through `_on_coefficients`, and only the places that matter are unembedded."""
        used = any(job.recorder is not None or job.intervention is not None for job in jobs)
        carried = any(job.intervention is not None and job.intervention.path != "both" for job in jobs)
        adds = carried or any(job.intervention is not None and job.intervention.adds for job in jobs)
        before, after = self._on_coefficients if used else None, self._on_output if adds else None
        anatomy = self.loaded.anatomy
        if carried:
            check_writes(self.loaded)
        head = self.loaded.model.get_output_embeddings().register_forward_pre_hook(self._on_unembedding)
        try:
            with block_hooks(anatomy, before, after), arrival_hook(anatomy, self._on_final_norm, carried):
                yield
        finally:
            head.remove()
            self._carried.forget()

    def forward(self, cache: Cache | None, ids: Tensor, positions: Tensor, view: View, mask: Tensor | None = None) -> Tensor:
        """Run tokens (rows, positions) through the model; logits (places, vocabulary) at the unembedded places."""
        self._view = view
        self._carried.begin()
        self._places = Places(ids, positions, view.stage == "generated" if view.given is None else view.given)
        shared = use_shared_prefix(self.loaded.model, cache) if isinstance(cache, SharedPrefixCache) else nullcontext()
        with shared:
            out = self.loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=0 if view.unembedded is not None else 1,
            )
        if view.numbers is not None:
            for (work, _), numbers in zip(view.groups, view.numbers, strict=True):
                if work.job.recorder is not None:
                    work.job.recorder.end_step(numbers)
        logits: Tensor = out.logits[:, -1]
        for work, index in view.groups:
            intervention = work.job.intervention
            if intervention is not None and intervention.bias is not None:
                here = slice(None) if index is None else self._unembedded_among(index)
                logits[here] += intervention.bias
        return logits

    def _on_unembedding(self, module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        view, hidden = self._view, args[0]
        return None if view.unembedded is None else (hidden[view.unembedded][:, None],)

    def unembedded(self) -> tuple[Tensor, Tensor] | None:
        """The places (rows, positions) whose logits are wanted of the pass that runs; None: the last position of all rows."""
        return self._view.unembedded

    def recorded(self) -> tuple[Tensor, Tensor] | None:
        """The places (rows, positions) that recorders see of the pass that runs; None: the last position of all rows."""
        return self._view.recorded

    def _on_final_norm(self, residual: Tensor) -> Tensor | None:
        changed = self._carried.arrive(residual)
        if self.residuals is not None and self._view.unembedded is not None:
            self.residuals.append((residual if changed is None else changed)[self._view.unembedded])
        return changed

    def _on_coefficients(self, layer: int, m: Tensor) -> None:
        view, places = self._view, self._places
        if m.ndim == 2:  # OPT flattens rows and positions
            m = m.unflatten(0, (view.rows, -1))
        for work, index in view.groups:
            intervention = work.job.intervention
            if intervention is None:
                continue
            if intervention.path != "both":
                at = self._unembedded_of(index)
                self._carried.before(layer, intervention, at, m[at], places.at(at))
            if intervention.path == "direct":
                continue
            if index is None:
                intervention.apply(layer, m, places)
            else:
                part = m[index]
                intervention.apply(layer, part, places.at(index))
                m[index] = part
        if view.numbers is None:
            return
        place: Tensor | None = None
        for work, index in view.groups:
            if work.job.recorder is not None:
                if place is None:
                    place = m[:, -1] if view.recorded is None else m[view.recorded]
                work.job.recorder.observe(layer, place if index is None else place[index])

    def _on_output(self, layer: int, m: Tensor, y: Tensor) -> None:
        view, places = self._view, self._places
        if m.ndim == 2:
            m, y = m.unflatten(0, (view.rows, -1)), y.unflatten(0, (view.rows, -1))
        for work, index in view.groups:
            intervention = work.job.intervention
            if intervention is None or not intervention.adds or intervention.path == "direct":
                continue
            if index is None:
                intervention.add(layer, m, y, places)
            else:
                part = y[index]
                intervention.add(layer, m[index], part, places.at(index))
                y[index] = part
        self._carried.after(layer, y)

    def _unembedded_of(self, index: Tensor | None) -> At:
        """The places of some rows of the pass (None: of all) whose logits are wanted."""
        if (places := self._view.unembedded) is None:
            rows = torch.arange(self._view.rows, device=self.device) if index is None else index
            return rows, torch.full_like(rows, -1)
        here = slice(None) if index is None else self._unembedded_among(index)
        return places[0][here], places[1][here]

    def _unembedded_among(self, index: Tensor) -> Tensor:
        """Which of the places whose logits are wanted belong to these rows of the pass."""
        places = self._view.unembedded
        return index if places is None else torch.isin(places[0], index).nonzero()[:, 0]

    # -- shared prefixes ---------------------------------------------------------------------------------------------

    def share(self, work: Work, prompts: list[list[int]]) -> None:
        """Settle how many tokens a job's prompts share; an earlier job may have left their keys and values."""
        work.common = common_prefix(prompts)
        work.prefix = self._prefixes.find(work.prefix_key, prompts[0][: work.common])
        if work.prefix is not None:
            work.common = work.prefix.length

    def run_prefix(self, work: Work) -> Prefix:
        """Keys and values of the tokens that a job's prompts share, under its intervention."""
        prefix = Prefix([], [], 0)
        ids = work.ids[0][: work.common]
        if ids:
            cache = self.cache(0, 0)
            cache.now = Pass("prefix", (0, 0), [(prefix, None)])
            tokens = torch.tensor([ids], device=self.device)
            positions = torch.arange(len(ids), device=self.device)[None]
            self.forward(cache, tokens, positions, View("prompt", [(work, None)], 1))
        prefix.length = len(ids)
        self._prefixes.keep(work.prefix_key, ids, prefix)
        return prefix


def common_prefix(ids: list[list[int]]) -> int:
    """Tokens that all rows share at their start, leaving at least one to each row."""
    first, last = min(ids), max(ids)  # in lexicographic order these two share the least
    limit = min(map(len, ids)) - 1
    return next((i for i, (a, b) in enumerate(zip(first, last)) if a != b or i >= limit), limit)
