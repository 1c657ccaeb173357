"""What a prediction by activity rests on: how much on each neuron, and what is lost without those it rests on most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...predicting.classifier import Classifier, fit, suffices
from ...predicting.templates import templates
from ...records import Neuron
from ...runs.session import Session
from ...stats import clustered_p
from ..choosing import REASONING
from ..generation import Condition, solve
from .telling import Known
from .tracing import answers


def weights_of(fitted: Classifier, features: np.ndarray, neurons: Sequence[Neuron]) -> dict[Neuron, float]:
    """How much what activity says rests on each neuron."""
    weight = fitted.moved_by(features).reshape(-1, len(neurons)).sum(axis=0)  # over roles
    return dict(zip(neurons, weight.tolist(), strict=True))


def without(session: Session, known: Sequence[Known], neurons: Sequence[Neuron], count: int) -> dict[str, Any] | None:
    """What test problems lose without the neurons that the prediction rests on most, and without others.

    They are of half of the templates, and the ranking is of answers of no such template: who is active where these problems
    happen to be solved is else found among them again. None where too few answers are left to rank by.
    """
    every, given = session.inputs.split.test, [a for k in known for a in k.answers]
    of = np.array(templates([p.question for p in (*every, *(a.problem for a in given))]))
    ours, theirs = of[: len(every)], of[len(every) :]
    half = np.random.default_rng(session.config.seed).permutation(np.unique(ours))[: (len(np.unique(ours)) + 1) // 2]
    problems = tuple(p for p, t in zip(every, ours, strict=True) if t in half)
    apart, right = ~np.isin(theirs, half), np.array([a.right for a in given])
    count = min(count, len(neurons) // 2)  # as many others have to be left
    if not count or not suffices(right[apart], theirs[apart]):
        return None
    features = np.vstack([k.way(REASONING).features for k in known])[apart]
    fitted = fit(features, right[apart].tolist(), theirs[apart].tolist(), session.config.seed)
    weights = weights_of(fitted, features, neurons)
    ranked = sorted(weights, key=lambda n: -weights[n])
    most, rest = sorted(ranked[:count]), sorted(ranked[count:])
    drawn = [rest[i] for i in np.random.default_rng(session.config.seed).permutation(len(rest))[:count]]
    sets = {"untouched": (), "rests": tuple(most), "others": tuple(sorted(drawn))}
    solve(
        session,
        [
            Condition(
                "prediction", session.prompt, "test", name if some else "none", some, label=f"zeroed {name}", problems=problems
            )
            for name, some in sets.items()
        ],
        "zeroing what the prediction rests on",
    )
    hits = {}
    for name in sets:
        found = {a.problem.id: a.right for a in answers(session, f"prediction.zeroed {name}", problems)}
        hits[name] = [found[p.id] for p in problems]
    clusters = [int(t) for t in ours if t in half]
    return {
        "neurons": len(most),
        "n": len(problems),
        "templates": len(set(clusters)),
        **{name: float(np.mean(found)) for name, found in hits.items()},
        "p_untouched": clustered_p(hits["untouched"], hits["rests"], clusters),
        "p_others": clustered_p(hits["others"], hits["rests"], clusters),
    }
