"""Tune: train factors or vectors of chosen neurons on worked problems, or beside them adapters or all weights.

Some of the worked problems (`worked.py`) are kept for validation: the learning rate and the pass after which the most of them
are solved are taken, of as many those with the least loss. Where the model wrote the solutions, and its right ones were taken,
it solves most of them anyway: there the loss alone decides.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...data.roles import token_reckoning
from ...edits.edit import Edit
from ...errors import EditError, UserError, shown
from ...records import Neuron
from ...runs.files import held
from ...runs.session import Session
from ..choosing import choose
from .methods import ALL, FACTORS, FORMULAS, FULL, IA3, LORA, LOSSES, METHODS, Tuning
from .trainer import Trainer
from .worked import ended, parted, worked_problems


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
    if settings.dtype and settings.method == FACTORS:
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
    tuner = Trainer(session, to, neurons, chosen, given, settings, say, null)
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
