"""Operations: does removing the neurons of one operation hurt that operation more than the others?

The reasoning neurons of one operation's concept are zeroed, and the results in given solutions of problems of each
operation alone are scored: a table of operations disrupted and operations asked. How large a set is and how hard an
operation is are main effects; what is tested is the diagonal beyond them.

Reads: `annotations`. Writes: `operation_problems`, `operations`.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import numpy as np

from ..continuations import continuation
from ..data.builtin import generate
from ..prompts.derive import render_solution
from ..records import OPERATIONS, Neuron, Problem
from ..session import Session
from ..stats import diagonal_contrast, paired_bootstrap

UNITS = {
    "operations.contrast": "mean change of the results' log-probability (nats) on the diagonal of the table of operations, "
    "rows' and columns' means taken off; below 0: an operation suffers most without its own neurons",
    "operations.p_value": "share of the orders of the sets whose diagonal is as low; with four operations at least 1/24",
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
        scores = {None: _scores(session, problems, ())}
        with session.bar("operations", len(sets), "set") as bar:
            for operation, neurons in sets.items():
                scores[operation] = _scores(session, problems, neurons)
                bar.update()
        run.write_rows(
            "operation_problems",
            [
                {"disrupted": disrupted or "none", "operation": operation, "problem_id": problem.id, "log_prob": value}
                for disrupted, by_operation in scores.items()
                for operation, values in by_operation.items()
                for problem, value in zip(problems[operation], values)
            ],
        )
        changes = [[scores[i][j] - scores[None][j] for j in sets] for i in sets]
        rows = []
        for i, disrupted in enumerate(sets):
            for j, operation in enumerate(sets):
                mean, low, high = paired_bootstrap(changes[i][j], session.config.seed)
                rows.append(
                    {
                        "disrupted": disrupted,
                        "neurons": len(sets[disrupted]),
                        "operation": operation,
                        "problems": len(changes[i][j]),
                        "untouched": float(scores[None][operation].mean()),
                        "change": mean,
                        "low": low,
                        "high": high,
                    }
                )
        run.write_rows("operations", rows)
        contrast, low, high, p = diagonal_contrast(changes, session.config.seed)
        run.summarise(
            "operations",
            {
                "contrast": contrast,
                "ci": [low, high],
                "p_value": p,
                "neurons": {operation: len(neurons) for operation, neurons in sets.items()},
                "problems": len(next(iter(problems.values()))),
            },
        )


def _sets(session: Session) -> dict[str, tuple[Neuron, ...]]:
    """Each operation's reasoning neurons; one that stands for several operations belongs to none of them."""
    rows = session.run.rows(
        "SELECT DISTINCT concept, layer, index FROM annotations WHERE accepted AND list_contains(?, concept) ORDER BY ALL",
        [list(OPERATIONS)],
    )
    owners = Counter((r["layer"], r["index"]) for r in rows)
    sets = {
        operation: tuple(
            Neuron(r["layer"], r["index"])
            for r in rows
            if r["concept"] == operation and owners[r["layer"], r["index"]] == 1
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
) -> dict[str, np.ndarray]:
    """operation → each problem's mean log-probability of the result tokens in its gold solution."""
    from ..lm.interventions import scale
    from ..lm.scoring import Given, score

    prompt, everything = session.prompts[0], [p for part in problems.values() for p in part]
    given = [continuation(session.loaded, p, "gold", render_solution(p)) for p in everything]
    found = score(
        session.engine,
        Given(
            tuple(prompt.text(p.question) for p in everything),
            tuple(c.tokens for c in given),
            tuple(c.results for c in given),
            intervention=scale(session.loaded.anatomy, neurons, 0.0) if neurons else None,
        ),
    )
    values = iter([fmean(t.log_prob for t in row) for row in found])
    return {operation: np.array([next(values) for _ in part]) for operation, part in problems.items()}
