"""The records that cross a boundary between parts of cotscope. Frozen; no behaviour beyond reading themselves.

Axis order, everywhere: rows (problems), then generated tokens (steps), then layers, then neurons (index).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple

Operation = Literal["addition", "subtraction", "multiplication", "division"]
OPERATIONS: tuple[Operation, ...] = ("addition", "subtraction", "multiplication", "division")
SYMBOLS: dict[Operation, str] = {"addition": "+", "subtraction": "-", "multiplication": "*", "division": "/"}


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence of a worked solution.

    Attributes:
        sentence: the sentence; `{}` marks where the formula (or, in text-only prompts, its result) stands.
            A sentence without `{}` only states a fact and has no operation.
        operation: what the formula computes; None for a statement.
        operands: the numbers of the formula, in order (two or more); empty for a statement.
        result: the formula's value; None for a statement.
    """

    sentence: str
    operation: Operation | None = None
    operands: tuple[Fraction, ...] = ()
    result: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem whose answer is a number, or words; with `steps` it can also serve as an exemplar.

    Attributes:
        id: unique within a data set, stable across runs; results are keyed by it.
        question: the text shown to the model.
        answer: the exact number; or words, of data whose answers are no numbers.
        steps: the gold solution as structured steps, where it is known.
        solution: the gold solution as text, where the data has one (GSM8K) and steps are not known.
    """

    id: str
    question: str
    answer: Fraction | str
    steps: tuple[Step, ...] = ()
    solution: str = ""

    @property
    def words(self) -> str:
        """The answer, if it is words; else nothing."""
        return self.answer if isinstance(self.answer, str) else ""

    @property
    def has_solution(self) -> bool:
        """Whether the data has one."""
        return bool(self.steps or self.solution.strip())


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt under which problems are solved: `prefix + "Question: " + question + cue`.

    Attributes:
        name: unique within a study; a prompt file's stem, less dots at its beginning.
        prefix: the exemplars, shared by all rows; empty for zero-shot prompts. Ends in a blank line otherwise.
        cue: what follows the question, from its newline on, e.g. "\\nLet's think step by step\\n".
        source: "derived" (from structured exemplars) or the file that it was read from.
    """

    name: str
    prefix: str
    cue: str
    source: str = "derived"

    def text(self, question: str) -> str:
        """The whole prompt for one question."""
        return f"{self.prefix}Question: {question}{self.cue}"

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion: the next question, and after exemplars the blank line that parts them."""
        return ("Question:", "\n\n") if self.prefix else ("Question:",)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for one row.

    Attributes:
        token_ids: the generated tokens, the end token left out.
        text: their decoding, cut before the first stop string.
        steps: tokens generated, the end token counted; what a recorder saw.
        finish: "stop" (end token or stop string) or "length".
    """

    token_ids: tuple[int, ...]
    text: str
    steps: int
    finish: Literal["stop", "length"]


class Neuron(NamedTuple):
    """Index i of layer l's down-projection input (Geva et al. 2022, arXiv:2203.14680)."""

    layer: int
    index: int  # type: ignore[assignment]  # takes the place of tuple.index

    def _repr_html_(self) -> str:
        return f"<span>layer {self.layer}, neuron <b>{self.index}</b></span>"


class Pole(NamedTuple):
    """A neuron when its coefficient has this sign (+1 or -1); it writes sign·v."""

    layer: int
    index: int  # type: ignore[assignment]  # takes the place of tuple.index
    sign: int

    def _repr_html_(self) -> str:
        return f"<span>layer {self.layer}, neuron <b>{self.index}</b>, {'+' if self.sign > 0 else '−'}</span>"


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept: its name, the question for a judge, and the seed tokens of its lexicon (lower case, stripped)."""

    name: str
    question: str
    seeds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotator's word on one candidate pole and one concept.

    Attributes:
        accepted: False where the annotator gave no word.
        evidence: promoted tokens that speak for its word.
        confidence: 0…1; None where the annotator gives none.
        description: what the pole stands for, in the annotator's words.
        status: "answered", or "failed" (then `description` says why).
    """

    pole: Pole
    concept: str
    accepted: bool
    annotator: str
    evidence: tuple[str, ...] = field(default=())
    confidence: float | None = None
    description: str = ""
    status: Literal["answered", "failed"] = "answered"


def factors_of(targets: Iterable[Neuron | Pole], factor: float) -> dict[Neuron, tuple[float, float]]:
    """One factor for neurons (either sign) or poles (their sign only): of positive and of negative coefficients."""
    factors: dict[Neuron, tuple[float, float]] = {}
    for t in targets:
        neuron = Neuron(t.layer, t.index)
        positive, negative = factors.get(neuron, (1.0, 1.0))
        sign = t.sign if isinstance(t, Pole) else 0
        factors[neuron] = factor if sign >= 0 else positive, factor if sign <= 0 else negative
    return factors
