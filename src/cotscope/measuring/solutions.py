"""Reference solutions: the texts that the model is made to write, one per problem, the same under every prompt.

Scoring a solution costs one pass and has no luck of the draw: its results' log-probability says how much of the skill is
left (`damage`), the neurons active on its tokens how much of it a prompt calls up (`measure`: teacher-forced activity).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..data.battery import load_battery
from ..data.roles import ARITHMETIC, ROLES, token_roles
from ..errors import ModelError
from ..prompts.derive import render_solution
from ..records import Neuron, Problem, Prompt
from ..runs.files import fingerprint
from ..runs.session import Session
from ..runs.tables import SOLUTIONS
from ..stats import ByKind
from .generation import Condition, solve

if TYPE_CHECKING:
    from ..lm.engine import Engine
    from ..lm.interventions import Intervention
    from ..lm.loading import LoadedModel
    from ..lm.paths import Path
    from ..lm.scoring import Given, TokenScore

    ByRole = dict[str, list[TokenScore]]

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
    tokens = loaded.following(text + "\n")
    return Solution(problem, source, text, tokens, token_roles(loaded, tokens, problem.words))


def fingerprint_of(given: Sequence[Solution]) -> str:
    """Of what the model is made to write."""
    return fingerprint([(s.problem.id, s.problem.question, s.tokens, s.roles) for s in given])


def by_role(given: Sequence[Solution], scores: Sequence[Sequence[TokenScore]]) -> list[ByRole]:
    """The scores of each solution's tokens by role; only roles that occur."""
    found = []
    for s, tokens in zip(given, scores, strict=True):
        here: ByRole = {}
        for role, token_score in zip(s.roles, tokens, strict=True):
            here.setdefault(role, []).append(token_score)
        found.append(here)
    return found


def mean_by_kind(solutions: Iterable[Mapping[str, tuple[float, int]]]) -> ByKind:
    """Means of arithmetic tokens, and of the others: by solution, then over solutions.

    Args:
        solutions: of each, role → mean over its tokens of that role, and how many they are.
    """
    found: dict[bool, list[float]] = {True: [], False: []}
    for s in solutions:
        for arithmetic, means in found.items():
            here = [(mean, count) for role, (mean, count) in s.items() if (role in ARITHMETIC) == arithmetic]
            if here:
                means.append(sum(mean * count for mean, count in here) / sum(count for _, count in here))
    return ByKind(fmean(found[True]), fmean(found[False]))


def mean_scores(solutions: Sequence[ByRole], measure: str) -> ByKind:
    """`mean_by_kind` of a measure of tokens' scores: "log_prob" or "margin"."""
    return mean_by_kind({r: (fmean(getattr(t, measure) for t in ts), len(ts)) for r, ts in s.items()} for s in solutions)


def score_roles(
    engine: Engine, prompt: Prompt, given: Sequence[Solution], intervention: Intervention | None = None
) -> list[ByRole]:
    """For each solution under a prompt, and an intervention: the scores of its tokens by role; only roles that occur."""
    from ..lm.scoring import score

    return by_role(given, score(engine, replace(_as_given(prompt, given), intervention=intervention)))


def score_paths(
    engine: Engine,
    prompt: Prompt,
    given: Sequence[Solution],
    sets: Mapping[str, Sequence[Neuron]],
    disrupt: Callable[[Sequence[Neuron]], Intervention | None] | None = None,
    paths: Sequence[Path] = (),
) -> Iterator[tuple[str, dict[str, list[ByRole]]]]:
    """For each set in turn: each of the paths (all, if none is given) → the scores of each solution's tokens by role.

    Only "total" of a set without neurons (the untouched model), and of every set on a model whose logits can't be read off
    its last residual stream.

    Args:
        disrupt: as `lm/paths.py: PathEffects` takes it; None: sets are zeroed.
    """
    from ..lm.interventions import scale
    from ..lm.paths import PATHS, path_effects
    from ..lm.scoring import score

    whole = _as_given(prompt, given)
    gone = disrupt or (lambda some: scale(engine.loaded.anatomy, some, 0.0) if some else None)
    try:
        for name, found in path_effects(engine, whole, sets, gone, paths or PATHS):
            yield name, {path: by_role(given, scores) for path, scores in found.items()}
    except ModelError:
        for name, neurons in sets.items():
            yield name, {"total": by_role(given, score(engine, replace(whole, intervention=gone(neurons))))}


def _as_given(prompt: Prompt, given: Sequence[Solution]) -> Given:
    from ..lm.scoring import Given

    return Given(tuple(prompt.text(s.problem.question) for s in given), tuple(s.tokens for s in given))


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
        given = Given(tuple(map(task.prompt, asked)), answers(engine.loaded, task, asked), intervention=intervention)
        every += [(task, item, scores) for item, scores in zip(asked, score(engine, given), strict=True)]
    return every


def answers(loaded: LoadedModel, task: AskedTask, items: Sequence[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    """The answers to a task's items as tokens."""
    return tuple(loaded.following(task.continuation(item)) for item in items)


def solved(session: Session, condition: str, problems: Sequence[Problem], count: int) -> tuple[Solution, ...]:
    """The first solutions of some problems that have a result.

    The gold solution where the data has one; else what the model wrote under a condition that has been run, if that was
    right; other problems have none.
    """
    own = {
        r["problem_id"]: r["text"]
        for r in session.run.rows("SELECT problem_id, text FROM completions WHERE condition = ? AND correct", [condition])
    }
    found: list[Solution] = []
    for problem in problems:
        if len(found) == count:
            break
        if problem.has_solution:
            found.append(solution(session.loaded, problem, "gold", render_solution(problem)))
        elif text := own.get(problem.id, "").strip():
            found.append(solution(session.loaded, problem, "own", text))
    return tuple(s for s in found if s.results)


def write_untouched(session: Session, needed: bool = False) -> None:
    """Let the untouched model write answers to the test problems if that is `needed`, if reference solutions must come of it,
    or if it has begun to; what is there stays."""
    untouched = Condition("study", session.prompt, "test", record=True)
    first = session.inputs.split.test[: session.config.given]
    if needed or f"completions/{untouched.name}" in session.run.whole or not all(p.has_solution for p in first):
        solve(session, [untouched], "solving")


def reference_solutions(session: Session) -> tuple[Solution, ...]:
    """One for each of the first `StudyConfig.given` test problems (`solved`); written to the table `solutions`."""
    run = session.run
    found = solved(session, f"study.{session.prompt.name}", session.inputs.split.test, session.config.given)
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
