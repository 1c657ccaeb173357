"""A model folder as transformers 5 writes it, made to be read by transformers 4, too, and by what is built on it.

Version 5 gathers what positions turn by in `rope_parameters`. Version 4 looks for `rope_theta` and `rope_scaling`, and where it
finds none takes its own default without a word: the model is loaded and says other things. Version 5 reads both, of the
architectures that are named here; others have ways of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SCALED = {"llama", "mistral", "qwen2", "qwen3"}  # whose `rope_scaling` both versions read alike
_READ_ALIKE = {*_SCALED, "gemma", "gemma2", "granite", "olmo", "olmo2", "smollm3"}


def made_for_older(folder: Path) -> None:
    """Add to a folder's configuration, and to that of its tokenizer, what older programs look for.

    A base's own code is not in the folder: nothing points to it.
    """
    for name, add in (("config.json", _model), ("tokenizer_config.json", _tokenizer)):
        path = folder / name
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("auto_map", None)
            add(config)
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model(config: dict[str, Any]) -> None:
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    turning, kind = config.get("rope_parameters"), config.get("model_type")
    if not isinstance(turning, dict) or "rope_theta" not in turning or kind not in _READ_ALIKE:
        return
    scaled = turning.get("rope_type", "default") != "default"
    if scaled and kind not in _SCALED:
        return
    config["rope_theta"] = turning["rope_theta"]
    if scaled:
        config["rope_scaling"] = {key: value for key, value in turning.items() if key != "rope_theta"}


def _tokenizer(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # as version 4 calls it, which makes more for a model by itself
        config.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if isinstance(more := config.get("extra_special_tokens"), list):  # version 4 wants names for them there
        del config["extra_special_tokens"]
        config["additional_special_tokens"] = more
