"""What a pole promotes: value vectors projected to the vocabulary, all in blocks.

A pole's promoted tokens are the top-k of W_U(γ ⊙ sign·v) (Geva et al. 2022, arXiv:2203.14680; docs/methods.md).
Since the projection is linear, one pass over a neuron gives both its poles: what +v suppresses, -v promotes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..records import Neuron
from . import cpu
from .families import Anatomy, norm_gamma, value_vectors
from .select import largest

PROJECTIONS = ("norm", "raw")
_BLOCK = 96  # neurons per block: 96 x 151,936 bfloat16 logits are 29 MB, which stay in the last-level cache


@dataclass(frozen=True)
class Projection:
    """Tokens at both ends of neurons' projections, in the order of the neurons asked for.

    Attributes:
        top, bottom: token ids (neurons, k): the highest first, the lowest first. The pole of sign +1 promotes `top`
            and suppresses `bottom`; the pole of sign -1 the other way round.
        top_scores, bottom_scores: their logits for +v (neurons, k), float32.
    """

    top: Tensor
    top_scores: Tensor
    bottom: Tensor
    bottom_scores: Tensor


@torch.inference_mode()
def project(
    anatomy: Anatomy,
    neurons: Sequence[Neuron],
    k: int = 20,
    projection: str = "norm",
    progress: Callable[[int], None] | None = None,
) -> Projection:
    """Project value vectors to the vocabulary; the k tokens at either end.

    A fast pass in the model's dtype chooses half as many again at each end, which are then scored in float32: the
    order is float32's. `projection="raw"` leaves the final norm's weight out, as the paper's code does.
    """
    assert projection in PROJECTIONS
    gamma, centred = norm_gamma(anatomy.final_norm) if projection == "norm" else (None, False)
    unembedding, head = anatomy.unembedding, anatomy.head
    packed = isinstance(head, cpu.PackedLinear) and head.bias is None
    results: list[tuple[Tensor, ...]] = []
    order: list[Tensor] = []
    for layer in sorted({n.layer for n in neurons}):
        places = torch.tensor([i for i, n in enumerate(neurons) if n.layer == layer])
        index = torch.tensor([neurons[i].index for i in places.tolist()], device=unembedding.device)
        values = value_vectors(anatomy, layer)
        for first in range(0, len(index), _BLOCK):
            v = values[:, index[first : first + _BLOCK]].T
            if centred:
                v = v - v.mean(dim=1, keepdim=True)
            if gamma is not None:
                v = v * gamma
            low = v.to(unembedding.dtype)
            logits = head(low) if packed else low @ unembedding.T
            spare = min(k + k // 2 + 2, logits.shape[1])
            results.append((*_rescored(v, unembedding, largest(logits, spare), k, 1),
                            *_rescored(v, unembedding, largest(logits.neg_(), spare), k, -1)))  # fmt: skip
            if progress is not None:
                progress(len(v))
        order.append(places)
    back = torch.argsort(torch.cat(order))
    return Projection(*(torch.cat(part)[back] for part in zip(*results, strict=True)))


def _rescored(v: Tensor, unembedding: Tensor, tokens: Tensor, k: int, sign: int) -> tuple[Tensor, Tensor]:
    """The k best of `tokens` (rows, candidates) for sign·v, by their float32 logits; scores are those of +v."""
    scores = torch.bmm(unembedding[tokens].float(), v[:, :, None])[:, :, 0]
    best = (scores * sign).topk(k, dim=1)
    return tokens.gather(1, best.indices).to(torch.int32), best.values * sign
