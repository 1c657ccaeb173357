"""What can be trained, of what, and how: the settings of `tuning.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError, shown
from ..problems import STUDY

ALL, AUTO = "all", "auto"
SOLUTION, FORMULAS = LOSSES = ("solution", "formulas")
FACTORS, VALUES, ROWS, LORA, IA3, FULL = METHODS = ("factors", "values", "rows", "lora", "ia3", "full")
RATES = {FACTORS: 0.01, VALUES: 1e-3, ROWS: 1e-3, LORA: 1e-3, IA3: 0.01, FULL: 3e-5}
"""Where `AUTO` begins, and what is taken without a rate."""


@dataclass(frozen=True)
class Tuning:
    """What is trained, and how.

    Attributes:
        data: problems to train on, as of `study`; "study": the study's own tuning problems.
        own: train on what the model itself writes where that is right, even if the data has solutions: what is learned is then
            not how others write them.
        draws: where the model writes, solutions sampled of each problem that its greedy one gets wrong; a right one is taken.
        loss: "solution": of all tokens of a solution, so that its wording is learned too; "formulas": of those of its formulas
            and answers only.
        method: of `METHODS`: factors of the neurons' coefficients, their value vectors, these with the rows of their gate and
            up-projections; LoRA or (IA)³ of the package peft; every weight.
        trainable: of LoRA about how many numbers are trained; None: as many as the value vectors of the neurons are.
        train, validation: how many, at most; no validation problem is of a template that is trained on, where there are others.
        passes: over the training problems, at most.
        patience: passes without a better validation after which it ends.
        batch: problems per step.
        rate: Adam's learning rate; of several each is tried for one pass and the best is kept; "auto": three times and a third
            of the best are tried for as long as that is better; None: `RATES`.
        warmup: steps over which the rate rises evenly to its own.
        minutes: no new step after so many; None: no limit.
        seed: of the order of problems, and of LoRA's first values.
        checkpointing: less memory, more time (`lm/training.py: Training`).
        dtype: of the weights that are written; empty: that of the base's files. 16 bits round away what is small beside a
            weight. An edit file has none.
    """

    data: str = STUDY
    own: bool = False
    draws: int = 0
    loss: str = SOLUTION
    method: str = FACTORS
    trainable: int | None = None
    train: int = 48
    validation: int = 16
    passes: int = 2
    patience: int = 1
    batch: int = 8
    rate: float | str | Sequence[float | str] | None = None
    warmup: int = 0
    minutes: float | None = None
    seed: int = 0
    checkpointing: bool = False
    dtype: str = ""

    def rates(self) -> tuple[list[float], bool]:
        """Those to try, and whether to go on beyond them. Raises: UserError for one that is none."""
        given = [self.rate] if isinstance(self.rate, str | int | float) else list(self.rate or [RATES[self.method]])
        auto = AUTO in given
        if wrong := [r for r in given if r != AUTO and not (isinstance(r, int | float) and 0 < r < math.inf)]:
            raise UserError("a learning rate can't be taken", expected=f"numbers above 0, or {AUTO}", got=shown(wrong[0]))
        found = sorted({float(r) for r in given if r != AUTO}) or [RATES[self.method]]
        if (auto or len(found) > 1) and not self.validation:
            raise UserError("learning rates are compared on validation problems", expected="--validation 1 or more", got="0")
        return found, auto
