"""Operations: does removing the neurons of one operation hurt that operation more than the others?

The reasoning neurons of one operation's concept are zeroed, and the operators and the results in reference solutions of
problems of each operation alone are scored: two tables of operations disrupted and operations asked. How large a set is
and how hard an operation is are main effects; what is tested is the diagonal beyond them.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.builtin import generate
from ..measuring.solutions import solution
from ..prompts.derive import render_solution
from ..records import OPERATIONS, Neuron, Problem
from ..runs.files import fingerprint
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import ANNOTATIONS, OPERATION_PROBLEMS
from ..runs.tables import OPERATIONS as OPERATIONS_TABLE
from ..stats import diagonal_contrast, paired_bootstrap

FloatArray = NDArray[np.float64]
PLACES = ("operator", "result")
UNITS = {
    "operations.<role>.contrast": "mean change of the log-probability (nats) of operators or results on the diagonal of "
    "the table of operations, rows' and columns' means taken off; below 0: an operation suffers most without its own neurons",
    "operations.<role>.p_value": "share of the orders of the sets whose diagonal is as low; with four operations at least 1/24",
}


def operations(session: Session, options: NoOptions) -> str:
    """Run the stage. It is empty, and says so, unless at least two operations have neurons of their own."""
    run, seed = session.run, session.config.seed
    sets = _sets(session)
    if len(sets) < 2:
        run.note("Fewer than two operations have reasoning neurons of their own: there is no table of operations.")
        return "fewer than two operations have neurons of their own"
    problems = {operation: _problems(session, operation) for operation in sets}
    scores: dict[str, dict[str, dict[str, FloatArray]]] = {}
    with session.bar("operations", len(sets) + 1, "set") as bar:
        for name, neurons in (("none", ()), *sets.items()):
            scores[name] = _kept_scores(session, problems, name, neurons)
            bar.update()
    rows: list[dict[str, Any]] = []
    tests: dict[str, dict[str, Any]] = {}
    for role in PLACES:
        untouched = scores["none"][role]
        changes = [[scores[i][role][j] - untouched[j] for j in sets] for i in sets]
        for i, disrupted in enumerate(sets):
            for j, operation in enumerate(sets):
                mean, low, high = paired_bootstrap(changes[i][j].tolist(), seed)
                rows.append(
                    {
                        "role": role,
                        "disrupted": disrupted,
                        "neurons": len(sets[disrupted]),
                        "operation": operation,
                        "problems": len(changes[i][j]),
                        "untouched": float(untouched[operation].mean()),
                        "change": mean,
                        "low": low,
                        "high": high,
                    }
                )
        contrast, low, high, p = diagonal_contrast([[cell.tolist() for cell in row] for row in changes], seed)
        tests[role] = {"contrast": contrast, "ci": [low, high], "p_value": p}
    run.write(OPERATIONS_TABLE, rows)
    sizes = {operation: len(neurons) for operation, neurons in sets.items()}
    run.summarise("operations", tests | {"neurons": sizes, "problems": len(next(iter(problems.values())))})
    found = tests["operator"]
    return (
        f"each operation's operators suffer {found['contrast']:+.2f} nats [{found['ci'][0]:.2f}, {found['ci'][1]:.2f}] "
        f"more without its own neurons (p = {found['p_value']:.3f})"
    )


def _kept_scores(
    session: Session, problems: dict[str, tuple[Problem, ...]], name: str, neurons: tuple[Neuron, ...]
) -> dict[str, dict[str, FloatArray]]:
    """`_scores`, from the table `operation_problems` if they are there."""
    run = session.run
    asked = {operation: [(p.id, p.question) for p in part] for operation, part in problems.items()}
    of = fingerprint(neurons, asked, session.prompt.text(""))
    if run.done(f"operation_problems/{name}", of) is None:
        found = _scores(session, problems, neurons)
        rows = [
            {"disrupted": name, "role": role, "operation": operation, "problem_id": p.id, "log_prob": float(value)}
            for role, by_operation in found.items()
            for operation, values in by_operation.items()
            for p, value in zip(problems[operation], values, strict=True)
        ]
        run.write(OPERATION_PROBLEMS, rows, name, of)
        return found
    kept = {
        (r["role"], r["operation"], r["problem_id"]): r["log_prob"]
        for r in run.rows("SELECT * FROM operation_problems WHERE disrupted = ?", [name])
    }
    return {
        role: {operation: np.array([kept[role, operation, p.id] for p in part]) for operation, part in problems.items()}
        for role in PLACES
    }


def _sets(session: Session) -> dict[str, tuple[Neuron, ...]]:
    """Each operation's reasoning neurons; one that stands for several operations belongs to none of them."""
    rows = session.run.rows(
        "SELECT DISTINCT concept, layer, index FROM annotations WHERE accepted AND list_contains(?, concept) ORDER BY ALL",
        [list(OPERATIONS)],
    )
    owners = Counter((r["layer"], r["index"]) for r in rows)
    sets = {
        operation: tuple(
            Neuron(r["layer"], r["index"]) for r in rows if r["concept"] == operation and owners[r["layer"], r["index"]] == 1
        )
        for operation in OPERATIONS
    }
    return {operation: neurons for operation, neurons in sets.items() if neurons}


def _problems(session: Session, operation: str) -> tuple[Problem, ...]:
    """Built-in problems of this operation alone, none of which the study has seen."""
    seen = {p.question for p in session.inputs.split.test + session.inputs.split.discovery}
    wanted = max(2, session.config.given // 2)
    drawn = generate(
        wanted + len(seen), seed=7000 + session.config.seed, steps=(1, 2), operations=[o for o in OPERATIONS if o == operation]
    )
    return tuple(p for p in drawn if p.question not in seen)[:wanted]


def _scores(
    session: Session, problems: dict[str, tuple[Problem, ...]], neurons: tuple[Neuron, ...]
) -> dict[str, dict[str, FloatArray]]:
    """role → operation → each problem's mean log-probability of such tokens in its gold solution."""
    from ..lm.interventions import scale
    from ..lm.scoring import Given, score

    prompt, everything = session.prompt, [p for part in problems.values() for p in part]
    given = [solution(session.loaded, p, "gold", render_solution(p)) for p in everything]
    places = [[i for i, role in enumerate(c.roles) if role in PLACES] for c in given]
    found = score(
        session.engine,
        Given(
            tuple(prompt.text(p.question) for p in everything),
            tuple(c.tokens for c in given),
            tuple(map(frozenset, places)),
            intervention=scale(session.loaded.anatomy, neurons, 0.0) if neurons else None,
        ),
    )
    rows = list(zip(found, places, given, strict=True))
    means = {
        role: iter([fmean(t.log_prob for t, i in zip(row, at) if c.roles[i] == role) for row, at, c in rows]) for role in PLACES
    }
    return {role: {op: np.array([next(means[role]) for _ in part]) for op, part in problems.items()} for role in PLACES}


STAGE = Stage(
    "operations",
    "ablate",
    "zero one operation's neurons, ask every operation (--by operation)",
    operations,
    after=("annotate",),
    reads=(ANNOTATIONS,),
    writes=(OPERATION_PROBLEMS, OPERATIONS_TABLE),
    units=UNITS,
    chosen_by={"--by": {"operation": {}}, "--outcomes": {"operations": {}}},
)
