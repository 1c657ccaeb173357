"""Courses of a training: each with one learning rate, validation after each pass, files to go on from; the search of the rate.

After every step, or where that takes long every so often, parameters and the optimiser's state are written beside what is to be
made: a process that is killed goes on from there and has the same losses as one that is not (on a GPU but for rounding).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ...runs.files import replacing

if TYPE_CHECKING:
    from tqdm import tqdm

    from ...lm.training import Text, Training

VERSION = 6  # of a state's file: one of another is begun anew
_STEP = 3.0  # from one rate to the next that is tried
_CHEAP, _SHARE = 1.0, 10  # a state that takes longer to write, seconds, is written only after so many times as long


@dataclass
class Plan:
    """What every course of a training has in common.

    Attributes:
        training: what is trained; at a time it is on one course.
        folder: where states are kept.
        of: the fingerprint of all that decides losses.
        deadline: on the monotonic clock; no step begins after it.
        solves: how many validation problems the model solves at the moment.
        by_solved: whether passes and rates are chosen by that first; not where the validation problems are those that the model
            solves anyway.
        say: is told how long it takes, and of every pass.
        several: more than one learning rate is tried.
        validating: seconds that the last validation took.
    """

    training: Training
    folder: Path
    of: str
    train: Sequence[Text]
    validation: Sequence[Text]
    batch: int
    seed: int
    patience: int
    deadline: float
    bar: tqdm[Any]
    solves: Callable[[], int]
    by_solved: bool
    say: Callable[[str], object]
    warmup: int = 0
    several: bool = False
    validating: float = 0.0

    @property
    def late(self) -> bool:
        """Whether no step may begin any more."""
        return time.monotonic() > self.deadline


class Course:
    """A training with one learning rate.

    Attributes:
        curve: per pass, the validation loss after it, how many validation problems the model then solves, and the training loss
            during it; the first is of the base.
        taken: the best pass by `Plan.by_solved`, of equal ones that with the least validation loss; without validation, the
            last. The loss alone is no guide: it falls while accuracy does (`docs/log.md`, 2026-11-28).
        seconds: that it took.
        dropped: only its losses are kept.
        cut: steps of its last pass, if the deadline ended that; with more time it goes on there. 0: its passes are whole.
        validating: seconds that its last validation took.
    """

    def __init__(self, plan: Plan, rate: float, base: dict[str, float] | None = None) -> None:
        self.plan, self.rate = plan, rate
        self.curve: list[dict[str, float]] = []
        self.step, self.taken, self.seconds, self._losses = 0, 0, 0.0, list[float]()
        self.dropped, self.cut, self._before, self.validating = False, 0, 0, 0.0
        self._state = plan.folder / f"{rate:g}.safetensors"
        self._written, self._took = 0.0, 0.0
        if (about := _about(self._state, plan.of)) is not None:
            for key, value in about.items():
                setattr(self, key, value)
            plan.validating = plan.validating or self.validating
        elif base is not None:
            self.curve = [dict(base)]

    @property
    def passes(self) -> int:
        """How many have ended."""
        return max(len(self.curve) - 1, 0)

    @property
    def rank(self) -> tuple[float, float]:
        """Where it stands among others, the best first: as its best pass, or before the first as the base. A pass that is worse
        than the base counts too: of rates that are all too high the lowest is the best."""
        return min(map(self._rank, self.curve[1:] or self.curve))

    @property
    def begins(self) -> tuple[float, float]:
        """Where it stands by its first pass, by which rates are compared, whatever came after it."""
        return self._rank(self.curve[:2][-1])

    @property
    def gains(self) -> bool:
        """Whether its first pass is better than the base."""
        return self.passes > 0 and (not self.plan.validation or self.begins < self._rank(self.curve[0]))

    def _rank(self, point: dict[str, float]) -> tuple[float, float]:
        loss = point["validation"]
        return -point["solved"] if self.plan.by_solved else 0.0, loss if math.isfinite(loss) else math.inf

    @property
    def ended(self) -> bool:
        """Whether validation has not become better for long enough."""
        return self.passes - self.taken >= self.plan.patience

    def run(self, until: int) -> None:
        """Train until so many passes have ended, or it is late, or validation has not become better for long enough."""
        if self.cut and not self.plan.late:
            self._reopen()
        if self.passes >= until or self.ended:
            return
        if self.dropped:  # another rate was better, which is not asked for any more
            self.again()
        plan, training = self.plan, self.plan.training
        training.begin(self.rate, plan.warmup)
        if self.step or self.passes:
            training.restore(_tensors(self._state))
        texts, validation = len(plan.train), len(plan.validation)
        left = (until - self.passes) * (texts + validation) - self.step * plan.batch + (validation if not self.curve else 0)
        plan.bar.total = plan.bar.n + left
        if not self.curve:
            self._validated()
        first = True
        batches = -(-len(plan.train) // plan.batch)
        while self.passes < until and not self.ended and not plan.late:
            order = np.random.default_rng((plan.seed, self.passes)).permutation(len(plan.train))
            while self.step < batches and not plan.late:
                batch = [plan.train[i] for i in order[self.step * plan.batch :][: plan.batch]]
                start = time.monotonic()
                losses = training.step(batch, plan.bar.update)
                took = time.monotonic() - start
                self.step += 1
                self._losses += losses
                self.seconds += took
                if first:
                    self._estimate(took / len(batch), until)
                    first = False
                plan.bar.set_postfix_str(
                    f"rate {self.rate:g}, loss {fmean(losses):.3f}, validation {self.curve[-1]['validation']:.3f}",
                    refresh=False,
                )
                self._write(by_the_way=True)
            if self.step:
                self._validated(self.step if self.step < batches else 0)

    def _reopen(self) -> None:
        """Go back into the pass that was cut, as if it had not been validated."""
        if self.dropped:  # its parameters are gone
            return self.again()
        self.step, self.taken, self.cut = self.cut, self._before, 0
        self.curve.pop()

    def _validated(self, cut: int = 0) -> None:
        """A pass, or what there was time for of it, has been validated; at first the base."""
        start = time.monotonic()
        losses = self.plan.training.losses(self.plan.validation, self.plan.bar.update) if self.plan.validation else [0.0]
        point = {"validation": fmean(losses)} | ({"solved": self.plan.solves()} if self.plan.validation else {})
        if self.curve:
            point["training"] = fmean(self._losses)
            self.step, self.cut, self._before = 0, cut, self.taken
            if not cut:
                self._losses = []
        self.curve.append(point)
        if self.passes and (not self.plan.validation or self._rank(point) < self._rank(self.curve[self.taken])):
            # Written before it counts, and under its own name: whenever this is interrupted, the pass that is taken is there.
            self._save(self._best(self.passes), {k: v for k, v in self.plan.training.state().items() if k.startswith("value ")})
            self.taken = self.passes
        if self.passes and self.plan.validation:
            base = self.curve[0]
            self.plan.say(
                f"rate {self.rate:g}, pass {self.passes}: validation loss {point['validation']:.3f} ({base['validation']:.3f} "
                f"without), {point['solved']} of {len(self.plan.validation)} validation problems solved ({base['solved']})"
            )
        self.validating = self.plan.validating = time.monotonic() - start
        self.seconds += self.validating
        self._write()
        self._forget(self.taken, self._before if self.cut else self.taken)

    def take(self) -> None:
        """Put the parameters of the pass that is taken into the model."""
        self.plan.training.restore(_tensors(self._best(self.taken)))

    def drop(self) -> None:
        """Keep its losses only: another rate is better."""
        self.dropped = True
        self._save(self._state, {})
        self._forget()

    def again(self) -> None:
        """Begin anew, from the base, what was dropped."""
        self.curve, self.step, self.taken, self.dropped, self.cut = self.curve[:1], 0, 0, False, 0
        self._losses = []

    def _best(self, passes: int) -> Path:
        return self._state.with_name(f"{self.rate:g}-best-{passes}.safetensors")

    def _forget(self, *but: int) -> None:
        """Parameters of passes that are not taken any more."""
        for file in self._state.parent.glob(f"{self.rate:g}-best-*.safetensors"):
            if file not in map(self._best, but):
                file.unlink()

    def _estimate(self, of_a_text: float, until: int) -> None:
        plan = self.plan
        left = max((until - self.passes) * len(plan.train) - self.step * plan.batch, 0)
        minutes = (left * of_a_text + (until - self.passes) * plan.validating) / 60
        if not math.isinf(plan.deadline):
            minutes = min(minutes, (plan.deadline - time.monotonic()) / 60)
        plan.say(f"rate {self.rate:g}: about {minutes:.1f} min more{' for it, as for each other' * plan.several}")

    def _write(self, by_the_way: bool = False) -> None:
        start = time.monotonic()
        if by_the_way and self._took > _CHEAP and start - self._written < _SHARE * self._took:
            return
        self._save(self._state, self.plan.training.state())
        self._written = time.monotonic()
        self._took = self._written - start

    def _save(self, path: Path, tensors: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        keys = ("curve", "step", "taken", "seconds", "dropped", "cut", "validating", "_before", "_losses")
        about = {key: getattr(self, key) for key in keys}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"of": _of(self.plan.of), "about": json.dumps(about)})


def search(plan: Plan, rates: Sequence[float], auto: bool, tried: dict[float, Course], passes: int) -> Course:
    """The course with the learning rate whose first pass validates best; of the others only the losses are kept."""
    while (rate := next_rate(tried, rates, auto)) is not None and not (tried and plan.late):
        base = next((c.curve[0] for c in tried.values()), None)
        course = tried[rate] = Course(plan, rate, base)
        course.run(passes if len(rates) == 1 and not auto else 1)
        best = leading(tried)
        for other in tried.values():
            if other is not best:
                other.drop()
    best = leading(tried)
    if best.dropped:  # as in `run`, which has nothing to do after as many passes
        best.again()
        best.run(1)
    return best


def next_rate(tried: dict[float, Course], rates: Sequence[float], auto: bool) -> float | None:
    """The next learning rate to try: of those given, then beyond the best while it is the largest or the smallest. While none
    has gained anything only lower ones are: what is worse than the base at one rate is not better at a higher one."""
    if left := [r for r in rates if r not in tried]:
        return left[0]
    course = leading(tried)
    best, steps = course.rate, {max: _STEP, min: 1 / _STEP} if course.gains else {min: 1 / _STEP}
    return next((float(f"{best * step:.3g}") for end, step in steps.items() if auto and best == end(tried)), None)


def leading(tried: Mapping[float, Course]) -> Course:
    """The one whose first pass is the best so far."""
    return min(tried.values(), key=lambda course: course.begins)


def _of(training: str) -> str:
    return f"{VERSION} {training}"


def _about(path: Path, of: str) -> dict[str, Any] | None:
    """What a state's file says of the course; None: there is none, or it is half a file, or of another training."""
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            return dict(json.loads(said["about"])) if said["of"] == _of(of) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)
