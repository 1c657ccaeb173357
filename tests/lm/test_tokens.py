"""A text's tokens are those that it has after a prompt, whatever a tokenizer puts before texts."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from cotscope.data.battery import load_battery
from cotscope.data.builtin import generate
from cotscope.lm.loading import LoadedModel
from cotscope.prompts.derive import render_solution

WORDS = ("▁cold", "▁There", "There", "▁true", "▁are", "Opposite", ":", "▁hot")


def like_phi3() -> Tokenizer:
    """As Phi-3's and Mistral's files have it: a blank before the text, blanks as ▁, bytes for what has no token."""
    pieces = {piece for word in WORDS for end in range(1, len(word) + 1) for piece in (word[:end], word[end - 1])}
    vocabulary = ["<s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *sorted(pieces)]
    merges = sorted({(word[: end - 1], word[end - 1]) for word in WORDS for end in range(2, len(word) + 1)})
    made = Tokenizer(models.BPE({v: i for i, v in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True))
    made.add_special_tokens([AddedToken("<s>")])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def loaded(encode: Any) -> LoadedModel:
    found = object.__new__(LoadedModel)
    object.__setattr__(found, "encode", encode)
    return found


@pytest.mark.parametrize(("before", "text"), [("Opposite: hot\nOpposite:", " cold\n"), ("Opposite:\n", "There are")])
def test_no_blank_is_put_before_what_stands_after_a_prompt(before: str, text: str) -> None:
    tokenizer = like_phi3()
    whole, prompt = tokenizer.encode(before + text).ids, tokenizer.encode(before).ids
    assert whole[: len(prompt)] == prompt
    found = loaded(lambda t: tokenizer.encode(t).ids).following(text)
    assert list(found) == whole[len(prompt) :]
    assert tokenizer.encode(text).ids[1:] != list(found), "alone it begins with a blank"


@pytest.mark.model
def test_with_the_default_models_tokenizer_it_is_what_the_text_has_alone(
    default_tokenizer: transformers.PreTrainedTokenizerBase,
) -> None:
    def encode(text: str) -> list[int]:
        return list(default_tokenizer(text)["input_ids"])

    texts = [render_solution(p) + end for p, end in product(generate(40, seed=1), ("\n", "\n\n"))]
    texts += [task.continuation(item) for task in load_battery() for item in task.items] + [" true", " false"]
    assert all(list(loaded(encode).following(text)) == encode(text) for text in texts)
