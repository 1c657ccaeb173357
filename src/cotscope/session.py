"""A study in memory: its configuration, problems, prompts and model, and the one way to run a condition.

A condition is a prompt, the problems of one split and an intervention. `Session.solve` runs it once and writes its
tables; asked again, in this process or after a kill, it finds them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from .data.answers import is_correct, parse_flexible, parse_strict
from .data.load import Loaded, Split, load_problems, split
from .errors import PromptError, RunError, UserError
from .judge.concepts import ConceptSet, check_vocabulary, load_concepts
from .judge.lexicon import normalise
from .numbers import format_number
from .prompts.derive import derive_prompts, left_out
from .prompts.exemplars import load_exemplars
from .prompts.files import load_prompt_files
from .records import Problem, Prompt
from .store import Run

if TYPE_CHECKING:
    from .lm.engine import Engine
    from .lm.interventions import Intervention
    from .lm.loading import LoadedModel
    from .lm.recorders import PoleTally

log = logging.getLogger(__name__)


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
        max_new_tokens: tokens to generate at most.
        k: active poles per layer and step.
        promoted: promoted tokens per pole.
        first_layer_fraction: the first layers that are skipped, as a fraction of depth (paper: 6 of 32).
        projection: "norm" (γ included) or "raw".
        matched, unmatched: random sets in the ablation.
        seed: of everything that is drawn.
        dtype: of the weights.
    """

    model: str = "qwen2.5-coder-0.5b"
    data: str = "builtin"
    prompt_files: tuple[str, ...] = ()
    exemplars: str | None = None
    concepts: str = "arithmetic"
    limit: int = 96
    discover_limit: int | None = None
    max_new_tokens: int = 120
    k: int = 10
    promoted: int = 20
    first_layer_fraction: float = 6 / 32
    projection: str = "norm"
    matched: int = 5
    unmatched: int = 2
    seed: int = 0
    dtype: str = "bfloat16"


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
        """Test and discovery problems, disjoint. Raises: RunError if the data changed since the study began."""
        if hasattr(self, "run") and self.loaded_data.sha256 != self.run.manifest["data"]["sha256"]:
            raise self._changed(self.config.data)
        return split(self.loaded_data.problems, self.config.limit, self.config.discover_limit)

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of the study; the first is the one that discovery uses.

        Raises: RunError if one has changed since the study began.
        """
        prompts: tuple[Prompt, ...] = ()
        if self.config.exemplars is not None or not self.config.prompt_files:
            exemplars = load_exemplars(Path(self.config.exemplars) if self.config.exemplars else None)
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
    def concepts(self) -> ConceptSet:
        """The concept set. Raises: RunError if it has changed since the study began."""
        concepts = load_concepts(self.config.concepts)
        if hasattr(self, "run") and concepts.sha256 != self.run.manifest["concepts"]["sha256"]:
            raise self._changed(f"concept file {concepts.source}")
        return concepts

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model. Raises: RunError if its weights are not those the study began with."""
        from .lm.loading import load_model

        loaded = load_model(self.config.model, dtype=self.config.dtype)
        if hasattr(self, "run") and loaded.weight_hash() != self.run.manifest["model"]["weight_sha256"]:
            raise self._changed(f"the weights of {self.config.model}")
        return loaded

    def _changed(self, what: str) -> RunError:
        return RunError(
            f"{what}: not what it was when {self.run.folder} was begun", remedy="Begin a new study with another --out."
        )

    @cached_property
    def engine(self) -> Engine:
        from .lm.engine import Engine

        stored = self.run.manifest.get("rows_per_batch") if hasattr(self, "run") else None
        return Engine(self.loaded, rows=self._rows or stored)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token decoded by itself, by id."""
        return [self.loaded.piece(i) for i in range(self.loaded.anatomy.unembedding.shape[0])]

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
        question = max((p.question for p in parts.test + parts.discovery), key=lambda q: len(loaded.encode(q)))
        for prompt in prompts:  # before anything runs: a prompt that is too long must not stop a study half-way
            longest = len(loaded.encode(prompt.text(question)))
            self._longest = max(self._longest, longest + config.max_new_tokens)
            if longest + config.max_new_tokens > loaded.context:
                raise PromptError(
                    f"prompt {prompt.name} is longer than the model's context",
                    expected=f"at most {loaded.context - config.max_new_tokens} tokens with the longest question "
                    f"({loaded.context} less {config.max_new_tokens} to generate)",
                    got=f"{longest}",
                    remedy="Use fewer exemplars, or a smaller --max-new-tokens.",
                )
        return {
            "model": {
                "name": loaded.name,
                "weight_sha256": loaded.weight_hash(),
                "parameters": sum(p.numel() for p in loaded.model.parameters()),
                "layers": loaded.anatomy.layers,
                "neurons_per_layer": loaded.anatomy.width,
            },
            "data": {
                "source": data.source,
                "sha256": data.sha256,
                "test": len(parts.test),
                "discovery": len(parts.discovery),
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

    def _write_problems(self) -> None:
        rows = [
            {"problem_id": p.id, "split": name, "question": p.question, "answer": format_number(p.answer)}
            for name in ("test", "discovery")
            for p in getattr(self.split, name)
        ]
        self.run.write_rows("problems", rows)
        for section, keys in (("model", ("name", "weight_sha256", "parameters")),
                              ("data", ("source", "sha256", "test", "discovery"))):  # fmt: skip
            self.run.summarise(section, {key: self.run.manifest[section][key] for key in keys})
        if self.split.halved:
            self.run.note(
                f"The data has fewer problems than asked for: it was split in halves, {len(self.split.test)} test and "
                f"{len(self.split.discovery)} discovery problems."
            )
        if self.loaded_data.duplicates:
            self.run.note(f"{len(self.loaded_data.duplicates)} problems repeat a question and were left out.")
        if skipped := getattr(self, "_left_out", ()):
            self.run.note(f"The exemplars allow no prompt {', '.join(skipped)}: those were left out.")

    # -- conditions -----------------------------------------------------------------------------------------------

    def solve(
        self,
        condition: str,
        prompt: Prompt,
        split_name: str,
        *,
        neuron_set: str = "none",
        intervention: Intervention | None = None,
        record: bool = False,
    ) -> None:
        """Run one condition, unless it has been run: write `completions/<condition>` and, recorded, `activity/…`.

        Args:
            condition: its name, unique in the run.
            split_name: "test" or "discovery".
            neuron_set: what is disrupted; "none" without an intervention.
            record: keep the active poles.
        """
        done = self.run.manifest["conditions"].get(condition)
        if done is not None and (done["recorded"] or not record):
            return
        problems: tuple[Problem, ...] = getattr(self.split, split_name)
        texts = [prompt.text(p.question) for p in problems]
        self.engine.shares_prefix(1)  # loads the model and checks its attention: no part of the condition's time
        began = time.monotonic()
        with tqdm(total=len(problems), desc=condition, unit="problem", disable=self.quiet, leave=False) as bar:
            tokens = 0

            def progress(rows: int, written: int) -> None:
                nonlocal tokens
                tokens += written
                bar.set_postfix_str(f"{tokens / max(time.monotonic() - began, 1e-9):.0f} tok/s", refresh=False)
                bar.update(rows)

            arguments = {
                "max_new_tokens": self.config.max_new_tokens,
                "stop": prompt.stop,
                "intervention": intervention,
                "progress": progress,
            }
            if record:
                from .lm.recorders import ActivePoles

                ids = np.array([p.id for p in problems])
                with self.run.table_writer(f"activity/{condition}", ACTIVITY) as writer:
                    recorder = ActivePoles(
                        self.loaded.anatomy,
                        self.config.k,
                        sink=lambda tally: writer.write_table(_activity(tally, condition, ids)),
                    )
                    completions = self.engine.generate(texts, recorder=recorder, **arguments)
            else:
                completions = self.engine.generate(texts, **arguments)
        seconds = time.monotonic() - began
        rows = []
        for problem, completion in zip(problems, completions, strict=True):
            strict, flexible = parse_strict(completion.text), parse_flexible(completion.text)
            rows.append(
                {
                    "condition": condition,
                    "prompt": prompt.name,
                    "neuron_set": neuron_set,
                    "split": split_name,
                    "problem_id": problem.id,
                    "text": completion.text,
                    "token_ids": list(completion.token_ids),
                    "tokens": completion.steps,
                    "finish": completion.finish,
                    "strict": None if strict is None else format_number(strict),
                    "flexible": None if flexible is None else format_number(flexible),
                    "correct_strict": is_correct(strict, problem.answer),
                    "correct": is_correct(flexible, problem.answer),
                }
            )
        self.run.write_rows(f"completions/{condition}", rows, COMPLETIONS)
        written = sum(r["tokens"] for r in rows)
        self.run.manifest["conditions"][condition] = {
            "seconds": round(seconds, 2),
            "tokens": written,
            "rows": len(rows),
            "recorded": record,
        }
        self.run.save()
        recorded = [c for c in self.run.manifest["conditions"].values() if c["recorded"]]
        self.run.summarise("timing", {"generate_s": round(sum(c["seconds"] for c in recorded), 2)})
        right = sum(r["correct"] for r in rows)
        log.info("%s: %d of %d right, %d tokens in %.1f s", condition, right, len(rows), written, seconds)


def _prompt_hash(prompt: Prompt) -> str:
    return sha256(prompt.text("").encode()).hexdigest()


COMPLETIONS = pa.schema(
    [
        ("condition", pa.string()),
        ("prompt", pa.string()),
        ("neuron_set", pa.string()),
        ("split", pa.string()),
        ("problem_id", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("strict", pa.string()),
        ("flexible", pa.string()),
        ("correct_strict", pa.bool_()),
        ("correct", pa.bool_()),
    ]
)
ACTIVITY = pa.schema(
    [
        ("condition", pa.string()),
        ("problem_id", pa.string()),
        ("layer", pa.int16()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("steps", pa.int32()),
        ("update_size", pa.float64()),
        ("coefficient", pa.float64()),
    ]
)


def _activity(tally: PoleTally, condition: str, ids: np.ndarray) -> pa.Table:
    columns = {name: getattr(tally, name) for name in ACTIVITY.names[2:]}
    problem = pa.DictionaryArray.from_arrays(tally.row, ids).cast(pa.string())
    return pa.table({"condition": pa.repeat(condition, len(tally.row)), "problem_id": problem, **columns}, ACTIVITY)
