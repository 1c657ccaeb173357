"""A model's files as transformers reads them, and what it would let pass.

Model files are other people's: no code in them is run, and whatever is wrong with them is one line. transformers fills
tensors that a checkpoint lacks with random numbers, drops layers that the configuration does not count, and makes an
empty tokenizer where there is none; here each is an error.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from ..errors import ModelError
from .families import weight_of

_WEIGHTS = ("*.safetensors", "*.bin")
_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size")
_MORE_SIZES = (  # of models that have them
    "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings",
)  # fmt: skip
SOME_TEXT = "12 + 3"  # every tokenizer of a language model knows some of it


@contextmanager
def foreign(source: str, what: str, expected: str = "") -> Iterator[None]:
    """Turn whatever a reader of someone's files raises into a ModelError of one line; its reports are not printed."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ModelError, torch.OutOfMemoryError):  # the latter is of a GPU, not of the files
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        said = " ".join(str(error).split())
        if "custom code" in said:
            raise ModelError(
                f"model {source!r} comes with code of its own, which cotscope does not run",
                expected="an architecture that transformers knows",
                remedy="`cotscope models` lists models that work.",
            ) from error
        if "Weights only load failed" in said:
            raise ModelError(
                f"a checkpoint of model {source!r} holds more than weights, so it was not read",
                expected="a .bin file of tensors only, or safetensors",
                remedy="Convert it with whatever made it, if you trust where it is from.",
            ) from error
        kind = "" if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: "
        raise ModelError(f"{what} of model {source!r} can't be read", expected=expected, got=f"{kind}{said}"[:240]) from error
    finally:
        transformers_logging.set_verbosity(before)


def read_config(folder: str, source: str) -> PreTrainedConfig:
    """The configuration of a decoder, of sizes that can be.

    Raises: ModelError.
    """
    with foreign(source, "the config.json", "the JSON of an architecture that transformers knows"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        text = config.get_text_config()
    decoders = AutoModelForCausalLM._model_mapping
    if getattr(config, "is_encoder_decoder", False) or type(config) not in decoders or _is_encoder(config):
        raise ModelError(
            f"model {source!r} is no decoder-only language model",
            expected="a causal language model",
            got=f"{', '.join(_architectures(config)) or 'unknown'} ({config.model_type})",
            remedy="`cotscope models` lists models that work.",
        )
    for name in (*_SIZES, *_MORE_SIZES):
        size = setting(text, name)
        if (name in _SIZES or size is not None) and not _is_size(size):
            raise ModelError(
                f"the config.json of model {source!r} can't be right", expected=f"{name} of at least 1", got=str(size)
            )
    heads, kv_heads = (setting(text, name) for name in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
        raise ModelError(
            f"the config.json of model {source!r} can't be right",
            expected="num_attention_heads to be a multiple of num_key_value_heads",
            got=f"{heads} and {kv_heads}",
        )
    _check_room(text, Path(folder), source)
    return config


def setting(config: PreTrainedConfig, name: str) -> Any:
    """What a configuration says; None where it does not, or says something else of some layers (Gemma 4's head_dim)."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return None


def _is_size(value: object) -> bool:
    """A list stands for sizes that differ by layer."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _architectures(config: PreTrainedConfig) -> list[str]:
    names = config.architectures
    return [str(name) for name in names] if isinstance(names, list) else []


def _is_encoder(config: PreTrainedConfig) -> bool:
    """BERT and its kin are in the causal mapping, as decoders that nobody trained; their checkpoints say otherwise."""
    names = _architectures(config)
    return bool(names) and not any(n.endswith(("CausalLM", "LMHeadModel", "ConditionalGeneration")) for n in names)


def _check_room(config: PreTrainedConfig, folder: Path, source: str) -> None:
    """A configuration of more weights than the files can hold would have them made up, in all memory that there is."""
    held = sum(file.stat().st_size for pattern in _WEIGHTS for file in folder.glob(pattern))
    hidden, width, heads, dim = (
        size if isinstance(size := setting(config, name), int) else 1
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    )
    described = hidden * (config.vocab_size + config.num_hidden_layers * (width + heads * dim))
    if held and described // 2 > held:  # half a byte is the least that a weight is stored in
        raise ModelError(
            f"the weights of model {source!r} can't be those that its config.json describes",
            expected=f"{described:,} of them at least",
            got=f"files of {held:,} bytes",
        )


def read_tokenizer(folder: str, source: str, **settings: Any) -> Tokenizer:
    """A tokenizer that knows some words. Raises: ModelError."""
    with foreign(source, "the GGUF file" if "gguf_file" in settings else "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **settings)
        known = {*tokenizer(SOME_TEXT)["input_ids"]} - {*tokenizer("")["input_ids"], tokenizer.unk_token_id}
        tokenizer.decode([*known])
    if not known:
        raise ModelError(
            f"the tokenizer of model {source!r} knows no words",
            expected="a tokenizer.json, or the files that transformers makes one of",
        )
    return tokenizer


def read_weights(folder: str, source: str, dtype: torch.dtype, **settings: Any) -> PreTrainedModel:
    """The model with every weight from its files.

    Raises: ModelError if some are missing, have other shapes, or are not finite in `dtype`, or if there are more layers.
    """
    with foreign(source, "the GGUF file" if "gguf_file" in settings else "the weights"):
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they can be named
            **settings,
        )
        model: PreTrainedModel = read[0]
        info: dict[str, Any] = read[1]
    parameters = dict(model.named_parameters())
    if missing := sorted(set(info["missing_keys"]) & parameters.keys()):
        raise ModelError(f"the weights of model {source!r} are not whole", expected=_named(missing), got="none in its files")
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ModelError(
            f"the weights of model {source!r} don't fit its config.json",
            expected=f"{name} of shape {tuple(wanted)}",
            got=f"{tuple(found)}",
        )
    layers = {_by_layer(name) for name in parameters}
    if uncounted := sorted(name for name in info["unexpected_keys"] if _by_layer(name) in layers):
        raise ModelError(
            f"the config.json of model {source!r} counts fewer layers than its files hold",
            expected=f"at most {model.config.get_text_config().num_hidden_layers} layers",
            got=_named(uncounted),
        )
    if infinite := not_finite(model.named_parameters()):
        raise ModelError(
            f"the weights of model {source!r} hold NaN or infinite numbers in {str(dtype).removeprefix('torch.')}",
            got=_named(infinite),
            remedy="float16 ends at 65,504: take bfloat16 or float32." if dtype == torch.float16 else "",
        )
    return model


def _by_layer(name: str) -> str:
    """A tensor's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".N.", name)


def _named(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of those that hold NaN or infinite numbers. One number each is computed of most: their sum."""
    named = [(name, t.detach()) for name, t in tensors if t.dtype in (torch.float32, torch.bfloat16, torch.float16)]
    sums = [t.sum().float() for _, t in named]  # in its own dtype: PyTorch is ten times as slow where it converts
    suspects = [named[i] for i, s in enumerate(torch.stack(sums).tolist() if sums else []) if s - s != 0]
    return [name for name, t in suspects if not t.isfinite().all()]


def check_together(model: PreTrainedModel, tokenizer: Tokenizer, source: str) -> None:
    """Every word of the tokenizer has its embedding, and texts end at tokens.

    Some models' special tokens lie beyond (Gemma's image token): `LoadedModel.encode` refuses those where they are met.

    Raises: ModelError.
    """
    with foreign(source, "the tokenizer"):
        rows, special = len(weight_of(model.get_input_embeddings())), tokenizer.added_tokens_decoder
        beyond = {i: word for word, i in tokenizer.get_vocab().items() if i >= rows and i not in special}
    if beyond:
        raise ModelError(
            f"the tokenizer of model {source!r} is not its own",
            expected=f"token numbers below {rows}, which is how many embeddings there are",
            got=f"{max(beyond)} ({beyond[max(beyond)]!r})",
        )
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    if not all(isinstance(i, int) for i in (ends if isinstance(ends, list) else [] if ends is None else [ends])):
        raise ModelError(f"the generation_config.json of model {source!r} can't be right", expected="eos_token_id in numbers",
                         got=repr(ends)[:80])  # fmt: skip


@torch.inference_mode()
def check_run(model: PreTrainedModel, tokenizer: Tokenizer, source: str) -> None:
    """A few words give finite logits: settings that nothing else checks (of norms, of positions) can spoil them.

    Raises: ModelError.
    """
    with foreign(source, "the config.json"):
        ids = torch.tensor([tokenizer(SOME_TEXT)["input_ids"]], device=model.device)
        knows = "use_cache" in inspect.signature(model.forward).parameters  # whatever the configuration says of it
        said = model(ids, **({"use_cache": True} if knows else {}))
        logits = said.logits
    if said.get("past_key_values") is None:
        raise ModelError(
            f"model {source!r} keeps no cache, without which it is not gone on with here",
            expected="past_key_values beside its logits", got=type(said).__name__,
        )  # fmt: skip
    if not logits.isfinite().all():
        raise ModelError(
            f"model {source!r} does not work",
            expected=f"finite logits for {SOME_TEXT!r} in {str(model.dtype).removeprefix('torch.')}",
            got="NaN or infinite ones",
            remedy="Take bfloat16 or float32, if it is float16; else its files are damaged.",
        )


def on_device(device: str | None) -> str:
    """The device itself, or what there is. Raises: ModelError if it can't be used."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()
        raise ModelError(
            f"device {device!r} can't be used here", got=said[0][:160] if said else type(error).__name__
        ) from error
    return device
