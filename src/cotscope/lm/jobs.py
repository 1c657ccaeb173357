"""What the engine is asked for, and how far it has come: jobs, and the rows that their prompts become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..records import Completion
from .attention import Prefix
from .interventions import Intervention
from .recorders import Recorder


@dataclass(frozen=True)
class Job:
    """One condition: prompts that are continued under one intervention.

    Attributes:
        prompts: the texts.
        max_new_tokens: a row ends after so many tokens, at the model's end token or at a stop string.
        stop: the stop strings.
        recorder: sees the coefficients at the step that chose each token.
        intervention: acts on the neurons.
        temperature: 0: the most likely token is taken; above: one is drawn, the logits divided by it.
        seed: of what is drawn; a row's draws are its own, whatever else is in the batch.
        watch: is told each row's number and token as it is chosen, the end token too; what it raises ends the run.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int = 120
    stop: tuple[str, ...] = ()
    recorder: Recorder | None = None
    intervention: Intervention | None = None
    temperature: float = 0.0
    seed: int = 0
    watch: Callable[[int, int], None] | None = None


@dataclass(eq=False)
class Work:
    """A job on its way: its prompts as tokens, the prefix that they share, and what has been written."""

    number: int
    job: Job
    ids: list[list[int]]
    common: int = 0  # tokens that all its prompts share at their start
    prefix: Prefix | None = None
    done: dict[int, Completion] = field(default_factory=dict)

    @property
    def prefix_key(self) -> str:
        """Of what happens to the prefix."""
        return "" if self.job.intervention is None else self.job.intervention.prefix_key

    def rows(self) -> list[Row]:
        """Longest first, so that rows of one prefill pass are of about one length."""
        return [Row(self, i) for i in sorted(range(len(self.ids)), key=lambda i: -len(self.ids[i]))]


@dataclass(eq=False)
class Row:
    """One prompt that is being continued."""

    work: Work
    number: int
    written: list[int] = field(default_factory=list)
    tail: str = ""

    @property
    def suffix(self) -> list[int]:
        """Its prompt beyond the shared prefix."""
        return self.work.ids[self.number][self.work.common :]

    @cached_property
    def draws(self) -> np.random.Generator:
        """Where its tokens are drawn from."""
        return np.random.default_rng([self.work.job.seed, self.number])
