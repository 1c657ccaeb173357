"""Cascade: questions that the model is likely to get wrong go to a larger one. How much of its accuracy, at which cost?

`predict` has said of every answer how likely it is right, by classifiers that saw no problem of its template. The larger model
answers the same problems; then answers are replaced by its own, more and more of them: the least trusted first, or those first
that gain most by it, for what neither model solves is sent on for nothing. Cost is counted in generated tokens times
parameters, as a share of what the larger model alone costs: the small model's answer is paid for every question, unless the
router decides before it is written. Beside the reasoning neurons stand random ones, confidence, the question's words, routing
at random, and one that knows what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..measuring.choosing import REASONING
from ..measuring.generation import Condition, note_cut, solve
from ..measuring.prediction.predictors import NEURONS, flat, neuron_groups, templates_of, words
from ..measuring.prediction.tracing import answers, traced
from ..measuring.problems import TrialData, trial_data
from ..predicting.classifier import out_of_fold
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import CASCADE, PREDICTED, PREDICTIONS
from ..stats import clustered_ratio

SOURCES = (REASONING, "random 1", "confidence")
"""By what is routed; random neurons are the control."""
LOG_PROB, QUESTION = "log_prob_mean", "question"
GAINS, FIRST = ", who gains", ", at the first token"
"""What a router asks, if not who is wrong; and when, if not after the answer."""
BEFORE, GAINS_BEFORE = REASONING + FIRST, REASONING + GAINS + FIRST
AT_RANDOM, RANDOM_BEFORE, KNOWN = "at random", "at random, before an answer", "knows what is wrong"
SHARES = tuple(round(0.05 * i, 2) for i in range(21))
COST, NEAR = 0.6, 0.95  # of the larger model's cost, of its accuracy: what the summary says of each router
UNITS = {
    "cascade.<data>.smaller": "share of the problems that the study's model solves alone; larger likewise",
    "cascade.<data>.smaller_cost": "generated tokens × parameters, as a share of the larger model's on the same problems",
    "cascade.<data>.routers.<name>.kept": f"share of the larger model's accuracy at a cost of at most {COST} of its own: the "
    "point of the curve with most questions sent on; intervals over templates, cluster-robust, of this choice of who is sent",
    "cascade.<data>.routers.<name>.beyond_random": "accuracy there less that of sending on as many at random",
    "cascade.<data>.routers.<name>.difference": "accuracy of routing by the reasoning neurons, asked the same as early, "
    "less this router's, each at its own such point",
    "cascade.<data>.routers.<name>.near": f"least cost of the curve's points with {NEAR} of the larger model's accuracy or "
    "more; read off these problems, so a little too good",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    larger: str | None = option(None, "the larger model: a name, hub id, folder or .gguf file", where="command")


@dataclass(frozen=True)
class Routed:
    """One way of sending questions on.

    Attributes:
        trust: of each answer of the smaller model; the least trusted goes first. None: at random.
        pays: tokens of the smaller model for a question that is sent on.
        beside: the reasoning neurons' router that it is compared with.
    """

    trust: NDArray[np.float64] | None
    pays: NDArray[np.float64]
    beside: str = REASONING


@dataclass(frozen=True)
class Both:
    """What both models do on the same problems: right or not, tokens generated; parameters of each."""

    right: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    tokens: tuple[NDArray[np.float64], NDArray[np.float64]]
    parameters: tuple[int, int]

    @property
    def whole(self) -> float:
        """The larger model's cost alone."""
        return float(self.tokens[1].sum() * self.parameters[1])

    def sent(self, trust: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
        """Which questions are sent on, of so many."""
        gone = np.zeros(len(trust), bool)
        gone[np.argsort(trust, kind="stable")[: round(share * len(gone))]] = True
        return gone

    def cost(self, routed: Routed, gone: NDArray[Any]) -> float:
        """As a share of the larger model's alone; `gone`: which questions are sent on, or with which probability each."""
        small = ((1 - gone) * self.tokens[0] + gone * routed.pays).sum() * self.parameters[0]
        return float((small + (self.tokens[1] * gone).sum() * self.parameters[1]) / self.whole)

    def solved(self, gone: NDArray[Any]) -> NDArray[np.float64]:
        """Of each question whether it is answered right, or how likely."""
        return np.asarray((1 - gone) * self.right[0] + gone * self.right[1], float)


def cascade(session: Session, options: Options) -> str:
    """Run the stage. What the larger model has answered is not asked again.

    Raises: UserError without a larger model, or if it is not larger; ModelError as `load_model`.
    """
    if not options.larger:
        raise UserError("there is no larger model to send questions to", remedy="Name it: --larger MODEL.")
    run, larger = session.run, session.with_model(options.larger)
    parameters = run.manifest["model"]["parameters"], larger.loaded.parameters()
    if parameters[1] <= parameters[0]:
        raise UserError(
            f"{options.larger} is not larger than the study's model", expected=f"more than {parameters[0]:,} parameters",
            got=f"{parameters[1]:,}",
        )  # fmt: skip
    done = run.manifest["stages"]["predict"]["options"]
    every = trial_data(session, done["data"], done["test"])
    asked = {(r["data"], r["problem_id"], r["question"]) for r in run.rows("SELECT * FROM predicted")}
    if asked != {(d.label, p.id, p.question) for d in every for p in d.problems}:
        raise UserError("the data are not what they were when answers to them were predicted",
                        remedy=f"Run `cotscope predict {run.folder}` again.")  # fmt: skip
    solve(
        larger,
        [Condition("cascade", session.prompt, d.label, label=d.label, problems=d.problems, weights=larger.loaded.weight_hash())
         for d in every],
        "answering with the larger model",
    )  # fmt: skip
    both_write = {"the study's model": "prediction", options.larger: "cascade"}
    note_cut(session, {f"{name} on {d.label}": f"{family}.{d.label}" for d in every for name, family in both_write.items()})
    rows, summary = list[dict[str, Any]](), dict[str, Any]()
    for data in every:
        both, routers, templates = _routers(session, data, parameters)
        here = [
            {"data": data.label, "router": name, "share": share, **curve_point(both, routed, share)}
            for name, routed in routers.items()
            for share in SHARES
        ]
        rows += here
        summary[data.label] = {
            "larger_model": options.larger,
            "n": len(data.problems),
            "smaller": float(both.right[0].mean()),
            "larger": float(both.right[1].mean()),
            "smaller_cost": float(both.tokens[0].sum() * both.parameters[0] / both.whole),
            "routers": said_of(both, routers, here, templates),
        }
    run.write(CASCADE, rows)
    run.summarise("cascade", summary)
    return "; ".join(_finding(label, found) for label, found in summary.items())


def curve_point(both: Both, routed: Routed, share: float) -> dict[str, float]:
    """Accuracy and cost with so many questions sent on; at random: what is expected."""
    gone = np.full(len(routed.pays), share) if routed.trust is None else both.sent(routed.trust, share)
    return {"accuracy": float(both.solved(gone).mean()), "cost": both.cost(routed, gone)}


def _routers(session: Session, data: TrialData, parameters: tuple[int, int]) -> tuple[Both, dict[str, Routed], list[int]]:
    """What both models did on one data set, the routers, and the problems' templates."""
    run = session.run
    given = answers(session, f"prediction.{data.label}", data.problems)
    other = answers(session, f"cascade.{data.label}", data.problems)
    small, large = (np.array([max(len(a.tokens), 1) for a in some], float) for some in (given, other))
    right, better = (np.array([a.right for a in some]) for some in (given, other))
    both = Both((right, better), (small, large), parameters)
    found: dict[str, dict[str, float]] = {}
    for r in run.rows("SELECT predictor, problem_id, probability FROM predictions WHERE data = ?", [data.label]):
        found.setdefault(r["predictor"], {})[r["problem_id"]] = r["probability"]
    trusted = {name: np.array([some[a.problem.id] for a in given]) for name, some in found.items()}
    groups, templates = neuron_groups(session), templates_of(given)
    traces = traced(session, data.label, session.prompt, given, sorted({n for some in groups.values() for n in some}))

    def learned(features: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(out_of_fold(features, right.tolist(), templates, session.config.seed)[0], float)

    one, routers = np.ones_like(small), {LOG_PROB: Routed(trusted[LOG_PROB], small)}
    try:
        gain = trusted[QUESTION] - learned(words([a.problem.question for a in given]), better)
        routers[QUESTION + GAINS] = Routed(gain, np.zeros_like(small), GAINS_BEFORE)
    except UserError:  # too few of the larger model's answers are right, or wrong, to learn which
        pass
    teaches = QUESTION + GAINS in routers
    with session.bar(f"routers on {data.label}", len(SOURCES), "source") as bar:
        for name in SOURCES:
            if name == "confidence":
                whole, first = flat(traces.confidence[:, -1]), flat(traces.confidence[:, 0])
            else:
                at = traces.of(groups[name])
                whole, first = flat(traces.sizes[:, :, at]), flat(traces.so_far[:, 0, at])
            early = learned(first, right)
            routers[name] = Routed(trusted[name], small)
            routers[name + FIRST] = Routed(early, one, BEFORE)
            if teaches:
                routers[name + GAINS] = Routed(trusted[name] - learned(whole, better), small, REASONING + GAINS)
                routers[name + GAINS + FIRST] = Routed(early - learned(first, better), one, GAINS_BEFORE)
            bar.update()
    routers |= {AT_RANDOM: Routed(None, small), RANDOM_BEFORE: Routed(None, np.zeros_like(small))}
    routers[KNOWN] = Routed(right + 0.5 * ~better, small)  # wrong answers that the larger model has right go first
    return both, routers, templates


def said_of(
    both: Both, routers: Mapping[str, Routed], points: Sequence[Mapping[str, Any]], templates: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """What the summary says of each router."""
    larger = both.right[1]
    found: dict[str, dict[str, Any]] = {}
    sent: dict[str, NDArray[np.bool_]] = {}
    for name, routed in routers.items():
        here = [p for p in points if p["router"] == name]
        near = [p["cost"] for p in here if p["accuracy"] >= NEAR * larger.mean()]
        found[name] = {"near": min(near, default=None)}
        within = [p for p in here if p["cost"] <= COST]
        if not within:
            continue
        last = max(within, key=lambda p: p["share"])
        found[name] |= {k: last[k] for k in ("share", "cost", "accuracy")} | {
            "kept": last["accuracy"] / float(larger.mean()) if larger.any() else float("nan")
        }
        if routed.trust is not None:
            sent[name] = both.sent(routed.trust, last["share"])

    def ratio(key: str, over: NDArray[np.float64], under: NDArray[np.float64], least: float, most: float) -> dict[str, float]:
        value, *ends = clustered_ratio(over, under, templates)
        return {key: value} | {f"{key}_{e}": float(np.clip(v, least, most)) for e, v in zip(("low", "high"), ends, strict=True)}

    one = np.ones(len(larger))
    for name, gone in sent.items():
        solved, share = both.solved(gone), float(gone.mean())
        random = (1 - share) * both.right[0] + share * larger
        found[name]["share"] = share  # of so few questions not quite what was asked for
        found[name] |= ratio("kept", solved, larger.astype(float), 0, np.inf)
        found[name] |= ratio("beyond_random", solved - random, one, -1, 1)
        if (own := routers[name].beside) != name and own in sent:
            found[name] |= ratio("difference", both.solved(sent[own]) - solved, one, -1, 1)
    return found


def _finding(label: str, found: Mapping[str, Any]) -> str:
    said = f"{label} (n = {found['n']}): accuracy {found['smaller']:.3f} alone, {found['larger']:.3f} with the larger model"
    own = found["routers"][REASONING]
    if "kept" not in own:
        return f"{said}; the study's model alone costs {found['smaller_cost']:.2f} of it"
    more = {"by random neurons": "random 1", "asked who gains, at the first token,": GAINS_BEFORE}
    beside = "".join(
        f"; {what} {router['kept']:.3f}" for what, name in more.items() if "kept" in (router := found["routers"].get(name, {}))
    )
    return (
        f"{said}; at {own['cost']:.2f} of its cost {own['kept']:.3f} [{own['kept_low']:.3f}, {own['kept_high']:.3f}] of its "
        f"accuracy, {own['beyond_random']:+.3f} [{own['beyond_random_low']:+.3f}, {own['beyond_random_high']:+.3f}] against "
        f"sending on at random{beside}"
    )


STAGE = Stage(
    "cascade",
    "cascade",
    "send questions that are likely to be answered wrong to a larger model: accuracy against cost",
    cascade,
    Options,
    after=("predict",),
    reads=(*NEURONS, PREDICTED, PREDICTIONS, "completions/prediction.", "arrays/traces."),
    writes=("completions/cascade.", CASCADE),
    units=UNITS,
    repeats=True,
    wanted=never,
    example="cotscope cascade runs/first --larger qwen2.5-coder-1.5b",
)
