"""How many answers of a whole data set, or under a whole prompt, are right, estimated without their labels.

A data set is estimated from what was learned on the others; a prompt from what was learned under the study's first prompt, and
each problem by a classifier that saw no problem of its template. Beside activity stand the standards of the field: mean
confidence, its threshold (ATC) and its difference (DoC).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...predicting.classifier import TOO_FEW, Floats, fit, out_of_fold, suffices
from ...predicting.shares import difference_share, threshold_share
from ...records import Neuron, Prompt
from ...runs.config import STUDY
from ...runs.session import Session
from ...stats import auroc, clustered_error, spearman
from ..choosing import REASONING
from .predictors import ACTIVITY, BASELINE, CONTROL, flat, templates_of
from .telling import area_of, others_apart
from .tracing import Answer, Traces, answers, token_probability, traced

FEWER = (8, 16, 32, 96)
"""Unlabelled problems per prompt."""
LEAST_PROMPTS = 5
KINDS = {REASONING: ACTIVITY, "random 1": CONTROL, "confidence": BASELINE}
"""What a prompt's answers are told by."""
Known = tuple[str, Sequence[Answer], Traces]


def estimates(
    session: Session, known: Sequence[Known], groups: Mapping[str, Sequence[Neuron]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the tables `shares` and `share_errors`, and of `transfers`: how well answers under other prompts are told.

    Args:
        known: data sets: label, answers under the first prompt, their traces.
        groups: names → neurons whose activity estimates: the reasoning neurons, and random ones.
    """
    rows = _of_data(session, known, groups)
    study = next((k for k in known if k[0] == STUDY), None)
    of_prompts, told = ([], []) if study is None else _of_prompts(session, study, groups)
    return rows + of_prompts, _errors(of_prompts, session.config.seed), told


def _features(traces: Traces, groups: Mapping[str, Sequence[Neuron]]) -> dict[str, Floats]:
    found = {name: flat(traces.sizes[:, :, traces.of(some)]) for name, some in groups.items()}
    return found | {"confidence": flat(traces.confidence[:, -1])}


def _plain(source: Traces, right: Sequence[bool], target: Traces) -> dict[str, float]:
    """Estimates that learn nothing but a number."""
    here, there = token_probability(source).tolist(), token_probability(target).tolist()
    return {
        "mean token probability": float(np.mean(there)),
        "ATC": threshold_share(here, right, there),
        "DoC": difference_share(here, right, there),
        "as the source": float(np.mean(right)),
    }


def _of_data(session: Session, known: Sequence[Known], groups: Mapping[str, Sequence[Neuron]]) -> list[dict[str, Any]]:
    """Each data set from all the others together, but for answers of its templates."""
    rows: list[dict[str, Any]] = []
    if len(known) < 2:
        return rows
    right, traces = np.array([a.right for _, given, _ in known for a in given]), Traces.together([t for *_, t in known])
    features = _features(traces, groups)
    for (label, given, own), (here, apart, of) in zip(known, others_apart([g for _, g, _ in known]), strict=True):
        if not suffices(right[apart], of[apart]):
            session.run.note(f"How many are right of {label} is not estimated from the other data: {TOO_FEW}.")
            continue
        found = {
            name: float(
                fit(x[apart], right[apart].tolist(), of[apart].tolist(), session.config.seed).probabilities(x[here]).mean()
            )
            for name, x in features.items()
        }
        about = {"family": "data", "kind": "data", "name": label, "problems": len(given), "accuracy": float(right[here].mean())}
        found |= _plain(traces.at(apart), right[apart].tolist(), own)
        rows += [about | {"method": m, "estimated": e} for m, e in found.items()]
    return rows


def _of_prompts(
    session: Session, study: Known, groups: Mapping[str, Sequence[Neuron]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every other prompt that was measured on the study's test problems: estimates, and how well its answers are told."""
    _, given, traces = study
    right, place = [a.right for a in given], {a.problem.id: i for i, a in enumerate(given)}
    apart = templates_of(given)
    models = {name: out_of_fold(x, right, apart, session.config.seed)[1] for name, x in _features(traces, groups).items()}
    every = sorted({n for some in groups.values() for n in some})
    rows, families = list[dict[str, Any]](), dict[str, _Told]()
    for family, kind, prompt, activity in _measured(session):
        some = answers(session, f"{family}.{prompt.name}", [a.problem for a in given])
        there = traced(session, f"{family}.{prompt.name}", prompt, some, every, residual=False)
        at = [place[a.problem.id] for a in some]
        features = _features(there, groups)
        said: dict[str, list[float]] = {name: [] for name in models}
        for name, fitted in models.items():
            for row, i in enumerate(at):
                model = fitted[i]
                assert model is not None
                said[name].append(float(model.probabilities(features[name][row : row + 1])[0]))
        families.setdefault(family, _Told()).add(some, said, [apart[i] for i in at])
        for count in [n for n in FEWER if n < len(some)] + [len(some)]:
            found = {name: float(np.mean(p[:count])) for name, p in said.items()}
            found |= _plain(traces.at(at), [right[i] for i in at], there.at(range(count)))
            about = {"family": family, "kind": kind, "name": prompt.name, "problems": count}
            about["accuracy"] = float(np.mean([a.right for a in some]))
            rows += [about | {"method": m, "estimated": e} for m, e in found.items()]
            if count == len(some):
                rows.append(about | {"method": "active poles (count)", "estimated": activity})
    return _regressed(rows), [row for family, told in families.items() for row in told.rows(session, family)]


@dataclass
class _Told:
    """Answers under a family's prompts, and their probabilities of being right by way of telling."""

    prompts: int = 0
    answers: list[Answer] = field(default_factory=list)
    templates: list[int] = field(default_factory=list)
    said: dict[str, list[float]] = field(default_factory=dict)

    def add(self, some: Sequence[Answer], said: Mapping[str, Sequence[float]], templates: Sequence[int]) -> None:
        """One more prompt's."""
        self.prompts += 1
        self.answers += some
        self.templates += templates
        for name, probabilities in said.items():
            self.said.setdefault(name, []).extend(probabilities)

    def rows(self, session: Session, family: str) -> list[dict[str, Any]]:
        """Of `transfers`: areas over all prompts' answers together, clustered by template."""
        right, apart = [a.right for a in self.answers], self.templates
        about = {
            "data": f"{STUDY} under other prompts ({family}: {self.prompts})", "model": session.run.manifest["model"]["name"],
            "trained_on": [f"{STUDY} under {session.prompt.name}"], "n": len(right), "accuracy": float(np.mean(right)),
        }  # fmt: skip
        return [
            about | {"predictor": n, "kind": KINDS[n], "expected": float(np.mean(p)), **area_of(auroc(right, p, apart))}
            for n, p in self.said.items()
        ]


def _measured(session: Session) -> list[tuple[str, str, Prompt, float]]:
    """Prompts that `measure` has run, but the first: family, kind, prompt, active reasoning poles per token."""
    run, inputs = session.run, session.inputs
    found = {(r["family"], r["prompt"]): r for r in run.rows("SELECT family, kind, prompt, poles_per_token FROM prompts")}
    asked = run.manifest["options"].get("variants", {})
    extra = inputs.extra_prompts(int(asked.get("variants", 0)), bool(asked.get("sentences", False)))
    every = [("study", p) for p in inputs.prompts[1:]] + [(e.family, e.prompt) for e in extra]
    return [(f, r["kind"], p, r["poles_per_token"]) for f, p in every if (r := found.get((f, p.name))) is not None]


def _regressed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In place of the count of active poles, what a line through all other prompts' counts and accuracies says (which has
    their labels)."""
    counted = [r for r in rows if r["method"] == "active poles (count)"]
    if len(counted) < LEAST_PROMPTS:
        return [r for r in rows if r["method"] != "active poles (count)"]
    x, y = (np.array([r[k] for r in counted]) for k in ("estimated", "accuracy"))
    for i, r in enumerate(counted):
        rest = np.arange(len(x)) != i
        slope, start = np.polyfit(x[rest], y[rest], 1) if np.ptp(x[rest]) > 0 else (0.0, y[rest].mean())
        r["method"], r["estimated"] = "regression on active poles", float(np.clip(slope * x[i] + start, 0, 1))
    return rows


def _errors(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """By family of prompts, and all together: mean absolute error and rank correlation.

    Intervals take prompts of one kind to go together; where there are several of a kind, the rank correlation has none.
    """
    from scipy import stats as scipy_stats

    found = []
    for family in ("all", *dict.fromkeys(r["family"] for r in rows)):
        mine = [r for r in rows if family in ("all", r["family"])]
        largest: dict[tuple[str, str], int] = {}
        for r in mine:
            key = r["family"], r["name"]
            largest[key] = max(largest.get(key, 0), r["problems"])
        for method in dict.fromkeys(r["method"] for r in mine):
            of = [r for r in mine if r["method"] == method]
            sizes = {n: [r for r in of if r["problems"] == n] for n in FEWER if any(r["problems"] == n for r in of)}
            sizes[0] = [r for r in of if r["problems"] == largest[r["family"], r["name"]]]  # 0: all there are
            for count, some in sizes.items():
                if len(some) < LEAST_PROMPTS:
                    continue
                said, true = (np.array([r[k] for r in some]) for k in ("estimated", "accuracy"))
                row: dict[str, Any] = {"family": family, "method": method, "problems": count or None, "prompts": len(some)}
                errors = np.abs(said - true)
                kinds = [(r["family"], r["name"] if r["family"] == "data" else r["kind"]) for r in some]
                mean, count_of = float(errors.mean()), len(set(kinds))
                half = (
                    float(scipy_stats.t.ppf(0.975, count_of - 1)) * clustered_error(errors, kinds) if count_of > 1 else math.inf
                )
                row |= {"error": mean, "error_low": max(0.0, mean - half), "error_high": min(1.0, mean + half)}
                ends = spearman(said.tolist(), true.tolist(), seed)[:3]
                row |= dict(zip(("spearman", "spearman_low", "spearman_high"), ends, strict=True))
                if count_of < len(some):
                    row["spearman_low"] = row["spearman_high"] = None
                found.append(row)
    return found
