"""Scoring text that is given, not generated: teacher forcing, perplexity, and how far a disruption moves a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import Pass
from .engine import Engine
from .hooks import coefficient_hooks
from .interventions import Intervention
from .jobs import Job, Row, Work
from .loading import LoadedModel
from .passes import View
from .recorders import Recorder
from .rows import PREFILL_TOKENS, padded
from .select import argmax

WINDOW = 512  # tokens per pass
_ROWS = 8, 256
"""Positions whose logits stand in float32 at once: on a CPU more fall out of its cache, and take three times as long; elsewhere
each part has to be waited for."""


@dataclass(frozen=True)
class Given:
    """Prompts with continuations that are given, not generated.

    Attributes:
        prompts: the texts.
        continuations: token ids after each prompt.
        scored: which tokens of each continuation are scored; None: all.
        recorder: sees every token's coefficients, at the position that chooses it.
        intervention: acts on the whole sequence, or on its scope: the continuation counts as generated.
    """

    prompts: tuple[str, ...]
    continuations: tuple[tuple[int, ...], ...]
    scored: tuple[frozenset[int], ...] | None = None
    recorder: Recorder | None = None
    intervention: Intervention | None = None


class TokenScore(NamedTuple):
    """A given token.

    Attributes:
        log_prob: its log-probability (nats).
        greedy: whether it was the most likely token.
        margin: its logit less the largest of the others' (nats); it has no ceiling where the model is sure.
        entropy: of the distribution that it was chosen from (nats); NaN where it was not asked for.
    """

    log_prob: float
    greedy: bool
    margin: float
    entropy: float = math.nan


class _Place(NamedTuple):
    """Where a continuation's token is chosen: row and position in the pass, prompt number, token number."""

    row: int
    position: int
    prompt: int
    token: int


@torch.inference_mode()
def score(
    engine: Engine,
    given: Given,
    progress: Callable[[int], None] | None = None,
    places: list[tuple[int, int]] | None = None,
    entropy: bool = False,
) -> list[list[TokenScore]]:
    """Teacher forcing: how likely the given continuations are, token by token.

    One pass over each prompt and its continuation; tokens that all prompts share are run once, where the model can.

    Args:
        places: gets (prompt number, token number) of every scored token in the order in which the passes reach it.
        entropy: of each token's distribution too, which costs another look at all logits.

    Returns: for each prompt the scores of its continuation's tokens in `given.scored`, in order.

    Raises: PromptError if a prompt and its continuation do not fit the model's context.
    """
    loaded, passes = engine.loaded, engine.passes
    device = passes.device
    starts = [loaded.encode(p) for p in given.prompts]
    whole = [start + list(tokens) for start, tokens in zip(starts, given.continuations, strict=True)]
    work = Work(0, Job(given.prompts, 0, (), given.recorder, given.intervention), whole)
    shared = bool(whole) and engine.shares_prefix(engine.check_length(work))
    if shared:
        passes.share(work, starts)
    scores: list[list[TokenScore]] = [[] for _ in whole]
    with passes.hooks([work.job]):
        prefix = (work.prefix or passes.run_prefix(work)) if shared else None
        for rows in _batches(work.rows()):
            suffixes = [row.suffix for row in rows]
            ids, positions = padded(suffixes, work.common, loaded.context, device)
            cache, mask = None, None
            if prefix is not None:
                cache = passes.cache(0, 0)
                cache.end = ids.shape[1]
                cache.now = Pass("score", (0, 0), [(prefix, None)])
            else:
                lengths = torch.tensor([len(s) for s in suffixes], device=device)
                mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
            every = [
                _Place(i, len(starts[row.number]) - work.common - 1 + t, row.number, t)
                for i, row in enumerate(rows)
                for t in range(len(given.continuations[row.number]))
            ]
            wanted = [p for p in every if given.scored is None or p.token in given.scored[p.prompt]]
            view = View("prompt", [(work, None)], len(rows), _tensors(wanted, device), _tensors(every, device))
            begins = torch.tensor([len(starts[row.number]) for row in rows], device=device)
            view.given = positions >= begins[:, None]
            if given.recorder is not None:
                view.numbers = [[p.prompt for p in every]]
            logits = passes.forward(cache, ids, positions, view, mask)
            if places is not None:
                places += [(p.prompt, p.token) for p in wanted]
            for place, token_score in zip(
                wanted, token_scores(logits, [given.continuations[p.prompt][p.token] for p in wanted], entropy)
            ):
                scores[place.prompt].append(token_score)
            if given.recorder is not None:
                for row in rows:
                    given.recorder.end_row(row.number, given.continuations[row.number])
            if progress is not None:
                progress(len(rows))
    if given.recorder is not None:
        given.recorder.end()
    return scores


def _batches(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows, longest first, in passes of about PREFILL_TOKENS."""
    while rows:
        count = max(1, PREFILL_TOKENS // len(rows[0].suffix))
        yield rows[:count]
        rows = rows[count:]


def _tensors(places: list[_Place], device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor([p.row for p in places], dtype=torch.long, device=device),
        torch.tensor([p.position for p in places], dtype=torch.long, device=device),
    )


def _rows(logits: Tensor) -> int:
    return _ROWS[logits.device.type != "cpu"]


def token_scores(logits: Tensor, tokens: Sequence[int], entropy: bool = False) -> Iterator[TokenScore]:
    """One score per row of logits (rows, vocabulary)."""
    targets = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    rows = _rows(logits)
    for part, target in zip(logits.split(rows), targets.split(rows), strict=True):
        greedy, exact, at = argmax(part) == target, part.float(), target[:, None]
        own = exact.gather(1, at)
        total = exact.logsumexp(dim=1)
        log_prob = own[:, 0] - total
        share = torch.exp(exact - total[:, None]) if entropy else torch.full_like(own, math.nan)
        spread = torch.special.entr(share).sum(dim=1)
        margin = own[:, 0] - exact.scatter_(1, at, -torch.inf).amax(dim=1)
        exact.scatter_(1, at, own)  # a copy of the logits would cost as much as a third of the unembedding
        yield from map(TokenScore, log_prob.tolist(), greedy.tolist(), margin.tolist(), spread.tolist())


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per token.
        kl: mean over tokens of KL(p ‖ q) in nats, p being the next-token distribution of the model without and q with
            the intervention.
        rises: how much less likely each token is than without it (nats): the ratio of perplexities is exp of their mean.
    """

    perplexity: float
    kl: float
    rises: tuple[float, ...] = ()


@torch.inference_mode()
def text_scores(
    loaded: LoadedModel,
    text: str,
    interventions: Mapping[str, Intervention | LoadedModel | None],
    progress: Callable[[], object] = lambda: None,
    at_most: int | None = None,
) -> dict[str, TextScore]:
    """Perplexity of `text`, and the KL divergence from the untouched model, under each intervention, or of another model
    with its tokenizer.

    The text is read in windows of 512 tokens that share no context. Each begins with the tokenizer's start token, where
    it has one; without one its first token is not scored. `progress` is called per intervention and window. All of the
    text counts as prompt where an intervention has a scope.

    Args:
        at_most: windows to read, the first ones; None: all.
    """
    start = loaded.encode("")
    body = torch.tensor(loaded.encode(text)[len(start) :])
    loss, divergence = dict.fromkeys(interventions, 0.0), dict.fromkeys(interventions, 0.0)
    rises: dict[str, list[float]] = {name: [] for name in interventions}
    count = 0
    for window in body.split(WINDOW)[:at_most]:
        ids = torch.cat([torch.tensor(start, dtype=body.dtype), window]).to(loaded.model.device)
        if len(ids) < 2:
            continue
        count += len(ids) - 1
        untouched = loaded.model(input_ids=ids[None]).logits[0, :-1]
        for name, intervention in interventions.items():
            logits = untouched
            if isinstance(intervention, LoadedModel):
                logits = intervention.model(input_ids=ids[None]).logits[0, :-1]
            elif intervention is not None:
                with coefficient_hooks(loaded.anatomy, intervention, None, ids[None]):
                    logits = loaded.model(input_ids=ids[None]).logits[0, :-1]
                if intervention.bias is not None:
                    logits = logits + intervention.bias
            rows = _rows(logits)
            for before, after, target in zip(untouched.split(rows), logits.split(rows), ids[1:].split(rows)):
                q = torch.log_softmax(after.float(), dim=-1)
                own = q.gather(1, target[:, None])
                loss[name] -= own.sum().item()
                if intervention is not None:
                    p = torch.log_softmax(before.float(), dim=-1)
                    rises[name] += (p.gather(1, target[:, None]) - own)[:, 0].tolist()
                    divergence[name] += F.kl_div(q, p, reduction="sum", log_target=True).item()
            progress()
    # A broken model's loss can be too large for exp; infinity says so.
    return {
        name: TextScore(
            math.exp(loss[name] / count) if count and loss[name] / count < 700 else math.inf,
            divergence[name] / max(count, 1),
            tuple(rises[name]),
        )
        for name in interventions
    }


def windows(loaded: LoadedModel, text: str) -> int:
    """How many passes per intervention `text_scores` makes."""
    return -(-(len(loaded.encode(text)) - len(loaded.encode(""))) // WINDOW)
