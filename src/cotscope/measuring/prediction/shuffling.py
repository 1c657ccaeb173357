"""How often would `predict` say that activity tells right answers from wrong ones, were the labels shuffled?"""

from __future__ import annotations

import json

import numpy as np

from ...records import Neuron
from ...runs.files import fingerprint
from ...runs.session import Session
from ...runs.tables import CALIBRATION_SHUFFLES
from ...stats import wilson
from ..choosing import REASONING
from .predictors import flat, reasoning_neurons
from .telling import area_of, shuffled


def shuffle_labels(session: Session, shuffles: int) -> str:
    """The areas of `predict` by shuffled labels, of each of its data sets. Returns: how often they say something, in a line."""
    run, seed = session.run, session.config.seed
    known = run.rows(
        "SELECT data, problem_id, template, correct FROM predictions WHERE predictor = ? ORDER BY ALL", [REASONING]
    ) if run.state("predict").current else []  # fmt: skip
    labels = list(dict.fromkeys(r["data"] for r in known)) if shuffles else []
    neurons = reasoning_neurons(session) if labels else []
    with session.bar("shuffling labels", shuffles * len(labels), "shuffle") as bar:
        for label in labels:
            of = {r["problem_id"]: r for r in known if r["data"] == label}
            traces = run.manifest["files"][f"arrays/traces.{label}"]["sha256"]
            made_of = fingerprint("templates exchanged", traces, list(of.values()), neurons, shuffles, seed)
            if run.done(f"calibration_shuffles/{label}", made_of) is not None:
                bar.update(shuffles)
                continue
            stored = run.arrays(f"traces.{label}", None)
            assert stored is not None  # `predict` holds, so it is whole
            answers = [of[i] for i in json.loads(stored.metadata["answers"])]
            place = {Neuron(*n): i for i, n in enumerate(json.loads(stored.metadata["neurons"]))}
            features = flat(stored.arrays["sizes"][:, :, [place[n] for n in neurons]])
            right, templates = ([a[key] for a in answers] for key in ("correct", "template"))
            areas = shuffled(features, right, templates, seed, shuffles, bar.update)
            rows = [{"data": label, "shuffle": i, **area_of(area)} for i, area in enumerate(areas)]
            run.write(CALIBRATION_SHUFFLES, rows, label, made_of)
    if not labels:
        return ""
    rows = run.rows("SELECT * FROM calibration_shuffles")
    said = sum(r["low"] > 0.5 for r in rows)
    found = {"shuffles": len(rows), "said": said, "rate": said / len(rows), "ci": list(wilson(said, len(rows))),
             "mean": float(np.mean([r["auroc"] for r in rows]))}  # fmt: skip
    run.summarise("placebo", {"shuffled": found})
    interval = "[{:.3f}, {:.3f}]".format(*found["ci"])
    return (
        f"; by shuffled labels activity “tells right answers from wrong ones” in {said} of {len(rows)} shuffles {interval}, "
        f"with an area of {found['mean']:.3f} on average"
    )
