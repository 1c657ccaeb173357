"""cotscope's engine and four peers, each doing the same job: greedy texts, and the active poles of every token.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/peers.py --model FOLDER --prompts 3

The command checks, in float32, that each peer writes the same tokens as cotscope and records the same poles. For
timings: `peer = PEERS[name](folder, dtype)` loads, `peer.run(texts, stop, max_new_tokens, batch)` is the job; the first
run of a peer also pays for what it prepares once (stop strings over the vocabulary, the engine's own check).
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, GenerationConfig
from transformers.generation import ContinuousBatchingConfig
from transformers.utils import logging as transformers_logging

import cotscope
from cotscope.lm.families import anatomy

K = 10
STOP_TOKENS = 24  # a stop string is looked for in this many tokens
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Poles = tuple[Tensor, Tensor]  # indices and coefficients, of equal shape
Pass = tuple[Sequence[int], Tensor, Tensor]  # row numbers; indices and coefficients (rows, layers, K)


@dataclass(frozen=True)
class Recorded:
    """What a run wrote and recorded, in the order of the texts.

    Attributes:
        tokens: each row's tokens, cut at the stop string's last token or before the end token.
        poles: each row's K active poles (steps, layers, K): a step per token, the end token included.
        norms: ‖v‖₂ of every neuron (layers, neurons).
    """

    tokens: list[list[int]]
    poles: list[Poles]
    norms: Tensor


def compare(a: Recorded, b: Recorded, tolerance: float = 1e-3) -> float:
    """The largest difference of coefficients.

    A pole that one run alone has must tie with the last of the other's K: rounding decides between the two.

    Raises: AssertionError if tokens or poles differ, or coefficients by more than `tolerance`.
    """
    assert len(a.tokens) == len(b.tokens), f"{len(a.tokens)} rows and {len(b.tokens)}"
    largest = 0.0
    for row, (mine, theirs) in enumerate(zip(a.tokens, b.tokens)):
        at = next((i for i, (m, t) in enumerate(zip(mine, theirs)) if m != t), min(len(mine), len(theirs)))
        assert mine == theirs, f"row {row}: other tokens from {at} on: {mine[at:]} and {theirs[at:]}"
        shapes = [tuple(index.shape) for index, _ in (a.poles[row], b.poles[row])]
        assert shapes[0] == shapes[1], f"row {row}: poles (steps, layers, K) are {shapes[0]} and {shapes[1]}"
        here, there = (_dense(poles, a.norms.shape[1]) for poles in (a.poles[row], b.poles[row]))
        both = ~(here.isnan() | there.isnan())
        largest = max(largest, (here - there)[both].abs().max().item())
        assert largest <= tolerance, f"row {row}: coefficients differ by {largest:.2g} (tolerance {tolerance:g})"
        for one, other in ((here, there), (there, here)):
            alone = (one.abs() * a.norms).masked_fill(~(one.isfinite() & other.isnan()), -math.inf)
            least = (other.abs() * a.norms).nan_to_num(nan=math.inf).amin(dim=2, keepdim=True)
            excess = (alone - least).amax(dim=2)
            step, layer = divmod(int(excess.argmax()), excess.shape[1])
            assert excess[step, layer] <= tolerance, f"row {row}, step {step}, layer {layer}: other poles"
    return largest


def _dense(poles: Poles, neurons: int) -> Tensor:
    """(steps, layers, neurons), NaN where a neuron is no active pole."""
    index, coefficient = poles
    return torch.full((*index.shape[:2], neurons), math.nan).scatter_(2, index.long(), coefficient)


# -- what the peers share ---------------------------------------------------------------------------------------------


def _active(last: Tensor, norms: Tensor) -> Poles:
    """The K active poles of one layer, from its coefficients (rows, neurons) at the recorded positions."""
    last = last.float()
    index = (last.abs() * norms).topk(K, dim=-1, sorted=False).indices
    return index, last.gather(-1, index)


def _by_row(passes: Iterable[Pass], rows: int) -> list[Poles]:
    """The steps of each row, from passes over varying rows."""
    index: list[list[Tensor]] = [[] for _ in range(rows)]
    coefficient: list[list[Tensor]] = [[] for _ in range(rows)]
    for numbers, i, c in passes:
        for slot, number in enumerate(numbers):
            index[number].append(i[slot])
            coefficient[number].append(c[slot])
    return [(torch.stack(i).cpu(), torch.stack(c).cpu()) for i, c in zip(index, coefficient)]


def _imported(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} is missing ({error}): pip install '.[bench]'") from error


class _Loaded:
    """A model and its tokenizer as transformers loads them, and where its texts end."""

    def __init__(self, folder: str, dtype: str) -> None:
        self.folder, self.dtype = folder, getattr(torch, dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype, trust_remote_code=False).to(DEVICE).eval()
        self.down = anatomy(self.model).down
        self.norms = anatomy(self.model).norms
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        self.ends: list[int] = ends if isinstance(ends, list) else [ends]

    def greedy(self, max_new_tokens: int) -> dict[str, Any]:
        """Settings of a plain greedy run, whatever the model's generation config says of penalties."""
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "repetition_penalty": 1.0}
        return settings | {"eos_token_id": self.ends, "pad_token_id": self.tokenizer.pad_token_id}

    def stops(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """Whether a stop string stands at the end of `tokens`."""
        tail = self.tokenizer.decode(tokens[-STOP_TOKENS:])
        return any(s in tail for s in stop)

    def cut(self, tokens: list[int], stop: tuple[str, ...]) -> tuple[list[int], int]:
        """The tokens up to where the row ended, and its number of steps."""
        for at, token in enumerate(tokens):
            if token in self.ends:
                return tokens[:at], at + 1
            if self.stops(tokens[: at + 1], stop):
                return tokens[: at + 1], at + 1
        return tokens, len(tokens)

    def recorded(self, generated: list[list[int]], poles: Iterable[Poles], stop: tuple[str, ...]) -> Recorded:
        """Cut all rows where they ended."""
        cuts = [self.cut(tokens, stop) for tokens in generated]
        kept = [(index[:steps], coefficient[:steps]) for (_, steps), (index, coefficient) in zip(cuts, poles)]
        return Recorded([tokens for tokens, _ in cuts], kept, self.norms.cpu())


class _Padded(_Loaded, ABC):
    """Left-padded batches in the order of the texts; rows that ended stay in their batch until its last row ends."""

    def run(self, texts: list[str], stop: tuple[str, ...], max_new_tokens: int = 120, batch: int = 16) -> Recorded:
        settings = self.greedy(max_new_tokens) | {"stop_strings": list(stop) or None, "tokenizer": self.tokenizer}
        generated: list[list[int]] = []
        poles: list[Poles] = []
        for first in range(0, len(texts), batch):
            rows = texts[first : first + batch]
            inputs = self.tokenizer(rows, return_tensors="pt", padding=True, padding_side="left").to(DEVICE)
            kept: list[Poles] = []
            out = self.generate(inputs, settings, kept)
            generated += out[:, inputs["input_ids"].shape[1] :].tolist()
            index, coefficient = (
                torch.stack(tensors).unflatten(0, (-1, len(self.down))).permute(2, 0, 1, 3).cpu() for tensors in zip(*kept)
            )
            poles += zip(index, coefficient)
        return self.recorded(generated, poles, stop)

    @abstractmethod
    def generate(self, inputs: BatchEncoding, settings: dict[str, Any], kept: list[Poles]) -> Tensor:
        """Tokens (rows, prompt and new); appends the active poles of all rows to `kept`, layer by layer."""


# -- cotscope and the peers -------------------------------------------------------------------------------------------


class Cotscope:
    """cotscope's engine; it chooses the number of rows itself."""

    kernels = "auto"

    def __init__(self, folder: str, dtype: str) -> None:
        self.loaded = cotscope.load_model(folder, dtype=dtype, kernels=self.kernels)
        self.engine = cotscope.Engine(self.loaded, prefix_bytes=0)  # no round profits from the one before

    def run(self, texts: list[str], stop: tuple[str, ...], max_new_tokens: int = 120, batch: int = 16) -> Recorded:
        recorder = cotscope.ActivePoles(self.loaded.anatomy, k=K, keep_steps=True)
        completions = self.engine.generate(texts, stop=stop, max_new_tokens=max_new_tokens, recorder=recorder)
        poles = [tuple(step.cpu() for step in recorder.steps[row]) for row in range(len(texts))]
        return Recorded([list(c.token_ids) for c in completions], poles, recorder.norms.cpu())


class CotscopeByPyTorch(Cotscope):
    """The same engine on PyTorch's own kernels."""

    kernels = "pytorch"


class TransformersGenerate(_Padded):
    """transformers' `generate`, with a forward pre-hook on every down-projection."""

    @torch.inference_mode()
    def generate(self, inputs: BatchEncoding, settings: dict[str, Any], kept: list[Poles]) -> Tensor:
        def hook(norms: Tensor):
            return lambda module, args: kept.append(_active(args[0][:, -1], norms))

        handles = [down.register_forward_pre_hook(hook(n)) for down, n in zip(self.down, self.norms)]
        try:
            return self.model.generate(**inputs, **settings)
        finally:
            for handle in handles:
                handle.remove()


class TransformersGenerateBatch(_Loaded):
    """transformers' continuous batching, with forward pre-hooks on the model and on every down-projection.

    A pass is one packed row of tokens; its `logits_indices` are the positions that choose a token, in the order of the
    requests that get one, which the manager's batch processor knows. `generate_batch` itself takes no stop strings, so
    its manager is driven here as it drives it, but with streamed results: a row that reached a stop string is cancelled
    (and cut, since the generating thread may be some tokens ahead). CUDA graphs are off, for hooks don't run in them.
    """

    PAGE = 16  # tokens; whole pages of a prefix that an earlier pass computed are shared
    PASS = 256  # tokens per pass: rows that begin in the same pass share nothing, and its attention mask is dense

    def run(self, texts: list[str], stop: tuple[str, ...], max_new_tokens: int = 120, batch: int = 16) -> Recorded:
        ids = self.tokenizer(texts)["input_ids"]
        pages = math.ceil((max(map(len, ids)) + max_new_tokens) / self.PAGE)
        config = ContinuousBatchingConfig(
            page_size=self.PAGE,
            num_blocks=math.ceil(1.25 * pages * min(batch, len(texts))) + pages,  # 15 % are kept free by transformers
            max_batch_tokens=self.PASS,
            max_requests_per_batch=batch,
            use_cuda_graph=False,
        )
        generated: list[list[int]] = [[] for _ in texts]
        passes: list[tuple[list[str], list[Poles]]] = []
        handles: list[Any] = []
        try:
            with self.model.continuous_batching_context_manager(
                generation_config=GenerationConfig(**self.greedy(max_new_tokens)), continuous_batching_config=config
            ) as manager:
                handles = self._hooks(manager, passes)
                requests = manager.add_requests(ids, max_new_tokens=max_new_tokens, streaming=True)
                number = {request: row for row, request in enumerate(requests)}
                self._collect(manager, number, generated, stop)
        finally:
            for handle in handles:
                handle.remove()
        steps = (
            ([number[r] for r in rows], *(torch.stack(tensors, dim=1) for tensors in zip(*layers))) for rows, layers in passes
        )
        return self.recorded(generated, _by_row(steps, len(texts)), stop)

    def _hooks(self, manager: Any, passes: list[tuple[list[str], list[Poles]]]) -> list[Any]:
        positions = torch.empty(0)

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            nonlocal positions
            batch = manager.batch_processor.inputs_and_outputs.requests_in_batch
            rows = [request.state.request_id for request in batch if request.has_new_token]
            positions = kwargs["logits_indices"][: len(rows)]
            if rows:
                passes.append((rows, []))

        def hook(norms: Tensor):
            def observe(module: nn.Module, args: tuple[Tensor]) -> None:
                if len(positions):
                    passes[-1][1].append(_active(args[0][0, positions], norms))

            return observe

        handles = [down.register_forward_pre_hook(hook(n)) for down, n in zip(self.down, self.norms)]
        return [self.model.register_forward_pre_hook(before, with_kwargs=True), *handles]

    def _collect(self, manager: Any, number: dict[str, int], generated: list[list[int]], stop: tuple[str, ...]) -> None:
        pending = dict(number)
        while pending:
            result = manager.get_result(timeout=1)
            if result is None:
                if not manager.is_running():
                    raise RuntimeError("continuous batching stopped before all rows had ended")
            elif result.request_id in pending:
                if result.error is not None:
                    raise RuntimeError(f"continuous batching failed: {result.error}")
                ended = result.is_finished()
                if ended or self.stops(result.generated_tokens, stop):
                    generated[pending.pop(result.request_id)] = result.generated_tokens
                    if not ended:
                        manager.cancel_request(result.request_id)


class TransformerLens(_Padded):
    """TransformerLens' bridge and its own `generate`, with hooks on the down-projections' inputs.

    `generate` computes the logits of every prompt position. The bridge attends eagerly, as its attention hooks need.
    """

    def __init__(self, folder: str, dtype: str) -> None:
        bridge = _imported("transformer_lens.model_bridge").TransformerBridge
        super().__init__(folder, dtype)
        self.bridge = bridge.boot_transformers(
            folder, hf_model=self.model, tokenizer=self.tokenizer, dtype=self.dtype, device=DEVICE
        )

    @torch.inference_mode()
    def generate(self, inputs: BatchEncoding, settings: dict[str, Any], kept: list[Poles]) -> Tensor:
        def observe(norms: Tensor):
            def hook_function(tensor: Tensor, hook: nn.Module) -> None:
                kept.append(_active(tensor[:, -1], norms))

            return hook_function

        hooks = [(f"blocks.{layer}.mlp.out.hook_in", observe(norms)) for layer, norms in enumerate(self.norms)]
        known = {k: settings[k] for k in ("max_new_tokens", "do_sample", "eos_token_id", "stop_strings")}
        with self.bridge.hooks(fwd_hooks=hooks):
            return self.write(inputs["input_ids"], inputs["attention_mask"], known)

    def write(self, ids: Tensor, mask: Tensor, settings: dict[str, Any]) -> Tensor:
        """The bridge's generation from padded prompts (rows, positions)."""
        return self.bridge.generate(ids, attention_mask=mask, return_type="tokens", verbose=False, **settings)


class TransformerLensHF(TransformerLens):
    """The same bridge and hooks under its `hf_generate`, which runs transformers' `generate` on the bridged model."""

    def write(self, ids: Tensor, mask: Tensor, settings: dict[str, Any]) -> Tensor:
        settings = settings | {"tokenizer": self.tokenizer, "repetition_penalty": 1.0}
        return self.bridge.hf_generate(ids, attention_mask=mask, return_type="tokens", **settings)


class NNsight(_Padded):
    """nnsight's `generate`: one invoke reads the down-projections' inputs of the whole batch at every step."""

    def __init__(self, folder: str, dtype: str) -> None:
        wrapper = _imported("nnsight").TransformersModel
        super().__init__(folder, dtype)
        names = {module: name for name, module in self.model.named_modules()}
        self.traced = wrapper(self.model, tokenizer=self.tokenizer, task="text-generation")
        self.envoys = [self.traced.get(names[down]) for down in self.down]

    @torch.inference_mode()
    def generate(self, inputs: BatchEncoding, settings: dict[str, Any], kept: list[Poles]) -> Tensor:
        modules = list(zip(self.envoys, self.norms))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an open-ended loop ends by asking for a step that never comes
            with self.traced.generate(**settings) as tracer:
                with tracer.invoke(dict(inputs)):
                    for _ in tracer.iter[:]:
                        for envoy, norms in modules:
                            kept.append(_active(envoy.input[:, -1], norms))
                with tracer.invoke():
                    out = tracer.result.save()
        return out


# Each is made of a model folder and a dtype's name; its `run` takes the texts, the stop strings, the most tokens that a
# row may write and the most rows at once.
PEERS: dict[str, type] = {
    "cotscope": Cotscope,
    "cotscope_by_pytorch": CotscopeByPyTorch,
    "transformers_generate": TransformersGenerate,
    "transformers_generate_batch": TransformersGenerateBatch,
    "transformer_lens": TransformerLens,
    "transformer_lens_hf": TransformerLensHF,
    "nnsight": NNsight,
}

# -- the check --------------------------------------------------------------------------------------------------------

EXEMPLARS = "Question: What is 2 + 3?\nAnswer: 2 + 3 = 5.\n\nQuestion: What is 4 times 6?\nAnswer: 4 * 6 = 24.\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a local folder")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=sorted(PEERS), default=[p for p in PEERS if p != "cotscope"])
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers_logging.disable_progress_bar()
    questions = [f"What is {7 + 11 * i}{' and then' * (i % 3)} plus {5**i}?" for i in range(arguments.prompts)]
    job = ([f"{EXEMPLARS}Question: {q}\nAnswer:" for q in questions], ("\n\n",), 12, max(1, arguments.prompts - 1))
    mine = Cotscope(arguments.model, "float32").run(*job)
    print(f"{'cotscope':28} {arguments.prompts} prompts, {sum(map(len, mine.tokens))} tokens", flush=True)
    for name in arguments.peers:
        gc.collect()
        try:
            largest = compare(mine, PEERS[name](arguments.model, "float32").run(*job))
        except (ImportError, AssertionError) as error:
            print(f"{name:28} {error}", flush=True)
        else:
            print(f"{name:28} same tokens, same poles; coefficients differ by at most {largest:.1e}", flush=True)


if __name__ == "__main__":
    main()
