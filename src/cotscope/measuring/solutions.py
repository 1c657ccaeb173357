"""Reference solutions: the texts that the model is made to write, one per problem, the same under every prompt.

Scoring a solution costs one pass and has no luck of the draw: its results' log-probability says how much of the skill is
left (`damage`), the neurons active on its tokens how much of it a prompt calls up (`measure`: teacher-forced activity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..data.battery import load_battery
from ..data.roles import ARITHMETIC, ROLES, token_roles
from ..prompts.derive import render_solution
from ..records import Problem, Prompt
from ..runs.files import fingerprint
from ..runs.session import Session
from ..runs.tables import SOLUTIONS

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.interventions import Intervention
    from ..lm.loading import LoadedModel
    from ..lm.scoring import TokenScore

BASELINE = "completions/study.{first}"
"""What `reference_solutions` reads; who calls it reads that too, and writes `solutions`."""


@dataclass(frozen=True)
class Solution:
    """A reference solution as tokens.

    Attributes:
        source: "gold" (the data's own solution) or "own" (what the model wrote when it was right).
        roles: of each token (`data/roles.py`).
    """

    problem: Problem
    source: str
    text: str
    tokens: tuple[int, ...]
    roles: tuple[str, ...]

    @property
    def results(self) -> frozenset[int]:
        """Places of the result tokens."""
        return frozenset(i for i, role in enumerate(self.roles) if role == "result")


def solution(loaded: LoadedModel, problem: Problem, source: str, text: str) -> Solution:
    """A text that ends a line, as tokens without the tokenizer's start tokens."""
    tokens = loaded.encode(text + "\n")[len(loaded.encode("")) :]
    return Solution(problem, source, text, tuple(tokens), token_roles(loaded, tokens))


def fingerprint_of(given: Sequence[Solution]) -> str:
    """Of what the model is made to write."""
    return fingerprint([(s.problem.id, s.problem.question, s.tokens, s.roles) for s in given])


def mean_scores(by_role: Sequence[dict[str, list[TokenScore]]]) -> tuple[float, float]:
    """Mean log-probability of the solutions' arithmetic tokens, and of the others: by solution, then over them."""
    means = []
    for arithmetic in (True, False):
        parts = [[t.log_prob for r, found in s.items() if (r in ARITHMETIC) == arithmetic for t in found] for s in by_role]
        means.append(fmean(fmean(part) for part in parts if part))
    return means[0], means[1]


def score_roles(
    engine: Engine, prompt: Prompt, given: Sequence[Solution], intervention: Intervention | None = None
) -> list[dict[str, list[TokenScore]]]:
    """For each solution under a prompt, and an intervention: the scores of its tokens by role; only roles that occur."""
    from ..lm.scoring import Given, score

    texts = tuple(prompt.text(s.problem.question) for s in given)
    found = score(engine, Given(texts, tuple(s.tokens for s in given), intervention=intervention))
    by_role = []
    for s, scores in zip(given, found, strict=True):
        here: dict[str, list[TokenScore]] = {}
        for role, token_score in zip(s.roles, scores, strict=True):
            here.setdefault(role, []).append(token_score)
        by_role.append(here)
    return by_role


class BatteryHit(NamedTuple):
    """Whether every token of an item's answer was the most likely one."""

    task: str
    item: str
    hit: bool


def score_battery(engine: Engine, items: int, intervention: Intervention | None = None) -> list[BatteryHit]:
    """The first `items` items of each task of the battery, under an intervention."""
    found = score_tasks(engine, load_battery(), items, intervention)
    return [BatteryHit(task.name, item[0], all(t.greedy for t in scores)) for task, item, scores in found]


class AskedTask(Protocol):
    """Items that share their shots (`data/battery.py: Task`, `data/sums.py: Sums`)."""

    @property
    def name(self) -> str: ...

    @property
    def items(self) -> tuple[tuple[str, str], ...]: ...

    def prompt(self, item: tuple[str, str]) -> str: ...

    def continuation(self, item: tuple[str, str]) -> str: ...


T = TypeVar("T", bound=AskedTask)


def score_tasks(
    engine: Engine, tasks: Sequence[T], items: int, intervention: Intervention | None = None
) -> list[tuple[T, tuple[str, str], list[TokenScore]]]:
    """The tokens of the answers to the first `items` items of each task: (task, item, scores)."""
    from ..lm.scoring import Given, score

    every: list[tuple[T, tuple[str, str], list[TokenScore]]] = []
    for task in tasks:  # apart: a task's items share their shots, which are then run once
        asked = task.items[:items]
        given = Given(tuple(map(task.prompt, asked)), answers(engine.loaded, task, items), intervention=intervention)
        every += [(task, item, scores) for item, scores in zip(asked, score(engine, given), strict=True)]
    return every


def answers(loaded: LoadedModel, task: AskedTask, items: int) -> tuple[tuple[int, ...], ...]:
    """The answers to a task's first items as tokens."""
    start = len(loaded.encode(""))
    return tuple(tuple(loaded.encode(task.continuation(item))[start:]) for item in task.items[:items])


def solved(session: Session, family: str, problems: Sequence[Problem], count: int) -> tuple[Solution, ...]:
    """The first solutions of some problems that have a result.

    The gold solution where the data has one; else what the model wrote under the first prompt of a family, if that was
    right; other problems have none.
    """
    own = {
        r["problem_id"]: r["text"]
        for r in session.run.rows(
            "SELECT problem_id, text FROM completions WHERE family = ? AND prompt = ? AND correct",
            [family, session.prompt.name],
        )
    }
    found: list[Solution] = []
    for problem in problems:
        if len(found) == count:
            break
        if problem.steps or problem.solution.strip():
            found.append(solution(session.loaded, problem, "gold", render_solution(problem)))
        elif text := own.get(problem.id, "").strip():
            found.append(solution(session.loaded, problem, "own", text))
    return tuple(s for s in found if s.results)


def reference_solutions(session: Session) -> tuple[Solution, ...]:
    """One for each of the first `StudyConfig.given` test problems (`solved`); written to the table `solutions`."""
    run = session.run
    found = solved(session, "study", session.inputs.split.test, session.config.given)
    rows = [
        {"problem_id": s.problem.id, "source": s.source, "text": s.text, "role": role, "tokens": s.roles.count(role)}
        for s in found
        for role in ROLES
    ]
    run.write(SOLUTIONS, rows)
    borrowed = sum(s.source == "own" for s in found)
    if borrowed:
        run.note(
            f"The data has no solutions for {borrowed} of {len(found)} problems with a reference solution: there it is what "
            "the model itself wrote, when it was right, under the first prompt."
        )
    return found
