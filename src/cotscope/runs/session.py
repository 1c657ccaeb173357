"""A study in memory: its configuration, problems, prompts, concepts and model, checked against its run folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..concepts.lexicon import normalise
from ..concepts.sets import ConceptSet, check_vocabulary, load_concepts
from ..data.load import DEFAULT_LIMIT, PARTS, Loaded, Split, load_problems, split
from ..data.numbers import format_number
from ..errors import PromptError, RunError, UserError
from ..lm.models import DEFAULT_MODEL
from ..prompts.derive import derive_prompts, left_out
from ..prompts.exemplars import Exemplars, load_exemplars
from ..prompts.extra import ExtraPrompt, extra_prompts
from ..prompts.files import load_prompt_files
from ..records import Prompt
from ..stats.verdicts import RULE
from .folder import Run

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.loading import LoadedModel


@dataclass(frozen=True)
class StudyConfig:
    """What defines a study. The same configuration in the same folder goes on where it stopped.

    Attributes:
        model: a name that `cotscope models` lists, a hub id, a local folder or a .gguf file.
        data: a JSON or JSONL file, "builtin" (or "builtin:N"), "gsm8k", or a hub id with split syntax.
        prompt_files: ready prompts; the first is the one that discovery uses.
        exemplars: a structured exemplar file to derive prompts from; None: the built-in ones, unless prompt files
            are given.
        concepts: a concept file, or the name of a packaged set.
        limit: test problems, the first ones of the data.
        discover_limit: discovery problems, taken after the test problems; None: as many as `limit`, at most 96.
        tune_limit: tuning problems, of those that neither test nor discovery took; None: as many as discovery, or what
            is left.
        discover_prompts: prompts, the first ones, under which discovery looks, so that none is favoured; 0: all.
        max_new_tokens: tokens to generate at most.
        zero_shot_tokens: the same where a prompt has no exemplars, if that is more: the model then writes at length.
        k: active poles per layer and step.
        promoted: promoted tokens per pole.
        first_layer_fraction: the first layers that are skipped, as a fraction of depth (paper: 6 of 32).
        projection: "norm" (γ included) or "raw".
        matched, unmatched: random sets in the ablation.
        given: test problems, the first ones, whose solution the model is made to write (damage, fixed activity).
        battery: items per task of the battery.
        variants: prompts made of random exemplars, measured beside the study's own for the correlation; 0: none.
        sentences: measure zero-shot sentences too.
        variant_limit: test problems, the first ones, that variants and sentences are measured on.
        disruptions: run the stage that compares kinds, doses and scopes of disruption.
        seed: of everything that is drawn.
        dtype: of the weights.
    """

    model: str = DEFAULT_MODEL
    data: str = "builtin"
    prompt_files: tuple[str, ...] = ()
    exemplars: str | None = None
    concepts: str = "arithmetic"
    limit: int = DEFAULT_LIMIT
    discover_limit: int | None = None
    tune_limit: int | None = None
    discover_prompts: int = 3
    max_new_tokens: int = 120
    zero_shot_tokens: int = 400
    k: int = 10
    promoted: int = 20
    first_layer_fraction: float = 6 / 32
    projection: str = "norm"
    matched: int = 5
    unmatched: int = 2
    given: int = 24
    battery: int = 16
    variants: int = 0
    sentences: bool = False
    variant_limit: int = 32
    disruptions: bool = False
    seed: int = 0
    dtype: str = "bfloat16"

    def new_tokens(self, prompt: Prompt) -> int:
        """Tokens to generate at most under a prompt."""
        return self.max_new_tokens if prompt.prefix else max(self.max_new_tokens, self.zero_shot_tokens)


THOROUGH = {"limit": 192, "matched": 20, "variants": 40, "sentences": True, "disruptions": True}
"""What `--thorough` sets where the user did not."""


class Session:
    """A study that is being worked on. Make it with `create` or `reopen`.

    Attributes:
        config: what the user asked for.
        run: its folder.
    """

    def __init__(self, config: StudyConfig, rows: int | None = None, quiet: bool | None = None) -> None:
        self.config, self._rows = config, rows
        self.quiet = not sys.stderr.isatty() if quiet is None else quiet
        self._longest = 0  # tokens of the longest prompt and what is generated after it
        self.run: Run

    @classmethod
    def create(
        cls,
        config: StudyConfig,
        out: Path,
        *,
        rows: int | None = None,
        quiet: bool | None = None,
        command: Sequence[str] = (),
    ) -> Session:
        """Begin a study, or go on with the same one. All input is read and checked before the folder is made.

        Args:
            rows: rows per batch; None chooses from the memory that is free, once per study.
            quiet: no progress bars; None: only on a terminal.
            command: what reproduces the study, for the manifest.
        """
        session = cls(config, rows, quiet)
        study = session._study()
        session.run = Run.create(out, study)
        with session.run.writing():
            session.run.manifest.setdefault("command", list(command))
            if not session.run.manifest["stages"]:  # written down before anything is measured, or not at all
                session.run.manifest.setdefault("rules", {"phenomena": RULE})
            session._keep_kernels(session.loaded)
            # In bfloat16 a text can depend on the batch it was written in: a study keeps its batch size.
            session.run.manifest.setdefault("rows_per_batch", rows or session.engine.batch_rows(session._longest))
            session.run.save()
            session._write_problems()
        return session

    @classmethod
    def reopen(cls, folder: Path, *, rows: int | None = None, quiet: bool | None = None) -> Session:
        """Work on a study that exists; the model is loaded only when something needs it."""
        run = Run.open(folder)
        fields = run.manifest["config"]
        session = cls(StudyConfig(**fields | {"prompt_files": tuple(fields["prompt_files"])}), rows, quiet)
        session.run = run
        return session

    # -- what the study is made of --------------------------------------------------------------------------------

    @cached_property
    def loaded_data(self) -> Loaded:
        return load_problems(self.config.data, seed=self.config.seed)

    @cached_property
    def split(self) -> Split:
        """Test, discovery and tuning problems, disjoint. Raises: RunError if the data changed since the study began."""
        if hasattr(self, "run") and self.loaded_data.sha256 != self.run.manifest["data"]["sha256"]:
            raise self._changed(self.config.data)
        return split(self.loaded_data.problems, self.config.limit, self.config.discover_limit,
                     self.config.tune_limit)  # fmt: skip

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the study; the first is the one that discovery uses.

        Raises: RunError if one has changed since the study began.
        """
        prompts: tuple[Prompt, ...] = ()
        if self.config.exemplars is not None or not self.config.prompt_files:
            exemplars = self.exemplars
            prompts = derive_prompts(exemplars, seed=self.config.seed)
            self._left_out = left_out(exemplars)
        taken = [p.name for p in prompts]
        prompts = load_prompt_files([Path(f) for f in self.config.prompt_files], taken) + prompts
        if hasattr(self, "run"):
            began_with = [(p["name"], p["sha256"]) for p in self.run.manifest["prompts"]]
            changed = [p.name for p, before in zip(prompts, began_with) if (p.name, _prompt_hash(p)) != before]
            if changed or len(prompts) != len(began_with):
                raise self._changed(f"prompt {changed[0]}" if changed else "the list of prompts")
        return prompts

    @cached_property
    def exemplars(self) -> Exemplars:
        """What prompts are derived from: the configured ones, or the built-in ones."""
        return load_exemplars(Path(self.config.exemplars) if self.config.exemplars else None)

    def extra_prompts(self, variants: int, sentences: bool) -> tuple[ExtraPrompt, ...]:
        """Prompts to measure beside the study's own: variants of the exemplars (the built-in ones where it has none).

        Raises: PromptError if the exemplars do not allow so many, or a prompt is too long for the model; RunError if one
            was measured already and has changed since then.
        """
        extra = extra_prompts(self.exemplars, variants, sentences, self.config.seed)
        self._check_length([e.prompt for e in extra])
        if hasattr(self, "run"):
            known = self.run.manifest.setdefault("extra_prompts", {})
            for prompt in (e.prompt for e in extra):
                if known.setdefault(prompt.name, _prompt_hash(prompt)) != _prompt_hash(prompt):
                    raise self._changed(f"prompt {prompt.name}")
        return extra

    @cached_property
    def concepts(self) -> ConceptSet:
        """The concept set. Raises: RunError if it has changed since the study began."""
        concepts = load_concepts(self.config.concepts)
        if hasattr(self, "run") and concepts.sha256 != self.run.manifest["concepts"]["sha256"]:
            raise self._changed(f"concept file {concepts.source}")
        return concepts

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model. Raises: RunError if its weights are not those the study began with."""
        from ..lm.loading import load_model

        loaded = load_model(self.config.model, dtype=self.config.dtype)
        if hasattr(self, "run") and loaded.weight_hash() != self.run.manifest["model"]["weight_sha256"]:
            raise self._changed(f"the weights of {self.config.model}")
        if hasattr(self, "run"):
            self._keep_kernels(loaded)
        return loaded

    def _keep_kernels(self, loaded: LoadedModel) -> None:
        """In bfloat16 a text can depend on whose kernels it was written by: a study that changes them says so."""
        manifest = self.run.manifest
        first = "PyTorch" if manifest["stages"] else loaded.kernels  # older studies do not say
        begun = manifest["versions"].setdefault("kernels", first)
        if begun != loaded.kernels:
            self.run.note(f"Kernels changed: begun with {begun}, continued with {loaded.kernels}; bfloat16 rounds otherwise.")

    def _changed(self, what: str) -> RunError:
        return RunError(
            f"{what}: not what it was when {self.run.folder} was begun", remedy="Begin a new study with another --out."
        )

    @cached_property
    def engine(self) -> Engine:
        from ..lm.engine import Engine

        stored = self.run.manifest.get("rows_per_batch") if hasattr(self, "run") else None
        return Engine(self.loaded, rows=self._rows or stored)

    def bar(self, what: str, total: int, unit: str) -> tqdm:
        """A progress bar with rate and time left; silent where the session is quiet."""
        columns, lines = shutil.get_terminal_size()  # 80 x 24 on a terminal that claims 0 x 0, where tqdm shows nothing
        return tqdm(total=total, desc=what, unit=unit, disable=self.quiet, leave=False, ncols=columns, nrows=lines)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token decoded by itself, by id."""
        return [self.loaded.piece(i) for i in range(len(self.loaded.anatomy.unembedding))]

    @property
    def first_layer(self) -> int:
        """The first layer that is looked at."""
        return int(self.config.first_layer_fraction * self.run.manifest["model"]["layers"])

    def _study(self) -> dict[str, Any]:
        data, parts, prompts = self.loaded_data, self.split, self.prompts
        loaded, config = self.loaded, self.config
        check_vocabulary(self.concepts, {normalise(token) for token in self.vocabulary})
        if config.k > loaded.anatomy.width:
            raise UserError("--k is larger than a layer", expected=f"at most {loaded.anatomy.width}", got=str(config.k))
        self._check_length(prompts)  # before anything runs: a prompt that is too long must not stop a study half-way
        self.extra_prompts(config.variants, config.sentences)
        return {
            "model": {
                "name": loaded.name,
                "weight_sha256": loaded.weight_hash(),
                "parameters": loaded.parameters(),
                "layers": loaded.anatomy.layers,
                "neurons_per_layer": loaded.anatomy.width,
            },
            "data": {
                "source": data.source,
                "sha256": data.sha256,
                **{name: len(part) for name, part in parts.parts().items()},
                "duplicates": [list(pair) for pair in data.duplicates],
                "halved": parts.halved,
            },
            "concepts": {"source": self.concepts.source, "sha256": self.concepts.sha256},
            "prompts": [
                {
                    "name": p.name,
                    "source": p.source,
                    "sha256": _prompt_hash(p),
                    "tokens": len(loaded.encode(p.prefix)) if p.prefix else 0,
                }
                for p in prompts
            ],
            "config": asdict(self.config),
        }

    def _check_length(self, prompts: Sequence[Prompt]) -> None:
        """Raise PromptError if a prompt, the longest question and what is generated do not fit the model's context."""
        loaded = self.loaded
        questions = (p.question for part in self.split.parts().values() for p in part)
        question = max(questions, key=lambda q: len(loaded.encode(q)))
        for prompt in prompts:
            longest, new = len(loaded.encode(prompt.text(question))), self.config.new_tokens(prompt)
            self._longest = max(self._longest, longest + new)
            if longest + new > loaded.context:
                raise PromptError(
                    f"prompt {prompt.name} is longer than the model's context",
                    expected=f"at most {loaded.context - new} tokens with the longest question "
                    f"({loaded.context} less {new} to generate)",
                    got=f"{longest}",
                    remedy="Use fewer exemplars, or a smaller --max-new-tokens."
                    if prompt.prefix
                    else "Use a smaller --zero-shot-tokens and --max-new-tokens.",
                )

    def _write_problems(self) -> None:
        rows = [
            {"problem_id": p.id, "split": name, "question": p.question, "answer": format_number(p.answer)}
            for name, part in self.split.parts().items()
            for p in part
        ]
        self.run.write_rows("problems", rows)
        for section, keys in (("model", ("name", "weight_sha256", "parameters")),
                              ("data", ("source", "sha256", *PARTS))):  # fmt: skip
            self.run.summarise(section, {key: self.run.manifest[section][key] for key in keys})
        if self.split.halved:
            self.run.note(
                f"The data has fewer problems than asked for: it was split in halves, {len(self.split.test)} test and "
                f"{len(self.split.discovery)} discovery problems."
            )
        if self.split.tuning_short:
            self.run.note(f"The data has fewer problems than asked for: {len(self.split.tuning)} are left for tuning.")
        if self.loaded_data.duplicates:
            self.run.note(f"{len(self.loaded_data.duplicates)} problems repeat a question and were left out.")
        if skipped := getattr(self, "_left_out", ()):
            self.run.note(f"The exemplars allow no prompt {', '.join(skipped)}: those were left out.")


def _prompt_hash(prompt: Prompt) -> str:
    return sha256(prompt.text("").encode()).hexdigest()
