"""Which neurons write in nearly the same direction as one: cosine similarity of value vectors, over the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..records import Neuron, Pole

if TYPE_CHECKING:
    from ..lm.loading import LoadedModel

COUNT = 20
_TOKENS = 8


def similar(loaded: LoadedModel, pole: Pole, projection: str) -> dict[str, Any]:
    """The poles whose value vectors, times their signs, are most alike that of a pole; and what all of them promote.

    Args:
        projection: as of `lm/projection.py: project`.

    Returns: `own`, what the pole promotes and suppresses, and `rows`, the most alike first. A pole of sign 0 counts as +1.
    """
    import torch

    from ..lm.families import value_vectors
    from ..lm.projection import project

    anatomy, sign = loaded.anatomy, pole.sign or 1
    own = value_vectors(anatomy, pole.layer)[:, pole.index] * sign
    cosines = torch.stack([
        (own @ value_vectors(anatomy, layer)) / (own.norm() * anatomy.norms[layer]).clamp_min(1e-12)
        for layer in range(anatomy.layers)
    ])  # fmt: skip
    cosines[pole.layer, pole.index] = 0
    best = cosines.abs().flatten().topk(min(COUNT, cosines.numel() - 1)).indices.tolist()
    neurons = [Neuron(pole.layer, pole.index), *(Neuron(*divmod(i, anatomy.width)) for i in best)]
    ends = project(anatomy, neurons, _TOKENS, projection)
    rows = []
    for i, n in enumerate(neurons):
        cosine = sign if i == 0 else float(cosines[n.layer, n.index])
        top, bottom = ([loaded.piece(t) for t in end[i].tolist()] for end in (ends.top, ends.bottom))
        promoted, suppressed = (top, bottom) if cosine > 0 else (bottom, top)
        rows.append({**n._asdict(), "sign": 1 if cosine > 0 else -1, "cosine": round(abs(cosine), 4), "promoted": promoted,
                     "suppressed": suppressed})  # fmt: skip
    return {"own": rows[0], "rows": rows[1:]}
