"""What the model went through while it wrote its answers: traced once per set of answers, kept as arrays of the run.

Of each answer there are update sizes of chosen neurons (by the tokens' roles, and over its first tokens), of whole layers,
how sure the model was of its tokens, and the residual stream; `stages/predict.py` asks them whether it is right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...data.roles import ROLES, RULE, token_roles
from ...records import Neuron, Problem, Prompt
from ...runs.files import fingerprint
from ...runs.session import Session

if TYPE_CHECKING:
    from ...lm.loading import LoadedModel
    from ...lm.scoring import TokenScore

Floats = NDArray[np.float32]
STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of an answer after which is asked how it will end; at 0 its first token alone is known, chosen from the prompt."""
CONFIDENCE = (
    "log_prob_mean", "log_prob_least", "log_prob_sum", "margin_least", "entropy_mean", "entropy_most", "tokens",
    *(f"{role}_{what}" for role in ("operator", "result") for what in ("log_prob_mean", "log_prob_least", "margin_least")),
)  # fmt: skip
"""How sure the model was of an answer's tokens (nats), and how many they are."""
_ARRAYS = ("sizes", "so_far", "layers", "confidence", "residual")
PROBED = slice(1, None, 2)
"""Layers whose residual stream is kept: every second one."""
LARGEST = 65_504  # that float16 holds
_BATCH = 64  # answers traced at once


@dataclass(frozen=True)
class Answer:
    """What the model wrote for one problem."""

    problem: Problem
    text: str
    tokens: tuple[int, ...]
    right: bool
    read: str | None


@dataclass(frozen=True)
class Traces:
    """Of some answers, in their order.

    Attributes:
        neurons: whose update sizes there are.
        sizes: mean update sizes by role, (answers, roles, neurons); 0 where an answer has no token of a role.
        so_far: the same over the tokens up to each of `STOPS`, (answers, stops, neurons).
        layers: of whole layers by role, (answers, roles, layers).
        confidence: `CONFIDENCE` up to each of `STOPS`, (answers, stops, figures).
        residual: mean over tokens of the residual stream after layers `PROBED`, (answers, layers, hidden), as float16.
    """

    neurons: tuple[Neuron, ...]
    sizes: Floats
    so_far: Floats
    layers: Floats
    confidence: Floats
    residual: NDArray[np.float16]

    def of(self, neurons: Sequence[Neuron]) -> list[int]:
        """Where these neurons stand."""
        place = {n: i for i, n in enumerate(self.neurons)}
        return [place[n] for n in neurons]

    def at(self, places: Sequence[int] | NDArray[np.intp]) -> Traces:
        """Of some answers."""
        return Traces(self.neurons, *(getattr(self, name)[list(places)] for name in _ARRAYS))

    @staticmethod
    def together(parts: Sequence[Traces]) -> Traces:
        """Of several sets of answers, of the same neurons."""
        return Traces(parts[0].neurons, *(np.concatenate([getattr(t, name) for t in parts]) for name in _ARRAYS))


def answers(session: Session, condition: str, problems: Sequence[Problem]) -> list[Answer]:
    """What the model wrote under a condition that has been run, in the problems' order."""
    found = {
        r["problem_id"]: r
        for r in session.run.rows(
            "SELECT problem_id, text, token_ids, correct, flexible FROM completions WHERE condition = ?", [condition]
        )
    }
    return [
        Answer(p, (r := found[p.id])["text"], tuple(r["token_ids"]), r["correct"], r["flexible"])
        for p in problems
        if p.id in found
    ]


def traced(
    session: Session, name: str, prompt: Prompt, given: Sequence[Answer], neurons: Sequence[Neuron], residual: bool = True
) -> Traces:
    """Traces of some answers under their prompt; found in the run (`arrays/traces.<name>`) if they were made before.

    Args:
        residual: keep the residual stream.
    """
    run, file = session.run, f"traces.{name}"
    asked = [(a.problem.id, a.problem.question, a.tokens) for a in given]
    ended = ["at the end"] * any(not a.tokens for a in given)
    of = fingerprint(prompt.text(""), asked, sorted(neurons), STOPS, CONFIDENCE, f"roles {RULE}", *ended)
    if run.done(f"arrays/{file}", of) is None:
        found = trace_all(session, prompt, given, sorted(set(neurons)), f"tracing {name}")
        arrays = {part: getattr(found, part) for part in _ARRAYS if residual or part != "residual"}
        about = {"answers": json.dumps([a.problem.id for a in given]), "neurons": json.dumps(found.neurons)}
        run.write_arrays(file, arrays, about, of)
        del found, arrays  # of many answers they fill memory; they are not wanted twice
    stored = run.arrays(file, of)
    assert stored is not None
    kept = {"residual": np.zeros((len(given), 0, 0), np.float16), **stored.arrays}
    if kept["residual"].shape[1] == session.loaded.anatomy.layers:  # of an older version, which kept all
        kept["residual"] = kept["residual"][:, PROBED]
    return Traces(tuple(Neuron(*n) for n in json.loads(stored.metadata["neurons"])), **kept)


def trace_all(session: Session, prompt: Prompt, given: Sequence[Answer], neurons: Sequence[Neuron], what: str) -> Traces:
    """Run the model over the answers; over an end token of one that has no other (zeros, if the model has none)."""
    from ...lm.tracing import trace

    loaded, layers = session.loaded, session.loaded.anatomy.layers
    hidden = int(loaded.model.config.get_text_config().hidden_size)
    shapes: dict[str, tuple[int, ...]] = {
        "sizes": (len(ROLES), len(neurons)),
        "so_far": (len(STOPS), len(neurons)),
        "layers": (len(ROLES), layers),
        "confidence": (len(STOPS), len(CONFIDENCE)),
        "residual": (len(range(layers)[PROBED]), hidden),
    }
    kept: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        kept[name] = np.zeros((len(given), *shape), np.float16 if name == "residual" else np.float32)
    end = min(loaded.end_tokens, default=None)
    tokens = [a.tokens or (() if end is None else (end,)) for a in given]
    written = sorted((i for i, said in enumerate(tokens) if said), key=lambda i: -len(tokens[i]))
    with session.bar(what, len(written), "answer") as bar:
        for start in range(0, len(written), _BATCH):
            part = written[start : start + _BATCH]
            texts = [prompt.text(given[i].problem.question) for i in part]
            for i, found in zip(part, trace(session.engine, texts, [tokens[i] for i in part], neurons, bar.update)):
                # In words the answer that was given, not the right one: whoever predicts must not know that.
                said = (given[i].read or "") if session.inputs.words else ""
                roles = _roles(loaded, tokens[i], said)
                for role in np.unique(roles):
                    kept["sizes"][i, role] = found.updates[roles == role].mean(axis=0)
                    kept["layers"][i, role] = found.layers[roles == role].mean(axis=0)
                for stop, share in enumerate(STOPS):
                    count = max(1, round(share * len(roles)))
                    kept["so_far"][i, stop] = found.updates[:count].mean(axis=0)
                    seen = roles if share == 1 else _roles(loaded, tokens[i][:count])  # what comes is not known there
                    kept["confidence"][i, stop] = confidence(found.scores[:count], seen)
                residual = found.residual[PROBED]
                kept["residual"][i] = np.clip(residual, -LARGEST, LARGEST)
                if np.abs(residual).max(initial=0) > LARGEST:
                    session.run.note(f"The residual stream is beyond ±{LARGEST:,} at some tokens: the probe sees it cut there.")
    return Traces(tuple(neurons), **kept)


def confidence(scores: Sequence[TokenScore], roles: NDArray[Any]) -> list[float]:
    """`CONFIDENCE` of tokens, whose roles are given by number; where there is none of a role, what all of them have."""
    log_prob, margin, entropy = (np.array([getattr(s, k) for s in scores]) for k in ("log_prob", "margin", "entropy"))
    found = [log_prob.mean(), log_prob.min(), log_prob.sum(), margin.min(), entropy.mean(), entropy.max(), len(scores)]
    for role in ("operator", "result"):
        here = roles == ROLES.index(role)
        here = here if here.any() else np.ones(len(roles), bool)
        found += [log_prob[here].mean(), log_prob[here].min(), margin[here].min()]
    return [float(f) for f in found]


def token_probability(traces: Traces) -> NDArray[np.float64]:
    """The probability of a token, geometric mean over each answer's, (answers,)."""
    return np.asarray(np.exp(traces.confidence[:, -1, CONFIDENCE.index("log_prob_mean")].astype(float)))


def _roles(loaded: LoadedModel, tokens: Sequence[int], said: str = "") -> NDArray[np.intp]:
    return np.array([ROLES.index(r) for r in token_roles(loaded, tokens, said)])


def by_concept(session: Session, traces: Traces, places: Mapping[Neuron, Neuron] | None = None) -> tuple[list[str], Floats]:
    """Update sizes of each concept's accepted neurons: features that every model has.

    Args:
        places: neurons that stand in the place of others; what has none is not counted.

    Returns: the concepts' names; means per neuron, so that sets of other sizes compare, by third of the model and role,
        (answers, concepts, thirds, roles), 0 where there is none.
    """
    layers = traces.layers.shape[2]
    concepts: dict[str, list[list[int]]] = {}
    where = {n: i for i, n in enumerate(traces.neurons)}
    for r in session.run.rows("SELECT DISTINCT concept, layer, index FROM annotations WHERE accepted ORDER BY ALL"):
        n = Neuron(r["layer"], r["index"])
        thirds = concepts.setdefault(r["concept"], [[], [], []])
        if (place := n if places is None else places.get(n)) in where:
            thirds[min(2, 3 * n.layer // layers)].append(where[place])
    found = np.zeros((len(traces.sizes), max(len(concepts), 1), 3, len(ROLES)), np.float32)
    for i, thirds in enumerate(concepts.values()):
        for third, some in enumerate(thirds):
            if some:
                found[:, i, third] = traces.sizes[:, :, some].mean(axis=2)
    return list(concepts) or ["none"], found
