"""The battery: small tasks about words, of no arithmetic, that an ablation meant for arithmetic should leave alone.

A task is one `battery/*.toml` file: `labels` (of a word and of its answer), `[shots]` and `[items]`, tables from a word
to its answer.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_TO_CHOOSE = 4


@dataclass(frozen=True, slots=True)
class Task:
    """A few-shot task, scored by teacher forcing: an item is right if every token of its continuation is the argmax.

    Attributes:
        name: its file's stem.
        labels: what stands before a word and before its answer.
        shots: words with their answers, shown in every prompt.
        items: words with their answers, one to a prompt; no word of an item is a shot's. They tell what is done to the task.
        choosing: the file's last four, which are none of these: neurons are chosen by what they do to them.
    """

    name: str
    labels: tuple[str, str]
    shots: tuple[tuple[str, str], ...]
    items: tuple[tuple[str, str], ...]
    choosing: tuple[tuple[str, str], ...]

    def prompt(self, item: tuple[str, str]) -> str:
        """The shots and the item's word, up to where its answer begins; no blank at the end."""
        return "".join(self._asked(shot) + self.continuation(shot) for shot in self.shots) + self._asked(item)

    def continuation(self, item: tuple[str, str]) -> str:
        """The item's answer as it follows the prompt: a blank, the word, and the newline that ends it."""
        return f" {item[1]}\n"

    def _asked(self, item: tuple[str, str]) -> str:
        return f"{self.labels[0]}: {item[0]}\n{self.labels[1]}:"


@cache
def load_battery() -> tuple[Task, ...]:
    """All tasks, sorted by name."""
    tasks = []
    for path in (resources.files(__package__) / "battery").iterdir():
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        word, answer = table["labels"]
        name = path.name.removesuffix(".toml")
        items = tuple(table["items"].items())
        tasks.append(Task(name, (word, answer), tuple(table["shots"].items()), items[:-_TO_CHOOSE], items[-_TO_CHOOSE:]))
    return tuple(sorted(tasks, key=lambda task: task.name))
