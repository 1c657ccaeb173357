"""Tune: train factors or vectors of chosen neurons on worked problems, or beside them adapters or all weights.

Some of the worked problems (`worked.py`) are kept for validation: the learning rate and the pass after which the most of them
are solved are taken, of as many those with the least loss. Where the model wrote the solutions, and its right ones were taken,
it solves most of them anyway: there the loss alone decides.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.roles import token_reckoning
from ...edits.edit import Edit, check_new
from ...errors import EditError, UserError
from ...records import Neuron
from ...runs.files import held
from ...runs.session import Session
from ..choosing import Choice, choose, reservation
from .methods import ALL, FORMULAS, FULL, IA3, LORA, Tuning
from .trainer import Trainer
from .worked import ended, parted, source, tuning_problems, worked_problems, writes_itself


def tune(
    session: Session,
    to: Path,
    choice: Choice,
    settings: Tuning,
    *,
    null: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Edit:
    """Train something of neurons (or by "all" of all), or what needs none, and write the edit or the model.

    What is done of it is kept beside `to`; the same call goes on there. Ctrl-C keeps the best so far.

    Args:
        choice: of LoRA without `trainable`: whose neurons' value vectors are as many numbers.
        null: write an edit that changes nothing if nothing is gained: the result of a control, which counts.

    Raises: EditError if `to` exists or has no room, if too few problems have solutions, if there is no time for a step, or,
        without `null`, if nothing is gained on validation problems; UserError as `choose`; ModelError if it does not fit into
        memory.
    """
    check_new(to, "a new file or folder")
    neurons, chosen = _neurons(session, choice, settings)
    if settings.method in (LORA, IA3):
        from ...lm.trained import check_adapters

        check_adapters(settings.method, session.loaded)  # before solutions are written
    wanted = settings.train + settings.validation
    every = tuning_problems(session, settings.train_on, say)
    if len(every) <= settings.validation:
        raise _too_few(settings, len(every))  # before the model writes
    if not settings.own and writes_itself(every, wanted):
        say("the data has too few solutions")
        settings = replace(settings, own=True)
    if not settings.own:
        settings = replace(settings, draws=0)  # nothing is drawn: else its control without --draws were another training
    if reserved := reservation(chosen):
        say(reserved)
    given = worked_problems(session, every, wanted, say, own=settings.own, draws=settings.draws, seed=settings.seed,
                            folder=to.parent)  # fmt: skip
    loaded, prompt = session.loaded, session.prompt
    limit = session.config.new_tokens(prompt)
    if long := sum(len(ended(loaded, prompt, said)) > limit for _, said in given):
        say(f"{long} of {len(given)} solutions are longer than the {limit} tokens that the model may write in this study: who "
            "learns to write so much is cut (a study of more --max-new-tokens would not)")  # fmt: skip
    if settings.loss == FORMULAS:
        given = [(p, said) for p, said in given if any(token_reckoning(loaded, ended(loaded, prompt, said), p.words))]
    given = parted(given, settings.validation, say)
    if len(given) <= settings.validation:
        raise _too_few(settings, len(given))
    tuner = Trainer(session, to, neurons, chosen, given, settings, say, null, source(session, every))
    tuner.folder.mkdir(parents=True, exist_ok=True)
    with held(tuner.folder):  # a process that `compare` began may outlive it
        try:
            return tuner.run(*settings.rates())
        finally:
            if not any(tuner.folder.glob("*.safetensors")):
                shutil.rmtree(tuner.folder, ignore_errors=True)


def _too_few(settings: Tuning, problems: int) -> EditError:
    return EditError(
        "too few problems with a solution to train on",
        expected=f"more than {settings.validation}, which are kept for validation",
        got=str(problems),
        remedy="Give more problems (--train-on FILE), or a smaller --validation.",
    )


def _neurons(session: Session, choice: Choice, settings: Tuning) -> tuple[list[Neuron], dict[str, Any]]:
    """The neurons that something is trained of, and how they were chosen."""
    whole = settings.method in (IA3, FULL) or (settings.method == LORA and bool(settings.trainable))
    if (whole or choice.by == ALL) and not choice.whole:
        of = settings.method if whole else "all neurons"
        raise UserError(f"{of} can't be trained as some of them, or as random ones",
                        expected="no --first, --random, --concept or --layers")  # fmt: skip
    if whole:
        return [], {"by": settings.method}
    if choice.by == ALL:
        anatomy = session.loaded.anatomy
        neurons = [Neuron(layer, i) for layer in range(anatomy.layers) for i in range(anatomy.width)]
        chosen: dict[str, Any] = {"by": ALL, "neurons": len(neurons)}
    else:
        neurons, chosen = choose(session, choice)
    return neurons, {"by": LORA} if settings.method == LORA else chosen
