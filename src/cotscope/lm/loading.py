"""A model that is ready to run: weights, tokenizer, and what the rest of cotscope asks of them."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ModelError, PromptError
from . import cpu
from .families import Anatomy, anatomy, weight_of
from .models import quiet_unless_terminal, resolve
from .reading import SOME_TEXT, check_run, check_together, on_device, read_config, read_tokenizer, read_weights

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass
class LoadedModel:
    """A decoder and its tokenizer.

    Attributes:
        name: what the user called it.
        model: in eval mode, without gradients.
        anatomy: its feed-forward blocks.
        context: positions that it can take.
        folder: what it was loaded from; "": it was made otherwise.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    folder: str = ""
    _pieces: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def dtype_name(self) -> str:
        """As `load_model` takes it: "bfloat16", "float32" or "float16"."""
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def kernels(self) -> str:
        """Whose kernels it runs on: "compiled" (`cpu/*.c`) or "pytorch"; they round apart."""
        return "compiled" if cpu.is_compiled(self.anatomy.down[0]) else "pytorch"

    @cached_property
    def context(self) -> int:
        config = self.model.config.get_text_config()
        said = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        most = next(filter(None, said), None) or self.tokenizer.model_max_length  # 10^30 where nobody says
        return min(int(most), 2**31 - 1)

    @cached_property
    def slides(self) -> bool:
        """Whether some layer attends to a window only."""
        config = self.model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            return any("full" not in kind for kind in kinds)
        return getattr(config, "sliding_window", None) is not None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a row: the generation config's, else the tokenizer's."""
        ids = self.model.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)

    def encode(self, text: str) -> list[int]:
        """Token ids with the tokenizer's own special tokens. Raises: PromptError for a token without embedding."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if self._ends and ids[-len(self._ends) :] == self._ends:
            ids = ids[: -len(self._ends)]
        rows = len(weight_of(self.model.get_input_embeddings()))
        if ids and max(ids) >= rows:
            raise PromptError(
                "a text holds a special token that the model has no embedding for",
                got=repr(self.decode([max(ids)])),
                remedy="Take it out of the text.",
            )
        return ids

    @cached_property
    def _ends(self) -> list[int]:
        """What the tokenizer puts after a text: behind that nothing could be gone on with."""
        alone: list[int]
        whole, alone = (self.tokenizer(SOME_TEXT, add_special_tokens=more)["input_ids"] for more in (True, False))
        ends = (n for n in range(len(whole), len(alone) - 1, -1) if whole[n - len(alone) : n] == alone)
        return list(whole[next(ends, len(whole)) :])

    def following(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that stands after others: without start tokens, nor the blank that some tokenizers put before
        whatever they are given (Llama 2, Phi-3)."""
        before, whole = self.encode("\n"), self.encode("\n" + text)
        if whole[: len(before)] == before:
            return tuple(whole[len(before) :])
        return tuple(self.encode(text)[len(self.encode("")) :])  # the newline went into a token with what follows it

    def piece(self, token: int) -> str:
        """One token decoded by itself (half characters become U+FFFD)."""
        if (text := self._pieces.get(token)) is None:
            text = self._pieces[token] = self.decode([token])
        return text

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        """The text of some tokens."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)
        assert isinstance(text, str)
        return text

    def free_memory(self) -> int:
        """Bytes that are free for activations and caches where the model runs."""
        if self.model.device.type == "cuda":
            device = self.model.device  # what PyTorch holds and does not use is free too
            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return torch.cuda.mem_get_info(device)[0] + kept
        return psutil.virtual_memory().available

    def peak_memory(self) -> int:
        """The most bytes that this process has held where the model runs."""
        if self.model.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.model.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(tensor.numel() for _, tensor in cpu.named_weights(self.model))

    def weight_hash(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 over every parameter's name and bytes, in name order; `dtype`: of what they are in it.

        As bfloat16 a model's weights have one hash, whether they were loaded in float32 or in bfloat16.
        """
        return weight_hash(self.model, dtype)

    def base_hash(self) -> str:
        """`weight_hash` as bfloat16, one for every dtype that it can be loaded in: float16 changes small weights, so that they
        are read again for it, once."""
        if self.dtype != torch.float16 or not self.folder:
            return self.weight_hash(torch.bfloat16)
        return self._hash_of_files

    @cached_property
    def _hash_of_files(self) -> str:
        return weight_hash(read_weights(self.folder, self.name, torch.bfloat16))


def weight_hash(model: PreTrainedModel, dtype: torch.dtype | None = None) -> str:
    """As `LoadedModel.weight_hash`, of any transformers model."""
    digest = hashlib.sha256()
    for name, tensor in cpu.named_weights(model):
        digest.update(name.encode())
        tensor = tensor.detach() if dtype is None else tensor.detach().to(dtype)
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _dense(hidden: Tensor) -> Tensor:
    """Without gaps between rows: transformers slices positions before the unembedding, and torch would copy W_U once per row of
    what it can't fold into a matrix. One row that is cut has such a gap in its first stride, and counts as contiguous."""
    return hidden.flatten(0, -2).contiguous().view(hidden.shape)


def give_back_memory() -> None:
    """Let others have what PyTorch keeps of a GPU's memory and no longer uses: it is not free for another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_model(
    source: str, dtype: str = "auto", device: str | None = None, kernels: str = "auto", differentiable: bool = False
) -> LoadedModel:
    """Load a model by name, hub id, local folder or `.gguf` file.

    Args:
        source: what to load.
        dtype: "bfloat16", "float32", "float16", or "auto": what this machine multiplies faster (`cpu.choose_dtype`).
        device: None takes the GPU if there is one.
        kernels: "compiled"; "pytorch"; or "auto": compiled where this machine can.
        differentiable: gradients can pass through it: its weights stay as PyTorch has them, which is slower.

    Raises: ModelError if it is unknown, not whole, or no decoder that cotscope can read, or if the kernels can't be had.
    """
    source, device = os.fspath(source), on_device(device)
    if dtype == "auto":
        dtype = cpu.choose_dtype(device).dtype
    if dtype not in DTYPES:
        raise ModelError("unknown dtype", expected=" or ".join(("auto", *DTYPES)), got=dtype)
    if kernels not in cpu.KERNELS:
        raise ModelError("unknown kernels", expected=" or ".join(cpu.KERNELS), got=kernels)
    folder = resolve(source)
    quiet_unless_terminal()
    read_config(folder, source)
    tokenizer = read_tokenizer(folder, source)
    model = read_weights(folder, source, DTYPES[dtype])
    check_together(model, tokenizer, source)
    try:
        model.to(device)  # type: ignore[arg-type]  # transformers wraps it in what has no types
        model.eval().requires_grad_(False)
        if not differentiable:
            cpu.prepare(model, kernels)
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (_dense(args[0]),))
        check_run(model, tokenizer, source)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"model {source!r} does not fit into the memory of {device}",
                         remedy="On the CPU it runs with CUDA_VISIBLE_DEVICES= before the command.") from error  # fmt: skip
    name = Path(source).name if Path(source).exists() else source
    return LoadedModel(name, model, tokenizer, anatomy(model), folder)
