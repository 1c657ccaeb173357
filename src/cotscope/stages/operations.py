"""Operations: does removing the neurons of one operation hurt that operation more than the others?

The reasoning neurons of one operation's concept are zeroed, and the operators and the results in given solutions of
problems of each operation alone are scored: two tables of operations disrupted and operations asked. How large a set is
and how hard an operation is are main effects; what is tested is the diagonal beyond them.

Reads: `annotations`. Writes: `operation_problems`, `operations`.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import numpy as np

from ..data.builtin import generate
from ..measuring.solutions import continuation
from ..prompts.derive import render_solution
from ..records import OPERATIONS, Neuron, Problem
from ..runs.session import Session
from ..stats import diagonal_contrast, paired_bootstrap

PLACES = ("operator", "result")
UNITS = {
    "operations.<role>.contrast": "mean change of the log-probability (nats) of operators or results on the diagonal of "
    "the table of operations, rows' and columns' means taken off; below 0: an operation suffers most without its own neurons",
    "operations.<role>.p_value": "share of the orders of the sets whose diagonal is as low; with four operations at least 1/24",
}


def operations(session: Session) -> None:
    """Run the stage. It is empty, and says so, unless at least two operations have neurons of their own."""
    run = session.run
    run.require("annotate", f"cotscope annotate {run.folder}")
    with run.stage("operations", UNITS):
        sets = _sets(session)
        if len(sets) < 2:
            run.note("Fewer than two operations have reasoning neurons of their own: there is no table of operations.")
            return
        problems = {operation: _problems(session, operation) for operation in sets}
        scores: dict[str | None, dict[str, dict[str, np.ndarray]]] = {None: _scores(session, problems, ())}
        with session.bar("operations", len(sets), "set") as bar:
            for operation, neurons in sets.items():
                scores[operation] = _scores(session, problems, neurons)
                bar.update()
        run.write_rows(
            "operation_problems",
            [
                {"disrupted": disrupted or "none", "role": role, "operation": operation, "problem_id": p.id, "log_prob": v}
                for disrupted, by_role in scores.items()
                for role, by_operation in by_role.items()
                for operation, values in by_operation.items()
                for p, v in zip(problems[operation], values)
            ],
        )
        rows, tests = [], {}
        for role in PLACES:
            changes = [[scores[i][role][j] - scores[None][role][j] for j in sets] for i in sets]
            for i, disrupted in enumerate(sets):
                for j, operation in enumerate(sets):
                    mean, low, high = paired_bootstrap(changes[i][j], session.config.seed)
                    rows.append(
                        {
                            "role": role,
                            "disrupted": disrupted,
                            "neurons": len(sets[disrupted]),
                            "operation": operation,
                            "problems": len(changes[i][j]),
                            "untouched": float(scores[None][role][operation].mean()),
                            "change": mean,
                            "low": low,
                            "high": high,
                        }
                    )
            contrast, low, high, p = diagonal_contrast(changes, session.config.seed)
            tests[role] = {"contrast": contrast, "ci": [low, high], "p_value": p}
        run.write_rows("operations", rows)
        sizes = {operation: len(neurons) for operation, neurons in sets.items()}
        run.summarise("operations", tests | {"neurons": sizes, "problems": len(next(iter(problems.values())))})


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
    seen = {p.question for p in session.split.test + session.split.discovery}
    wanted = max(2, session.config.given // 2)
    drawn = generate(wanted + len(seen), seed=7000 + session.config.seed, steps=(1, 2), operations=[operation])
    return tuple(p for p in drawn if p.question not in seen)[:wanted]


def _scores(
    session: Session, problems: dict[str, tuple[Problem, ...]], neurons: tuple[Neuron, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """role → operation → each problem's mean log-probability of such tokens in its gold solution."""
    from ..lm.interventions import scale
    from ..lm.scoring import Given, score

    prompt, everything = session.prompts[0], [p for part in problems.values() for p in part]
    given = [continuation(session.loaded, p, "gold", render_solution(p)) for p in everything]
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
