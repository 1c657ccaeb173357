"""Zero-shot prompts that differ in the sentence after the question, as "Let's think step by step" is one.

Source: Kojima et al., "Large Language Models are Zero-Shot Reasoners" (NeurIPS 2022, arXiv:2205.11916), who
compare instructive, misleading and irrelevant sentences. The sentences here are cotscope's own.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Literal, get_args

from ..records import Prompt
from .derive import PLAIN

Kind = Literal["instructive", "misleading", "irrelevant", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def load_sentences() -> tuple[Prompt, ...]:
    """One prompt for each sentence, named `sentence_KIND_N` (N from 1), in the order of `KINDS`; last, one without any."""
    table = tomllib.loads(files(__package__).joinpath("sentences.toml").read_text(encoding="utf-8"))
    prompts = [
        Prompt(f"sentence_{kind}_{number}", "", f"\n{sentence}\n")
        for kind in KINDS
        for number, sentence in enumerate(table.get(kind, ()), start=1)
    ]
    return (*prompts, Prompt("sentence_none_1", "", PLAIN))


def kind_of(prompt: Prompt) -> Kind:
    """The kind of a prompt that `load_sentences` made, by its name."""
    kind = prompt.name.split("_")[1]
    assert kind in KINDS, prompt.name
    return kind
