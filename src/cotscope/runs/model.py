"""The model of a study: loaded when something needs it, checked against what the run began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..concepts.lexicon import normalise
from ..concepts.sets import ConceptSet, check_vocabulary
from ..errors import PromptError, UserError
from ..records import Problem, Prompt
from .config import StudyConfig
from .inputs import Inputs

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.loading import LoadedModel

log = logging.getLogger(__name__)


class StudyModel:
    """A study's model and engine.

    Args:
        began: `model` of the manifest of the run that goes on: the dtype and kernels that were settled, the weights'
            hash, if it must be that; None: the run begins.
        rows: rows per batch; None: what the run began with, or what the free memory allows.
    """

    def __init__(self, inputs: Inputs, began: Mapping[str, Any] | None = None, rows: int | None = None) -> None:
        self.inputs, self._began, self.rows = inputs, began, rows

    @property
    def config(self) -> StudyConfig:
        return self.inputs.config

    @cached_property
    def settled(self) -> dict[str, str]:
        """The dtype, and why; what `auto` came to is kept for as long as the run lasts."""
        if self._began:
            return {key: str(self._began[key]) for key in ("dtype", "dtype_why")}
        if self.config.dtype != "auto":
            return {"dtype": self.config.dtype, "dtype_why": "asked for"}
        from ..lm.cpu import choose_dtype

        choice = choose_dtype()
        return {"dtype": choice.dtype, "dtype_why": choice.why}

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model. Raises: RunError if its weights are not those the run began with; ModelError as `load_model`."""
        from ..lm.loading import load_model
        from ..lm.reading import on_device

        kernels, here = str(self._began["kernels"]) if self._began else self.config.kernels, on_device(None)
        if self._began and here != (before := self._began["device"]):
            log.warning("the run began on another device (%s): on this one (%s) texts can come out otherwise", before, here)
            kernels = kernels if here == "cpu" else "pytorch"  # compiled ones are a CPU's
        loaded = load_model(self.config.model, dtype=self.settled["dtype"], kernels=kernels)
        if self._began:
            self.__dict__["weight_hash"] = loaded.weight_hash()
            if self.weight_hash != self._began.get("weight_sha256", self.weight_hash):
                raise self.inputs.changed(f"the weights of {self.config.model}")
        return loaded

    @cached_property
    def weight_hash(self) -> str:
        """Of the weights as they were loaded."""
        return self.loaded.weight_hash()

    @cached_property
    def engine(self) -> Engine:
        from ..lm.engine import Engine

        # In bfloat16 a text can depend on the batch it was written in: a study keeps its batch size.
        return Engine(self.loaded, rows=self.rows or (self._began or {}).get("rows_per_batch"))

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token decoded by itself, by id."""
        return [self.loaded.piece(i) for i in range(len(self.loaded.anatomy.unembedding))]

    def described(self) -> dict[str, Any]:
        """The manifest's `model`."""
        loaded, longest = self.loaded, self.check_lengths(self.inputs.prompts)
        rows = (self._began or {}).get("rows_per_batch") or self.rows or self.engine.batch_rows(longest)
        self.engine.rows = self.rows or rows  # from the first job on, as whoever goes on with the run has it, if not told
        return {
            "name": loaded.name,
            "weight_sha256": self.weight_hash,
            "parameters": loaded.parameters(),
            "layers": loaded.anatomy.layers,
            "neurons_per_layer": loaded.anatomy.width,
            **self.settled,
            **(
                {key: self._began[key] for key in ("kernels", "device")}
                if self._began  # elsewhere it goes on with a warning
                else {"kernels": loaded.kernels, "device": loaded.model.device.type}
            ),
            "rows_per_batch": rows,
        }

    def check(self, concepts: ConceptSet) -> None:
        """Raise ConceptError or UserError if the model can't promote a concept, or has too few neurons."""
        check_vocabulary(concepts, {normalise(token) for token in self.vocabulary})
        width = self.loaded.anatomy.width
        if self.config.k > width:
            raise UserError("--k is larger than a layer", expected=f"at most {width}", got=str(self.config.k))

    def check_lengths(
        self, prompts: Sequence[Prompt], problems: Sequence[Problem] | None = None, given: int | None = None
    ) -> int:
        """Tokens of the longest prompt with its question and what is generated, or with its reference solution.

        Args:
            problems: None: all of the study; else these, the first `given` of which are scored on their solutions.

        Raises: PromptError if that does not fit the model's context: before anything runs, and naming the problem.
        """
        from ..prompts.derive import render_solution

        loaded, parts = self.loaded, self.inputs.split
        every = [p for part in parts.parts().values() for p in part] if problems is None else problems
        scored = parts.test[: self.config.given] if problems is None else [p for p in problems if p.has_solution][:given]
        long = max(every, key=lambda p: len(p.question))  # by characters first: tokenising a huge one takes long
        if len(long.question) > 16 * loaded.context:
            raise _too_long(f"the question of problem {long.id}", loaded.context, f"{len(long.question)} characters")
        lengths = {p.id: len(loaded.encode(p.question)) for p in every}
        longest = max(every, key=lambda p: lengths[p.id])
        solved = [p for p in scored if p.has_solution]
        solutions = {p.id: len(loaded.encode(render_solution(p))) + 1 for p in solved if len(p.solution) <= 16 * loaded.context}
        if huge := next((p for p in solved if p.id not in solutions), None):
            raise _too_long(f"the solution of problem {huge.id}", loaded.context, f"{len(huge.solution)} characters")
        most = 0
        for prompt in prompts:
            new = self.config.new_tokens(prompt)
            length = len(loaded.encode(prompt.text(longest.question)))
            most = max(most, length + new)
            if length + new > loaded.context:
                raise PromptError(
                    f"prompt {prompt.name} is longer than the model's context",
                    expected=f"at most {loaded.context - new} tokens with the longest question, that of {longest.id} "
                    f"({loaded.context} less {new} to generate)",
                    got=f"{length}",
                    remedy="Use fewer exemplars, or a smaller --max-new-tokens."
                    if prompt.prefix
                    else "Use a smaller --zero-shot-tokens and --max-new-tokens.",
                )
            for problem in solved:
                whole = length - lengths[longest.id] + lengths[problem.id] + solutions[problem.id]
                if whole > loaded.context:
                    raise _too_long(
                        f"prompt {prompt.name} with the reference solution of problem {problem.id}", loaded.context, str(whole)
                    )
        return most


def _too_long(what: str, context: int, got: str) -> PromptError:
    return PromptError(
        f"{what} is longer than the model's context",
        expected=f"at most {context} tokens",
        got=got,
        remedy="Leave the problem out, or use fewer exemplars.",
    )
