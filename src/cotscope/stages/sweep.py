"""Sweep: does a set matter however it is disrupted, and how much of it must be?

The target set and a few random ones are scaled, set to their mean or to what they were on other problems, and given
noise, in several doses, and zeroed in the prompt alone or in what follows it alone. Outcomes cost a pass each and need
no luck: the log-probability of reference solutions by role, the battery of other skills, perplexity and KL on general text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.load import general_text
from ..data.roles import ROLES
from ..measuring.neurons import NeuronSet, comparison, read_sets
from ..measuring.solutions import BASELINE, Solution, fingerprint_of, reference_solutions, score_battery, score_roles
from ..records import Neuron
from ..runs.files import fingerprint
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import SETS, SOLUTIONS, SWEEP, SWEEP_ITEMS, SWEEP_TEXT
from ..stats import beyond_controls, paired_bootstrap, paired_shares, sign_flip_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..lm.interventions import Intervention, Reference, Scope

MATCHED, UNMATCHED = 2, 1  # random sets that are disrupted in every way, the first ones of the ablation
REFERENCE_PROBLEMS = 16  # discovery problems, at most, that reference coefficients come from
OUTCOMES = (*ROLES, "battery")
TEXT_OUTCOMES = ("perplexity", "kl")
UNITS = {
    "disruptions.value": "reference solutions: mean over problems of the mean log-probability (nats) at tokens of a role; "
    "battery: share of items right; perplexity and KL (nats): over the first 512 tokens of the general text",
    "disruptions.change": "the same, less that of the untouched model; interval: paired bootstrap over problems or items",
    "disruptions.specific": "change under the target set less the mean change under the matched sets; interval: over "
    "problems or items, and sets",
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


_UNTOUCHED, _NOTHING = NeuronSet("none", "none", None, ()), Disruption("none")


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    disruptions: bool = option(False, "compare kinds, doses and scopes of disruption too", flag="--sweep", where="study")
    sweep_battery: int = option(8, "items per task of the battery under each disruption", kind="positive")


Key = tuple[str, str, float | None, str]


def _about(s: NeuronSet, disruption: Disruption) -> dict[str, Any]:
    """Columns that say which set is disrupted, and how."""
    return {"neuron_set": s.name, "kind": disruption.kind, "dose": disruption.dose, "scope": disruption.scope}


def _key(row: Mapping[str, Any]) -> Key:
    return row["neuron_set"], row["kind"], row["dose"], row["scope"]


def _unit(s: NeuronSet, disruption: Disruption) -> str:
    """The name of the part for one set and one disruption."""
    return f"{s.name}.{disruption.name}"


def sweep(session: Session, options: Options) -> str:
    """Run the stage. What has been scored is not scored again."""
    run = session.run
    sets = _sets(session)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `sweep` is empty.")
        return "no reference solutions"
    reference, mark = _reference(session, sets)
    ways = [d for d in DISRUPTIONS if reference is not None or d.kind not in ("mean", "resample")]
    plan = [(_UNTOUCHED, [_NOTHING]), *((s, ways) for s in sets)]
    units = {_unit(s, d): (s, d) for s, its in plan for d in its}
    made_of = fingerprint_of(given), session.prompt.text(""), session.config.seed, mark
    of = {u: fingerprint(s.neurons, d, options.sweep_battery, *made_of) for u, (s, d) in units.items()}
    missing = {u for u in units if not run.done(f"sweep_items/{u}", of[u])}
    without_text = {u for u, (_, d) in units.items() if d.scope != "generated" and not run.done(f"sweep_text/{u}", of[u])}
    with session.bar("sweep", len(missing), "disruption") as bar:
        for s, its in plan:
            interventions = {
                u: _intervention(session, d, s.neurons, reference) for d in its if (u := _unit(s, d)) in missing | without_text
            }
            _score_text(session, {u: i for u, i in interventions.items() if u in without_text}, units, of)
            for u in [u for u in interventions if u in missing]:
                items = _items(session, given, interventions[u], options.sweep_battery)
                run.write(SWEEP_ITEMS, [_about(*units[u]) | item for item in items], u, of[u])
                bar.update()
    return _summarise(session, plan)


def _sets(session: Session) -> list[NeuronSet]:
    """The target (the comparable set, where there is one), the first matched sets and the first unmatched one."""
    sets = read_sets(session.run)
    chosen = [sets[comparison(sets.values())]]
    for kind, count in (("matched", MATCHED), ("unmatched", UNMATCHED)):
        chosen += [s for s in sets.values() if s.kind == kind][:count]
    return chosen


def _reference(session: Session, sets: list[NeuronSet]) -> tuple[Reference | None, str]:
    """Every coefficient of the sets' neurons on right completions of discovery problems, None if there is none; and the
    fingerprint of what they come from.

    Recorded once, at the positions that chose the completions' tokens, and kept in `arrays/reference.safetensors`.
    """
    from ..lm.interventions import Reference
    from ..lm.recorders import ChosenNeurons
    from ..lm.scoring import Given, score

    run, prompt = session.run, session.prompt
    right = {
        r["problem_id"]: r["token_ids"]
        for r in run.rows(
            """SELECT problem_id, token_ids FROM completions
               WHERE family = 'discovery' AND prompt = ? AND correct AND len(token_ids) > 0""",
            [prompt.name],
        )
    }
    problems = [p for p in session.inputs.split.discovery if p.id in right][:REFERENCE_PROBLEMS]
    mark = fingerprint([s.neurons for s in sets], [(p.id, right[p.id]) for p in problems])
    if not problems:
        run.note("No discovery problem was solved: neurons could not be set to their mean or to other problems' values.")
        return None, mark
    if (stored := run.arrays("reference", mark)) is not None:
        where = zip(stored.arrays["layer"].tolist(), stored.arrays["index"].tolist(), strict=True)
        return Reference(tuple(Neuron(*n) for n in where), stored.arrays["coefficients"]), mark
    rows: dict[int, NDArray[Any]] = {}
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
    run.write_arrays("reference", arrays, {"problems": json.dumps([p.id for p in problems])}, mark)
    return Reference(neurons, coefficients), mark


def _intervention(
    session: Session, disruption: Disruption, neurons: tuple[Neuron, ...], reference: Reference | None
) -> Intervention | None:
    from ..lm import interventions

    anatomy, seed, scope = session.loaded.anatomy, session.config.seed, disruption.scope
    kind, dose = disruption.kind, disruption.dose or 0.0
    if kind == "scale":
        return interventions.scale(anatomy, neurons, dose, scope)
    if kind == "noise":
        return interventions.noise(anatomy, neurons, dose, seed, scope)
    if kind == "paper_noise":
        return interventions.paper_noise(anatomy, neurons, seed, scope)
    if kind == "mean" and reference is not None:
        return interventions.mean(anatomy, neurons, reference, scope)
    if kind == "resample" and reference is not None:
        return interventions.resample(anatomy, neurons, reference, seed, scope)
    assert kind == "none", disruption
    return None


def _score_text(
    session: Session,
    interventions: dict[str, Intervention | None],
    units: Mapping[str, tuple[NeuronSet, Disruption]],
    of: dict[str, str],
) -> None:
    """Perplexity and KL. Under the scope "generated" a text that is only read has none: it is not asked here."""
    from ..lm.scoring import text_scores

    if interventions:
        for unit, score in text_scores(session.loaded, general_text(), interventions, at_most=1).items():
            row = _about(*units[unit]) | {"perplexity": score.perplexity, "kl": score.kl}
            session.run.write(SWEEP_TEXT, [row], unit, of[unit])


def _items(
    session: Session, given: tuple[Solution, ...], intervention: Intervention | None, battery: int
) -> list[dict[str, object]]:
    """One row per outcome and problem or item."""
    rows: list[dict[str, object]] = [
        {"outcome": role, "item": c.problem.id, "value": fmean(t.log_prob for t in scores[role])}
        for c, scores in zip(given, score_roles(session.engine, session.prompt, given, intervention), strict=True)
        for role in ROLES
        if role in scores
    ]
    for task, item, hit in score_battery(session.engine, battery, intervention):
        rows.append({"outcome": "battery", "item": f"{task}/{item}", "value": float(hit)})
    return rows


def _summarise(session: Session, plan: list[tuple[NeuronSet, list[Disruption]]]) -> str:
    run, seed = session.run, session.config.seed
    values: dict[tuple[Key, str], dict[str, float]] = {}  # outcome of a set and a disruption → item → value
    for r in run.rows("SELECT * FROM sweep_items ORDER BY ALL"):
        values.setdefault((_key(r), r["outcome"]), {})[r["item"]] = r["value"]
    text = {_key(r): r for r in run.rows("SELECT * FROM sweep_text")}
    untouched = _key(_about(_UNTOUCHED, _NOTHING))
    outcomes = [o for o in OUTCOMES if (untouched, o) in values]
    tokens = _text_tokens(session)
    rows = []
    for s, its in plan:
        for d in its:
            about = _about(s, d) | {"set_kind": s.kind}
            for outcome in outcomes:
                own = values[_key(about), outcome]
                changes = [own[item] - value for item, value in values[untouched, outcome].items()]
                change, low, high = (paired_shares if outcome == "battery" else paired_bootstrap)(changes, seed)
                row = {"outcome": outcome, "n": len(changes), "value": fmean(own.values()), "change": change}
                rows.append(about | row | {"low": low, "high": high, "p": sign_flip_p(changes, seed)})
            for outcome in TEXT_OUTCOMES:
                value, before = (text.get(key, {}).get(outcome) for key in (_key(about), untouched))
                # JSON has no infinity, which a broken model's perplexity may be
                value, before = (v if v is not None and isfinite(v) else None for v in (value, before))
                moved = None if value is None or before is None else value - before
                rows.append(about | {"outcome": outcome, "n": tokens, "value": value, "change": moved})
    run.write(SWEEP, rows)
    target = plan[1][0]
    matched = [s for s, _ in plan if s.kind == "matched"]
    specific: dict[str, dict[str, Any]] = {}
    for d in plan[1][1]:
        found: dict[str, Any] = {}
        for outcome in outcomes:
            own, *controls = (values[_key(_about(s, d)), outcome] for s in (target, *matched))
            beyond = [[c[item] for item in own] for c in controls]
            shares = outcome == "battery"
            ends = beyond_controls([*own.values()], beyond, seed, shares=shares) if beyond else (nan, nan, nan)
            found[outcome] = dict(zip(("change", "low", "high"), ends))
        for outcome in TEXT_OUTCOMES:
            here: list[Any] = [text.get(_key(_about(s, d)), {}).get(outcome) for s in (target, *matched)]
            if matched and all(v is not None and isfinite(v) for v in here):
                found[outcome] = {"change": here[0] - fmean(here[1:])}
        specific[d.name] = asdict(d) | {"outcomes": found}
    names = {"target": target.name, "matched": [s.name for s in matched]}
    run.summarise("disruptions", names | {"specific": specific})
    if not matched:
        return f"{len(specific)} ways to disrupt; no matched set to compare with"
    halved = specific["scale_0.5"]["outcomes"].get("operator", {}).get("change")
    zeroed = specific["scale_0"]["outcomes"].get("operator", {}).get("change")
    if halved is None or zeroed is None:
        return f"{len(specific)} ways to disrupt"
    return f"operators beyond matched sets: {zeroed:+.2f} nats zeroed, {halved:+.2f} at half"


def _text_tokens(session: Session) -> int:
    """Tokens of the general text that are scored."""
    from ..lm.scoring import WINDOW

    start = len(session.loaded.encode(""))
    return min(WINDOW, len(session.loaded.encode(general_text())) - start) + start - 1


STAGE = Stage(
    "sweep",
    "sweep",
    "compare kinds, doses and scopes of disruption",
    sweep,
    Options,
    after=("ablate",),
    reads=(SETS, BASELINE, "completions/discovery.{first}"),
    writes=(SOLUTIONS, SWEEP_ITEMS, SWEEP_TEXT, SWEEP, "arrays/reference"),
    units=UNITS,
    wanted=lambda options: options.disruptions,
    example="cotscope sweep runs/first",
)
