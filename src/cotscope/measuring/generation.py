"""Conditions: a prompt, the problems of one split and an intervention; run once, then found in the run folder.

Every text that a study lets the model write comes from here, so all of them are graded, recorded and timed alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..data.answers import is_correct, is_right, read_answer, written_answer
from ..data.roles import ROLES, RULE, token_roles
from ..records import Completion, Neuron, Problem, Prompt
from ..runs.files import fingerprint
from ..runs.session import Session
from ..runs.tables import ACTIVITY, COMPLETIONS, FAMILIES, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..lm.engine import Engine
    from ..lm.interventions import Intervention
    from ..lm.recorders import ActivePoles, PoleTally

log = logging.getLogger(__name__)

CUT = 0.05
"""Share of the texts from which on it is said that they were cut."""


@dataclass(frozen=True)
class Condition:
    """What the model writes under one prompt, with some neurons zeroed, or something else done to it, or nothing.

    Attributes:
        family: as in `tables.FAMILIES`.
        split: "test" or "discovery"; or what `problems` are of.
        neuron_set: the name of what is zeroed, or of what else is done; "none": nothing is.
        label: what its part is called; "": as the set, or without one as the prompt.
        neurons: what is zeroed.
        intervention: what is done instead.
        record: keep the active poles.
        limit: problems of the split, the first ones; None: all.
        problems: in place of a split's.
        temperature, seed: as `lm/jobs.py: Job` has them; 0: what is most likely is written.
        weights: what tells another model, which the session then has: its weights' hash, or its dtype; "": the study's own.
    """

    family: str
    prompt: Prompt
    split: str
    neuron_set: str = "none"
    neurons: tuple[Neuron, ...] = ()
    intervention: Intervention | None = None
    record: bool = False
    limit: int | None = None
    problems: tuple[Problem, ...] | None = None
    temperature: float = 0.0
    seed: int = 0
    weights: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        assert self.family in FAMILIES, self.family

    @property
    def name(self) -> str:
        """Unique in the run; the name of its part of the tables."""
        return f"{self.family}.{self.label or (self.prompt.name if self.neuron_set == 'none' else self.neuron_set)}"


def are_solved(
    session: Session,
    problems: Sequence[Problem],
    *,
    intervention: Intervention | None = None,
    prompt: Prompt | None = None,
    engine: Engine | None = None,
) -> list[bool]:
    """Whether the model solves each of some problems; nothing is kept of it.

    Args:
        prompt, engine: in place of the study's.
    """
    prompt = prompt or session.prompt
    written = (engine or session.engine).generate(
        [prompt.text(p.question) for p in problems], max_new_tokens=session.config.new_tokens(prompt), stop=prompt.stop,
        intervention=intervention,
    )  # fmt: skip
    return [is_right(c.text, p.answer) for c, p in zip(written, problems, strict=True)]


def solve(session: Session, conditions: Sequence[Condition], what: str) -> None:
    """Run the conditions that have not been run: their parts of `completions`, and of `activity` where recorded.

    They share batches: as rows of one end, rows of the next take their places. Each is written as it ends, so a study
    that is killed loses those on their way only. A condition's seconds are its share of its batches', by tokens.

    Args:
        what: what the progress bar says.
    """
    from ..lm.jobs import Job

    jobs_of = [(c, *_problems(session, c)) for c in conditions]
    missing = [(c, problems, of) for c, problems, of in jobs_of if not _done(session, c, of)]
    if not missing:
        return
    session.engine.shares_prefix(1)  # loads the model and checks its attention: no part of the conditions' time
    with session.bar(what, sum(len(p) for _, p, _ in missing), "problem") as bar, ExitStack() as open_tables:
        sinks = [_Sink(session, c, p, of, open_tables) for c, p, of in missing]
        jobs = [
            Job(
                tuple(c.prompt.text(p.question) for p in problems),
                session.config.new_tokens(c.prompt),
                c.prompt.stop,
                sink.recorder,
                _intervention(session, c),
                c.temperature,
                c.seed,
            )
            for (c, problems, _), sink in zip(missing, sinks, strict=True)
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


def _intervention(session: Session, c: Condition) -> Intervention | None:
    from ..lm.interventions import scale

    return scale(session.loaded.anatomy, c.neurons, 0.0) if c.neurons else c.intervention


def _problems(session: Session, condition: Condition) -> tuple[tuple[Problem, ...], str]:
    """A condition's problems, and the fingerprint of all that decides what the model writes, and which words are right."""
    given = condition.problems
    problems = (getattr(session.inputs.split, condition.split) if given is None else given)[: condition.limit]
    prompt, config = condition.prompt, session.config
    asked = [(p.id, p.question, str(p.answer)) for p in problems]
    way = [key for key in (condition.intervention and condition.intervention.key, condition.weights) if key]
    way += [f"roles {RULE}"] if condition.record else []  # by which activity is counted
    way += ["words 2"] if any(p.words for p in problems) else []  # by which they are read
    way += [f"{condition.temperature} {condition.seed}"] if condition.temperature else []
    every = (prompt.text(""), prompt.stop, config.new_tokens(prompt), asked, condition.neurons, config.k, *way)
    return problems, fingerprint(*every)


def cut_share(session: Session, condition: str) -> float:
    """The share of a condition's texts that ended at the most tokens allowed, not by themselves."""
    sql = "SELECT avg((finish = 'length')::INT) AS share FROM completions WHERE condition = ?"
    return float(session.run.rows(sql, [condition])[0]["share"] or 0)


def note_cut(session: Session, of: Mapping[str, str]) -> None:
    """Say which texts were cut, if of any condition a twentieth were: one without an answer counts as wrong.

    Args:
        of: what each is called → condition.
    """
    shares = {name: cut_share(session, condition) for name, condition in of.items()}
    if cut := [f"{name} {share:.2f}" for name, share in shares.items() if share >= CUT]:
        session.run.note(
            f"Cut at the most tokens allowed, as shares of the texts: {', '.join(cut)}. Without an answer by then they count "
            "as wrong, which is easy to tell. A study with a larger "
            f"{'--max-new-tokens' if session.prompt.prefix else '--zero-shot-tokens'} lets them end."
        )


def is_done(session: Session, condition: Condition) -> bool:
    """Whether a condition has been run, as it is now."""
    return _done(session, condition, _problems(session, condition)[1])


def _done(session: Session, condition: Condition, of: str) -> bool:
    written = session.run.done(f"completions/{condition.name}", of) is not None
    return written and (not condition.record or session.run.done(f"activity/{condition.name}", of) is not None)


class _Sink:
    """Where one condition's completions and activity go."""

    def __init__(
        self, session: Session, condition: Condition, problems: tuple[Problem, ...], of: str, open_tables: ExitStack
    ) -> None:
        self.session, self.condition, self.problems, self.of = session, condition, problems, of
        self.recorder: ActivePoles | None = None
        self._table = open_tables.enter_context(ExitStack())  # closed early when the condition ends well
        if condition.record:
            ids = np.array([p.id for p in problems])
            write = self._table.enter_context(session.run.writer(ACTIVITY, condition.name, of))
            about = {"condition": condition.name, "family": condition.family, "prompt": condition.prompt.name}
            self.recorder = active_poles(session, problems, lambda tally: write(by_problem(tally, ids, ACTIVITY, about)))

    def finish(self, completions: list[Completion], seconds_per_token: float) -> None:
        """Write what the condition's rows said."""
        self._table.close()
        session, condition = self.session, self.condition
        rows = []
        for problem, completion in zip(self.problems, completions, strict=True):
            end = ("elsewhere",) * (completion.steps - len(completion.token_ids))  # the end token is counted, not kept
            places = token_roles(session.loaded, completion.token_ids, problem.words) + end
            rows.append(_graded(condition, problem, completion) | {"roles": list(places)})
        written = sum(c.steps for c in completions)
        seconds = round(written * seconds_per_token, 2)
        facts = {"seconds": seconds, "tokens": written, "recorded": condition.record}
        session.run.write(COMPLETIONS, rows, condition.name, self.of, **facts)
        right = sum(bool(r["correct"]) for r in rows)
        log.info("%s: %d of %d right, %d tokens in %.1f s", condition.name, right, len(rows), written, seconds)


def _graded(condition: Condition, problem: Problem, completion: Completion) -> dict[str, Any]:
    # What is read is told to who predicts, and so hangs on no answer; what is right does, where that is words.
    read = read_answer(completion.text, bool(problem.words))
    compared = read_answer(completion.text, words=True, right=problem.words) if problem.words else read
    return {
        "condition": condition.name,
        "family": condition.family,
        "prompt": condition.prompt.name,
        "neuron_set": condition.neuron_set,
        "split": condition.split,
        "problem_id": problem.id,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "tokens": completion.steps,
        "finish": completion.finish,
        "strict": None if read.strict is None else written_answer(read.strict),
        "flexible": None if read.flexible is None else written_answer(read.flexible),
        "correct_strict": is_correct(compared.strict, problem.answer),
        "correct": is_correct(compared.flexible, problem.answer),
    }


def active_poles(session: Session, problems: Sequence[Problem], sink: Callable[[PoleTally], None]) -> ActivePoles:
    """The study's recorder for rows that answer these problems; what it tallies is kept apart by the tokens' roles."""
    from ..lm.recorders import ActivePoles

    loaded = session.loaded

    def label(row: int, tokens: Sequence[int]) -> list[int]:
        ends = len(tokens) > 0 and tokens[-1] in loaded.end_tokens  # is no part of what is said, as in `_Sink.finish`
        said = token_roles(loaded, tokens[:-1] if ends else tokens, problems[row].words)
        return [ROLES.index(role) for role in (*said, *["elsewhere"] * ends)]

    return ActivePoles(loaded.anatomy, session.config.k, sink, label=label)


def by_problem(tally: PoleTally, ids: NDArray[Any], table: Table, about: dict[str, str]) -> pa.Table:
    """A tally of `active_poles` as rows of a table.

    Args:
        ids: of the problems, by row number.
        about: the columns that are the same in every row.
    """
    found = {
        "problem_id": pa.DictionaryArray.from_arrays(tally.row, ids).cast(pa.string()),
        "role": pa.DictionaryArray.from_arrays(tally.label, list(ROLES)).cast(pa.string()),
        **{name: pa.repeat(value, len(tally.row)) for name, value in about.items()},
    }
    columns = {n: found[n] if n in found else getattr(tally, n) for n in table.schema.names}
    return pa.table(columns, table.schema)
