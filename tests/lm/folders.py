"""A tiny model's folder, as other people's come, for tests that spoil it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from conftest import CHARACTERS, FAMILIES
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from torch import Tensor


def make_folder(folder: Path, family: str = "qwen2", **sizes: object) -> Path:
    """Weights, configuration and tokenizer of a random model, as `save_pretrained` writes them."""
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings | {"vocab_size": len(vocabulary)} | sizes)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def edit(folder: Path, name: str, **changes: object) -> None:
    """Set keys of a JSON file."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of the checkpoint by name."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
