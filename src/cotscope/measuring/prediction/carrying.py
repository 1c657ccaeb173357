"""Carried over from model to model: what is learned from the answers of others, tried on those of this one.

Neurons have no counterparts in other models. What every model has: activity by concept, role and third of the layers, and how
sure it was of its words. A model's features are standardised over its own answers to a data set, for which no label is needed:
sizes of updates are no unit that two models share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...predicting.classifier import OUTER, TOO_FEW, fit, suffices
from ...predicting.templates import templates
from ...records import Neuron
from ...runs.folder import Run
from ...runs.session import Session
from ...stats import auroc
from ...stats.random_sets import in_place_of
from ..choosing import REASONING
from .predictors import ACTIVITY, BASELINE, CONTROL, flat
from .telling import Known, area_of
from .tracing import CONFIDENCE, by_concept

WAYS = {"concepts": ACTIVITY, "random concepts": CONTROL, "confidence": BASELINE, "log_prob_mean": BASELINE}
"""Of "random concepts" each concept's neurons are random ones like them."""


@dataclass(frozen=True)
class Answered:
    """What one model's answers to one data set have that every model's have.

    Attributes:
        features: way of telling → column's name → (answers,), standardised.
    """

    model: str
    data: str
    questions: list[str]
    right: NDArray[np.bool_]
    features: dict[str, dict[str, NDArray[np.float64]]]


def keep(session: Session, known: Sequence[Known], groups: Mapping[str, Sequence[Neuron]]) -> list[Answered]:
    """Keep in the run what other models' runs can learn from (`arrays/carried.<data>`), a data set each."""
    run, found = session.run, []
    places = in_place_of(groups[REASONING], groups["random 1"])
    for k in known:
        arrays = {"confidence": k.traces.confidence[:, -1]}
        names, arrays["concepts"] = by_concept(session, k.traces)
        _, arrays["random concepts"] = by_concept(session, k.traces, places)
        about = {"concepts": json.dumps(names), "answers": json.dumps([a.problem.id for a in k.answers])}
        run.write_arrays(f"carried.{k.data.label}", arrays, about, "")
        questions = [a.problem.question for a in k.answers]
        found.append(_answered(run, k.data.label, questions, [a.right for a in k.answers], arrays, names))
    return found


def read(run: Run) -> list[Answered]:
    """What a run has kept, a data set each. Raises: UserError if `predict` has not been run in it, or is stale."""
    if not run.state("predict").current:
        raise UserError(
            f"nothing can be carried over from {run.folder}", expected="a run folder with its predictions",
            remedy=f"Run `cotscope predict {run.folder}` first.",
        )  # fmt: skip
    found = []
    for row in run.rows("SELECT DISTINCT data FROM predicted ORDER BY ALL"):
        label = row["data"]
        asked = {r["problem_id"]: r["question"] for r in run.rows("SELECT * FROM predicted WHERE data = ?", [label])}
        right = {
            r["problem_id"]: r["correct"]
            for r in run.rows("SELECT * FROM predictions WHERE data = ? AND predictor = ?", [label, REASONING])
        }
        stored = run.arrays(f"carried.{label}", "")
        assert stored is not None  # written with the tables
        ids = json.loads(stored.metadata["answers"])
        found.append(
            _answered(run, label, [asked[i] for i in ids], [right[i] for i in ids], stored.arrays,
                      json.loads(stored.metadata["concepts"]))
        )  # fmt: skip
    return found


def _answered(
    run: Run,
    label: str,
    questions: list[str],
    right: Sequence[bool],
    arrays: Mapping[str, NDArray[Any]],
    concepts: Sequence[str],
) -> Answered:
    features = {}
    for way in ("concepts", "random concepts"):
        thirds, roles = arrays[way].shape[2:]
        features[way] = _columns(arrays[way], [f"{c} {i} {j}" for c in concepts for i in range(thirds) for j in range(roles)])
    features["confidence"] = _columns(arrays["confidence"], CONFIDENCE)
    features["log_prob_mean"] = {"log_prob_mean": features["confidence"]["log_prob_mean"]}
    return Answered(run.manifest["model"]["name"], label, questions, np.array(right), features)


def _columns(values: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    every = flat(values)
    every = (every - every.mean(axis=0)) / np.maximum(every.std(axis=0), 1e-9)
    return dict(zip(names, every.T, strict=True))


def others(session: Session, folders: Sequence[str]) -> list[Answered]:
    """What the runs of other models have kept.

    Raises: RunError for what is no run folder; UserError as `read`, or if one is of this study's model.
    """
    found = list[Answered]()
    for folder in folders:
        run = Run.open(Path(folder))
        if run.manifest["model"]["weight_sha256"] == session.loaded.weight_hash():
            raise UserError(f"{folder} is a run of the same model", expected="runs of others")
        found += read(run)
    return found


def across(
    mine: Sequence[Answered], theirs: Sequence[Answered], seed: int, note: Callable[[str], object] = lambda text: None
) -> list[dict[str, Any]]:
    """Each data set of this model by classifiers that learned on other models' answers, never of a template that they judge.

    No label of this model's is used but to see how good they are. Returns: rows of `TRANSFERS`.
    """
    from sklearn.model_selection import GroupKFold

    rows = []
    labels = np.concatenate([t.right for t in theirs]) if theirs else np.zeros(0, bool)
    for m in mine if theirs else ():
        of = np.array(templates([q for t in (m, *theirs) for q in t.questions]))
        own, apart = of[: len(m.questions)], of[len(m.questions) :]
        count = min(OUTER, len(np.unique(own)))  # with the others' questions templates may be fewer, and larger
        if count < 2:
            note(f"Answers to {m.data} are not told from other models' answers: they are of one template.")
            continue
        folds = [test for _, test in GroupKFold(count, shuffle=True, random_state=seed % 2**32).split(own, groups=own)]
        seen = [~np.isin(apart, own[test]) for test in folds]
        if not all(suffices(labels[s], apart[s]) for s in seen):
            note(f"Answers to {m.data} are not told from other models' answers: {TOO_FEW}.")
            continue
        for way, kind in WAYS.items():
            names = list(dict.fromkeys(name for t in (m, *theirs) for name in t.features[way]))
            here, there = _matrix([m], way, names), _matrix(theirs, way, names)
            said = np.zeros(len(own))
            for test, s in zip(folds, seen, strict=True):
                said[test] = fit(there[s], labels[s].tolist(), apart[s].tolist(), seed).probabilities(here[test])
            rows.append(
                {"data": m.data, "model": ", ".join(dict.fromkeys(t.model for t in theirs)),
                 "trained_on": list(dict.fromkeys(t.data for t in theirs)), "predictor": way, "kind": kind, "n": len(own),
                 "accuracy": float(m.right.mean()), "expected": None,
                 **area_of(auroc(m.right.tolist(), said.tolist(), own.tolist()))}
            )  # fmt: skip
    return rows


def _matrix(every: Sequence[Answered], way: str, names: Sequence[str]) -> NDArray[np.float64]:
    """(answers, features); what a model lacks is as usual, 0."""
    return np.vstack([np.stack([t.features[way].get(name, np.zeros(len(t.right))) for name in names], axis=1) for t in every])
