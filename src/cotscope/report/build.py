"""The report of a run: one self-contained HTML file, written from the run folder and nothing else.

A part whose stage has not run, or is stale, is replaced by a line that says so and names the command.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..runs.files import write_text
from ..runs.folder import Run
from ..runs.stage import Stage
from ..stages.registry import STAGES, VERB_OF
from . import (
    ablation,
    account,
    attribute,
    calibrate,
    cards,
    damage,
    evaluate,
    first,
    judge,
    layers,
    predict,
    prompts,
    sweep,
    text,
    variants,
)
from .reading import Reading, part, showing

PARTS: dict[str, Callable[[Reading], Any]] = {
    "screen": first.first,
    "headline": ablation.headline,
    "ablation": ablation.ablation,
    "damage": damage.damage,
    "operations": damage.operations,
    "push": attribute.push,
    "attribution": attribute.attribution,
    "disruptions": sweep.sweep,
    "edits": evaluate.evaluate,
    "prediction": predict.predict,
    "rests_on": cards.rests_on,
    "placebo": calibrate.calibrate,
    "prompts": prompts.prompts,
    "variants": variants.variants,
    "concepts": layers.layers,
    "cards": cards.cards,
    "judge": judge.judge,
    "account": account.account,
}
"""What the parts of the page show, by the name that their templates have for it. A new part stands here, and `report.html.j2`
includes its template."""


def write_report(run: Run) -> Path:
    """Write `report.html` into a run folder, in one step, and return its path.

    Args:
        run: it may be one whose later stages have not run yet, or are stale.

    Raises:
        RunError: a table in it can't be read, or a figure is of another kind than cotscope writes.
    """
    target = run.folder / "report.html"
    with showing(run.folder):
        page = _page(Reading(run))
    write_text(target, page)
    return target


@cache
def _template() -> jinja2.Template:
    """The page's template, compiled once: a study writes its report after every stage."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever the run folder holds, hidden characters are made visible before the text is escaped.
        finalize=lambda value: text.visible(value) if type(value) is str else value,
    )
    environment.filters |= {"number": text.number, "p": text.p_value, "seconds": text.seconds, "chip": text.chip}
    environment.globals |= {
        "interval": text.interval,
        "is_number": text.is_number,
        "verb": VERB_OF,
        "made_by": {s.name: _command(s) for s in STAGES},
    }
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _command(stage: Stage) -> str:
    """What makes a stage's figures, and no other stage's of its command."""
    words = next((f" {flag} {next(iter(found))}" for flag, found in stage.chosen_by.items()), "")
    return f"cotscope {stage.verb} RUN{words}"


def _page(run: Reading) -> str:
    """The whole page as text."""
    return _template().render(
        state=run.state,
        finding_of={name: record.get("finding") for name, record in run.manifest["stages"].items()},
        written=datetime.now(UTC).strftime("%Y-%m-%d"),
        model={**part(run.manifest, "model"), **part(run.summary, "model")},
        data={**part(run.manifest, "data"), **part(run.summary, "data")},
        units=part(run.manifest, "units"),
        first_prompt=run.first_prompt,
        phenomena=run.rows("phenomena"),
        explained=run.state("correlate").current,
        contexts=run.has("contexts"),
        **{name: part(run.summary, name) for name in ("baseline", "neurons", "correlation", "stability")},
        **{name: content(run) for name, content in PARTS.items()},
    )
