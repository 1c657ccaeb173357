"""The battery: enough different items, none that gives itself away, none of arithmetic, and texts that can be scored."""

from __future__ import annotations

import re

import pytest

from cotscope.concepts.sets import load_concepts
from cotscope.data.battery import Task, load_battery

BARRED = (
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand million dozen "
    "number count second third more many few some all none every and or not if true false yes no answer"
)


def text(task: Task) -> str:
    pairs = [word for pair in (*task.shots, *task.items, *task.choosing) for word in pair]
    return " ".join([*task.labels, *pairs]).lower()


def test_there_are_enough_tasks_and_items() -> None:
    names = [task.name for task in load_battery()]
    assert len(names) >= 4 and names == sorted(set(names))
    for task in load_battery():
        assert 4 <= len(task.shots) <= 6, task.name
        assert len(task.items) >= 36 and len(task.choosing) == 4, task.name


def test_no_item_repeats_a_shot_or_another_item() -> None:
    for task in load_battery():
        words = [word for word, _ in (*task.shots, *task.items, *task.choosing)]
        assert len(words) == len(set(words)), task.name
        # Nor is it one turned round: after "hot: cold", "cold: hot" would be no new item.
        assert len({frozenset(pair) for pair in (*task.shots, *task.items, *task.choosing)}) == len(words), task.name
        assert not {word for word, _ in (*task.items, *task.choosing)} & {answer for _, answer in task.shots}, task.name


def test_words_are_single_and_short_and_an_answer_is_not_its_word() -> None:
    for task in load_battery():
        for word, answer in (*task.shots, *task.items, *task.choosing):
            assert re.fullmatch(r"[A-Za-z]{2,12}", word) and re.fullmatch(r"[A-Za-z]{2,12}", answer), (word, answer)
            assert word != answer


def test_no_task_is_about_arithmetic_or_logic() -> None:
    seeds = {seed for concept in load_concepts().concepts for seed in concept.seeds}
    for task in load_battery():
        words = set(text(task).split())
        assert not words & (seeds | set(BARRED.split())), task.name
        assert not re.search(r"[^a-z ]", text(task)), task.name


def test_a_prompt_ends_where_the_answer_begins() -> None:
    task = Task("t", ("Word", "Past"), (("go", "went"), ("see", "saw")), (("come", "came"),), ())
    assert task.prompt(task.items[0]) == "Word: go\nPast: went\nWord: see\nPast: saw\nWord: come\nPast:"
    assert task.continuation(task.items[0]) == " came\n"


def test_every_shot_is_written_as_a_solved_item() -> None:
    for task in load_battery():
        for item in task.items:
            solved = task.prompt(item) + task.continuation(item)
            assert solved.count("\n") == 2 * (len(task.shots) + 1)
            for pair in (*task.shots, item):
                assert f"{task.labels[0]}: {pair[0]}\n{task.labels[1]}: {pair[1]}\n" in solved


@pytest.mark.model
def test_a_continuation_is_tokens_of_its_own(default_tokenizer) -> None:
    """Teacher forcing splits prompt and continuation; the tokens of the whole must split there too."""
    for task in load_battery():
        lengths = []
        for item in task.items:
            prompt, continuation = task.prompt(item), task.continuation(item)
            encode = default_tokenizer.encode
            assert encode(prompt + continuation) == encode(prompt) + encode(continuation), item
            # In a shot the newline is a token of its own as well: a following blank line would be merged with it.
            assert encode(prompt + continuation)[-1] == encode("\n")[0]
            assert encode("\n")[0] in encode(prompt)
            lengths.append(len(encode(continuation)))
        assert sum(n <= 3 for n in lengths) >= 0.85 * len(lengths), (task.name, lengths)
