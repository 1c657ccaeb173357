"""What `lm/training.py` trains of a model: factors of neurons, their vectors, adapters, or every weight.

Each keeps float32 parameters apart from the model's weights, as many as are trained, so that gradients and the optimiser's
state are no larger; but all weights are their own.

- factors: of neurons' coefficients, a sparse (IA)³ (Liu et al. 2022, arXiv:2205.05638), which is an edit (`edits/edit.py`);
- vectors: what is added to neurons' value vectors, and to the rows of their gate and up-projections (NeFT, Xu et al. 2025,
  arXiv:2403.11621, trains these of chosen neurons);
- adapters: LoRA (Hu et al. 2022, arXiv:2106.09685) and (IA)³ as the package peft has them.

What is no edit can be merged into the weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError, UserError
from ..records import Neuron
from .cpu import PackedLinear
from .families import value_matrix
from .loading import LoadedModel


class Trained(Protocol):
    """Something that is trained."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Float32, by name."""

    def applied(self) -> AbstractContextManager[None]:
        """Within the block, the model runs with the parameters of the moment, and gradients reach them."""


class Nothing:
    """Nothing: the model as it is."""

    parameters: Mapping[str, nn.Parameter] = {}

    def applied(self) -> AbstractContextManager[None]:
        """It stays so."""
        return nullcontext()


class _OfNeurons:
    """Parameters of chosen neurons that act through hooks."""

    parameters: dict[str, nn.Parameter]

    def __init__(self, loaded: LoadedModel, neurons: Sequence[Neuron]) -> None:
        self.loaded, self.neurons = loaded, tuple(sorted(set(neurons)))
        self.index: dict[int, Tensor] = {
            int(layer): torch.tensor([n.index for n in self.neurons if n.layer == layer], device=loaded.model.device)
            for layer in np.unique([n.layer for n in self.neurons])
        }

    def _parameter(self, fill: float, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.full(shape, fill, device=self.loaded.model.device, dtype=torch.float32))


class Factors(_OfNeurons):
    """One factor for each neuron's coefficient, and so for its value vector."""

    def __init__(self, loaded: LoadedModel, neurons: Sequence[Neuron]) -> None:
        super().__init__(loaded, neurons)
        self.parameters = {str(layer): self._parameter(1.0, len(index)) for layer, index in self.index.items()}

    @property
    def values(self) -> list[float]:
        """Of each neuron, in the order of `neurons`."""
        return torch.cat([f.detach() for f in self.parameters.values()]).tolist()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Coefficients are multiplied by the factors of the moment."""
        anatomy = self.loaded.anatomy

        def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
            def scale(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
                whole = torch.ones(anatomy.width, device=anatomy.device, dtype=torch.float32)
                factors = whole.index_copy(0, self.index[layer], self.parameters[str(layer)])
                return ((args[0].float() * factors).to(args[0].dtype),)  # near 1, 16 bits would round a small step away

            return scale

        with ExitStack() as hooks:
            for layer in self.index:
                hooks.callback(anatomy.down[layer].register_forward_pre_hook(hook(layer)).remove)
            yield


class Vectors(_OfNeurons):
    """What is added to each neuron's value vector, and with `rows` to its rows of the gate and up-projections (float32).

    Args:
        rows: those rows too; their biases stay.
    """

    def __init__(self, loaded: LoadedModel, neurons: Sequence[Neuron], rows: bool = False) -> None:
        super().__init__(loaded, neurons)
        self.parameters, self._parts = {}, list[tuple[str, nn.Module, Tensor, bool]]()
        for layer, index in self.index.items():
            down = loaded.anatomy.down[layer]
            hidden = len(value_matrix(down))
            self._add(f"{layer}.down", down, index, True, hidden, len(index))
            for number, up in enumerate(loaded.anatomy.up[layer] if rows else ()):
                # A fused gate and up-projection (Phi-3) has a neuron's row in each half.
                halves = len(value_matrix(up)) // loaded.anatomy.width
                of = torch.cat([index + half * loaded.anatomy.width for half in range(halves)])
                self._add(f"{layer}.up{number}", up, of, False, len(of), hidden)

    def _add(self, name: str, module: nn.Module, index: Tensor, columns: bool, *shape: int) -> None:
        self.parameters[name] = self._parameter(0.0, *shape)
        self._parts.append((name, module, index, columns))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Projections write what they would with the vectors of the moment."""

        def hook(added: Tensor, index: Tensor, columns: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def add(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
                x = args[0]
                if columns:
                    return y + x.index_select(-1, index) @ added.T.to(x.dtype)
                return y.index_add(-1, index, x @ added.T.to(x.dtype))

            return add

        with ExitStack() as hooks:
            for name, module, index, columns in self._parts:
                hooks.callback(module.register_forward_hook(hook(self.parameters[name], index, columns)).remove)
            yield

    @torch.no_grad()
    def merge(self) -> None:
        """Add them to the weights."""
        for name, module, index, columns in self._parts:
            weight, added = value_matrix(module), self.parameters[name]
            at = (slice(None), index) if columns else index
            weight[at] = (weight[at].float() + added).to(weight.dtype)


class Weights:
    """Every weight: full fine-tuning. The model must be in float32."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        trained = {p for m in _of_text(loaded) for p in m.parameters(recurse=False)}
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in loaded.model.named_parameters() if p in trained}
        assert all(p.dtype == torch.float32 for p in self.parameters.values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Weights take gradients within the block only."""
        self.loaded.model.requires_grad_(True)
        try:
            yield
        finally:
            self.loaded.model.requires_grad_(False)

    def merge(self) -> None:
        """They are the weights."""


class Adapters:
    """LoRA or (IA)³ of the package peft.

    LoRA stands at every linear layer but the unembedding, scaled by 2 (alpha is twice the rank), without dropout. (IA)³ has a
    factor for each number of keys, values and the feed-forward's hidden layer (Liu et al. 2022, section 3.3); where an
    architecture has no projections of keys and values alone, it stands where peft puts it.

    Args:
        kind: "lora" or "ia3".
        numbers: of LoRA, about how many to train: its rank is the nearest, at least 1.
        seed: of LoRA's random halves.

    Raises: UserError if peft is not installed; ModelError if it does not know the architecture.
    """

    def __init__(self, loaded: LoadedModel, kind: str, numbers: int = 0, seed: int = 0) -> None:
        check_adapters(kind, loaded)
        from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model

        turned = any(isinstance(m, Conv1D) for _, m in _linear(loaded))
        if kind == "ia3":
            places, feedforward = _ia3_places(loaded) or (None, None)
            config: PeftConfig = IA3Config(target_modules=places, feedforward_modules=feedforward, fan_in_fan_out=turned)
        else:
            names, rank = [name for name, _ in _linear(loaded)], lora_rank(loaded, numbers)
            config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names, fan_in_fan_out=turned)
        try:
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it sets right by itself
                torch.manual_seed(seed)
                self._model = get_peft_model(loaded.model, config)
        except ValueError as error:
            raise ModelError(f"peft can't make {kind} of this model", got=str(error)) from error
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}

    def applied(self) -> AbstractContextManager[None]:
        """They stand in the model from the beginning."""
        return nullcontext()

    def merge(self) -> None:
        """Put them into the weights, and the model's own layers in their place."""
        self._model.merge_and_unload()


def check_adapters(kind: str, loaded: LoadedModel) -> None:
    """Whether peft has LoRA ("lora") or (IA)³ ("ia3") for a model. Raises: UserError if it is not installed; ModelError if it
    has not."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"{kind} needs the package peft",
            remedy="Install it: pip install 'cotscope[peft]'. Or name other methods: --method.",
        ) from error
    kind_of = loaded.model.config.model_type
    known = peft.utils.constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    if kind == "ia3" and kind_of not in known and _ia3_places(loaded) is None:
        raise ModelError(f"peft has no ia3 for this architecture ({kind_of}), which has no k_proj and v_proj in each layer",
                         expected=f"one of {', '.join(sorted(known))}",
                         remedy="Leave `ia3` out: --method takes the others.")  # fmt: skip


def _ia3_places(loaded: LoadedModel) -> tuple[list[str], list[str]] | None:
    """The names of all modules that (IA)³ scales, and of those before which it does, the down-projections; None where a layer
    has no projections of keys and of values alone. peft's own list has queries in place of keys for Qwen2 and others."""
    names = {m: name for name, m in loaded.model.named_modules()}
    down = [names[m] for m in loaded.anatomy.down]
    projections = [
        [names[m] for name, m in block.named_modules() if name.rpartition(".")[2] in ("k_proj", "v_proj")]
        for block in loaded.anatomy.stack
    ]
    if any(sorted(name.rpartition(".")[2] for name in found) != ["k_proj", "v_proj"] for found in projections):
        return None
    return [*(name for found in projections for name in found), *down], down


def _linear(loaded: LoadedModel) -> list[tuple[str, nn.Linear | Conv1D | PackedLinear]]:
    """The linear layers but the unembedding, by name."""
    of_text, head = _of_text(loaded), loaded.anatomy.head
    return [
        (name, m)
        for name, m in loaded.model.named_modules()
        if isinstance(m, nn.Linear | Conv1D | PackedLinear) and m in of_text and m is not head
    ]


def _of_text(loaded: LoadedModel) -> set[nn.Module]:
    """The modules of the decoder and its unembedding: no text trains the vision tower of a model that has one."""
    model = loaded.model
    if model.config.get_text_config() is model.config:
        return set(model.modules())
    return {m for part in (model.get_decoder(), loaded.anatomy.head) for m in part.modules()}


def lora_numbers(loaded: LoadedModel) -> int:
    """How many numbers LoRA of rank 1 trains."""
    return sum(sum(m.weight.shape) if isinstance(m, Conv1D) else m.in_features + m.out_features for _, m in _linear(loaded))


def lora_rank(loaded: LoadedModel, numbers: int) -> int:
    """The rank with which LoRA trains about so many numbers: the nearest, at least 1."""
    return max(1, round(numbers / lora_numbers(loaded)))


Merging = Vectors | Adapters | Weights
