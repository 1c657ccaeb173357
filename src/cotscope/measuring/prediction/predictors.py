"""What may tell right answers from wrong ones: activity of neurons, and everything else that it has to beat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.answers import is_correct
from ...predicting.templates import masked, templates
from ...records import Neuron
from ...runs.session import Session
from ...runs.tables import ANNOTATIONS, ATTRIBUTIONS, CANDIDATES, KEYSTONES, POLES, SELECTIONS
from ..choosing import REASONING, Choice, choose
from .tracing import CONFIDENCE, Answer, Traces, by_concept

NEURONS = (POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, ATTRIBUTIONS, SELECTIONS)
"""What `neuron_groups` reads."""
RANDOM = 3
"""Random sets beside the reasoning neurons: one for each of them, of its layer and about as active."""
ACTIVITY, CONTROL, LAYERS, BASELINE = "activity", "random neurons", "whole layers", "baseline"
SINGLE = ("log_prob_mean", "log_prob_least", "entropy_mean", "result_margin_least", "tokens")
"""Of `CONFIDENCE`: those that are tried alone. Their sign is learned too: it is not the same for all models and data."""
ASKED = "Question: {question}\nProposed answer: {answer}\nIs the proposed answer true or false?\nThe proposed answer is:"
_TOKENS = 4096  # words and pairs of words that a text is told by, the most frequent


@dataclass(frozen=True)
class Predictor:
    """One way of telling.

    Attributes:
        kind: `ACTIVITY` (neurons chosen for what they stand for or do), `CONTROL`, `LAYERS`, or `BASELINE`.
        features: (answers, features), or (choices, answers, features): the folds choose one.
        costs: what it needs beyond the answer itself, in words.
        parts: where several ways tell together, the features of each.
    """

    name: str
    kind: str
    features: NDArray[Any]
    costs: str = ""
    parts: tuple[NDArray[Any], ...] = ()


def reasoning_neurons(session: Session) -> list[Neuron]:
    """The study's reasoning neurons, in their order."""
    return choose(session, Choice(REASONING))[0]


def attributed_neurons(session: Session, count: int) -> list[Neuron]:
    """The first so many of attribution's neurons; none where it has not run."""
    sql = "SELECT 1 FROM selections WHERE selection = 'attribution' LIMIT 1"
    if not session.run.state("attribute").current or not session.run.rows(sql):
        return []
    return choose(session, Choice("attribution", first=count))[0]


def neuron_groups(session: Session) -> dict[str, list[Neuron]]:
    """Neurons whose activity is asked: the reasoning neurons, as many of attribution's, random ones like the former."""
    reasoning = reasoning_neurons(session)
    groups = {REASONING: reasoning}
    if attributed := attributed_neurons(session, len(reasoning)):
        groups["attribution"] = attributed
    for i in range(RANDOM):
        groups[f"random {i + 1}"] = choose(session, Choice(REASONING, random=(session.config.seed + i) % 2**53))[0]
    return groups


def flat(values: NDArray[Any]) -> NDArray[np.float64]:
    """(answers, …) → (answers, features)."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


def predictors(
    session: Session,
    given: Sequence[Answer],
    traces: Traces,
    groups: Mapping[str, Sequence[Neuron]],
    extra: Mapping[str, NDArray[Any]],
) -> list[Predictor]:
    """All ways for some answers; `extra`: further scores, (answers,) each."""
    sure = flat(traces.confidence[:, -1])
    sizes = {name: flat(traces.sizes[:, :, traces.of(some)]) for name, some in groups.items()}
    found = [Predictor(REASONING, ACTIVITY, sizes[REASONING])]
    found += [Predictor("concepts", ACTIVITY, flat(by_concept(session, traces)[1]))]
    found += [Predictor("attribution", ACTIVITY, sizes["attribution"])] if "attribution" in sizes else []
    both = sizes[REASONING], sure
    found += [Predictor("reasoning and confidence", ACTIVITY, np.hstack(both), parts=both)]
    found += [Predictor(name, CONTROL, x) for name, x in sizes.items() if name.startswith("random")]
    found += [Predictor("layers", LAYERS, flat(traces.layers))]
    found += [Predictor("confidence", BASELINE, sure)]
    found += [Predictor(name, BASELINE, sure[:, [CONFIDENCE.index(name)]]) for name in SINGLE]
    found += [Predictor(name, BASELINE, flat(x), "more passes") for name, x in extra.items()]
    found += [Predictor("probe", BASELINE, traces.residual.transpose(1, 0, 2))]
    found += [Predictor("question", BASELINE, words([a.problem.question for a in given]))]
    found += [Predictor("formulas", BASELINE, formulas([a.text for a in given]))]
    return found


def words(texts: Sequence[str]) -> NDArray[np.float64]:
    """Words and pairs of words, numbers masked (TF-IDF): what the question alone tells."""
    return _tfidf(texts, r"(?u)[^\W\d_]+|0", 2)


def formulas(texts: Sequence[str]) -> NDArray[np.float64]:
    """Operators and equals signs in their order, and whether numbers are whole: what the written formulas tell."""
    plain = [re.sub(r"\d[\d,]*(\.\d+)?", lambda m: "1" if m.group(1) else "0", t) for t in texts]
    return _tfidf([" ".join(re.findall(r"[01=+*/×÷−-]", t)) for t in plain], r"\S", 4)


def _tfidf(texts: Sequence[str], token: str, longest: int) -> NDArray[np.float64]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(texts):
        return np.zeros((len(texts), 1))
    made = TfidfVectorizer(ngram_range=(1, longest), token_pattern=token, max_features=_TOKENS)
    return np.asarray(made.fit_transform([masked(t) if longest == 2 else t for t in texts]).toarray())


def templates_of(given: Sequence[Answer]) -> list[int]:
    """The template of each answer's question."""
    return templates([a.problem.question for a in given])


def says_true(session: Session, given: Sequence[Answer]) -> NDArray[np.float64]:
    """Log-odds with which the model calls its own answers true (P(True); Kadavath et al. 2022, arXiv:2207.05221)."""
    from ...lm.scoring import Given, score

    texts = tuple(ASKED.format(question=a.problem.question, answer=a.text.strip()) for a in given)
    found = []
    for word in (" true", " false"):
        tokens = session.loaded.following(word)
        scores = score(session.engine, Given(texts, (tokens,) * len(texts)))
        found.append(np.array([sum(t.log_prob for t in s) for s in scores]))
    return found[0] - found[1]


def agreement(session: Session, conditions: Sequence[str], given: Sequence[Answer]) -> NDArray[np.float64]:
    """The share of sampled answers that come to the same number, or words (self-consistency; Wang et al. 2023,
    arXiv:2203.11171)."""
    rows = session.run.rows(
        "SELECT problem_id, flexible FROM completions WHERE list_contains(?, condition) ORDER BY ALL", [list(conditions)]
    )
    drawn: dict[str, list[str | None]] = {}
    for r in rows:
        drawn.setdefault(r["problem_id"], []).append(r["flexible"])
    return np.array([np.mean([_same(d, a) for d in drawn[a.problem.id]]) for a in given])


def _same(drawn: str | None, given: Answer) -> bool:
    """Whether another text gives the same answer; words do as they give a right one ("on Friday", "Friday")."""
    if drawn is None or given.read is None or not given.problem.words:
        return drawn is not None and drawn == given.read
    return is_correct(drawn, given.read) or is_correct(given.read, drawn)
