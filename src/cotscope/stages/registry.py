"""All stages, in the order in which a study runs them, and which of them a command's words choose: a new one is added here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, shown
from ..runs.stage import Stage, never
from . import (
    ablate,
    annotate,
    attribute,
    calibrate,
    cascade,
    correlate,
    damage,
    discover,
    evaluate,
    keystones,
    measure,
    operations,
    predict,
    push,
    sets,
    sweep,
    variants,
)

STAGES: tuple[Stage, ...] = (
    discover.STAGE,
    annotate.STAGE,
    keystones.STAGE,
    sets.STAGE,
    ablate.STAGE,
    damage.STAGE,
    push.STAGE,
    operations.STAGE,
    attribute.STAGE,
    sweep.STAGE,
    measure.STAGE,
    variants.STAGE,
    correlate.STAGE,
    predict.STAGE,
    cascade.STAGE,
    evaluate.STAGE,
    calibrate.STAGE,
)
IN_STUDY = tuple(stage for stage in STAGES if stage.wanted is not never)
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}
VERB_OF: dict[str, str] = {stage.name: stage.verb for stage in STAGES}
VERBS: dict[str, tuple[Stage, ...]] = {
    verb: tuple(s for s in STAGES if s.verb == verb) for verb in dict.fromkeys(VERB_OF.values())
}
THOROUGH: dict[str, dict[str, object]] = {
    "study": {"limit": 192},
    "sets": {"matched": 20},
    "variants": {"variants": variants.MANY, "sentences": True},
    "attribute": {"attribution": True},
    "sweep": {"disruptions": True},
}
"""What `--thorough` sets where the user did not: options of the study, and of stages."""


def chosen_by(verb: str) -> dict[str, list[str]]:
    """The flags that choose among a command's stages, and the words that they take."""
    words: dict[str, dict[str, None]] = {}
    for stage in VERBS[verb]:
        for flag, found in stage.chosen_by.items():
            words.setdefault(flag, {}).update(dict.fromkeys(found))
    return {flag: list(found) for flag, found in words.items()}


def choose(verb: str, words: Mapping[str, Sequence[str]]) -> tuple[list[Stage] | None, dict[str, dict[str, Any]]]:
    """The stages of a command that words after its flags choose, and the options that these words set.

    Args:
        words: flag → its words, as in {"--prompts": ["variants"]}; those that were not given are not there.

    Returns: None for the stages where nothing was chosen.

    Raises: UserError for a word that the flag does not take, or words that choose nothing together.
    """
    if not words:
        return None, {}
    for flag, given in words.items():
        if unknown := [w for w in given if w not in chosen_by(verb)[flag]]:
            raise UserError(f"{flag} does not take this", expected=" or ".join(chosen_by(verb)[flag]), got=shown(unknown[0]))
    stages, options, chose = [], dict[str, dict[str, Any]](), False
    for stage in VERBS[verb]:
        told = {flag: [w for w in given if w in stage.chosen_by.get(flag, {})] for flag, given in words.items()}
        mine = bool(stage.chosen_by) and all(told.values())
        if stage.chosen_by and not mine and not stage.always:
            continue
        stages.append(stage)
        chose |= mine
        for flag, chosen in told.items():
            for word in chosen:
                if sets := stage.chosen_by[flag][word]:
                    options.setdefault(stage.name, {}).update(sets)
    if not chose:
        said = " ".join(f"{flag} {' '.join(given)}" for flag, given in words.items())
        raise UserError(f"{said} chooses nothing together", remedy=f"See `cotscope {verb} --help`.")
    return stages, options


def beyond(options: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of the options that words set (`choose`) for which the run has none yet that asks for something."""
    return {s: {k: v for k, v in of.items() if not stored.get(s, {}).get(k)} for s, of in options.items()}
