"""What a study is made of besides its model: problems, prompts, concepts. Read once; compared with what a run began with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..concepts.sets import ConceptSet, load_concepts
from ..data.answers import written_answer
from ..data.load import Loaded, Split, load_problems, split
from ..data.rows import question_key
from ..errors import PromptError, RunError, shown
from ..prompts.derive import derive_prompts, left_out
from ..prompts.exemplars import Exemplars, load_exemplars
from ..prompts.extra import ExtraPrompt, extra_prompts
from ..prompts.files import blank_lines, load_prompt_files
from ..prompts.shown import shows
from ..records import Prompt
from .config import StudyConfig
from .files import fingerprint, read_json


class Inputs:
    """The inputs of a study.

    Args:
        config: says where they are.
        began: the manifest of the run that goes on, in `folder`; None: it begins.

    What is read raises RunError if it is not what the run began with.
    """

    def __init__(self, config: StudyConfig, began: Mapping[str, Any] | None = None, folder: Path | None = None) -> None:
        self.config, self._began, self._folder = config, began, folder

    def changed(self, what: str) -> RunError:
        """The error that says so."""
        return RunError(
            f"{what}: not what it was when {self._folder} was begun", remedy="Begin a new study with another --out."
        )

    @cached_property
    def data(self) -> Loaded:
        """All problems."""
        found = load_problems(self.config.data, seed=self.config.seed)
        if self._began and found.sha256 != self._began["data"]["sha256"]:
            raise self.changed(self.config.data)
        return found

    @cached_property
    def split(self) -> Split:
        """Test, discovery and tuning problems, disjoint."""
        return split(self.data.problems, self.config.limit, self.config.discover_limit, self.config.tune_limit)

    @cached_property
    def exemplars(self) -> Exemplars:
        """What prompts are derived from: the configured ones, or the built-in ones."""
        return load_exemplars(Path(self.config.exemplars) if self.config.exemplars else None)

    @property
    def words(self) -> bool:
        """Whether the answers are words, not numbers."""
        return bool(self.split.test[0].words)

    @property
    def derives(self) -> bool:
        """Whether prompts are derived from the exemplars."""
        return self.config.exemplars is not None or not self.config.prompt_files

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the study; the first is the one that discovery uses."""
        if self.derives and self.words and self.config.exemplars is None:
            raise PromptError(
                "the packaged exemplars are arithmetic, and this data's answers are words",
                expected="--prompt-file, with some worked examples of your own",
                got=f"the answer {shown(self.split.test[0].words)}",
            )
        derived = derive_prompts(self.exemplars, seed=self.config.seed) if self.derives else ()
        taken = [p.name for p in derived]
        prompts = load_prompt_files([Path(f) for f in self.config.prompt_files], taken) + derived
        if self._began:
            before = [(p["name"], p["sha256"]) for p in self._began["prompts"]]
            differing = [p.name for p, known in zip(prompts, before) if (p.name, prompt_hash(p)) != known]
            if differing or len(prompts) != len(before):
                raise self.changed(f"prompt {differing[0]}" if differing else "the list of prompts")
        return prompts

    @property
    def left_out(self) -> tuple[str, ...]:
        """Prompts that the exemplars do not allow."""
        return left_out(self.exemplars) if self.derives else ()

    def extra_prompts(self, variants: int, sentences: bool) -> tuple[ExtraPrompt, ...]:
        """Prompts beside the study's own: variants of the exemplars, and zero-shot sentences.

        Raises: PromptError if the exemplars do not allow so many, or are of another skill.
        """
        if variants and self.words and self.config.exemplars is None:
            raise PromptError(
                "variants are made of worked examples, and the packaged ones are arithmetic; this data's answers are words",
                expected="--variants 0", got=f"--variants {variants}",
            )  # fmt: skip
        return extra_prompts(self.exemplars, variants, sentences, self.config.seed)

    @cached_property
    def concepts(self) -> ConceptSet:
        """The concept set."""
        concepts = load_concepts(self.config.concepts)
        if self._began and concepts.sha256 != self._began["concepts"]["sha256"]:
            raise self.changed(f"concept file {concepts.source}")
        return concepts

    def problem_rows(self) -> list[dict[str, Any]]:
        """Rows of the table `problems`."""
        return [
            {"problem_id": p.id, "split": name, "question": p.question, "answer": written_answer(p.answer)}
            for name, part in self.split.parts().items()
            for p in part
        ]

    def notes(self) -> list[str]:
        """What a reader must know of them."""
        parts, notes = self.split, []
        if parts.halved:
            notes.append(
                f"The data has fewer problems than asked for: it was split in halves, {len(parts.test)} test and "
                f"{len(parts.discovery)} discovery problems."
            )
        if parts.tuning_short:
            notes.append(f"The data has fewer problems than asked for: {len(parts.tuning)} are left for tuning.")
        if self.data.duplicates:
            notes.append(f"{len(self.data.duplicates)} problems repeat a question and were left out.")
        if self.left_out:
            notes.append(f"The exemplars allow no prompt {', '.join(self.left_out)}: those were left out.")
        for prompt in self.prompts:
            if shown := [p for p in (*parts.test, *parts.discovery) if shows(prompt, p.question)]:
                notes.append(
                    f"{len(shown)} test or discovery problems stand in the prompt {prompt.name} with their answers "
                    f"(the first is {shown[0].id})."
                )
            if count := blank_lines(prompt):
                notes.append(
                    f"{count} blank lines stand within worked examples of the prompt {prompt.name}: an answer ends at one."
                )
        if seen := len({fingerprint(question_key(p.question)) for p in parts.test} & made_with(self.config.model)):
            notes.append(f"{seen} of the test problems are among those that this model was made with (its edit.json).")
        return notes


def made_with(model: str) -> set[str]:
    """Fingerprints of the questions that a model's folder says it was trained or searched on (`edits/edit.py`)."""
    try:
        said = read_json(Path(model) / "edit.json")["chosen"]["questions"]
    except (RunError, OSError, KeyError, TypeError):
        return set()
    return {text for text in said if isinstance(text, str)} if isinstance(said, list) else set()


def prompt_hash(prompt: Prompt) -> str:
    """Of all that is the same for every question."""
    return sha256(prompt.text("").encode("utf-8")).hexdigest()
