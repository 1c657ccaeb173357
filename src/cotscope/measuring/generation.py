"""Conditions: a prompt, the problems of one split and an intervention; run once, then found in the run folder.

Every text that a study lets the model write comes from here, so all of them are graded, recorded and timed alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..data.answers import is_correct, parse_flexible, parse_strict
from ..data.numbers import format_number
from ..data.roles import ROLES, token_roles
from ..records import Completion, Problem, Prompt
from ..runs.session import Session

if TYPE_CHECKING:
    from ..lm.interventions import Intervention
    from ..lm.recorders import ActivePoles, PoleTally

log = logging.getLogger(__name__)

COMPLETIONS = pa.schema(
    [
        ("condition", pa.string()),
        ("prompt", pa.string()),
        ("neuron_set", pa.string()),
        ("split", pa.string()),
        ("problem_id", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("roles", pa.list_(pa.string())),
        ("tokens", pa.int32()),
        ("finish", pa.string()),
        ("strict", pa.string()),
        ("flexible", pa.string()),
        ("correct_strict", pa.bool_()),
        ("correct", pa.bool_()),
    ]
)
ACTIVITY = pa.schema(
    [
        ("condition", pa.string()),
        ("problem_id", pa.string()),
        ("role", pa.string()),
        ("layer", pa.int16()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("steps", pa.int32()),
        ("update_size", pa.float64()),
        ("coefficient", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Condition:
    """What the model writes under one prompt and one intervention.

    Attributes:
        name: unique in the run.
        split: "test" or "discovery".
        neuron_set: what is disrupted; "none" without an intervention.
        record: keep the active poles.
        limit: problems of the split, the first ones; None: all.
    """

    name: str
    prompt: Prompt
    split: str
    neuron_set: str = "none"
    intervention: Intervention | None = None
    record: bool = False
    limit: int | None = None


def solve(session: Session, conditions: Sequence[Condition], what: str) -> None:
    """Run the conditions that have not been run: write `completions/<name>` and, recorded, `activity/<name>`.

    They share batches: as rows of one end, rows of the next take their places. Each is written as it ends, so a study
    that is killed loses those on their way only. A condition's seconds are its share of its batches', by tokens.

    Args:
        what: what the progress bar says.
    """
    from ..lm.rows import Job

    done = session.run.manifest["conditions"]
    missing = [c for c in conditions if c.name not in done or (c.record and not done[c.name]["recorded"])]
    if not missing:
        return
    problems = [getattr(session.split, c.split)[: c.limit] for c in missing]
    session.engine.shares_prefix(1)  # loads the model and checks its attention: no part of the conditions' time
    with session.bar(what, sum(map(len, problems)), "problem") as bar, ExitStack() as open_tables:
        sinks = [_Sink(session, c, p, open_tables) for c, p in zip(missing, problems)]
        jobs = [
            Job(
                tuple(c.prompt.text(p.question) for p in part),
                session.config.new_tokens(c.prompt),
                c.prompt.stop,
                sink.recorder,
                c.intervention,
            )
            for c, part, sink in zip(missing, problems, sinks)
        ]
        began = time.monotonic()
        tokens = 0

        def progress(rows: int, written: int) -> None:
            nonlocal tokens
            tokens += written
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - began, 1e-9):.0f} tok/s", refresh=False)
            bar.update(rows)

        def finished(number: int, completions: list[Completion]) -> None:
            sinks[number].finish(completions, (time.monotonic() - began) / max(tokens, 1))

        session.engine.run(jobs, progress, finished)


class _Sink:
    """Where one condition's completions and activity go."""

    def __init__(self, session: Session, condition: Condition, problems: tuple[Problem, ...], open_tables: ExitStack) -> None:
        self.session, self.condition, self.problems = session, condition, problems
        self.recorder: ActivePoles | None = None
        self._table = open_tables.enter_context(ExitStack())  # closed early when the condition ends well
        if condition.record:
            ids = np.array([p.id for p in problems])
            writer = self._table.enter_context(session.run.table_writer(f"activity/{condition.name}", ACTIVITY))
            self.recorder = active_poles(
                session, lambda tally: writer.write_table(by_problem(tally, condition.name, ids, ACTIVITY))
            )

    def finish(self, completions: list[Completion], seconds_per_token: float) -> None:
        """Write what the condition's rows said, then that it is done."""
        self._table.close()
        run, condition = self.session.run, self.condition
        rows = []
        for problem, completion in zip(self.problems, completions, strict=True):
            end = ("elsewhere",) * (completion.steps - len(completion.token_ids))  # the end token is counted, not kept
            places = token_roles(self.session.loaded, completion.token_ids) + end
            rows.append(_graded(condition, problem, completion) | {"roles": places})
        run.write_rows(f"completions/{condition.name}", rows, COMPLETIONS)
        written = sum(r["tokens"] for r in rows)
        seconds = written * seconds_per_token
        run.manifest["conditions"][condition.name] = {
            "seconds": round(seconds, 2),
            "tokens": written,
            "rows": len(rows),
            "recorded": condition.record,
        }
        run.save()
        recorded = [c for c in run.manifest["conditions"].values() if c["recorded"]]
        run.summarise("timing", {"generate_s": round(sum(c["seconds"] for c in recorded), 2)})
        right = sum(r["correct"] for r in rows)
        log.info("%s: %d of %d right, %d tokens in %.1f s", condition.name, right, len(rows), written, seconds)


def _graded(condition: Condition, problem: Problem, completion: Completion) -> dict[str, object]:
    strict, flexible = parse_strict(completion.text), parse_flexible(completion.text)
    return {
        "condition": condition.name,
        "prompt": condition.prompt.name,
        "neuron_set": condition.neuron_set,
        "split": condition.split,
        "problem_id": problem.id,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "tokens": completion.steps,
        "finish": completion.finish,
        "strict": None if strict is None else format_number(strict),
        "flexible": None if flexible is None else format_number(flexible),
        "correct_strict": is_correct(strict, problem.answer),
        "correct": is_correct(flexible, problem.answer),
    }


def active_poles(session: Session, sink: Callable[[PoleTally], None]) -> ActivePoles:
    """The study's recorder; what it tallies is kept apart by the tokens' roles."""
    from ..lm.recorders import ActivePoles

    loaded = session.loaded
    return ActivePoles(
        loaded.anatomy,
        session.config.k,
        sink,
        label=lambda tokens: [ROLES.index(role) for role in token_roles(loaded, tokens)],
    )


def by_problem(tally: PoleTally, name: str, ids: np.ndarray, schema: pa.Schema) -> pa.Table:
    """A tally of `active_poles` as a table.

    Args:
        name: stands in the schema's first column (condition, or prompt).
        ids: of the problems, by row number.
    """
    columns = {column: getattr(tally, column) for column in schema.names[3:]}
    problem = pa.DictionaryArray.from_arrays(tally.row, ids).cast(pa.string())
    role = pa.DictionaryArray.from_arrays(tally.label, list(ROLES)).cast(pa.string())
    first, second, third = schema.names[:3]
    return pa.table({first: pa.repeat(name, len(tally.row)), second: problem, third: role, **columns}, schema)
