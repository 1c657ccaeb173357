"""Whether what a feed-forward block writes reaches the residual stream as `Anatomy` says."""

from __future__ import annotations

from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .loading import LoadedModel

ONE_STREAM = "one: (rows, positions, hidden)"
_LOOSE = 0.05  # of what is written; in 16 bits the stream, which is larger, rounds it
_checked: WeakSet[nn.Module] = WeakSet()


@torch.no_grad()
def check_writes(loaded: LoadedModel) -> None:
    """No list of families is whole: with the last layer's block silenced, its output must lack what the block wrote.

    Raises: ModelError where the model multiplies or norms that in a way that lm/families.py does not know, or has no norm
        before its unembedding.
    """
    anatomy, model = loaded.anatomy, loaded.model
    if anatomy.final_norm is None:
        raise ModelError(f"{loaded.name} has no norm before its unembedding: what neurons do can't be told apart by path")
    if not anatomy.residual:
        raise ModelError(f"the layers of {loaded.name} multiply their residual stream by learned vectors",
                         expected="a stream that what is written to it stays in as it is")  # fmt: skip
    if model in _checked:
        return
    layer, down, norm = anatomy.stack[-1], anatomy.down[-1], anatomy.post_norm[-1]
    ids = torch.tensor([loaded.encode("One and two are 3.")], device=model.device)
    seen = list[Tensor]()

    def keep(module: nn.Module, args: object, out: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((out if isinstance(out, Tensor) else out[0]).detach().float())

    def silence(module: nn.Module, args: object, out: Tensor) -> Tensor:
        seen.append(out.detach())
        return torch.zeros_like(out)

    hook = layer.register_forward_hook(keep)
    try:
        model(input_ids=ids, use_cache=False)
        with down.register_forward_hook(silence):
            model(input_ids=ids, use_cache=False)
    finally:
        hook.remove()
    with_block, y, without = seen
    written = y if norm is None else norm(y) - norm(torch.zeros_like(y))
    if with_block.numel() != written.numel():  # Gemma 3n
        raise ModelError(f"the layers of {loaded.name} write several streams", expected=ONE_STREAM,
                         got=str(tuple(with_block.shape)))  # fmt: skip
    expected = (written.float() * anatomy.residual[-1]).reshape(with_block.shape)
    off = (with_block - without - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny)
    if not off < _LOOSE:
        raise ModelError(
            f"what the feed-forward blocks of {loaded.name} write is not what reaches its residual stream",
            expected="their output, or its norm, times a number that lm/families.py knows",
            got=f"off by {off:.0%}",
        )
    _checked.add(model)
