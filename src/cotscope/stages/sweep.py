"""Disrupt: does a set matter however it is disrupted, and how much of it must be?

The target set and a few random ones are scaled, set to their mean or to what they were on other problems, and given
noise, in several doses, and zeroed in the prompt alone or in what follows it alone. Outcomes cost a pass each and need
no luck: the log-probability of given solutions by role, the battery of other skills, perplexity and KL on general text.

Reads: `sets`, completions of the first prompt. Writes: `continuations`; `arrays/reference.safetensors`;
`disruption_items` (a file per set and disruption); `disruptions`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..data.load import general_text
from ..data.roles import ROLES
from ..measuring.neurons import comparison
from ..measuring.solutions import Continuation, continuations, score_battery, score_roles
from ..records import Neuron
from ..runs.session import Session
from ..stats import paired_bootstrap, sign_flip_p

if TYPE_CHECKING:
    from ..lm.interventions import Intervention, Reference, Scope

MATCHED, UNMATCHED = 2, 1  # random sets that are disrupted in every way, the first ones of the ablation
BATTERY_ITEMS = 8  # per task, at most
REFERENCE_PROBLEMS = 16  # discovery problems, at most, that reference coefficients come from
OUTCOMES = (*ROLES, "battery")
TEXT_OUTCOMES = ("perplexity", "kl")
ITEMS = pa.schema([(n, pa.string()) for n in ("unit", "outcome", "item")] + [("value", pa.float64())])
TABLE = pa.schema(
    [(n, pa.string()) for n in ("neuron_set", "set_kind", "kind")]
    + [("dose", pa.float64()), ("scope", pa.string()), ("outcome", pa.string()), ("n", pa.int32())]
    + [(n, pa.float64()) for n in ("value", "change", "low", "high", "p")]
)
UNITS = {
    "disruptions.value": "given solutions: mean over problems of the mean log-probability (nats) at tokens of a role; "
    "battery: share of items right; perplexity and KL (nats): over the first 512 tokens of the general text",
    "disruptions.change": "the same, less that of the untouched model; interval: paired bootstrap over problems or items",
    "disruptions.specific": "change under the target set less the mean change under the matched sets, paired likewise",
    "disruptions.dose": "scale: the factor; noise: the length of what is added to a value vector over the vector's own",
}


@dataclass(frozen=True)
class Disruption:
    """One way to disrupt a set.

    Attributes:
        kind: "scale", "mean", "resample", "noise" or "paper_noise"; "none": nothing is done.
        dose: the factor (scale), multiples of the vector's own size (noise); None where there is none.
        scope: where in the sequence.
    """

    kind: str
    dose: float | None = None
    scope: Scope = "all"

    @property
    def name(self) -> str:
        """As in `scale_0.5` or `scale_0_prompt`."""
        parts = [self.kind] + ([] if self.dose is None else [f"{self.dose:g}"])
        return "_".join(parts + ([] if self.scope == "all" else [self.scope]))


DISRUPTIONS = (
    *(Disruption("scale", dose) for dose in (0.0, 0.25, 0.5, 0.75, 1.5, 2.0)),
    Disruption("mean"),
    Disruption("resample"),
    *(Disruption("noise", dose) for dose in (0.5, 1.0, 2.0, 3.0)),
    Disruption("paper_noise"),
    Disruption("scale", 0.0, "prompt"),
    Disruption("scale", 0.0, "generated"),
)


@dataclass(frozen=True)
class _Set:
    name: str
    kind: str
    neurons: tuple[Neuron, ...]

    def unit(self, disruption: Disruption) -> str:
        """The name of this set's file for one disruption."""
        return f"{self.name}.{disruption.name}"


_UNTOUCHED, _NOTHING = _Set("none", "none", ()), Disruption("none")


def sweep(session: Session) -> None:
    """Run the stage. What has been scored is not scored again."""
    run = session.run
    run.require("ablate", f"cotscope ablate {run.folder}")
    with run.stage("disrupt", UNITS):
        sets = _sets(session)
        given = continuations(session)
        if not given:
            run.note("No solution could be given: the data has none and the model solved nothing. `disruptions` is empty.")
            return
        state = _state(session, sets, given)
        reference = _reference(session, sets, state["of"])
        ways = [d for d in DISRUPTIONS if reference is not None or d.kind not in ("mean", "resample")]
        plan = [(_UNTOUCHED, [_NOTHING]), *((s, ways) for s in sets)]
        missing = sum(s.unit(d) not in state["done"] for s, its in plan for d in its)
        with session.bar("disrupt", missing, "disruption") as bar:
            for s, its in plan:
                left = [d for d in its if s.unit(d) not in state["done"]]
                interventions = {s.unit(d): _intervention(session, d, s.neurons, reference) for d in left}
                _score_text(session, state, interventions)
                for unit, intervention in interventions.items():
                    items = _items(session, unit, given, intervention)
                    run.write_rows(f"disruption_items/{unit}", items, ITEMS)
                    state["done"].append(unit)
                    run.save()
                    bar.update()
        _summarise(session, plan, state["text"])


def _sets(session: Session) -> list[_Set]:
    """The target (the comparable set, where there is one), the first matched sets and the first unmatched one."""
    found: dict[tuple[str, str], list[Neuron]] = {}
    for r in session.run.rows("SELECT neuron_set, kind, layer, index FROM sets ORDER BY kind, seed, neuron_set, layer, index"):
        found.setdefault((r["neuron_set"], r["kind"]), []).append(Neuron(r["layer"], r["index"]))
    sets = [_Set(name, kind, tuple(neurons)) for (name, kind), neurons in found.items()]

    def first(kind: str, count: int) -> list[_Set]:
        return [s for s in sets if s.kind == kind][:count]

    target = first(comparison(session.run), 1)
    return target + first("matched", MATCHED) + first("unmatched", UNMATCHED)


def _state(session: Session, sets: list[_Set], given: tuple[Continuation, ...]) -> dict[str, Any]:
    """What has been done, in the manifest; void if the sets, the solutions or the ways to disrupt are others."""
    run = session.run
    mark = sha256(repr((sets, DISRUPTIONS, [(c.tokens, c.roles) for c in given])).encode()).hexdigest()
    state = run.manifest.setdefault("disruptions", {})
    if state.get("of") != mark:
        shutil.rmtree(run.folder / "tables" / "disruption_items", ignore_errors=True)
        state |= {"of": mark, "done": [], "text": {}}
    return state


def _reference(session: Session, sets: list[_Set], mark: str) -> Reference | None:
    """Every coefficient of the sets' neurons on right completions of discovery problems; None if there is none.

    Recorded once, at the positions that chose the completions' tokens, and kept in `arrays/reference.safetensors`.
    """
    from ..lm.interventions import Reference
    from ..lm.recorders import ChosenNeurons
    from ..lm.scoring import Given, score

    run, prompt = session.run, session.prompts[0]
    if (stored := run.arrays("reference")) is not None and stored.metadata["of"] == mark:
        where = zip(stored.arrays["layer"].tolist(), stored.arrays["index"].tolist())
        return Reference(tuple(Neuron(*n) for n in where), stored.arrays["coefficients"])
    right = {
        r["problem_id"]: r["token_ids"]
        for r in run.rows(
            """SELECT problem_id, token_ids FROM completions
               WHERE split = 'discovery' AND prompt = ? AND neuron_set = 'none' AND correct AND len(token_ids) > 0""",
            [prompt.name],
        )
    }
    problems = [p for p in session.split.discovery if p.id in right][:REFERENCE_PROBLEMS]
    if not problems:
        run.note("No discovery problem was solved: neurons could not be set to their mean or to other problems' values.")
        return None
    rows: dict[int, np.ndarray] = {}
    recorder = ChosenNeurons(
        session.loaded.anatomy,
        {n for s in sets for n in s.neurons},
        lambda row, coefficients: rows.__setitem__(row, coefficients.cpu().numpy()),
    )
    texts = tuple(prompt.text(p.question) for p in problems)
    tokens = tuple(tuple(right[p.id]) for p in problems)
    score(session.engine, Given(texts, tokens, tuple(frozenset() for _ in tokens), recorder))
    neurons, coefficients = tuple(recorder.neurons), np.concatenate([rows[i] for i in range(len(problems))])
    arrays = {
        "coefficients": coefficients,
        "layer": np.array([n.layer for n in neurons], np.int32),
        "index": np.array([n.index for n in neurons], np.int32),
        "problem": np.repeat(np.arange(len(problems), dtype=np.int32), [len(t) for t in tokens]),
    }
    run.write_arrays("reference", arrays, {"of": mark, "problems": json.dumps([p.id for p in problems])})
    return Reference(neurons, coefficients)


def _intervention(
    session: Session, disruption: Disruption, neurons: tuple[Neuron, ...], reference: Reference | None
) -> Intervention | None:
    from ..lm import interventions

    anatomy, seed, scope = session.loaded.anatomy, session.config.seed, disruption.scope
    make = {
        "none": lambda: None,
        "scale": partial(interventions.scale, anatomy, neurons, disruption.dose, scope),
        "mean": partial(interventions.mean, anatomy, neurons, reference, scope),
        "resample": partial(interventions.resample, anatomy, neurons, reference, seed, scope),
        "noise": partial(interventions.noise, anatomy, neurons, disruption.dose, seed, scope),
        "paper_noise": partial(interventions.paper_noise, anatomy, neurons, seed, scope),
    }
    return make[disruption.kind]()


def _score_text(session: Session, state: dict[str, Any], interventions: dict[str, Intervention | None]) -> None:
    """Perplexity and KL of those that have none yet. Under the scope "generated" a text that is only read has none."""
    from ..lm.scoring import text_scores

    reading = {
        unit: i for unit, i in interventions.items() if unit not in state["text"] and (i is None or i.scope != "generated")
    }
    if reading:
        found = text_scores(session.loaded, general_text(), reading, at_most=1)
        for unit, score in found.items():  # JSON has no infinity, which a broken model's perplexity may be
            state["text"][unit] = {key: value if isfinite(value) else None for key, value in asdict(score).items()}
        session.run.save()


def _items(
    session: Session, unit: str, given: tuple[Continuation, ...], intervention: Intervention | None
) -> list[dict[str, object]]:
    """One row per outcome and problem or item."""
    rows: list[dict[str, object]] = [
        {"unit": unit, "outcome": role, "item": c.problem.id, "value": fmean(t.log_prob for t in scores[role])}
        for c, scores in zip(given, score_roles(session.engine, session.prompts[0], given, intervention), strict=True)
        for role in ROLES
        if role in scores
    ]
    for task, item, hit in score_battery(session.engine, min(BATTERY_ITEMS, session.config.battery), intervention):
        rows.append({"unit": unit, "outcome": "battery", "item": f"{task}/{item}", "value": float(hit)})
    return rows


def _summarise(session: Session, plan: list[tuple[_Set, list[Disruption]]], text: dict[str, dict[str, float | None]]) -> None:
    run, seed = session.run, session.config.seed
    values: dict[tuple[str, str], dict[str, float]] = {}  # (unit, outcome) → item → value
    for r in run.rows("SELECT unit, outcome, item, value FROM disruption_items ORDER BY ALL"):
        values.setdefault((r["unit"], r["outcome"]), {})[r["item"]] = r["value"]
    untouched = _UNTOUCHED.unit(_NOTHING)
    outcomes = [o for o in OUTCOMES if (untouched, o) in values]
    tokens = _text_tokens(session)
    rows = []
    for s, its in plan:
        for d in its:
            about = {"neuron_set": s.name, "set_kind": s.kind, "kind": d.kind, "dose": d.dose, "scope": d.scope}
            for outcome in outcomes:
                own = values[s.unit(d), outcome]
                changes = [own[item] - value for item, value in values[untouched, outcome].items()]
                change, low, high = paired_bootstrap(changes, seed)
                row = {"outcome": outcome, "n": len(changes), "value": fmean(own.values()), "change": change}
                rows.append(about | row | {"low": low, "high": high, "p": sign_flip_p(changes, seed)})
            for outcome in TEXT_OUTCOMES:
                value, before = (text.get(unit, {}).get(outcome) for unit in (s.unit(d), untouched))
                change = None if None in (value, before) else value - before
                rows.append(about | {"outcome": outcome, "n": tokens, "value": value, "change": change})
    run.write_rows("disruptions", rows, TABLE)
    target = plan[1][0]
    matched = [s for s, _ in plan if s.kind == "matched"]
    specific: dict[str, dict[str, Any]] = {}
    for d in plan[1][1]:
        found: dict[str, Any] = {}
        for outcome in outcomes:
            own, controls = values[target.unit(d), outcome], [values[s.unit(d), outcome] for s in matched]
            beyond = [value - fmean(c[item] for c in controls) for item, value in own.items()]
            found[outcome] = dict(zip(("change", "low", "high"), paired_bootstrap(beyond, seed)))
        for outcome in TEXT_OUTCOMES:
            own, *controls = (text.get(s.unit(d), {}).get(outcome) for s in (target, *matched))
            if None not in (own, *controls):
                found[outcome] = {"change": own - fmean(controls)}
        specific[d.name] = asdict(d) | {"outcomes": found}
    names = {"target": target.name, "matched": [s.name for s in matched]}
    run.summarise("disruptions", names | {"specific": specific})


def _text_tokens(session: Session) -> int:
    """Tokens of the general text that are scored."""
    from ..lm.scoring import WINDOW

    start = len(session.loaded.encode(""))
    return min(WINDOW, len(session.loaded.encode(general_text())) - start) + start - 1
