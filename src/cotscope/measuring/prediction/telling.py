"""What ways of telling come to on a data set: with shuffled labels, early, stopped, carried over to other data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...predicting.classifier import TOO_FEW, fit, out_of_fold, suffices
from ...records import Neuron
from ...runs.session import Session
from ...stats import Area, auroc
from ..choosing import REASONING
from ..problems import TrialData
from .predictors import ACTIVITY, BASELINE, CONTROL, Predictor, flat, templates_of
from .tracing import CONFIDENCE, STOPS, Answer, Traces

SHUFFLES = 8
CARRIED = ("reasoning", "concepts", "random 1", "confidence", "log_prob_mean")
"""Ways of telling that mean the same on every data set, so that they can be carried over."""
STOPPED = (0.1, 0.2, 0.3, 0.4, 0.5)


_TRIES = 100  # to shuffle labels so that there are enough of both to learn from


@dataclass(frozen=True)
class Known:
    """One data set: its answers, traces and ways of telling."""

    data: TrialData
    answers: list[Answer]
    traces: Traces
    ways: list[Predictor]
    templates: list[int]

    @property
    def right(self) -> list[bool]:
        return [a.right for a in self.answers]

    def way(self, name: str) -> Predictor:
        """A way of telling by its name."""
        return next(w for w in self.ways if w.name == name)


def area_of(area: Area) -> dict[str, float]:
    return {"auroc": area.value, "low": area.low, "high": area.high}


def shuffled(
    features: NDArray[Any], right: Sequence[bool], templates: Sequence[int], seed: int, count: int, update: Callable[[], object]
) -> list[Area]:
    """Areas where the labels are shuffled, so many times: 0.5 but for chance.

    Templates take each other's labels, so that answers of one template go together as they did; where that leaves too few of
    either kind to learn from, single answers do.
    """
    areas = []
    of, hits = np.asarray(templates), np.asarray(right, bool)
    for shuffle in range(count):
        rng = np.random.default_rng([seed, shuffle])
        tries = (exchanged(hits, of, rng) for _ in range(_TRIES))
        labels = next((moved for moved in tries if suffices(moved, of)), rng.permutation(hits)).tolist()
        found, _ = out_of_fold(features, labels, templates, seed, check=False)
        areas.append(auroc(labels, found.tolist(), templates))
        update()
    return areas


def exchanged(hits: NDArray[np.bool_], of: NDArray[Any], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Labels, where each template has another one's: as many as it has answers, in the other's shares and in any order. So
    a template that is all right or all wrong stands there whole, and how many are right changes a little."""
    order = np.argsort(of, kind="stable")
    every = np.split(order, np.flatnonzero(np.diff(of[order])) + 1)
    moved = np.empty_like(hits)
    for here, other in zip(every, rng.permutation(len(every)), strict=True):
        moved[here] = rng.permutation(np.resize(rng.permutation(hits[every[other]]), len(here)))
    return moved


def early(
    session: Session, k: Known, groups: dict[str, list[Neuron]], update: Callable[[], object]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """After each part of the answers: how well it tells, and what is saved and lost if the least likely ones are stopped."""
    rows, stopping = [], []
    lengths = np.array([len(a.tokens) for a in k.answers], float)
    right = np.array(k.right)
    for at, stop in enumerate(STOPS):
        ways = [(name, kind, flat(k.traces.so_far[:, at, k.traces.of(groups[name])]))
                for name, kind in ((REASONING, ACTIVITY), ("random 1", CONTROL))]  # fmt: skip
        # On the way, how many tokens a share of the answer is would tell how long it becomes.
        columns = [i for i, name in enumerate(CONFIDENCE) if stop in (0, 1) or name not in ("tokens", "log_prob_sum")]
        ways.append(("confidence", BASELINE, flat(k.traces.confidence[:, at, columns])))
        seen = np.maximum(1, np.round(stop * lengths))
        for name, kind, features in ways:
            found, _ = out_of_fold(features, k.right, k.templates, session.config.seed)
            area = auroc(k.right, found.tolist(), k.templates)
            about = {"data": k.data.label, "predictor": name, "stop": stop}
            rows.append(about | {"kind": kind, "tokens": float(seen.mean()), **area_of(area)})
            update()
            order = np.argsort(found, kind="stable")
            for share in STOPPED if stop < 1 else ():
                gone = order[: round(share * len(order))]
                saved = float((lengths - seen)[gone].sum() / lengths.sum())
                stopping.append(about | {"stopped": share, "saved": saved, "lost": float(right[gone].sum() / right.sum())})
    return rows, stopping


def transfers(session: Session, known: Sequence[Known]) -> list[dict[str, Any]]:
    """Each data set by classifiers that learned on all the others, never on a template that they judge."""
    rows: list[dict[str, Any]] = []
    if len(known) < 2:
        return rows
    right = np.array([r for k in known for r in k.right])
    features = {name: np.vstack([k.way(name).features for k in known]) for name in CARRIED}
    for k, (here, apart, of) in zip(known, others_apart([k.answers for k in known]), strict=True):
        if not suffices(right[apart], of[apart]):
            session.run.note(f"Answers to {k.data.label} are not told from those to the other data: {TOO_FEW}.")
            continue
        for name, x in features.items():
            fitted = fit(x[apart], right[apart].tolist(), of[apart].tolist(), session.config.seed)
            found = fitted.probabilities(x[here])
            area = auroc(k.right, found.tolist(), k.templates)
            rows.append(
                {"data": k.data.label, "model": session.run.manifest["model"]["name"],
                 "trained_on": [o.data.label for o in known if o is not k], "predictor": name, "kind": k.way(name).kind,
                 "n": len(found), "accuracy": float(np.mean(k.right)), "expected": float(found.mean()), **area_of(area)}
            )  # fmt: skip
    return rows


def others_apart(every: Sequence[Sequence[Answer]]) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """For each of several data sets, counted through: the places of its answers, those of the others' answers that are of none
    of its templates, and the templates of all."""
    of = np.array(templates_of([a for some in every for a in some]))
    ends = np.cumsum([0, *map(len, every)])
    found = []
    for start, end in pairwise(ends):
        here = np.arange(start, end)
        found.append((here, np.flatnonzero(~np.isin(of, of[here])), of))
    return found
