"""cotscope: which feed-forward neurons stand for a concept, whether they matter, and how prompts switch them on.

What a notebook needs is here; nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("cotscope")

_WHERE = {
    **dict.fromkeys(
        (
            "study",
            "discover",
            "annotate",
            "ablate",
            "attribute",
            "sweep",
            "measure",
            "correlate",
            "predict",
            "cascade",
            "calibrate",
            "evaluate",
            "edit",
            "steer",
            "tune",
            "status",
        ),
        "cotscope.api",
    ),
    "StudyConfig": "cotscope.runs.config",
    "Session": "cotscope.runs.session",
    "Run": "cotscope.runs.folder",
    "neurons": "cotscope.runs.notebook",
    "poles": "cotscope.runs.notebook",
    "load_model": "cotscope.lm.loading",
    "Edit": "cotscope.edits.edit",
    "export": "cotscope.edits.fold",
    "Engine": "cotscope.lm.engine",
    "ActivePoles": "cotscope.lm.recorders",
    "scale": "cotscope.lm.interventions",
    "logit_bias": "cotscope.lm.interventions",
    "project": "cotscope.lm.projection",
    "load_problems": "cotscope.data.load",
    "Neuron": "cotscope.records",
    "Pole": "cotscope.records",
    "UserError": "cotscope.errors",
}
__all__ = sorted(_WHERE)

if TYPE_CHECKING:
    from .api import ablate as ablate
    from .api import annotate as annotate
    from .api import attribute as attribute
    from .api import calibrate as calibrate
    from .api import cascade as cascade
    from .api import correlate as correlate
    from .api import discover as discover
    from .api import edit as edit
    from .api import evaluate as evaluate
    from .api import measure as measure
    from .api import predict as predict
    from .api import status as status
    from .api import steer as steer
    from .api import study as study
    from .api import sweep as sweep
    from .api import tune as tune
    from .data.load import load_problems as load_problems
    from .edits.edit import Edit as Edit
    from .edits.fold import export as export
    from .errors import UserError as UserError
    from .lm.engine import Engine as Engine
    from .lm.interventions import logit_bias as logit_bias
    from .lm.interventions import scale as scale
    from .lm.loading import load_model as load_model
    from .lm.projection import project as project
    from .lm.recorders import ActivePoles as ActivePoles
    from .records import Neuron as Neuron
    from .records import Pole as Pole
    from .runs.config import StudyConfig as StudyConfig
    from .runs.folder import Run as Run
    from .runs.notebook import neurons as neurons
    from .runs.notebook import poles as poles
    from .runs.session import Session as Session


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'cotscope' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
