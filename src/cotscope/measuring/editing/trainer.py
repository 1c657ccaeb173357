"""One training of something of a model: its texts, its model, its courses, and what is written of it.

Factors become an edit file. Whatever else is trained is merged into the weights, and becomes a model folder with an edit file
in it that says of which base it is and how it was made (`Edit.weights`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...data.roles import token_reckoning
from ...edits.edit import Base, Edit
from ...errors import EditError
from ...records import Neuron, Problem
from ...runs.files import fingerprint
from ...runs.session import Session
from ..attributing import differentiable, training_dtype
from ..generation import are_solved
from .courses import Course, Plan, next_rate, search
from .methods import FACTORS, FORMULAS, FULL, IA3, LORA, ROWS, VALUES, Tuning
from .worked import ended, made_with

if TYPE_CHECKING:
    from ...lm.loading import LoadedModel
    from ...lm.trained import Factors, Merging
    from ...lm.training import Text, Training


_NEAR = 1.5  # times as many numbers, or as few, as were asked for
STATES = 2 * 16 + 12
"""Bytes on the disk for a number that is trained: two courses' states with their best, and a state being written."""


class Trainer:
    """One training: its texts, its model, its courses.

    Args:
        of: the fingerprint of what it may be trained on (`worked.py: source`).
    """

    def __init__(
        self, session: Session, to: Path, neurons: Sequence[Neuron], chosen: dict[str, Any],
        given: Sequence[tuple[Problem, str]], settings: Tuning, say: Callable[[str], object],
        null: bool = False, of: str = "",
    ) -> None:  # fmt: skip
        from ...edits.fold import stored_dtype

        self.session, self.to, self.neurons, self.chosen, self.say = session, to, neurons, chosen, say
        self.settings, self.given, self.null, self.of = settings, given, null, of
        self.base = Base.of(session.loaded, session.config.model)
        self.texts = [self._text(*g) for g in given]
        self.name = to.stem if settings.method == FACTORS else to.name
        self.folder = to.with_name(f".{to.name}.training")
        self.stored = settings.dtype or stored_dtype(self.base.model)

    def _text(self, problem: Problem, said: str) -> Text:
        from ...lm.training import Text

        loaded = self.session.loaded
        prompt = tuple(loaded.encode(self.session.prompt.text(problem.question)))
        continuation = ended(loaded, self.session.prompt, said)
        counted = token_reckoning(loaded, continuation, problem.words) if self.settings.loss == FORMULAS else ()
        return Text(prompt, continuation, counted)

    def run(self, rates: Sequence[float], auto: bool) -> Edit:
        """Train, and write what came of it."""
        from ...lm.attribution import shared_length
        from ...lm.trained import lora_rank
        from ...lm.training import Training

        settings = self.settings
        model = self._model()
        trained = self._trained(model)
        shared = shared_length(model, [t.prompt for t in self.texts])
        training = Training(model, trained, settings.checkpointing, shared)
        count = len(self.texts) - settings.validation
        self.say(f"{training.numbers:,} numbers ({settings.method}); {count} problems to train on, {settings.validation} for "
                 "validation")  # fmt: skip
        same = settings.said() | {"minutes": 0, "rate": 0, "passes": 0, "dtype": model.dtype_name}
        places = _places(trained.parameters) if settings.method == IA3 else ()
        of = fingerprint(self.base.weights, self.neurons, training.numbers, self.texts, same, *places)
        deadline = math.inf if settings.minutes is None else time.monotonic() + 60 * settings.minutes
        tried: dict[float, Course] = {}
        by_solved = settings.validation > 0 and not settings.own
        stop = ""
        with self.session.bar("tuning", 0, "text") as bar:
            plan = Plan(training, self.folder, of, self.texts[:count], self.texts[count:], settings.batch, settings.seed,
                        settings.patience, deadline, bar, self._solver(training), by_solved, self.say,
                        settings.warmup, several=auto or len(rates) > 1)  # fmt: skip
            try:
                best = search(plan, rates, auto, tried, settings.passes)
                best.run(settings.passes)
                more = (best.passes < settings.passes and not best.ended) or next_rate(tried, rates, auto) is not None
                if best.cut or (plan.late and more):
                    stop = f"stopped after {settings.minutes:g} min"
            except KeyboardInterrupt:
                gained = {rate: c for rate, c in tried.items() if c.taken and not c.dropped}
                if not gained:
                    raise  # nothing to keep but the state, from which the same command goes on
                best = min(gained.values(), key=lambda course: course.rank)
                stop = "stopped by Ctrl-C"
        curve = [{k: _rounded(v) for k, v in point.items()} for point in best.curve]
        if not any(course.passes for course in tried.values()):
            raise EditError("there was no time for a step", got=f"{settings.minutes or 0:g} min",
                            remedy="Give more --minutes: the same command goes on from there.")  # fmt: skip
        if not best.taken and not self.null:  # what is done stays for the same command with --null
            raise EditError(
                "nothing was gained on the validation problems",
                got=f"solved {[p.get('solved') for p in curve]}, loss {[p['validation'] for p in curve]}",
                remedy=("A pass was cut by --minutes: the same command goes on in it, for as long again. " if best.cut else "")
                + "Use a smaller --rate, more problems (for --validation too: few say little), or other neurons; --null "
                "writes an edit that changes nothing.",
            )
        if best.taken:
            best.take()
            if not all(bool(p.isfinite().all()) for p in trained.parameters.values()):
                raise EditError("the training has come to values that are no numbers", remedy="Use a smaller --rate.")
        found = {k: v for k, v in settings.said().items() if v is not None and (k != "warmup" or v)} | {
            "rate": best.rate, "of": self.of,
            "problems": len(self.given), "numbers": training.numbers, "curve": curve, "taken": best.taken,
            "dtype": model.dtype_name, "cut": bool(best.cut) or (best.passes < settings.passes and not best.ended),
            "seconds": round(sum(c.seconds for c in tried.values()), 3), "validating": round(best.validating, 3),
            "peak_memory": model.peak_memory(),
        }  # fmt: skip
        if settings.dtype:
            found["stored"] = settings.dtype
        if settings.method == LORA:  # as reckoned before its own layers stood in the model
            found["rank"] = lora_rank(self.session.loaded, self._numbers(self.session.loaded))
        if places:
            found["places"] = ", ".join(places)
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
        engine = Engine(training.loaded, rows=self.session.run.manifest["model"]["rows_per_batch"], prefix_bytes=0)
        problems = [p for p, _ in self.given[len(self.given) - self.settings.validation :]]

        def solves() -> int:
            with training.writing():
                return sum(are_solved(self.session, problems, engine=engine))

        return solves

    def _model(self) -> LoadedModel:
        """The model to train. Raises: ModelError, EditError if there is no room for it in memory, or for its files."""
        from ...edits.fold import check_room, remove_left
        from ...lm.trained import lora_numbers, lora_rank
        from ...lm.training import BYTES, working_bytes

        loaded, settings = self.session.loaded, self.settings
        full, numbers = settings.method == FULL, self._numbers(loaded)
        if settings.method == LORA:
            rank, of_one = lora_rank(loaded, numbers), lora_numbers(loaded)
            if not 1 / _NEAR < rank * of_one / numbers < _NEAR:
                self.say(
                    f"LoRA of rank {rank} at every linear layer is {rank * of_one:,} numbers, and {numbers:,} are asked for"
                )
            numbers = rank * of_one
        if settings.method != FACTORS:  # and the model
            remove_left(self.to)
            kept = sum(p.stat().st_size for p in self.folder.glob("*"))
            size = 4 if self.stored == "float32" else 2
            check_room(self.to, max(0, STATES * numbers - kept) + size * loaded.parameters(), "what is trained, and the model")
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
        return Adapters(model, settings.method, self._numbers(model), settings.seed)

    def _numbers(self, model: LoadedModel) -> int:
        """How many are trained; of LoRA about how many."""
        hidden = model.model.config.get_text_config().hidden_size
        each = {FACTORS: 1, VALUES: hidden, ROWS: 3 * hidden, LORA: hidden}.get(self.settings.method, 0)
        if self.settings.method == FULL:
            return model.parameters()
        return self.settings.trainable or len(self.neurons) * each

    def _written(self, model: LoadedModel, trained: Factors | Merging, found: dict[str, Any]) -> Edit:
        from ...edits.fold import export_trained, fold, round_to
        from ...lm.trained import Factors

        chosen = self.chosen | {"tuned": found} | made_with(self.chosen, [p.question for p, _ in self.given])
        if not found["taken"]:
            edit = Edit(self.name, self.base, {}, chosen=chosen | {"nothing": "nothing was gained on validation problems"})
            edit.write(self.to)
            return edit
        if isinstance(trained, Factors):
            factors = {n: (f, f) for n, f in zip(trained.neurons, trained.values, strict=True) if f != 1}
            edit = Edit(self.name, self.base, factors, chosen=chosen)
            fold(edit, model.model)
            round_to(model.model, self.stored)
            edit = self._as_written(model, edit)
            edit.write(self.to)
            return edit
        edit = Edit(self.name, self.base, {}, chosen=chosen, weights="to be")
        return export_trained(trained, model, edit, self.to, self.stored, self.say, lambda edit: self._as_written(model, edit))

    def _as_written(self, model: LoadedModel, edit: Edit) -> Edit:
        """With the validation loss of the weights as they are written, or would be with factors folded into them: in 16 bits,
        small changes are rounded away."""
        from ...lm.loading import DTYPES
        from ...lm.trained import Nothing
        from ...lm.training import Training

        tuned = edit.chosen["tuned"]
        if DTYPES[self.stored].itemsize > DTYPES[model.dtype_name].itemsize:
            return edit  # these weights are rounded where those that are written will not be
        if not (validation := self.texts[len(self.texts) - self.settings.validation :] if self.settings.validation else []):
            return edit
        loss = fmean(Training(model, Nothing(), self.settings.checkpointing).losses(validation))
        before, after = (_loss(tuned["curve"][i]["validation"]) for i in (0, tuned["taken"]))
        self.say(f"validation loss {_loss(loss)} as it is written; {after} as it was trained, {before} without")
        return replace(edit, chosen={**edit.chosen, "tuned": {**tuned, "written": _rounded(loss)}})


def _places(parameters: Iterable[str]) -> list[str]:
    """What projections (IA)³ stands at, by their last names."""
    return sorted({name.partition(".ia3_l")[0].rpartition(".")[2] for name in parameters})


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
