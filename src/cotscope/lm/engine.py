"""Batched generation, greedy or sampled, with recording and interventions on any Hugging Face decoder.

The tokens that a job's prompts share at their start are run once (`attention.py`); the rest of each prompt and the
generated tokens are per row. Rows leave as they end and others take their places (`rows.py`), so that conditions with
different prompts and interventions run in one batch. Models whose attention can't take a shared prefix run on the
plain path: whole prompts, padded on the left, transformers' own attention and cache.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..errors import PromptError
from ..records import Completion
from .interventions import Intervention
from .jobs import Job, Row, Work
from .loading import LoadedModel
from .passes import Passes
from .prefixes import PREFIX_BYTES
from .reading import setting
from .recorders import Recorder
from .rows import PlainTable, SharedTable, Table
from .select import argmax, sample

log = logging.getLogger(__name__)

MAX_ROWS = {"shared": 128, "plain": 16}  # plain: transformers' cache is copied at every step, 16 is its best
Progress = Callable[[int, int], None]  # (rows that ended, tokens that they generated) since the last call
Finished = Callable[[int, list[Completion]], None]  # (job number, its completions in the order of its prompts)


class Engine:
    """Generates for many prompts at once on one loaded model.

    Args:
        loaded: the model.
        rows: rows per batch; None chooses from the memory that is free, at most 128.
        share_prefix: False forces the plain path; None takes the shared prefix where the model can (checked once by
            comparing both paths on this model).
        ahead: start each step before the host has read the last one's tokens, so that a GPU never waits for it; a row
            that ended then costs one step more. None: on a GPU.
        prefix_bytes: how much of earlier jobs' prefixes is kept for later ones that share them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: int | None = None,
        share_prefix: bool | None = None,
        ahead: bool | None = None,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        self.loaded, self.rows, self._share = loaded, rows, share_prefix
        self.ahead = loaded.model.device.type == "cuda" if ahead is None else ahead
        self.passes = Passes(loaded, prefix_bytes)
        self._said = False  # that the plain path is taken

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 120,
        stop: tuple[str, ...] = (),
        recorder: Recorder | None = None,
        intervention: Intervention | None = None,
        progress: Progress | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Completion]:
        """Completions of one job, in the order of `prompts`; see `Job` and `run`."""
        job = Job(tuple(prompts), max_new_tokens, stop, recorder, intervention, temperature, seed)
        return self.run([job], progress)[0]

    @torch.inference_mode()
    def run(
        self, jobs: Sequence[Job], progress: Progress | None = None, finished: Finished | None = None
    ) -> list[list[Completion]]:
        """Completions of every job, in the order of its prompts.

        In float32 greedy tokens are those of `model.generate(do_sample=False)` for each prompt alone, whatever the
        batch, the padding and the order. `finished` is called as each job's last row has ended.

        Raises: PromptError if a prompt has no tokens, or does not fit the model's context with its new ones.
        """
        works = [Work(i, job, [self.loaded.encode(p) for p in job.prompts]) for i, job in enumerate(jobs)]
        lengths = [self.check_length(work) for work in works]
        shares = [bool(work.ids) and self.shares_prefix(length) for work, length in zip(works, lengths)]
        shared = []
        with self.passes.hooks(jobs):
            for work, length, share in zip(works, lengths, shares):
                if not work.ids:
                    self._finish(work, finished)
                elif share:
                    self.passes.share(work, work.ids)
                    shared.append(work)
                else:
                    table = PlainTable(self.passes, self.rows or self.batch_rows(length))
                    self._run(table, deque(work.rows()), progress, finished)
            if shared:
                slots = self.rows or self.batch_rows(max(lengths))
                slots = min(slots, sum(len(work.ids) for work in shared))
                columns = max(max(map(len, w.ids)) - w.common + w.job.max_new_tokens for w in shared) + self.ahead
                queue = deque(row for work in shared for row in work.rows())
                self._run(SharedTable(self.passes, slots, columns), queue, progress, finished)
        return [[work.done[i] for i in range(len(work.ids))] for work in works]

    def check_length(self, work: Work) -> int:
        """Tokens of the longest row when it has ended. Raises: PromptError if they do not fit the model's context, or a prompt
        has none."""
        if not all(work.ids):
            raise PromptError("a prompt has no tokens", expected="a text: this tokenizer puts nothing before it", got="''")
        longest, new, context = max(map(len, work.ids), default=0), work.job.max_new_tokens, self.loaded.context
        if longest + new > context:
            raise PromptError(
                "a prompt is longer than the model's context",
                expected=f"at most {context - new} tokens ({context} less {new} to generate)",
                got=f"{longest}",
                remedy="Use fewer exemplars, or --max-new-tokens.",
            )
        return longest + new

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self, table: Table, queue: deque[Row], progress: Progress | None, finished: Finished | None) -> None:
        tokens = torch.empty(0, dtype=torch.long, device=self.loaded.model.device)
        while queue or table.rows:
            if (logits := table.admit(queue)) is not None:
                tokens = torch.cat([tokens, _choose(logits, table.rows[len(tokens) :])])
            reading = _Reading(tokens)
            following = _choose(table.decode(tokens), table.rows) if self.ahead else None
            ended = [slot for slot, token in enumerate(reading.tokens()) if self._ends(table.rows[slot], token)]
            rows = [table.rows[slot] for slot in ended]
            if ended:
                kept = torch.tensor(table.drop(ended), dtype=torch.long, device=tokens.device)
                tokens = tokens[kept]
                following = None if following is None else following[kept]
                if progress is not None:
                    progress(len(rows), sum(len(row.written) for row in rows))
                for work in {row.work: None for row in rows}:
                    if len(work.done) == len(work.ids):
                        self._finish(work, finished)
            if following is not None:
                tokens = following
            elif table.rows:
                tokens = _choose(table.decode(tokens), table.rows)

    def _ends(self, row: Row, token: int) -> bool:
        """Take a row's next token; whether the row ends with it."""
        job = row.work.job
        if job.watch is not None:
            job.watch(row.number, token)
        finish: Literal["stop", "length"]
        if token in self.loaded.end_tokens:
            finish, tokens = "stop", [*row.written, token]
        else:
            row.written.append(token)
            row.tail = (row.tail + self.loaded.piece(token))[-max(map(len, job.stop), default=0) - 32 :]
            tokens = row.written
            if any(s in row.tail for s in job.stop):
                finish = "stop"
            elif len(tokens) >= job.max_new_tokens:
                finish = "length"
            else:
                return False
        text = self.loaded.decode(row.written, skip_special_tokens=True)
        cut = min((at for s in job.stop if (at := text.find(s)) >= 0), default=len(text))
        row.work.done[row.number] = Completion(tuple(row.written), text[:cut], len(tokens), finish)
        if job.recorder is not None:
            job.recorder.end_row(row.number, tokens)
        return True

    def _finish(self, work: Work, finished: Finished | None) -> None:
        work.prefix = None
        if work.job.recorder is not None:
            work.job.recorder.end()
        if finished is not None:
            finished(work.number, [work.done[i] for i in range(len(work.ids))])

    # -- which path, and how many rows -----------------------------------------------------------------------------------

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

    @torch.inference_mode()
    def _check_shared_prefix(self) -> bool:
        """Compare both paths' logits on this very model: no list of architectures could be as sure."""
        ids = [[3 + (7 * i + 5 * row) % 90 for i in range(9 + row)] for row in range(3)]
        work = Work(0, Job(()), [[5] * 6 + row for row in reversed(ids)], common=6)
        first: list[Tensor] = []
        second: list[Tensor] = []
        try:
            with self.passes.hooks([]):
                for table, logits in ((PlainTable(self.passes, 3), first), (SharedTable(self.passes, 3, 12), second)):
                    admitted = table.admit(deque(work.rows()))
                    assert admitted is not None
                    logits.append(admitted)
                    logits.append(table.decode(torch.tensor([7, 9, 11], device=self.loaded.model.device)))
        except Exception as error:  # whatever a foreign architecture's forward raises, the plain path remains
            self._say(f"{type(error).__name__}: {error}")
            return False
        plain, shared = torch.cat(first).float(), torch.cat(second).float()
        # The root mean square: of a hundred thousand logits the largest difference in 16 bits says nothing. Three models there:
        # 0.015 to 0.027 of the standard deviation from rounding, 0.4 and more with positions that are wrong by one.
        difference = (plain - shared).square().mean().sqrt().item() / max(plain.std().item(), 1e-6)
        if not difference <= (1e-3 if self.loaded.dtype == torch.float32 else 0.1):
            self._say(f"its logits differ by {difference:.2g} of their standard deviation")
            return False
        return True

    def batch_rows(self, length: int) -> int:
        """Rows whose caches and logits fit into 40 % of the memory that is free now, if each had `length` tokens."""
        shared = self.shares_prefix(length)
        config = self.loaded.model.config.get_text_config()
        kv_heads = setting(config, "num_key_value_heads") or config.num_attention_heads
        dim = setting(config, "head_dim") or config.hidden_size // config.num_attention_heads
        per_token = 2 * self.loaded.anatomy.layers * kv_heads * dim * self.loaded.dtype.itemsize
        per_row = per_token * length * (1 if shared else 2) + 8 * config.vocab_size
        return max(1, min(MAX_ROWS["shared" if shared else "plain"], int(self.loaded.free_memory() * 0.4 / per_row)))


def _choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Each row's next token (rows,): the most likely one, or where its job has a temperature one that is drawn."""
    tokens = argmax(logits)
    drawn = [i for i, row in enumerate(rows) if row.work.job.temperature]
    if drawn:
        where = torch.device("cpu") if tokens.device.type == "mps" else tokens.device  # Apple's GPUs have no float64
        heat = torch.tensor([rows[i].work.job.temperature for i in drawn], dtype=torch.float64, device=where)
        uniform = torch.tensor([rows[i].draws.random() for i in drawn], dtype=torch.float64, device=where)
        of = logits if len(drawn) == len(rows) else logits[drawn]
        tokens[drawn] = sample(of.to(where), heat, uniform).to(tokens.device)
    return tokens


class _Reading:
    """Tokens (rows,) on their way to the host; on a GPU they are copied while the next step runs."""

    def __init__(self, tokens: Tensor) -> None:
        self._event = None
        self._tokens = tokens
        if tokens.device.type == "cuda":
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tokens.device))

    def tokens(self) -> list[int]:
        if self._event is not None:
            self._event.synchronize()
        return self._tokens.tolist()
