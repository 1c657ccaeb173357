"""What each of all neurons does to the results of given formulas, from gradients, and how well that holds.

One pass back per outcome says for every neuron at once what zeroing it alone would change, to first order
(`lm/attribution.py`): the log-probability of reference solutions' operators, equals signs, results and other tokens; the
results' logit margin, which has no ceiling; and, to tell the skill from everything, the battery's answers and general text,
by items and a text that nothing is measured on.
The solutions are those of *discovery* problems: what is chosen here is tried on test problems (`stages/attribute.py`). Some
neurons are then zeroed one by one, to say how well the prediction holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from ..data.battery import load_battery
from ..data.load import general_text
from ..data.roles import ROLES
from ..errors import ModelError, UserError
from ..records import Neuron
from ..runs.files import fingerprint
from ..runs.session import Session
from ..runs.tables import ATTRIBUTED, ATTRIBUTION_CHECKS, ATTRIBUTIONS
from ..stats import jaccard, rank_correlation
from .solutions import Solution, answers, fingerprint_of, solved

if TYPE_CHECKING:
    from ..lm.attribution import Attribution
    from ..lm.interventions import Intervention
    from ..lm.loading import LoadedModel

MARGIN = "result_margin"
TEXT_TOKENS = 256  # of a text that nothing is measured on
CHECK_SOLUTIONS = 4  # that single neurons are zeroed on
TOP = 500  # neurons whose stability is told


class Attributing(Protocol):
    """Options: solutions that are attributed, neurons that are zeroed one by one."""

    @property
    def solutions(self) -> int: ...

    @property
    def checked(self) -> int: ...


def attribute_all(session: Session, options: Attributing) -> dict[str, Any]:
    """Write the tables `attributions` and `attribution_checks`, or find them done; returns their part of the summary.

    Raises: UserError if no discovery problem has a solution.
    """
    run = session.run
    given = solved(session, f"discovery.{session.prompt.name}", session.inputs.split.discovery, options.solutions)
    if not given:
        raise UserError(
            "no discovery problem has a solution to attribute", expected="data with solutions, or a problem that was solved"
        )
    given = _fitting(session, given)
    of = fingerprint(
        fingerprint_of(given),
        session.prompt.text(""),
        [t.choosing for t in load_battery()],
        fingerprint(*_prose(session.loaded)),
    )
    check_of = fingerprint(of, options.checked, CHECK_SOLUTIONS)
    model: LoadedModel | None = None
    if run.done("attributions", of) is None:
        model = _exact(session)
        _attribute(session, model, given, of)
    if options.checked and run.done("attribution_checks", check_of) is None:
        _check(session, model or _exact(session), given[:CHECK_SOLUTIONS], options.checked, check_of)
    return _summary(session, len(given), bool(options.checked))


def _prose(model: LoadedModel) -> tuple[list[int], list[int]]:
    """The end of the text to choose by: what is given of it, the tokenizer's start tokens or a token, and what is scored."""
    start = model.encode("")
    text = model.encode(general_text("choosing"))[len(start) :]
    first = start or text[-min(TEXT_TOKENS, model.context - 1) - 1 :][:1]
    return first, text[-min(TEXT_TOKENS, model.context - len(first)) :]


def _fitting(session: Session, given: Sequence[Solution]) -> tuple[Solution, ...]:
    """Those that fit the model's context with their prompt; a note says what does not. Raises: UserError if none does."""
    loaded = session.loaded
    long = [s for s in given if len(loaded.encode(session.prompt.text(s.problem.question))) + len(s.tokens) > loaded.context]
    if len(long) == len(given):
        raise UserError("no discovery problem fits the model's context with its solution", expected=f"{loaded.context} tokens")
    if long:
        session.run.note(f"{len(long)} of {len(given)} discovery problems ({long[0].problem.id} the first) do not fit the "
                         "model's context with their solution: they are not attributed.")  # fmt: skip
    return tuple(s for s in given if s not in long)


def _exact(session: Session) -> LoadedModel:
    """`differentiable` in float32, if there is room: in 16 bits a margin is rounded by more than most single neurons change."""
    try:
        return differentiable(session, float32=True)
    except ModelError:
        if session.loaded.model.device.type == "cpu":
            raise
    return differentiable(session)  # not in the handler, which holds on to what did not fit


def differentiable(session: Session, beside: int = 0, float32: bool = False) -> LoadedModel:
    """The study's model, through which gradients pass; in float32 where bfloat16 is slower, and in place of float16, in which
    gradients become 0.

    Args:
        beside: bytes that are needed beside its weights.
        float32: in any case.

    Raises: ModelError if that does not fit into memory.
    """
    from ..lm.loading import load_model

    loaded = session.loaded
    float32 |= training_dtype(session) == "float32"
    check_memory(loaded, loaded.parameters() * (4 if float32 else loaded.dtype.itemsize) + beside)
    dtype = "float32" if float32 else loaded.dtype_name
    return load_model(session.config.model, dtype=dtype, device=str(loaded.model.device), differentiable=True)


def check_memory(loaded: LoadedModel, needed: int, remedy: str = "", why: str = ", for gradients") -> None:
    """Raises: ModelError if a model, and what is beside it, does not fit into memory a second time; needed: bytes."""
    if needed > loaded.free_memory():
        raise ModelError(
            f"{loaded.name} does not fit into memory a second time{why}",
            expected=f"{needed / 2**30:.1f} GiB",
            got=f"{loaded.free_memory() / 2**30:.1f} GiB free",
            remedy=remedy,
        )


def training_dtype(session: Session) -> str:
    """In which gradients are computed where it need not be float32: the study's dtype, or float32 (`differentiable`)."""
    from ..lm.cpu import bfloat16_instructions, choose_dtype

    loaded, device = session.loaded, session.loaded.model.device.type
    # Of a CPU what is known, and not what a moment's measurement says: a training goes on in the dtype in which it began.
    fast = bfloat16_instructions() is not None if device == "cpu" else choose_dtype(device).dtype == "bfloat16"
    return "bfloat16" if fast and loaded.dtype_name == "bfloat16" else "float32"


def _attribute(session: Session, model: LoadedModel, given: Sequence[Solution], of: str) -> None:
    from ..lm.attribution import Outcome
    from ..lm.attribution import attribute as attribution

    battery = load_battery()
    with session.bar("attributing", len(given) + sum(len(t.choosing) for t in battery) + 1, "text") as bar:
        prompts = [model.encode(session.prompt.text(s.problem.question)) for s in given]
        places = {role: tuple(frozenset(i for i, r in enumerate(s.roles) if r == role) for s in given) for role in ROLES}
        outcomes = {role: Outcome("log_prob", places[role]) for role in ROLES} | {MARGIN: Outcome("margin", places["result"])}
        found = attribution(model, prompts, [s.tokens for s in given], outcomes, progress=bar.update)
        tasks = []
        for task in battery:
            tokens = answers(model, task, task.choosing)
            every = {"battery": Outcome("margin", tuple(frozenset(range(len(t))) for t in tokens))}
            asked = [model.encode(task.prompt(item)) for item in task.choosing]
            tasks.append(attribution(model, asked, tokens, every, progress=bar.update).outcomes["battery"])
        first, text = _prose(model)
        whole = {"text": Outcome("log_prob", (frozenset(range(len(text))),))}
        prose = attribution(model, [first], [text], whole, progress=bar.update)
    each: dict[str, Attribution] = found.outcomes | prose.outcomes
    columns = {name: (a.total.numpy(), a.direct.numpy()) for name, a in each.items()}
    columns["battery"] = tuple(np.mean([getattr(t, part).numpy() for t in tasks], axis=0) for part in ("total", "direct"))
    layers, width = found.sizes.shape
    table = {"layer": np.repeat(np.arange(layers), width), "index": np.tile(np.arange(width), layers)}
    for name in ATTRIBUTED:
        table[name], table[f"{name}_direct"] = (part.reshape(-1) for part in columns[name])
    even, odd = each[MARGIN].halves
    table |= {f"{MARGIN}_even": even.numpy().reshape(-1), f"{MARGIN}_odd": odd.numpy().reshape(-1)}
    table |= {"solutions_size": found.sizes.numpy().reshape(-1), "text_size": prose.sizes.numpy().reshape(-1)}
    session.run.write(ATTRIBUTIONS, pa.table(table), of=of, value=each[MARGIN].value)


def _check(session: Session, model: LoadedModel, given: Sequence[Solution], count: int, of: str) -> None:
    """Zero neurons one by one: half of them those with the largest predicted loss, the others any. What is predicted for
    them is attributed on the very solutions that they are zeroed on."""
    from ..lm.attribution import Outcome
    from ..lm.attribution import attribute as attribution
    from ..lm.engine import Engine
    from ..lm.interventions import scale
    from ..lm.scoring import Given, score

    run = session.run
    rows = run.rows(f"SELECT layer, index FROM attributions ORDER BY {MARGIN} - {MARGIN}_direct, layer, index")
    neurons = [Neuron(r["layer"], r["index"]) for r in rows]
    count = min(count, len(neurons))
    largest, others = neurons[: count // 2], neurons[count // 2 :]
    rng = np.random.default_rng(session.config.seed)
    drawn = [*largest, *(others[i] for i in rng.choice(len(others), count - len(largest), replace=False))]
    texts = tuple(session.prompt.text(s.problem.question) for s in given)
    with session.bar("zeroing neurons one by one", len(given) + len(drawn), "neuron") as bar:
        margin = {MARGIN: Outcome("margin", tuple(s.results for s in given))}
        prompts = [model.encode(t) for t in texts]
        predicted = attribution(model, prompts, [s.tokens for s in given], margin, progress=bar.update).outcomes[MARGIN].total
        engine = Engine(model)
        asked = Given(texts, tuple(s.tokens for s in given), scored=tuple(s.results for s in given))

        def margin_of(intervention: Intervention | None) -> float:
            """Mean over solutions of the mean logit margin at their results."""
            scores = score(engine, replace(asked, intervention=intervention))
            return fmean(fmean(t.margin for t in tokens) for tokens in scores)

        untouched = margin_of(None)
        checks = []
        for i, neuron in enumerate(drawn):
            zeroed = margin_of(scale(model.anatomy, [neuron], 0.0)) - untouched
            how = "largest" if i < len(largest) else "random"
            checks.append({**neuron._asdict(), "drawn": how, "predicted": float(predicted[neuron]), "zeroed": zeroed})
            bar.update()
    run.write(ATTRIBUTION_CHECKS, checks, of=of)


def _summary(session: Session, solutions: int, checked: bool) -> dict[str, Any]:
    run = session.run
    rows = run.query(f"SELECT {MARGIN}_even AS even, {MARGIN}_odd AS odd, {MARGIN} AS change FROM attributions").to_pydict()
    even, odd, change = (np.array(rows[k]) for k in ("even", "odd", "change"))
    top = [set(np.argsort(half)[:TOP].tolist()) for half in (even, odd)]
    losses = np.sort(-change[change < 0])[::-1]
    summary: dict[str, Any] = {
        "solutions": solutions,
        "value": run.manifest["files"]["attributions"]["value"],
        "stability": {"jaccard": jaccard(*top), "spearman": rank_correlation(even.tolist(), odd.tolist())}
        if solutions > 1
        else None,
        "concentration": {str(n): float(losses[:n].sum() / losses.sum()) for n in (50, TOP)} if len(losses) else None,
        "check": None,
    }
    pairs = run.rows("SELECT predicted, zeroed, drawn FROM attribution_checks") if checked else []
    if pairs:
        predicted, zeroed = ([p[k] for p in pairs] for k in ("predicted", "zeroed"))
        random = [p for p in pairs if p["drawn"] == "random"]
        summary["check"] = {
            "neurons": len(pairs),
            "spearman": rank_correlation(predicted, zeroed),
            "spearman_random": rank_correlation([p["predicted"] for p in random], [p["zeroed"] for p in random]),
            "slope": float(np.dot(predicted, zeroed) / max(np.dot(predicted, predicted), 1e-12)),
        }
    return summary
