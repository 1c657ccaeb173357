"""Attribution: what an outcome would lose without each neuron, for all neurons at once, from gradients.

With a factor f on a neuron's coefficient, an outcome L changes with f as ∂L/∂f = Σ m·∂L/∂m over the places where the factor
acts; to zero the neuron is to go from f = 1 to f = 0, so that to first order the outcome changes by −∂L/∂f. This is
attribution patching (Nanda 2023; Syed et al. 2023, arXiv:2310.10348) from the untouched model to a zeroed neuron, and
"gradient times activation" of it. What of it is direct is the same with ∂L/∂m taken through the final norm and the
unembedding alone, v·∂L/∂r, r being the stream that enters the final norm: the first order of `paths.py`'s direct effect.

Averaged over f between 0 and 1 for a set of neurons together (integrated gradients, Sundararajan et al. 2017,
arXiv:1703.01365) the changes of its neurons add up to what the set's removal changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from ..errors import PromptError
from ..records import Neuron
from .families import Anatomy, value_matrix
from .loading import LoadedModel
from .passes import common_prefix
from .stream import check_writes

Measure = Literal["log_prob", "margin"]


@dataclass(frozen=True)
class Outcome:
    """What is attributed: the mean of a measure over some tokens of each given continuation.

    Attributes:
        measure: "log_prob", or "margin": the token's logit less the largest of the others (nats).
        tokens: per continuation, which of its tokens; where there are none it says nothing.
    """

    measure: Measure
    tokens: tuple[frozenset[int], ...]


@dataclass
class Attribution:
    """Predicted changes of one outcome when each neuron alone is zeroed.

    Attributes:
        total, direct: mean over texts, (layers, neurons), float32.
        halves: the total of the texts of even and of odd number.
        value: the outcome itself, mean over texts.
        texts: how many have the outcome.
    """

    total: Tensor
    direct: Tensor
    halves: tuple[Tensor, Tensor]
    value: float
    texts: int


@dataclass
class Attributions:
    """What `attribute` finds.

    Attributes:
        outcomes: by name.
        sizes: mean update size |m|·‖v‖ of each neuron at the places that choose the given tokens, (layers, neurons).
    """

    outcomes: dict[str, Attribution]
    sizes: Tensor


def attribute(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    outcomes: Mapping[str, Outcome],
    scaled: Sequence[tuple[Sequence[Neuron], float]] = (((), 1.0),),
    progress: Callable[[], object] = lambda: None,
) -> Attributions:
    """Attribute outcomes of given continuations to every neuron.

    The factor acts at every place after what all prompts share (of one prompt alone: everywhere); what they share is run
    once, without gradients.

    Args:
        loaded: a model that gradients pass through (`load_model(differentiable=True)`).
        prompts: as tokens, at least one each.
        scaled: sets of neurons and factors; gradients are averaged over the models in which a set is so scaled.
        progress: called per text and model.

    Raises: PromptError if a prompt and its continuation do not fit the model's context; ModelError as `check_writes`.
    """
    check_writes(loaded)
    longest = max((len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)), default=0)
    if longest > loaded.context:
        raise PromptError(
            "a prompt with its solution is longer than the model's context",
            expected=f"at most {loaded.context} tokens",
            got=str(longest),
            remedy="Use fewer exemplars, or leave the longest problems out.",
        )
    starts = [list(p) for p in prompts]
    shared = shared_length(loaded, starts)
    skipped = (common_prefix(starts) if len(starts) > 1 else 0) - shared  # run with each text, and not counted either
    sizes, places = torch.zeros(loaded.anatomy.layers, loaded.anatomy.width), 0
    sums = {name: _Sum(loaded.anatomy) for name in outcomes}
    for neurons, factor in scaled:
        factors = _factors(loaded.anatomy, neurons, factor)
        prefix = None
        if shared:
            with _watching(loaded.anatomy, factors):
                prefix = shared_prefix(loaded, starts[0][:shared])
        for number, (start, tokens) in enumerate(zip(starts, continuations, strict=True)):
            here = {n: sorted(o.tokens[number]) for n, o in outcomes.items() if o.tokens[number]}
            if here:
                with torch.enable_grad():
                    ids = [*start[shared:], *tokens]
                    wanted = {n: (outcomes[n].measure, t) for n, t in here.items()}
                    found, seen = _gradients(loaded, ids, tokens, prefix, factors, wanted, skipped)
                for name, gradient in found.items():
                    sums[name].add(number, gradient)
                sizes += torch.stack([_over_places(m.reshape(-1, m.shape[-1])[-len(tokens) :].abs()) for m in seen])
                places += len(tokens)
            progress()
    norms = loaded.anatomy.norms.cpu() / max(places, 1)
    return Attributions({name: s.mean() for name, s in sums.items()}, sizes * norms)


@dataclass
class _Gradient:
    value: float
    total: Tensor  # −∂L/∂f, (layers, neurons)
    direct: Tensor


class _Sum:
    """Attributions of texts, added up."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._halves = torch.zeros(2, anatomy.layers, anatomy.width)
        self._direct = torch.zeros(anatomy.layers, anatomy.width)
        self._value, self._counts = 0.0, [0, 0]

    def add(self, number: int, found: _Gradient) -> None:
        self._halves[number % 2] += found.total
        self._direct += found.direct
        self._value += found.value
        self._counts[number % 2] += 1

    def mean(self) -> Attribution:
        count = sum(self._counts)
        even, odd = (half / max(n, 1) for half, n in zip(self._halves, self._counts, strict=True))
        total = self._halves.sum(0) / max(count, 1)
        return Attribution(total, self._direct / max(count, 1), (even, odd), self._value / max(count, 1), count)


def _gradients(
    loaded: LoadedModel,
    ids: Sequence[int],
    tokens: Sequence[int],
    prefix: DynamicCache | None,
    factors: Sequence[Tensor | None],
    wanted: Mapping[str, tuple[Measure, list[int]]],
    skipped: int,
) -> tuple[dict[str, _Gradient], list[Tensor]]:
    """One text: a pass forward, and one back per outcome; and the coefficients of each layer.

    Args:
        skipped: places at the beginning at which factors do not act.
    """
    anatomy, device = loaded.anatomy, loaded.model.device
    with _watching(anatomy, factors) as seen:
        out = loaded.model(
            input_ids=torch.tensor([ids[:-1]], device=device),
            past_key_values=copy.deepcopy(prefix),
            use_cache=prefix is not None,
            logits_to_keep=len(tokens),
        )
    logits, target = out.logits[0].float(), torch.tensor(tokens, device=device)[:, None]
    own = logits.gather(1, target)[:, 0]
    measures: dict[str, Tensor] = {
        "log_prob": own - logits.logsumexp(dim=1),
        "margin": own - logits.scatter(1, target, -torch.inf).amax(dim=1),
    }
    found = {}
    for i, (name, (measure, places)) in enumerate(wanted.items()):
        value = measures[measure][places].mean()
        *of_m, of_r = torch.autograd.grad(value, [*seen.coefficients, seen.residual], retain_graph=i < len(wanted) - 1)
        total = [_over_places((m * g).reshape(-1, m.shape[-1])[skipped:]) for m, g in zip(seen.raw, of_m, strict=True)]
        direct = [
            _over_places(m * (_through(norm, y, of_r) @ value_matrix(down).detach().to(m.dtype)).reshape(m.shape)) * residual
            for m, y, norm, down, residual in zip(
                seen.raw, seen.outputs, anatomy.post_norm, anatomy.down, anatomy.residual, strict=True
            )
        ]
        found[name] = _Gradient(value.item(), -torch.stack(total), -torch.stack(direct))
    return found, seen.raw


def _over_places(x: Tensor) -> Tensor:
    """Sum over all but the last axis, float32, on the CPU."""
    return x.detach().float().reshape(-1, x.shape[-1]).sum(0).cpu()


def _through(norm: nn.Module | None, y: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of what a block wrote, given that of the stream: through the norm over its output, where there is one."""
    gradient = gradient.detach()
    if norm is None:
        return gradient
    with torch.enable_grad():
        inner = y.detach().requires_grad_()
        return torch.autograd.grad(norm(inner), inner, gradient.reshape(inner.shape))[0].reshape(gradient.shape)


class _Seen:
    """What a pass leaves: per layer the coefficients before and after the factor, and the output; the last stream."""

    def __init__(self, layers: int) -> None:
        self.raw: list[Any] = [None] * layers
        self.coefficients: list[Any] = [None] * layers
        self.outputs: list[Any] = [None] * layers
        self.residual: Any = None


@contextmanager
def _watching(anatomy: Anatomy, factors: Sequence[Tensor | None]) -> Iterator[_Seen]:
    """Within the block, coefficients are multiplied by factors, and what passes is kept."""
    seen = _Seen(anatomy.layers)

    def before(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            raw, factor = args[0], factors[layer]
            m = raw if factor is None else raw * factor
            if not m.requires_grad:  # the first layer: nothing before it has a gradient
                m = m.detach().requires_grad_()
            seen.raw[layer], seen.coefficients[layer] = raw.detach(), m
            return (m,)

        return hook

    def after(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, y: seen.outputs.__setitem__(layer, y)

    with ExitStack() as hooks:
        for layer, down in enumerate(anatomy.down):
            hooks.callback(down.register_forward_pre_hook(before(layer)).remove)
            hooks.callback(down.register_forward_hook(after(layer)).remove)
        last = anatomy.final_norm
        assert last is not None
        hooks.callback(last.register_forward_pre_hook(lambda module, args: setattr(seen, "residual", args[0])).remove)
        yield seen


def _factors(anatomy: Anatomy, neurons: Sequence[Neuron], factor: float) -> list[Tensor | None]:
    """Per layer what its coefficients are multiplied by (neurons,); None: nothing."""
    factors: list[Tensor | None] = [None] * anatomy.layers
    for layer in {n.layer for n in neurons} if factor != 1 else ():
        here = torch.ones(anatomy.width, dtype=anatomy.dtype, device=anatomy.device)
        here[[n.index for n in neurons if n.layer == layer]] = factor
        factors[layer] = here
    return factors


def shared_length(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all of several prompts share; 0 where a layer has a recurrent state, which is written over in place and
    can't be gone on from with gradients."""
    recurrent = any(
        isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=loaded.model.config).layers
    )
    return common_prefix([list(p) for p in prompts]) if len(prompts) > 1 and not recurrent else 0


@torch.no_grad()
def shared_prefix(loaded: LoadedModel, ids: Sequence[int]) -> DynamicCache:
    """Keys and values of what all prompts share, without gradients."""
    cache = DynamicCache(config=loaded.model.config)
    loaded.model(
        input_ids=torch.tensor([ids], device=loaded.model.device), past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    return cache
