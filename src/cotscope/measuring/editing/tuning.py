"""Tune: train factors or vectors of chosen neurons on worked problems, or beside them adapters or all weights.

Some of the worked problems (`worked.py`) are kept for validation: the learning rate and the pass after which the most of them
are solved are taken, of as many those with the least loss. Where the model wrote the solutions, and its right ones were taken,
it solves most of them anyway: there the loss alone decides.

Factors become an edit file. Whatever else is trained is merged into the weights, and becomes a model folder with an edit file
in it that says of which base it is and how it was made (`Edit.weights`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...data.roles import token_reckoning
from ...edits.edit import Base, Edit
from ...errors import EditError, UserError, shown
from ...records import Neuron, Problem
from ...runs.files import fingerprint, held
from ...runs.session import Session
from ..attributing import differentiable, training_dtype
from ..choosing import choose
from ..generation import count_solved
from ..problems import STUDY
from .courses import Course, Plan, leading, next_rate, search
from .worked import ended, made_with, parted, worked_problems

if TYPE_CHECKING:
    from ...lm.loading import LoadedModel
    from ...lm.trained import Factors, Merging
    from ...lm.training import Text, Training

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
        stored: the dtype of the weights that are written; empty: that of the base's files. 16 bits round away what is small
            beside a weight. An edit file has none.
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
    stored: str = ""

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


def tune(
    session: Session,
    to: Path,
    by: str,
    settings: Tuning,
    *,
    first: int | None = None,
    random: int | None = None,
    concepts: Sequence[str] = (),
    layers: tuple[int, int] | None = None,
    null: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Edit:
    """Train something of neurons that `choose` finds (or of "all"), or what needs none, and write the edit or the model.

    What is done of it is kept beside `to`; the same call goes on there. Ctrl-C keeps the best so far.

    Args:
        by: of LoRA without `trainable`: whose neurons' value vectors are as many numbers.
        first, random, concepts, layers: as of `choose`.
        null: write an edit that changes nothing if nothing is gained: the result of a control, which counts.

    Raises: EditError if `to` exists or has no room, if too few problems have solutions, if there is no time for a step, or,
        without `null`, if nothing is gained on validation problems; UserError as `choose`, or for a method or rate that is
        none; ModelError if it does not fit into memory.
    """
    if settings.method not in METHODS:
        raise UserError("unknown method", expected=" or ".join(METHODS), got=shown(settings.method))
    if settings.loss not in LOSSES:
        raise UserError("unknown loss", expected=" or ".join(LOSSES), got=shown(settings.loss))
    if settings.trainable and settings.method != LORA:
        raise UserError(
            f"how much is trainable follows from {settings.method}", expected=f"--trainable with --method {LORA} only"
        )
    if settings.stored and settings.method == FACTORS:
        raise UserError("factors are an edit file, which has no weights", expected="no --dtype with --method factors")
    rates = settings.rates()
    if to.exists() or to.is_symlink():
        raise EditError(f"{to} exists already", expected="a new file or folder", remedy="Give another one, or remove it.")
    some = {"first": first, "random": random, "concepts": concepts, "layers": layers}
    neurons, chosen = _neurons(session, by, settings, {k: v for k, v in some.items() if v is not None and v not in ((), [])})
    given = worked_problems(session, settings.data, settings.train + settings.validation, say,
                            own=settings.own, draws=settings.draws, seed=settings.seed, folder=to.parent)  # fmt: skip
    if settings.loss == FORMULAS:
        loaded, prompt = session.loaded, session.prompt
        given = [(p, said) for p, said in given if any(token_reckoning(loaded, ended(loaded, prompt, said), p.words))]
    given = parted(given, settings.validation)
    if len(given) <= settings.validation:
        raise EditError(
            "too few problems with a solution to train on",
            expected=f"more than {settings.validation}, which are kept for validation",
            got=str(len(given)),
            remedy="Give more problems (--train-on FILE), or a smaller --validation.",
        )
    tuner = _Tuner(session, to, neurons, chosen, given, settings, say, null)
    tuner.folder.mkdir(parents=True, exist_ok=True)
    with held(tuner.folder):  # a process that `compare` began may outlive it
        try:
            return tuner.run(*rates)
        finally:
            if not any(tuner.folder.glob("*.safetensors")):
                shutil.rmtree(tuner.folder, ignore_errors=True)


def _neurons(session: Session, by: str, settings: Tuning, some: dict[str, Any]) -> tuple[list[Neuron], dict[str, Any]]:
    """The neurons that something is trained of, and how they were chosen.

    Args:
        some: of `choose`: which of them.
    """
    whole = settings.method in (IA3, FULL) or (settings.method == LORA and bool(settings.trainable))
    if (whole or by == ALL) and some:
        of = settings.method if whole else "all neurons"
        raise UserError(f"{of} can't be trained as some of them, or as random ones",
                        expected="no --first, --random, --concept or --layers")  # fmt: skip
    if whole:
        return [], {"by": settings.method}
    if by == ALL:
        anatomy = session.loaded.anatomy
        neurons = [Neuron(layer, i) for layer in range(anatomy.layers) for i in range(anatomy.width)]
        chosen: dict[str, Any] = {"by": ALL, "neurons": len(neurons)}
    else:
        targets, chosen = choose(session, by, **some)
        neurons = [Neuron(t.layer, t.index) for t in targets]
    return neurons, {"by": LORA} if settings.method == LORA else chosen


class _Tuner:
    """One training: its texts, its model, its courses."""

    def __init__(
        self, session: Session, to: Path, neurons: Sequence[Neuron], chosen: dict[str, Any],
        given: Sequence[tuple[Problem, str]], settings: Tuning, say: Callable[[str], object],
        null: bool = False,
    ) -> None:  # fmt: skip
        from ...edits.fold import stored_dtype

        self.session, self.to, self.neurons, self.chosen, self.say = session, to, neurons, chosen, say
        self.settings, self.given, self.null = settings, given, null
        self.base = Base.of(session.loaded, session.config.model)
        self.texts = [self._text(*g) for g in given]
        self.folder = to.with_name(f".{to.name}.training")
        self.stored = settings.stored or stored_dtype(self.base.model)

    def _text(self, problem: Problem, said: str) -> Text:
        from ...lm.training import Text

        loaded = self.session.loaded
        prompt = tuple(loaded.encode(self.session.prompt.text(problem.question)))
        continuation = ended(loaded, self.session.prompt, said)
        counted = token_reckoning(loaded, continuation, problem.words) if self.settings.loss == FORMULAS else ()
        text = Text(prompt, continuation, counted)
        if (length := len(prompt) + len(text.continuation)) > loaded.context:
            raise UserError("a problem with its solution is longer than the model's context",
                            expected=f"at most {loaded.context} tokens", got=str(length))  # fmt: skip
        return text

    def run(self, rates: Sequence[float], auto: bool) -> Edit:
        """Train, and write what came of it."""
        from ...lm.passes import common_prefix
        from ...lm.training import Training

        settings = self.settings
        model = self._model()
        trained = self._trained(model)
        shared = common_prefix([list(t.prompt) for t in self.texts]) if len(self.texts) > 1 else 0
        training = Training(model, trained, settings.checkpointing, shared)
        count = len(self.texts) - settings.validation
        self.say(f"{training.numbers:,} numbers ({settings.method}); {count} problems to train on, {settings.validation} for "
                 "validation")  # fmt: skip
        same = asdict(settings) | {"minutes": 0, "rate": 0, "passes": 0, "stored": "", "dtype": model.dtype_name}
        of = fingerprint(self.base.weights, self.neurons, training.numbers, self.texts, same)
        deadline = math.inf if settings.minutes is None else time.monotonic() + 60 * settings.minutes
        tried: dict[float, Course] = {}
        by_solved = settings.validation > 0 and not settings.own and all(p.has_solution for p, _ in self.given)
        stop = ""
        with self.session.bar("tuning", 0, "text") as bar:
            plan = Plan(training, self.folder, of, self.texts[:count], self.texts[count:], settings.batch, settings.seed,
                        settings.patience, deadline, bar, self._solver(training), by_solved, self.say,
                        settings.warmup)  # fmt: skip
            try:
                best = search(plan, rates, auto, tried, settings.passes)
                best.run(settings.passes)
                more = (best.passes < settings.passes and not best.ended) or next_rate(tried, rates, auto) is not None
                if best.cut or (plan.late and more):  # a pass may have been cut when this was asked with --minutes
                    stop = "stopped in a pass before" if settings.minutes is None else f"stopped after {settings.minutes:g} min"
            except KeyboardInterrupt:
                gained = {rate: c for rate, c in tried.items() if c.taken and not c.dropped}
                if not gained:
                    raise  # nothing to keep but the state, from which the same command goes on
                best = leading(gained)
                stop = "stopped by Ctrl-C"
        curve = [{k: _rounded(v) for k, v in point.items()} for point in best.curve]
        if not any(course.passes for course in tried.values()):
            raise EditError("there was no time for a step", got=f"{settings.minutes or 0:g} min",
                            remedy="Give more --minutes: the same command goes on from there.")  # fmt: skip
        if not best.taken and not self.null:  # what is done stays for the same command with --null
            raise EditError(
                "nothing was gained on the validation problems",
                got=f"solved {[p.get('solved') for p in curve]}, loss {[p['validation'] for p in curve]}",
                remedy="Use a smaller --rate, more problems (for --validation too: few say little), or other neurons; --null "
                "writes an edit that changes nothing.",
            )
        if best.taken:
            best.take()
        found = {k: v for k, v in asdict(settings).items() if v is not None and not (k in ("stored", "warmup") and not v)} | {
            "rate": best.rate, "problems": len(self.given), "numbers": training.numbers, "curve": curve, "taken": best.taken,
            "dtype": model.dtype_name,
            "seconds": round(sum(c.seconds for c in tried.values()), 3), "peak_memory": model.peak_memory(),
        }  # fmt: skip
        if len(tried) > 1:
            firsts = [(c.rate, c.curve[1]) for c in tried.values() if c.passes]
            found["rates"] = [[rate, _rounded(p["validation"]), p["solved"]] for rate, p in firsts]
        edit = self._written(model, trained, found | ({"ended": stop} if stop else {}))
        shutil.rmtree(self.folder, ignore_errors=True)
        return edit

    def _solver(self, training: Training) -> Callable[[], int]:
        """Counts the validation problems that the model solves, with the parameters of the moment."""
        from ...lm.engine import Engine

        # Nothing is kept of a prefix: it would be of other parameters.
        engine = Engine(training.loaded, prefix_bytes=0)
        problems = [p for p, _ in self.given[len(self.given) - self.settings.validation :]]

        def solves() -> int:
            with training.writing():
                return count_solved(self.session, problems, engine=engine)

        return solves

    def _model(self) -> LoadedModel:
        """The model to train. Raises: ModelError, EditError if there is no room for it in memory, or for its files."""
        from ...edits.fold import check_room
        from ...lm.training import BYTES, working_bytes

        loaded, settings = self.session.loaded, self.settings
        hidden = loaded.model.config.get_text_config().hidden_size
        each = {FACTORS: 1, VALUES: hidden, ROWS: 3 * hidden, LORA: hidden}.get(settings.method, 0)
        numbers = settings.trainable or len(self.neurons) * each
        full = settings.method == FULL
        if full:
            numbers = loaded.parameters()
        if settings.method != FACTORS:  # two courses' states with their best, and the model
            kept = sum(p.stat().st_size for p in self.folder.glob("*"))
            size = 4 if self.stored == "float32" else 2
            check_room(self.to, max(0, 2 * 16 * numbers - kept) + size * loaded.parameters(), "what is trained, and the model")
        # In 16 bits all weights would be rounded by merging, those too that are not trained.
        float32 = full or (settings.method != FACTORS and self.stored != "bfloat16")
        itemsize = 2 if not float32 and training_dtype(self.session) == "bfloat16" else 4
        working = working_bytes(loaded, self.texts, settings.checkpointing, itemsize)
        beside = numbers * (BYTES - 4 * full) + working
        self.say(f"about {beside / 2**30:.1f} GiB beside the model, which is held a second time")
        return differentiable(self.session, beside, float32=float32)

    def _trained(self, model: LoadedModel) -> Factors | Merging:
        from ...lm.trained import Adapters, Factors, Vectors, Weights

        settings = self.settings
        if settings.method == FACTORS:
            return Factors(model, self.neurons)
        if settings.method in (VALUES, ROWS):
            return Vectors(model, self.neurons, rows=settings.method == ROWS)
        if settings.method == FULL:
            return Weights(model)
        hidden = model.model.config.get_text_config().hidden_size
        return Adapters(model, settings.method, settings.trainable or hidden * len(self.neurons), settings.seed)

    def _written(self, model: LoadedModel, trained: Factors | Merging, found: dict[str, Any]) -> Edit:
        from ...edits.fold import export_trained
        from ...lm.trained import Factors

        chosen = self.chosen | {"tuned": found} | made_with([p.question for p, _ in self.given])
        if not found["taken"]:
            edit = Edit(self.to.stem, self.base, {}, chosen=chosen | {"nothing": "nothing was gained on validation problems"})
            edit.write(self.to)
            return edit
        if isinstance(trained, Factors):
            factors = {n: (f, f) for n, f in zip(trained.neurons, trained.values, strict=True) if f != 1}
            edit = Edit(self.to.stem, self.base, factors, chosen=chosen)
            edit.write(self.to)
            return edit
        edit = Edit(self.to.name, self.base, {}, chosen=chosen, weights="to be")
        return export_trained(trained, model, edit, self.to, self.stored, self.say, lambda edit: self._as_written(model, edit))

    def _as_written(self, model: LoadedModel, edit: Edit) -> Edit:
        """With the validation loss of the weights as they are written: in 16 bits, small changes are rounded away."""
        from ...lm.trained import Nothing
        from ...lm.training import Training

        tuned = edit.chosen["tuned"]
        if not (validation := self.texts[len(self.texts) - self.settings.validation :] if self.settings.validation else []):
            return edit
        loss = fmean(Training(model, Nothing(), self.settings.checkpointing).losses(validation))
        before, after = (_loss(tuned["curve"][i]["validation"]) for i in (0, tuned["taken"]))
        self.say(f"validation loss {_loss(loss)} as it is written; {after} as it was trained, {before} without")
        return replace(edit, chosen={**edit.chosen, "tuned": {**tuned, "written": _rounded(loss)}})


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
