"""All stages, in the order in which a study runs them. A new one is added here, and nowhere else."""

from __future__ import annotations

from ..runs.stage import Stage
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
