"""The prompts that a study measures beside its own, so that activity and accuracy can be correlated over many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..records import Prompt
from .exemplars import Exemplars
from .sentences import kind_of, load_sentences
from .variants import variants

Family = Literal["variant", "sentence"]


@dataclass(frozen=True, slots=True)
class ExtraPrompt:
    """A prompt and what it was made of.

    Attributes:
        prompt: its name is unique among all extra prompts.
        family: "variant" (few-shot, of random exemplars) or "sentence" (zero-shot).
        kind: a variant's perturbation, or what a sentence is (instructive, misleading, irrelevant, none).
        exemplars: how many the prompt shows.
    """

    prompt: Prompt
    family: Family
    kind: str
    exemplars: int


def extra_prompts(exemplars: Exemplars, count: int, sentences: bool, seed: int = 0) -> tuple[ExtraPrompt, ...]:
    """So many variants, then, if asked for, the sentences; the same for the same arguments.

    Args:
        exemplars: what the variants are made of.
        count: of the variants; 0 for none.
        sentences: whether to add the zero-shot prompts that differ in a sentence.
        seed: of the variants.

    Raises:
        PromptError: the exemplars do not allow that many variants, it is fewer than none, or more than can be measured.
    """
    made = variants(exemplars, count, seed) if count else ()
    few_shot = tuple(ExtraPrompt(v.prompt, "variant", v.perturbation, v.exemplars) for v in made)
    zero_shot = load_sentences() if sentences else ()
    return few_shot + tuple(ExtraPrompt(p, "sentence", kind_of(p), 0) for p in zero_shot)
