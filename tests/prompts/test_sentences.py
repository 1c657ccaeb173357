"""The zero-shot sentences: enough of each kind, alike in length, and prompts that differ in nothing else."""

from __future__ import annotations

import re
from collections import Counter
from statistics import mean

from cotscope.prompts.derive import derive_prompts
from cotscope.prompts.exemplars import load_exemplars
from cotscope.prompts.sentences import KINDS, kind_of, load_sentences
from cotscope.records import OPERATIONS

PROMPTS = load_sentences()


def test_there_are_enough_of_each_kind_and_one_without() -> None:
    counts = Counter(kind_of(prompt) for prompt in PROMPTS)
    assert tuple(counts) == KINDS
    assert len(PROMPTS) >= 16 and counts["none"] == 1
    assert counts["instructive"] >= 6 and counts["misleading"] >= 4 and counts["irrelevant"] >= 4


def test_names_are_numbered_by_kind() -> None:
    seen: Counter[str] = Counter()
    for prompt in PROMPTS:
        seen[kind_of(prompt)] += 1
        assert prompt.name == f"sentence_{kind_of(prompt)}_{seen[kind_of(prompt)]}"


def test_a_prompt_is_zero_shot_with_its_sentence_on_the_next_line() -> None:
    derived = {prompt.name: prompt for prompt in derive_prompts(load_exemplars())}
    *with_sentence, without = PROMPTS
    assert without.text("Why?") == derived["zero_shot"].text("Why?")
    for prompt in with_sentence:
        assert prompt.prefix == "" and prompt.stop == derived["zero_shot_step_by_step"].stop
        assert re.fullmatch(r"\n[A-Z][^\n]+\.\n", prompt.cue), prompt.cue
        assert "Question" not in prompt.cue
    assert PROMPTS[0].text("Why?") == f"Question: Why?\n{PROMPTS[0].cue.strip()}\n"


def test_sentences_are_different_and_none_is_the_one_of_the_paper() -> None:
    cues = [prompt.cue for prompt in PROMPTS]
    assert len(set(cues)) == len(cues)
    assert not any("step by step" in cue.lower() for cue in cues)


def test_kinds_are_alike_in_length() -> None:
    lengths: dict[str, list[int]] = {}
    for prompt in PROMPTS[:-1]:
        lengths.setdefault(kind_of(prompt), []).append(len(prompt.cue.split()))
    assert all(6 <= n <= 10 for group in lengths.values() for n in group)
    means = [mean(group) for group in lengths.values()]
    assert max(means) - min(means) < 1


def test_irrelevant_sentences_have_no_number_and_name_no_operation() -> None:
    for prompt in PROMPTS:
        assert not re.search(r"\d", prompt.cue)
        if kind_of(prompt) == "irrelevant":
            words = set(re.findall("[a-z]+", prompt.cue.lower()))
            assert not words & {*OPERATIONS, "answer", "question", "number", "problem", "calculate", "solve", "think"}
