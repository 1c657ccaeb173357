"""Run the stages of a study one after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..runs.session import Session, StudyConfig
from ..stages.ablate import ablate
from ..stages.annotate import annotate
from ..stages.calibrate import calibrate
from ..stages.correlate import correlate
from ..stages.damage import damage
from ..stages.discover import discover
from ..stages.keystones import keystones
from ..stages.measure import measure
from ..stages.operations import operations
from ..stages.sweep import sweep
from ..stages.variants import variants

STAGES: dict[str, Callable[..., None]] = {
    "discover": discover,
    "annotate": annotate,
    "keystones": keystones,
    "ablate": ablate,
    "damage": damage,
    "operations": operations,
    "sweep": sweep,
    "measure": measure,
    "variants": variants,
    "correlate": correlate,
    "calibrate": calibrate,
}


def stages_of(config: StudyConfig) -> tuple[str, ...]:
    """The stages of a study with this configuration, in order. The placebo is a study of its own."""
    wanted = {"sweep": config.disruptions, "variants": config.variants > 0 or config.sentences, "calibrate": False}
    return tuple(name for name in STAGES if wanted.get(name, True))


def run_stages(
    session: Session,
    stages: tuple[str, ...] | None = None,
    before: Callable[[str], None] = lambda name: None,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Run stages in order while holding the run folder.

    Args:
        stages: which; None: those of a study with the session's configuration.
        before: is told each stage's name before it runs.
        options: a stage's own keyword arguments.
    """
    with session.run.writing():
        for name in stages_of(session.config) if stages is None else stages:
            before(name)
            STAGES[name](session, **options.get(name, {}))
