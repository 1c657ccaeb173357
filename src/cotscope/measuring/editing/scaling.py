"""An edit of one factor for what a run has found, as it is chosen: nothing is searched and nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...edits.edit import Base, Edit, check_new
from ...records import Neuron, Pole
from ...runs.session import Session

if TYPE_CHECKING:
    from ...lm.interventions import Scope


def scaled(
    session: Session,
    to: Path,
    choosing: Callable[[], tuple[Sequence[Neuron | Pole], dict[str, Any]]],
    factor: float,
    *,
    scope: Scope = "all",
    name: str = "",
) -> Edit:
    """Make the edit and write it to a file.

    Args:
        choosing: neurons or poles, and how they were chosen, as `choose` says it; called if the file can be written.
        scope: at which tokens, "all", "prompt" or "generated".
        name: of the edit; "": after the file.

    Raises: EditError if the file exists, or if the model says nothing finite with the edit; UserError as `choosing`.
    """
    check_new(to)
    targets, chosen = choosing()
    base = Base.of(session.loaded, session.config.model)
    edit = Edit.scaled(name or to.stem, base, targets, factor, scope=scope, chosen=chosen)
    edit.check(session.loaded, base.weights)
    edit.write(to)
    return edit
