"""Run the stages of a study one after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..session import Session, StudyConfig
from ..stages.ablate import ablate
from ..stages.annotate import annotate
from ..stages.damage import damage
from ..stages.discover import discover
from ..stages.disrupt import disrupt
from ..stages.explain import explain
from ..stages.keystones import keystones
from ..stages.measure import measure
from ..stages.operations import operations
from ..stages.placebo import placebo
from ..stages.variants import variants

STAGES: dict[str, Callable[..., None]] = {
    "discover": discover,
    "annotate": annotate,
    "keystones": keystones,
    "ablate": ablate,
    "damage": damage,
    "operations": operations,
    "disrupt": disrupt,
    "measure": measure,
    "variants": variants,
    "explain": explain,
    "placebo": placebo,
}


def stages_of(config: StudyConfig) -> tuple[str, ...]:
    """The stages of a study with this configuration, in order. The placebo is a study of its own."""
    wanted = {"disrupt": config.disruptions, "variants": config.variants > 0 or config.sentences, "placebo": False}
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
