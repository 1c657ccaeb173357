"""The report of a run: one self-contained HTML file, written from the run folder and nothing else.

A part whose stage has not run, or is stale, is replaced by a line that says so and names the command.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..runs.files import write_text
from ..runs.folder import Run
from ..runs.stage import Stage, stale_because
from ..stages.registry import STAGES, VERB_OF
from . import attribute, calibrate, cards, damage, evaluate, figures, first, judge, predict, sweep, text, variants
from .charts import Chart
from .reading import Reading, showing

KINDS = {
    "none": "nothing disrupted",
    "reasoning": "reasoning neurons",
    "comparable": "reasoning with counterparts",
    "matched": "matched random",
    "unmatched": "unmatched random",
    "lexicon": "all candidates (lexicon only)",
    "rejected": "rejected candidates",
}
"""What the report calls each kind of set, in the order in which it shows them."""
LEVEL = 0.05
_MOST_DUPLICATES = 50
_BY_LAYER_SQL = """
    SELECT concept, layer, count(*) AS poles
    FROM (SELECT DISTINCT layer, "index", sign, concept FROM annotations WHERE accepted)
    GROUP BY ALL ORDER BY ALL
"""


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


def _rests_on(run: Reading) -> list[tuple[int, int]]:
    """The neurons that the prediction rests on most."""
    found = _part(run.summary, "prediction").get("rests_on") or ()
    return [(n["layer"], n["index"]) for n in found]


def _page(run: Reading) -> str:
    """The whole page as text."""
    prompt = _first_prompt(run)
    screen = first.first(run, prompt)
    return _template().render(
        state=run.state,
        written=datetime.now(UTC).strftime("%Y-%m-%d"),
        model={**_part(run.manifest, "model"), **_part(run.summary, "model")},
        data={**_part(run.manifest, "data"), **_part(run.summary, "data")},
        baseline=_part(run.summary, "baseline"),
        neurons=_part(run.summary, "neurons"),
        units=_part(run.manifest, "units"),
        first_prompt=prompt,
        screen=screen,
        headline=_headline(run),
        ablation=_ablation(run),
        damage=damage.damage(run, KINDS),
        operations=damage.operations(run),
        push=attribute.push(run),
        attribution=attribute.attribution(run),
        disruptions=sweep.sweep(run, KINDS),
        edits=evaluate.evaluate(run),
        prediction=predict.predict(run),
        placebo=calibrate.calibrate(run),
        prompts=_prompts(run),
        variants=variants.section(run),
        correlation=_part(run.summary, "correlation"),
        stability=_part(run.summary, "stability"),
        phenomena=run.rows("phenomena"),
        explained=run.state("correlate").current,
        concepts=_concepts(run),
        cards=cards.cards(run, prompt),
        rests_on=cards.cards(run, prompt, _rests_on(run)),
        contexts=run.has("contexts"),
        judge=judge.judge(run),
        account=_account(run),
    )


def _part(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A nested part of a JSON file; empty where it, or a part above it, is missing."""
    for key in keys:
        content = content.get(key) or {}
        if not isinstance(content, dict):
            return {}
    return dict(content)


def _first_prompt(run: Reading) -> str:
    """The prompt under which the set was discovered: the first of the study."""
    prompts = run.manifest.get("prompts") or [{}]
    return str(prompts[0].get("name") or _part(run.summary, "baseline").get("prompt") or "")


def _headline(run: Reading) -> dict[str, Any]:
    """The figures of the first paragraph, and the sentences that follow from them."""
    ablation = _part(run.summary, "ablation")
    each = [found.get("accuracy") for found in ablation.get("matched_each") or [] if isinstance(found, dict)]
    matched = [accuracy for accuracy in each if text.is_number(accuracy)]
    unmatched_sets = sum(row["kind"] == "unmatched" for row in run.rows("ablation"))
    return {
        "reasoning": _part(ablation, "reasoning"),
        "comparable": _part(ablation, "comparable") if ablation.get("target") == "comparable" else {},
        "matched": _part(ablation, "matched_mean"),
        "matched_each": matched,
        "unmatched": _part(ablation, "unmatched_mean"),
        "unmatched_sets": unmatched_sets,
        "none": _part(ablation, "none"),
        "p": ablation.get("p_value"),
        "smallest_p": 1 / (len(matched) + 1),
        "judgement": _judgement(
            _part(run.summary, "baseline").get("accuracy"),
            (_part(ablation, "comparable") or _part(ablation, "reasoning")).get("accuracy"),
            _part(ablation, "matched_mean").get("accuracy"),
            matched,
            ablation.get("p_value"),
        ),
    }


def _judgement(base: Any, reasoning: Any, mean: Any, matched: Sequence[float], p: Any) -> list[str]:
    """What the figures of the ablation say, and no more, in whole sentences."""
    if not text.is_number(reasoning):
        return []
    said = []
    if text.is_number(base) and reasoning >= base:
        said.append("Disrupting the reasoning neurons did not lower the accuracy.")
    if text.is_number(mean) and matched:
        spared = sum(accuracy > reasoning for accuracy in matched)
        sets = f"{spared} of the {len(matched)} matched sets" if spared < len(matched) else "every one of them"
        sets = "the one matched set" if len(matched) == 1 else sets
        if reasoning < mean:
            said.append(
                "The reasoning neurons do more damage than "
                + (f"{sets}." if len(matched) == 1 else f"matched sets do on average, and more than {sets}.")
            )
        else:
            said.append(
                "The reasoning neurons do no more damage than matched sets: this run gives no evidence that its "
                "neurons matter more than others that are as large and as often active."
            )
    if text.is_number(p) and matched:
        if 1 / (len(matched) + 1) > LEVEL:
            said.append(f"With so few sets no difference, however large, could reach p ≤ {LEVEL}.")
        elif p > LEVEL:
            said.append(f"At the {LEVEL} level the difference could be due to which neurons a set happens to hold.")
    return said


def _kind_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds among the rows: those that the report knows first, in its order."""
    found = dict.fromkeys(str(row["kind"]) for row in rows)
    return [kind for kind in KINDS if kind in found] + [kind for kind in found if kind not in KINDS]


def _ablation(run: Reading) -> dict[str, Any]:
    """The conditions of the ablation by kind, their figure, and how well the sets are matched."""
    rows = run.rows("ablation")
    groups = []
    for kind in _kind_order(rows):
        own = [row for row in rows if row["kind"] == kind]
        group: dict[str, Any] = {"kind": kind, "label": KINDS.get(kind, kind), "rows": own}
        for key in ("accuracy", "accuracy_strict", "perplexity"):
            values = [row[key] for row in own if text.is_number(row.get(key))]
            group[key] = sum(values) / len(values) if values else None
            group[f"{key}_range"] = (min(values), max(values)) if values else (None, None)
        groups.append(group)
    bars = [
        figures.Bar(row["neuron_set"], row["kind"], row["accuracy"], row.get("low"), row.get("high"))
        for group in groups
        for row in group["rows"]
        if text.is_number(row["accuracy"])
    ]
    matching = [row for row in run.rows("matching") if row["neuron_set"] != row.get("target", "reasoning")]
    for row in matching:
        row["label"] = KINDS.get(row["kind"], row["kind"])
        for key in ("mean_update_size", "mean_steps"):
            aim = row.get(f"target_{key}")
            row[f"{key}_ratio"] = row[key] / aim if text.is_number(row.get(key)) and aim else None
    chart = (
        Chart(
            figures.ablation_bars(bars, KINDS),
            "Each dot is one set of neurons with its 95 % interval; bar and thick line end at the mean of its kind.",
            "ablate",
            "ablation",
            [bar._asdict() for bar in bars],
            text.counted((row.get("n") for row in rows), "problems"),
        )
        if bars
        else None
    )
    return {"groups": groups, "chart": chart, "matching": matching}


def _prompts(run: Reading) -> dict[str, Any]:
    """The study's prompts and their scatter figure."""
    rows = run.rows("prompts", "SELECT * FROM prompts WHERE family = 'study'")
    points = [
        figures.Point(row["prompt"], row["poles_per_token"], row["accuracy"], row.get("low"), row.get("high"))
        for row in rows
        if text.is_number(row["poles_per_token"]) and text.is_number(row["accuracy"])
    ]
    label = "generated activity (active reasoning poles per generated token)"
    left_out = {row["left_out"]: row["poles"] for row in run.rows("held_out")}
    return {
        "rows": rows,
        "chart": Chart(
            figures.prompt_scatter(points, label),
            "One dot per prompt; the vertical lines are 95 % intervals of the accuracy.",
            "measure",
            "prompts",
            [{"prompt": p.name, "poles_per_token": p.x, "accuracy": p.y, "low": p.low, "high": p.high} for p in points],
            text.counted((row["n"] for row in rows), "problems under each prompt"),
        )
        if points
        else None,
        "concepts": list(dict.fromkeys(row["concept"] for row in run.rows("prompt_concepts"))),
        "by_concept": {(row["prompt"], row["concept"]): row for row in run.rows("prompt_concepts")},
        "roles": list(dict.fromkeys(row["role"] for row in run.rows("prompt_roles"))),
        "by_role": _by_role(run),
        "fixed": any(text.is_number(row["fixed_activity"]) for row in rows),
        "left_out": {row["prompt"]: left_out[row["prompt"]] for row in rows if row["prompt"] in left_out},
        "held_out": {(row["prompt"], row["left_out"]): row for row in run.rows("held_out")},
    }


def _by_role(run: Reading) -> dict[tuple[str, str, str], float]:
    """("own" or "fixed", prompt, role) → activity of all concepts' poles; places that no solution has are left out."""
    return {
        (way, row["prompt"], row["role"]): row[f"{way}_activity"]
        for row in run.rows("prompt_roles", "SELECT * FROM prompt_roles WHERE concept IS NULL")
        for way in ("own", "fixed")
        if text.is_number(row[f"{way}_activity"])
    }


def _concepts(run: Reading) -> dict[str, Any]:
    """The accepted poles: how many per layer and concept."""
    counts = {(row["concept"], row["layer"]): row["poles"] for row in run.rows("annotations", _BY_LAYER_SQL)}
    by_concept = _part(run.summary, "neurons", "by_concept")
    names = list(dict.fromkeys([*by_concept, *(concept for concept, _ in counts)]))
    layers = _part(run.manifest, "model").get("layers")
    highest = max((layer for _, layer in counts), default=-1) + 1
    columns = max(layers if isinstance(layers, int) else 0, highest)
    if not (run.has("annotations") and names and columns):
        return {"annotated": run.has("annotations"), "chart": None}
    chart = Chart(
        figures.heat_map(names, columns, counts, "Number of reasoning poles in each layer, by concept"),
        "Accepted poles by layer and concept; an empty cell is 0, and a pole of two concepts counts under both. Darker (in "
        "dark mode, lighter) means more, on a square-root scale.",
        "annotate",
        "layers",
        [{"concept": concept, "layer": layer, "poles": n} for (concept, layer), n in counts.items()],
    )
    return {"annotated": True, "chart": chart}


def _account(run: Reading) -> dict[str, Any]:
    """What the run was: its command, configuration, data, stages, versions and notes."""
    manifest = run.manifest
    data = _part(manifest, "data")
    command = manifest.get("command") or ""
    duplicates = data.get("duplicates") or []
    return {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else str(command),
        "k": _part(manifest, "config").get("k"),
        "config": [(key, _plain(value)) for key, value in _part(manifest, "config").items()],
        "prompts": manifest.get("prompts") or [],
        "stages": [
            (name, stale_because(found), stage.get("seconds"), stage.get("finding", "") if found.current else "")
            for name, stage in _part(manifest, "stages").items()
            for found in [run.state(name)]
        ],
        "concepts": _part(manifest, "concepts"),
        "seed": _part(manifest, "config").get("seed", text.MISSING),
        "begun": manifest.get("begun") or text.MISSING,
        "seconds": sum(s["seconds"] for s in manifest.get("stages", {}).values()),
        "generate_s": _part(run.summary, "timing").get("generate_s"),
        "version": _part(manifest, "versions").get("cotscope", ""),
        "versions": list(_part(manifest, "versions").items()),
        "schema": manifest.get("schema"),
        "duplicates": len(duplicates),
        "duplicates_shown": duplicates[:_MOST_DUPLICATES],
        "halved": data.get("halved"),
        "notes": run.notes,
        "units": [(key, str(value)) for key, value in _part(manifest, "units").items()],
    }


def _plain(value: Any) -> str:
    """A value of the configuration as text: JSON for all but strings."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
