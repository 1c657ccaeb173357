"""Training factors of neurons' coefficients, and nothing else of a model: a sparse (IA)³.

(IA)³ learns one factor for each neuron of each feed-forward block (Liu et al. 2022, arXiv:2205.05638); here for chosen neurons
only. What is trained is as small as the choice, and so is the optimiser's state; the weights stay as they are. A factor
holds at every token, so that the result folds into the weights (`edits/fold.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..records import Neuron
from .attribution import shared_prefix
from .loading import LoadedModel
from .passes import common_prefix


@dataclass(frozen=True)
class Text:
    """A prompt, and what is to be written after it, as tokens."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class FactorTraining:
    """Factors of some neurons, trained with Adam on the log-likelihood of given continuations.

    What all prompts of a batch share is run under the factors of the moment without gradients, once for the batch: they
    reach it through what comes after it only.

    Args:
        loaded: a model that gradients pass through (`load_model(differentiable=True)`); float32 on a CPU.
        rate: Adam's learning rate.
    """

    def __init__(self, loaded: LoadedModel, neurons: Sequence[Neuron], rate: float) -> None:
        self.loaded, self.neurons = loaded, tuple(sorted(set(neurons)))
        device = loaded.model.device
        layers = np.array([n.layer for n in self.neurons])
        self._index = {
            int(layer): torch.tensor([n.index for n in self.neurons if n.layer == layer], device=device)
            for layer in np.unique(layers)
        }
        self._factors = {
            layer: nn.Parameter(torch.ones(len(index), device=device, dtype=torch.float32))
            for layer, index in self._index.items()
        }
        self._adam = torch.optim.Adam(list(self._factors.values()), lr=rate, foreach=False)

    @property
    def factors(self) -> np.ndarray:
        """Of each neuron, in the order of `neurons`, float32."""
        return torch.cat([f.detach() for f in self._factors.values()]).cpu().numpy()

    def step(self, batch: Sequence[Text], progress: Callable[[], object] = lambda: None) -> list[float]:
        """One step of the optimiser. Returns: the loss of each text before it, nats per token."""
        self._adam.zero_grad()
        losses = []
        with self._scaled():
            prefix, shared = self._prefix(batch)
            for text in batch:
                with torch.enable_grad():
                    loss = self._loss(text, prefix, shared)
                    (loss / len(batch)).backward()
                losses.append(loss.item())
                progress()
        self._adam.step()
        return losses

    @torch.no_grad()
    def losses(self, texts: Sequence[Text], progress: Callable[[], object] = lambda: None) -> list[float]:
        """The loss of each text with the factors of the moment, nats per token."""
        found = []
        with self._scaled():
            prefix, shared = self._prefix(texts)
            for text in texts:
                found.append(self._loss(text, prefix, shared).item())
                progress()
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Factors and the optimiser's state, to go on with."""
        found = {}
        for layer, f in self._factors.items():
            found[f"{layer}.factors"] = f.detach().cpu().numpy()
            for name, value in self._adam.state.get(f, {}).items():
                found[f"{layer}.{name}"] = torch.as_tensor(value).detach().cpu().numpy()
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        for layer, f in self._factors.items():
            f.data.copy_(torch.from_numpy(np.array(state[f"{layer}.factors"])))
            if f"{layer}.step" in state:
                self._adam.state[f] = {
                    name: torch.from_numpy(np.array(state[f"{layer}.{name}"])).to("cpu" if name == "step" else f.device)
                    for name in ("step", "exp_avg", "exp_avg_sq")
                }

    def _prefix(self, texts: Sequence[Text]) -> tuple[DynamicCache | None, int]:
        shared = common_prefix([list(t.prompt) for t in texts]) if len(texts) > 1 else 0
        return (shared_prefix(self.loaded, texts[0].prompt[:shared]) if shared else None), shared

    def _loss(self, text: Text, prefix: DynamicCache | None, shared: int) -> Tensor:
        ids = [*text.prompt[shared:], *text.continuation]
        out = self.loaded.model(
            input_ids=torch.tensor([ids[:-1]], device=self.loaded.model.device),
            past_key_values=copy.deepcopy(prefix),
            use_cache=prefix is not None,
            logits_to_keep=len(text.continuation),
        )
        target = torch.tensor(text.continuation, device=self.loaded.model.device)
        return nn.functional.cross_entropy(out.logits[0].float(), target)

    @contextmanager
    def _scaled(self) -> Iterator[None]:
        """Within the block, coefficients are multiplied by the factors of the moment."""
        anatomy = self.loaded.anatomy

        def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
            def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
                whole = torch.ones(anatomy.width, device=anatomy.device, dtype=torch.float32)
                factors = whole.index_copy(0, self._index[layer], self._factors[layer])
                return (args[0] * factors.to(args[0].dtype),)

            return scale

        with ExitStack() as hooks:
            for layer in self._factors:
                hooks.callback(anatomy.down[layer].register_forward_pre_hook(hook(layer)).remove)
            yield
