"""Training some of a model on the log-likelihood of given continuations, after prompts that may share their start.

What is trained is `lm/trained.py`'s; the optimiser is Adam (Kingma & Ba 2015, arXiv:1412.6980), in float32, and its state is as
small as what is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import ModelError
from .attribution import shared_length, shared_prefix
from .loading import LoadedModel
from .trained import Trained

BYTES = 20
"""Per number that is trained: it, its gradient, Adam's two moments, what it began as; float32."""


@dataclass(frozen=True)
class Text:
    """A prompt, and what is to be written after it, as tokens.

    Attributes:
        counted: which tokens of the continuation the loss is of; empty: all.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    counted: tuple[bool, ...] = ()


class Training:
    """A model of which something is trained with Adam, once `begin` has said at which rate.

    What all prompts share is run with the parameters of the moment without gradients, once for a batch: they reach it through
    what comes after it only.

    Args:
        loaded: a model that gradients pass through (`load_model(differentiable=True)`).
        trained: what of it.
        shared: tokens with which all prompts of the training begin; None: those that the prompts of a batch share.
        checkpointing: keep only what enters each layer and compute the rest again on the way back: less memory, more time.
            transformers keeps no cache then, so that prompts are run whole, and gradients pass through what they share too.

    Raises: ModelError if the architecture has no checkpointing.
    """

    def __init__(self, loaded: LoadedModel, trained: Trained, checkpointing: bool = False, shared: int | None = None) -> None:
        self.loaded, self.trained, self.checkpointing, self.shared = loaded, trained, checkpointing, shared
        self._untouched = {name: p.detach().clone() for name, p in trained.parameters.items()}
        if checkpointing:
            layers = [m for m in loaded.model.modules() if isinstance(m, GradientCheckpointingLayer)]
            if not layers:
                raise ModelError(f"transformers has no gradient checkpointing for {loaded.model.config.model_type} models")
            for layer in layers:
                # What transformers' own method sets, but that it would have gradients reach the embeddings too.
                layer.gradient_checkpointing = True
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
                layer.training = True  # of itself alone: nothing within it drops out, nor (OPT, XGLM, BioGPT) it itself
                for name, value in vars(layer).items():
                    if "dropout" in name and isinstance(value, int | float):
                        setattr(layer, name, 0.0)

    def begin(self, rate: float, warmup: int = 0) -> None:
        """From the beginning, with a learning rate, to which it rises evenly over so many steps."""
        self._rate, self._warmup = rate, warmup
        for name, p in self.trained.parameters.items():
            p.data.copy_(self._untouched[name])
        cpu = self.loaded.model.device.type == "cpu"  # there one pass over it all; elsewhere its step would lie on the device
        self._adam = torch.optim.Adam(list(self.trained.parameters.values()), lr=rate, foreach=False, fused=cpu)

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.trained.parameters.values())

    def step(self, batch: Sequence[Text], progress: Callable[[], object] = lambda: None) -> list[float]:
        """One step of the optimiser. Returns: the loss of each text before it, nats per token that is counted."""
        losses = []
        with self.trained.applied():
            prefix, shared = self._prefix(batch)
            for text in batch:
                with torch.enable_grad():
                    loss = self._loss(text, prefix, shared)
                    (loss / len(batch)).backward()
                losses.append(loss.item())
                progress()
        done = max((int(state["step"]) for state in self._adam.state.values()), default=0)
        for group in self._adam.param_groups:
            group["lr"] = self._rate * min(1.0, (done + 1) / max(self._warmup, 1))
        self._adam.step()
        self._adam.zero_grad()
        return losses

    @torch.no_grad()
    def losses(self, texts: Sequence[Text], progress: Callable[[], object] = lambda: None) -> list[float]:
        """The loss of each text with the parameters of the moment, nats per token that is counted."""
        found = []
        with self.trained.applied():
            prefix, shared = self._prefix(texts)
            for text in texts:
                found.append(self._loss(text, prefix, shared).item())
                progress()
        return found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within the block, the model writes with the parameters of the moment, and keeps its cache."""
        layers = [m for m in self.loaded.model.modules() if isinstance(m, GradientCheckpointingLayer) and m.training]
        for layer in layers:
            layer.training = False
        try:
            with self.trained.applied():
                yield
        finally:
            for layer in layers:
                layer.training = True

    def state(self) -> dict[str, Tensor]:
        """Parameters and the optimiser's state, to go on with; not copied."""
        found = {f"value {name}": p.detach() for name, p in self.trained.parameters.items()}
        for name, p in self.trained.parameters.items():
            found |= {f"{key} {name}": torch.as_tensor(value) for key, value in self._adam.state.get(p, {}).items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state, or with its parameters if it has no more."""
        for name, p in self.trained.parameters.items():
            p.data.copy_(state[f"value {name}"])
            if f"step {name}" in state:
                self._adam.state[p] = {
                    key: state[f"{key} {name}"].clone().to("cpu" if key == "step" else p.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def _prefix(self, texts: Sequence[Text]) -> tuple[DynamicCache | None, int]:
        shared = 0 if self.checkpointing else self.shared
        if shared is None:
            shared = shared_length(self.loaded, [t.prompt for t in texts])
        return (shared_prefix(self.loaded, texts[0].prompt[:shared]) if shared else None), shared

    def _loss(self, text: Text, prefix: DynamicCache | None, shared: int) -> Tensor:
        ids = [*text.prompt[shared:], *text.continuation]
        out = self.loaded.model(
            input_ids=torch.tensor([ids[:-1]], device=self.loaded.model.device),
            past_key_values=copy.deepcopy(prefix),
            use_cache=prefix is not None,
            logits_to_keep=len(text.continuation),
        )
        counted = torch.tensor(text.counted or (True,) * len(text.continuation), device=self.loaded.model.device)
        target = torch.tensor(text.continuation, device=self.loaded.model.device)
        return nn.functional.cross_entropy(out.logits[0, counted].float(), target[counted])


def working_bytes(loaded: LoadedModel, texts: Sequence[Text], checkpointing: bool, itemsize: int) -> int:
    """About how much memory a pass back through the longest text takes beside weights and parameters.

    Args:
        itemsize: bytes of an activation.
    """
    config, width = loaded.model.config.get_text_config(), loaded.anatomy.width
    shared = 0 if checkpointing else shared_length(loaded, [t.prompt for t in texts])
    tokens = max(len(t.prompt) - shared + len(t.continuation) for t in texts)
    layer = 10 * config.hidden_size + 4 * width
    per_token = loaded.anatomy.layers * config.hidden_size + layer if checkpointing else loaded.anatomy.layers * layer
    logits = max(len(t.continuation) for t in texts) * loaded.anatomy.vocabulary
    return itemsize * tokens * per_token + 4 * 3 * logits
