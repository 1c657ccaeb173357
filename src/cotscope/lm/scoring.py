"""Scoring text that is given, not generated."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .interventions import Intervention, coefficient_hooks
from .loading import LoadedModel

WINDOW = 512  # tokens per pass
_ROWS = 64  # positions whose logits stand in float32 at once


@torch.inference_mode()
def perplexity(loaded: LoadedModel, text: str, intervention: Intervention | None = None) -> float:
    """exp of the mean negative log-likelihood per token of `text`, in windows of 512 tokens that share no context.

    Each window begins with the tokenizer's start token, where it has one; without one its first token is not scored.
    """
    start = loaded.encode("")
    body = torch.tensor(loaded.encode(text)[len(start) :])
    total, count = 0.0, 0
    with coefficient_hooks(loaded.anatomy, intervention, None):
        for window in body.split(WINDOW):
            ids = torch.cat([torch.tensor(start, dtype=body.dtype), window]).to(loaded.model.device)
            if len(ids) < 2:
                continue
            logits = loaded.model(input_ids=ids[None]).logits[0, :-1]
            for part, targets in zip(logits.split(_ROWS), ids[1:].split(_ROWS)):
                total += F.cross_entropy(part.float(), targets, reduction="sum").item()
            count += len(ids) - 1
    # A broken model's loss can be too large for exp; infinity says so.
    return math.exp(total / count) if count and total / count < 700 else math.inf
