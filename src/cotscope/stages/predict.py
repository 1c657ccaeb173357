"""Predict: which answers are right, and how many, without their labels?

The model's own answers are traced (`measuring/prediction/tracing.py`), and classifiers learn to tell right from wrong ones: by
the activity of the reasoning neurons, of as many random ones, of whole layers; and by what costs less or is known: how sure the
model was, a probe on the residual stream, the question's words, the formulas written. Every figure is of problems whose
template the classifier never saw; all choices are made within the training problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.answers import written_answer
from ..data.rows import question_key
from ..errors import UserError
from ..measuring.choosing import REASONING
from ..measuring.generation import Condition, cut_share, note_cut, solve
from ..measuring.prediction import carrying, resting
from ..measuring.prediction.answering import PREDICTOR, answer, by_template
from ..measuring.prediction.estimating import estimates
from ..measuring.prediction.predictors import (
    BASELINE,
    CONTROL,
    NEURONS,
    Predictor,
    agreement,
    neuron_groups,
    predictors,
    says_true,
    templates_of,
)
from ..measuring.prediction.telling import SHUFFLES, Known, area_of, early, shuffled, transfers
from ..measuring.prediction.tracing import STOPS, Answer, answers, token_probability, traced
from ..measuring.problems import TrialData, trial_data
from ..predicting.classifier import enough, fit, out_of_fold, packed, together
from ..predicting.shares import correlation_within, risk_coverage
from ..records import Neuron
from ..runs.config import STUDY
from ..runs.files import fingerprint
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import (
    COVERAGE,
    EARLY,
    PREDICTED,
    PREDICTIONS,
    PREDICTORS,
    PROMPTS,
    SHARE_ERRORS,
    SHARES,
    STOPPING,
    TRANSFERS,
)
from ..stats import LEVEL, auroc, auroc_difference, clustered_error, holm

TEMPERATURE = 0.7
CARDS = 12  # neurons that the report shows
TOLD_BY = (REASONING, "confidence")
"""What `--on` may use: the one with the larger area, mean over data sets; the former if they are equal."""
UNITS = {
    "prediction.<data>.predictors.<name>.auroc": "chance that a right answer is told from a wrong one, by classifiers that saw "
    "no problem of its template; intervals over templates (DeLong, Obuchowski)",
    "prediction.<data>.predictors.<name>.p_holm": "that the reasoning neurons' area is as large, against this way of telling; "
    "two-sided, over all ways on the data set",
    "prediction.<data>.shuffled": "the reasoning neurons' area where the labels are shuffled, eight times: 0.5 but for chance",
    "prediction.<data>.cut": "share of the answers that were cut at the most tokens allowed",
    "prediction.told_by": "what `--on` uses: the reasoning neurons, unless how sure the model was has the larger area (mean "
    "over data sets)",
    "prediction.rests_on": "the neurons that the prediction by reasoning neurons rests on most: how far each moves the "
    "log-odds (standard deviation, summed over roles)",
    "prediction.cause": "the neurons that the prediction rests on most, zeroed: what test problems of half of the templates "
    "lose, the ranking being of answers of the others; p over templates",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    data: tuple[str, ...] = option(
        (), f"problems, as of `study`, or {STUDY}: the study's own test problems (the default)", where="command",
        reads=True,
    )  # fmt: skip
    test: int | None = option(None, "problems of each data set, at most (default: all)", kind="positive", where="command")
    samples: int = option(0, "answers sampled per problem, for self-consistency beside", kind="natural", where="command")
    ask: bool = option(False, "ask the model whether its answer is true, beside (two more passes)", where="command")
    others: tuple[str, ...] = option(
        (), "run folder of another model in which `predict` was run: what its answers teach is tried on this model's",
        where="command", reads=True,
    )  # fmt: skip
    rests: int = option(
        50, "zero so many neurons that the prediction rests on most, to see whether they cause anything", kind="natural",
        where="command",
    )  # fmt: skip
    on: str | None = option(
        None, "instead: answer the questions of this file, and say of each answer how likely it is right", kind="path",
        where="command",
    )  # fmt: skip
    to: str | None = option(
        None, "where `--on` writes: .jsonl, .csv or .parquet (default: the questions' file with .answers.jsonl)", kind="path",
        where="command",
    )  # fmt: skip


_OWN = ("cause", "told_by", "rests_on")  # of the summary, beside the data sets


def predict(session: Session, options: Options) -> str:
    """Run the stage. Answers and traces that are there are not made again.

    Raises: UserError for too few problems, or too few right or wrong answers.
    """
    run = session.run
    if options.to is not None:
        run.note("--to is where the answers to the questions of --on go: without --on nothing is written there.")
    theirs = carrying.others(session, options.others)
    groups = neuron_groups(session)
    every = sorted({n for some in groups.values() for n in some})
    sources = _sources(session, options)
    for data in sources:
        session.model.check_lengths([session.prompt], data.problems, 0)
    known = [_known(session, d, groups, every, options) for d in sources]
    note_cut(session, {f"answers to {d.label}": f"prediction.{d.label}" for d in sources})
    rows, said = list[dict[str, Any]](), dict[str, dict[str, Any]]()
    predicted, coverage, in_time, stopping = (list[dict[str, Any]]() for _ in range(4))
    with session.bar("predicting", sum(len(k.ways) + SHUFFLES + 3 * len(STOPS) for k in known), "predictor") as bar:
        for k in known:
            found: dict[str, np.ndarray] = {}
            for way in k.ways:
                found[way.name] = (
                    together(way.parts, k.right, k.templates, session.config.seed)
                    if way.parts
                    else out_of_fold(way.features, k.right, k.templates, session.config.seed)[0]
                )
                bar.update()
            here = [_row(k, way, found) for way in k.ways]
            others = [r for r in here if r["predictor"] != REASONING]
            for r, p in zip(others, holm([r["p_value"] for r in others]), strict=True):
                r["p_holm"] = p
            rows += here
            for name, probability in found.items():
                predicted += [
                    {"data": k.data.label, "predictor": name, "problem_id": a.problem.id, "template": t, "correct": a.right,
                     "probability": float(p)} for a, t, p in zip(k.answers, k.templates, probability, strict=True)
                ]  # fmt: skip
            for name in (REASONING, "confidence"):
                coverage += [
                    {"data": k.data.label, "predictor": name, "coverage": c, "accuracy": r}
                    for c, r in risk_coverage(found[name].tolist(), k.right)
                ]
            by_chance = shuffled(k.way(REASONING).features, k.right, k.templates, session.config.seed, SHUFFLES, bar.update)
            cut = cut_share(session, f"prediction.{k.data.label}")
            said[k.data.label] = _summary(k, here, [a.value for a in by_chance], cut)
            seen, gone = early(session, k, groups, bar.update)
            in_time, stopping = in_time + seen, stopping + gone
    asked = [
        {"data": k.data.label, "problem_id": p.id, "question": p.question, "answer": written_answer(p.answer)}
        for k in known for p in k.data.problems
    ]  # fmt: skip
    for table, content in (
        (PREDICTED, asked),
        (PREDICTORS, rows),
        (PREDICTIONS, predicted),
        (COVERAGE, coverage),
        (EARLY, in_time),
        (STOPPING, stopping),
    ):
        run.write(table, content)
    mine = carrying.keep(session, known, groups)
    told = {name: groups[name] for name in (REASONING, "random 1")}
    shares, errors, under = estimates(session, [(k.data.label, k.answers, k.traces) for k in known], told)
    run.write(TRANSFERS, transfers(session, known) + under + carrying.across(mine, theirs, session.config.seed, run.note))
    run.write(SHARES, shares)
    run.write(SHARE_ERRORS, errors)
    areas = {name: np.mean([r["auroc"] for r in rows if r["predictor"] == name]) for name in TOLD_BY}
    told_by = max(TOLD_BY, key=lambda name: areas[name])
    expected = [r["probability"] for r in predicted if r["predictor"] == told_by]
    weights = _keep(session, known, groups[REASONING], told_by, expected)
    ranked = sorted(weights, key=lambda n: -weights[n])
    rests_on = [{"layer": n.layer, "index": n.index, "weight": weights[n]} for n in ranked[:CARDS]]
    cause = resting.without(session, known, groups[REASONING], options.rests)
    if cause is None and options.rests:
        run.note(
            "What the prediction rests on could not be zeroed: too few answers of other templates are left to rank neurons by."
        )
    run.summarise("prediction", said | dict(zip(_OWN, (cause, told_by, rests_on), strict=True)))
    return _against_confidence(said, told_by) + "; " + _finding(said)


def _sources(session: Session, options: Options) -> list[TrialData]:
    """The data sets. Raises: UserError if two of them share a question: what is learned on one would know the other."""
    every = trial_data(session, options.data, options.test)
    seen: dict[str, str] = {}
    for data in every:
        if data.label in _OWN:
            raise UserError(
                "problems of this name have no place in the summary", expected="another name of the file", got=data.label
            )
        for p in data.problems:
            if (first := seen.setdefault(question_key(p.question), data.label)) != data.label:
                raise UserError(
                    f"{first} and {data.label} share questions",
                    expected="data sets that share none",
                    got=f"{p.id} in both",
                    remedy="Leave one of them out.",
                )
    return every


def _known(
    session: Session, data: TrialData, groups: dict[str, list[Neuron]], every: Sequence[Neuron], options: Options
) -> Known:
    """Answers, traces and ways of telling of one data set."""
    answer = Condition("prediction", session.prompt, data.label, label=data.label, problems=data.problems)
    samples = [
        Condition("prediction", session.prompt, data.label, label=f"{data.label}, sample {i + 1}", problems=data.problems,
                  temperature=TEMPERATURE, seed=session.config.seed + i)
        for i in range(options.samples)
    ]  # fmt: skip
    solve(session, [answer, *samples], f"answering {data.label}")
    given = answers(session, answer.name, data.problems)
    apart = templates_of(given)
    enough(np.array([a.right for a in given]), np.array(apart))
    traces = traced(session, data.label, session.prompt, given, every)
    extra: dict[str, Any] = {}
    if options.ask:
        extra["says true"] = _asked(session, data.label, given)
    if samples:
        extra["agreement"] = agreement(session, [s.name for s in samples], given)
    return Known(data, given, traces, predictors(session, given, traces, groups, extra), apart)


def _asked(session: Session, label: str, given: Sequence[Answer]) -> np.ndarray:
    name, of = f"asked.{label}", fingerprint([(a.problem.question, a.text) for a in given])
    if (stored := session.run.arrays(name, of)) is not None:
        return stored.arrays["log_odds"]
    with session.bar(f"asking about {label}", 1, "pass"):
        found = says_true(session, given)
    session.run.write_arrays(name, {"log_odds": found}, {}, of)
    return found


def _row(k: Known, way: Predictor, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """One way of telling on one data set."""
    from sklearn.metrics import average_precision_score, brier_score_loss

    mine, best = found[way.name].tolist(), found[REASONING].tolist()
    area = auroc(k.right, mine, k.templates)
    row = {
        "data": k.data.label, "predictor": way.name, "kind": way.kind, "costs": way.costs, "features": way.features.shape[-1],
        "n": len(mine), "templates": len(set(k.templates)), "accuracy": float(np.mean(k.right)), **area_of(area),
        "average_precision": float(average_precision_score(k.right, mine)),
        "brier": float(brier_score_loss(k.right, mine)),
    }  # fmt: skip
    if way.name != REASONING:
        difference, p = auroc_difference(k.right, best, mine, k.templates)
        row |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)) | {"p_value": p}
    return row


def _summary(k: Known, rows: Sequence[dict[str, Any]], by_chance: Sequence[float], cut: float) -> dict[str, Any]:
    keys = ("kind", "auroc", "low", "high", "brier", "difference", "difference_low", "difference_high", "p_holm")
    return {
        "n": len(k.answers),
        "templates": len(set(k.templates)),
        "accuracy": float(np.mean(k.right)),
        "cut": cut,
        "predictors": {r["predictor"]: {key: r.get(key) for key in keys} for r in rows},
        "shuffled": {"mean": float(np.mean(by_chance)), "least": min(by_chance), "most": max(by_chance)},
    }


def _keep(
    session: Session, known: Sequence[Known], neurons: Sequence[Neuron], told_by: str, expected: Sequence[float]
) -> dict[Neuron, float]:
    """Fit classifiers on all answers; keep in the run the one that is used, return how much activity's rests on each neuron.

    Args:
        expected: of each answer, the probability by one that did not see it, where there is one data set.
    """
    labels = [r for k in known for r in k.right]
    templates = templates_of([a for k in known for a in k.answers])
    features = {name: np.vstack([k.way(name).features for k in known]) for name in {REASONING, told_by}}
    fitted = {name: fit(x, labels, templates, session.config.seed) for name, x in features.items()}
    if len(known) > 1:  # what is kept has learned on all of them, and is as far off as such a one is
        expected = out_of_fold(features[told_by], labels, templates, session.config.seed)[0].tolist()
    sure = [float(p) for k in known for p in token_probability(k.traces)]
    about = {
        "model": session.config.model, "weight_sha256": session.loaded.weight_hash(), "prompt": session.prompt.name,
        "told_by": told_by, "neurons": [list(n) for n in neurons], "right": float(np.mean(labels)),
        "off": clustered_error(np.array(labels, float) - np.array(expected), templates),
        "together": correlation_within(expected, labels, templates),
        "sure": [round(float(p), 4) for p in by_template(sure, templates)],
        "trained_on": [{"data": k.data.source, "sha256": k.data.sha256, "answers": len(k.answers)} for k in known],
    }  # fmt: skip
    arrays, header = packed(fitted[told_by], about)
    session.run.write_arrays(PREDICTOR, arrays, header, "")
    return resting.weights_of(fitted[REASONING], features[REASONING], neurons)


def _against_confidence(said: dict[str, dict[str, Any]], told_by: str) -> str:
    """Whether activity tells more than how sure the model was: what a user must know first."""
    if told_by != REASONING:
        return "confidence has the larger area (not tested), and is what --on uses"
    beside = {label: found["predictors"]["confidence"] for label, found in said.items()}
    shown = [label for label, c in beside.items() if c["p_holm"] < LEVEL and c["difference"] > 0]
    return f"activity is shown to tell more than confidence on {' and '.join(shown) or 'none of the data'}"


def _finding(said: dict[str, dict[str, Any]]) -> str:
    """A line: on each data set the reasoning neurons' area, the best random set's and the best baseline's."""
    parts = []
    for label, found in said.items():
        ways = found["predictors"]

        def best(kind: str, ways: dict[str, Any] = ways) -> str:
            name = max((n for n, w in ways.items() if w["kind"] == kind), key=lambda n: ways[n]["auroc"])
            return f"{name} {ways[name]['auroc']:.3f}"

        own = ways[REASONING]
        parts.append(
            f"{label} (n = {found['n']}): AUROC of the reasoning neurons {own['auroc']:.3f} [{own['low']:.3f}, "
            f"{own['high']:.3f}], {best(CONTROL)}, {best(BASELINE)}"
        )
    return "; ".join(parts)


STAGE = Stage(
    "predict",
    "predict",
    "which answers are right, and how many, told by activity and by what it has to beat",
    predict,
    Options,
    after=("annotate",),
    beside=("keystones", "attribute", "measure", "variants"),
    reads=(*NEURONS, PROMPTS, "completions/study.", "completions/variant.", "completions/sentence."),
    writes=("completions/prediction.", "arrays/traces.", "arrays/asked.", "arrays/carried.", "arrays/predictor", PREDICTED,
            PREDICTORS, PREDICTIONS, COVERAGE, EARLY, STOPPING, TRANSFERS, SHARES, SHARE_ERRORS),
    units=UNITS,
    repeats=True,
    wanted=never,
    instead=lambda session, options: None if options.on is None else answer(session, options.on, options.to),
    instead_by=("on",),
    instead_with=("to",),
    example="cotscope predict runs/first --data more.jsonl",
)  # fmt: skip
