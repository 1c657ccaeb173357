"""Tune: train factors of chosen neurons on worked problems; what comes of it is an edit.

Problems to train on are none that the study tests or discovers on. A solution is the data's own, or, where the data has
answers only, what the model itself wrote when it was right (STaR's first round, Zelikman et al. 2022, arXiv:2203.14465). Some
problems are kept for validation: the factors of the pass with the least loss on them are taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..data.answers import is_correct, parse_flexible
from ..data.load import load_problems
from ..data.rows import question_key
from ..edits.edit import Base, Edit
from ..errors import EditError, UserError
from ..prompts.derive import render_solution
from ..records import Neuron, Problem
from ..runs.files import fingerprint, replacing
from ..runs.session import Session
from .attributing import differentiable
from .choosing import choose
from .solutions import solution

if TYPE_CHECKING:
    from ..lm.loading import LoadedModel
    from ..lm.training import FactorTraining, Text

ALL, STUDY = "all", "study"
_WRITTEN = 48  # problems that the model writes solutions to at once


@dataclass(frozen=True)
class Tuning:
    """How factors are trained.

    Attributes:
        data: problems to train on, as of `study`; "study": the study's own tuning problems.
        train, validation: how many, at most; validation problems come after those to train on.
        passes: over the training problems, at most.
        batch: problems per step.
        rate: Adam's learning rate.
        minutes: no new step after so many; None: no limit.
        seed: of the order of problems.
    """

    data: str = STUDY
    train: int = 48
    validation: int = 16
    passes: int = 2
    batch: int = 8
    rate: float = 0.01
    minutes: float | None = None
    seed: int = 0


def tune(
    session: Session,
    to: Path,
    by: str,
    settings: Tuning,
    *,
    first: int | None = None,
    random: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Edit:
    """Train factors of neurons that `choose` finds (or of "all"), and write the edit.

    What is done of it is kept beside `to` after every step; the same call goes on there. Ctrl-C keeps the best so far.

    Raises: EditError if `to` exists, if too few problems have solutions, or if nothing is gained on validation problems;
        UserError as `choose`; ModelError if the model does not fit into memory.
    """
    if to.exists():
        raise EditError(f"{to} exists already", expected="a new file", remedy="Give another one, or remove it.")
    given = worked_problems(session, settings.data, settings.train + settings.validation, say)
    if len(given) <= settings.validation:
        raise EditError(
            "too few problems with a solution to train on",
            expected=f"more than {settings.validation}, which are kept for validation",
            got=str(len(given)),
            remedy="Give more problems (--train-on FILE), or a smaller --validation.",
        )
    model = differentiable(session)
    if by == ALL:
        neurons = [Neuron(layer, i) for layer in range(model.anatomy.layers) for i in range(model.anatomy.width)]
        chosen: dict[str, Any] = {"by": ALL, "neurons": len(neurons)}
    else:
        targets, chosen = choose(session, by, first=first, random=random)
        neurons = [Neuron(t.layer, t.index) for t in targets]
    base = Base.of(model, session.config.model)
    return _train(session, model, base, neurons, chosen, given, to, settings, say)


def tuning_problems(session: Session, data: str) -> list[Problem]:
    """Problems that the study neither tests nor discovers on, and does not show as exemplars."""
    inputs = session.inputs
    every: Sequence[Problem] = inputs.split.tuning
    if data != STUDY:
        used = {question_key(p.question) for p in (*inputs.split.test, *inputs.split.discovery)}
        every = [p for p in load_problems(data, session.config.seed).problems if question_key(p.question) not in used]
    return [p for p in every if p.question not in session.prompt.prefix]


def worked_problems(session: Session, data: str, wanted: int, say: Callable[[str], object]) -> list[tuple[Problem, str]]:
    """The first `wanted` of them that have a solution: the data's, or where it has too few what the model writes if right."""
    every = tuning_problems(session, data)
    worked = [(p, render_solution(p)) for p in every if p.steps or p.solution.strip()]
    if len(worked) >= min(wanted, len(every)):
        return worked[:wanted]
    say("the data has no solutions: the model writes them, and those that are right are taken")
    found = list[tuple[Problem, str]]()
    for start in range(0, len(every), _WRITTEN):
        part = every[start : start + _WRITTEN]
        texts = [session.prompt.text(p.question) for p in part]
        written = session.engine.generate(
            texts, max_new_tokens=session.config.new_tokens(session.prompt), stop=session.prompt.stop
        )
        found += [
            (p, c.text.strip()) for p, c in zip(part, written, strict=True) if is_correct(parse_flexible(c.text), p.answer)
        ]
        if len(found) >= wanted:
            break
    return found[:wanted]


def _train(
    session: Session, model: LoadedModel, base: Base, neurons: Sequence[Neuron], chosen: dict[str, Any],
    given: Sequence[tuple[Problem, str]], to: Path, settings: Tuning, say: Callable[[str], object],
) -> Edit:  # fmt: skip
    from ..lm.training import FactorTraining, Text

    def text(problem: Problem, said: str) -> Text:
        return Text(tuple(model.encode(session.prompt.text(problem.question))), solution(model, problem, "", said).tokens)

    texts = [text(*g) for g in given]
    longest = max(len(t.prompt) + len(t.continuation) for t in texts)
    if longest > model.context:
        raise UserError("a problem with its solution is longer than the model's context",
                        expected=f"at most {model.context} tokens", got=str(longest))  # fmt: skip
    train, validation = texts[: -settings.validation or None], texts[len(texts) - settings.validation :]
    training = FactorTraining(model, neurons, settings.rate)
    state = _State(to, training, fingerprint(base.weights, training.neurons, texts, asdict(settings) | {"minutes": 0}))
    questions = [fingerprint(question_key(p.question)) for p, _ in given]
    steps = -(-len(train) // settings.batch)
    began, stop = time.monotonic(), ""
    with session.bar("tuning", settings.passes * len(train) + (settings.passes + 1) * len(validation), "text") as bar:
        bar.update(state.texts(len(train), len(validation), settings.batch))
        try:
            if not state.curve:
                state.validated(training.losses(validation, bar.update) if validation else [])
                seconds = (time.monotonic() - began) / max(len(validation), 1)  # a step takes about three times a pass
                minutes = seconds * settings.passes * (3 * len(train) + len(validation)) / 60
                say(f"{len(neurons):,} factors; {len(train)} problems to train on, {len(validation)} for validation; "
                    f"about {minutes:.0f} min" + ("" if validation else " or more"))  # fmt: skip
            while state.passes < settings.passes and not stop:
                order = np.random.default_rng((settings.seed, state.passes)).permutation(len(train))
                while state.step < steps and not stop:
                    batch = [train[i] for i in order[state.step * settings.batch :][: settings.batch]]
                    losses = training.step(batch, bar.update)
                    state.stepped(losses)
                    bar.set_postfix_str(
                        f"loss {fmean(losses):.3f}, validation {state.curve[-1]['validation']:.3f}", refresh=False
                    )
                    if settings.minutes is not None and time.monotonic() - began > 60 * settings.minutes:
                        stop = f"stopped after {settings.minutes:g} min"
                state.validated(training.losses(validation, bar.update) if validation else [])
        except KeyboardInterrupt:
            if len(state.curve) < 2:
                raise  # nothing to keep but the state, from which the same command goes on
            stop = "stopped by Ctrl-C"
    best = min(range(len(state.curve)), key=lambda i: state.curve[i]["validation"]) if validation else len(state.curve) - 1
    curve = [{k: round(v, 5) for k, v in point.items()} for point in state.curve]
    if best <= 0:
        state.remove()
        raise EditError(
            "nothing was gained on the validation problems", got=f"loss {[p['validation'] for p in curve]}",
            remedy="Use a smaller --rate, more problems, or other neurons.",
        )  # fmt: skip
    trained = {k: v for k, v in asdict(settings).items() if v is not None} | {"problems": len(train), "curve": curve,
               "taken": best} | ({"ended": stop} if stop else {})  # fmt: skip
    factors = {n: (float(f), float(f)) for n, f in zip(training.neurons, state.best, strict=True) if f != 1}
    edit = Edit(to.stem, base, factors, chosen=chosen | {"tuned": trained, "questions": questions})
    edit.write(to)
    state.remove()
    return edit


class _State:
    """What is done of a training, in a file beside the edit.

    Attributes:
        curve: per pass, the validation loss after it and the training loss during it; the first is of the base.
        best: the factors of the least validation loss so far.
    """

    def __init__(self, to: Path, training: FactorTraining, of: str) -> None:
        self.path, self.training, self.of = to.with_name(f".{to.name}.training"), training, of
        self.curve: list[dict[str, float]] = []
        self.passes, self.step, self._losses = 0, 0, list[float]()
        self.best = training.factors
        try:
            with safe_open(self.path, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.pop("of", "") == of:
                    arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
                    self.best = arrays.pop("best")
                    training.restore(arrays)
                    self.curve, self.passes, self.step = about["curve"], about["passes"], about["step"]
                    self._losses = about["losses"]
        except (OSError, SafetensorError, ValueError):
            pass  # there is none, or a half of one: it begins anew

    def texts(self, train: int, validation: int, batch: int) -> int:
        """How many texts have been read."""
        return self.passes * train + min(self.step * batch, train) + len(self.curve) * validation

    def stepped(self, losses: Sequence[float]) -> None:
        """A step has been made."""
        self.step += 1
        self._losses += losses
        self._write()

    def validated(self, losses: Sequence[float]) -> None:
        """A pass, or what there was time for of it, has been validated; at first the base."""
        point = {"validation": fmean(losses) if losses else 0.0}
        if self.curve:
            point["training"] = fmean(self._losses) if self._losses else float("nan")
            self.passes, self.step, self._losses = self.passes + 1, 0, []
        if not self.curve or not losses or point["validation"] < min(p["validation"] for p in self.curve):
            self.best = self.training.factors.copy()
        self.curve.append(point)
        self._write()

    def _write(self) -> None:
        about = {"of": self.of, "curve": self.curve, "passes": self.passes, "step": self.step, "losses": self._losses}
        with replacing(self.path) as temporary:
            save_file(self.training.state() | {"best": self.best}, temporary, {"about": json.dumps(about)})

    def remove(self) -> None:
        """It is done."""
        self.path.unlink(missing_ok=True)
