"""What can be trained, of what, and how: the settings of `tuning.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UserError, shown
from ...runs.config import STUDY
from ...runs.options import DTYPES, check_all, option

ALL, AUTO = "all", "auto"
SOLUTION, FORMULAS = LOSSES = ("solution", "formulas")
FACTORS, VALUES, ROWS, LORA, IA3, FULL = METHODS = ("factors", "values", "rows", "lora", "ia3", "full")
RATES = {FACTORS: 0.01, VALUES: 1e-3, ROWS: 1e-3, LORA: 1e-3, IA3: 0.01, FULL: 3e-5}
"""Where `AUTO` begins, and what is taken without a rate."""


@dataclass(frozen=True)
class Tuning:
    """What is trained, and how.

    Attributes:
        train_on: no validation problem is of a template that is trained on, where there are others.
        own: what is learned is then not how others write solutions.
        loss: "solution": its wording is learned too.
        rate: of several each is tried for one pass and the best is kept; "auto": three times and a third of the best are tried
            for as long as that is better; None: `RATES`.
        seed: of the order of problems, of sampled solutions, and of LoRA's first values.
        checkpointing: `lm/training.py: Training`.
        dtype: an edit file has none.
    """

    train_on: str = option(STUDY, "problems, as of `study` (default: the study's own tuning problems)")
    own: bool = option(False, "on what the model itself writes where that is right, even if the data has solutions")
    draws: int = option(0, "where the model writes: solutions sampled of each problem that its greedy one gets wrong; a right "
                        "one is taken", kind="natural")  # fmt: skip
    loss: str = option(SOLUTION, "of all tokens of a solution, or only of its formulas and answers", choices=LOSSES)
    method: str = option(FACTORS, "what is trained: the neurons' factors (an edit file); or (a model folder) their value "
                         "vectors, these and the rows of their gate and up-projections, lora or ia3 (need cotscope[peft]), "
                         "every weight",
                         choices=METHODS)  # fmt: skip
    trainable: int | None = option(None, "of lora: about so many numbers (default: as many as value vectors)", kind="positive")
    train: int = option(48, "problems to train on, at most", kind="positive")
    validation: int = option(16, "problems kept for validation, at most", kind="natural")
    passes: int = option(2, "passes over them, at most", kind="positive")
    patience: int = option(1, "passes without a better validation that end it", kind="positive")
    batch: int = option(8, "problems per step", kind="positive")
    rate: float | str | Sequence[float | str] | None = None
    warmup: int = option(0, "steps over which the rate rises evenly to its own", kind="natural")
    minutes: float | None = option(None, "begin no step after so many minutes of training and validation", kind="minutes")
    seed: int = option(0, "of the order of problems, and of what is sampled", kind="natural")
    checkpointing: bool = option(False, "compute layers again on the way back: less memory, more time")
    dtype: str | None = option(None, "of the weights that are written (default: of the base's files); 16 bits round away what "
                               "is small beside a weight", choices=DTYPES)  # fmt: skip

    def __post_init__(self) -> None:
        check_all(self)
        if self.trainable and self.method != LORA:
            raise UserError(
                f"how much is trainable follows from {self.method}", expected=f"--trainable with --method {LORA} only"
            )
        if self.dtype and self.method == FACTORS:
            raise UserError("factors are an edit file, which has no weights", expected="no --dtype with --method factors")
        self.rates()

    def said(self) -> dict[str, Any]:
        """As an edit keeps it."""
        settings = {"data": self.train_on} | asdict(self)
        del settings["train_on"]
        return settings

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
