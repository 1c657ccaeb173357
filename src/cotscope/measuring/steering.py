"""Steer: one factor for chosen neurons, searched on tuning problems by successive halving (Jamieson & Talwalkar 2016).

A candidate is how many of the neurons, the first ones, and the factor of their coefficients. All are scored on a few reference
solutions and on general text; the best third goes on to more solutions; with the best of these and with none the model writes
answers, and the one that solves most, or least, is taken. Test problems are not touched: `cotscope evaluate` asks those, once.
Its control is the whole search among random neurons (`random`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ..data.load import general_text
from ..edits.edit import Base, Edit
from ..errors import EditError
from ..records import Neuron
from ..runs.files import fingerprint, write_text
from ..runs.session import Session
from ..stats import detectable_difference, wilson
from .choosing import choose
from .generation import count_solved
from .problems import STUDY
from .solutions import Solution, fingerprint_of, score_roles, solution
from .worked import made_with, tuning_problems, worked_problems

if TYPE_CHECKING:
    from ..lm.interventions import Intervention

Goal = Literal["better", "worse"]
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
SIZES = (10, 50, 200)
"""How many of the neurons are tried beside all of them."""
RUNGS = (4, 12)
"""Reference solutions of the first and of the second round."""
HALVING = 3
PERPLEXITY = {"better": 1.01, "worse": 1.03}
"""How many times the untouched model's perplexity a candidate's may be."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with what.

    Attributes:
        data: tuning problems, as of `study`; "study": the study's own.
        problems: how many the model writes answers to.
        survivors: candidates with which it does.
    """

    goal: Goal = "better"
    data: str = STUDY
    problems: int = 48
    survivors: int = 3
    factors: tuple[float, ...] = FACTORS
    sizes: tuple[int, ...] = SIZES


Candidate = tuple[int, float]  # neurons, factor


def steer(
    session: Session,
    to: Path,
    by: str,
    search: Search,
    *,
    first: int | None = None,
    random: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Edit:
    """Search, and write the edit. What is done of it is kept beside `to`; the same call goes on there.

    Raises: EditError if `to` exists, if there are too few problems, or if no candidate is better (worse) than none without
        changing general text more than `PERPLEXITY`; UserError as `choose`.
    """
    if to.exists():
        raise EditError(f"{to} exists already", expected="a new file", remedy="Give another one, or remove it.")
    targets, chosen = choose(session, by, first=first, random=random)
    neurons = [Neuron(t.layer, t.index) for t in targets]
    worked = worked_problems(session, search.data, RUNGS[-1], say)
    if not worked:
        raise EditError("no problem to search on has a solution", remedy="Give others: --train-on FILE.")
    problems, source = _to_write(session, search)
    loaded = session.loaded
    given = [solution(loaded, p, "", text) for p, text in worked]
    sizes = [n for n in search.sizes if n < len(neurons)] + [len(neurons)]
    memory = _Memory(to, fingerprint(fingerprint_of(given), neurons, asdict(search), [p.id for p in problems], source))
    trial = _Trial(session, neurons, search.goal, memory)
    say(
        f"{len(sizes) * len(search.factors)} candidates; if a quarter of {len(problems)} problems change, a difference of "
        f"{detectable_difference(0.25, len(problems)):.2f} is found in 4 of 5 tries"
    )
    left: list[Candidate] = [(n, f) for n in sizes for f in search.factors]
    for rung, count in enumerate(RUNGS):
        with session.bar(f"round {rung + 1} of {len(RUNGS)}", len(left), "candidate") as bar:
            scores = {c: trial.score(c, given[:count], bar.update) for c in left}
        left = sorted((c for c in left if scores[c] is not None), key=lambda c: -(scores[c] or 0.0))
        left = left[: max(search.survivors, len(left) // HALVING)] if rung < len(RUNGS) - 1 else left[: search.survivors]
    if not left:
        memory.remove()
        raise EditError("every candidate changes general text too much",
                        expected=f"at most {PERPLEXITY[search.goal]:g} times the perplexity")  # fmt: skip
    with session.bar("writing answers", (len(left) + 1) * len(problems), "problem") as bar:
        right = {c: trial.solved(c, problems, bar.update) for c in (None, *left)}
    sign = 1 if search.goal == "better" else -1
    best = max(left, key=lambda c: (sign * right[c], -left.index(c)))
    untouched = right[None]
    low, high = wilson(right[best], len(problems))
    found = {
        "goal": search.goal, "data": search.data, "problems": len(problems), "untouched": untouched, "solved": right[best],
        "low": low, "high": high, "candidates": len(sizes) * len(search.factors), "neurons": best[0], "factor": best[1],
        "survivors": [[n, f, right[n, f]] for n, f in left],
    }  # fmt: skip
    if sign * (right[best] - untouched) <= 0:
        memory.remove()
        raise EditError(
            f"no candidate is {search.goal} than none on the tuning problems",
            got=f"{untouched} of {len(problems)} solved without, {', '.join(str(right[c]) for c in left)} with",
            remedy="Try other neurons (--by), or `cotscope tune`.",
        )
    used = [p.question for p in (*problems, *(p for p, _ in worked))]
    edit = Edit.scaled(
        to.stem, Base.of(loaded, session.config.model), neurons[: best[0]], best[1],
        chosen=chosen | {"steered": found} | made_with(used),
    )  # fmt: skip
    edit.write(to)
    memory.remove()
    return edit


def _to_write(session: Session, search: Search) -> tuple[list[Any], str]:
    """Problems that answers are written to, and what they are of."""
    problems = list(tuning_problems(session, search.data))[: search.problems]
    if len(problems) < 2:
        raise EditError("too few problems to search on", expected="at least 2 that the study neither tests nor discovers on",
                        got=str(len(problems)), remedy="Give others: --train-on FILE.")  # fmt: skip
    return problems, fingerprint([(p.question, str(p.answer)) for p in problems])


class _Trial:
    """Scores candidates; what has been scored is remembered."""

    def __init__(self, session: Session, neurons: Sequence[Neuron], goal: Goal, memory: _Memory) -> None:
        self.session, self.neurons, self.goal, self.memory = session, neurons, goal, memory

    def _intervention(self, candidate: Candidate | None) -> Intervention | None:
        from ..lm.interventions import scale

        if candidate is None:
            return None
        return scale(self.session.loaded.anatomy, self.neurons[: candidate[0]], candidate[1])

    def score(self, candidate: Candidate, given: Sequence[Solution], progress: Callable[[], object]) -> float | None:
        """What is to be made large: the mean log-probability of solutions' tokens, or less the margin of their results (of
        all tokens of a solution that has none).

        None: general text changes too much.
        """

        def compute() -> float | None:
            from ..lm.scoring import text_scores

            intervention = self._intervention(candidate)
            texts = text_scores(self.session.loaded, general_text(), {"none": None, "some": intervention}, at_most=1)
            if not texts["some"].perplexity <= PERPLEXITY[self.goal] * texts["none"].perplexity:
                return None
            solutions = score_roles(self.session.engine, self.session.prompt, given, intervention)
            if self.goal == "better":
                return fmean(fmean(t.log_prob for ts in s.values() for t in ts) for s in solutions)
            return -fmean(fmean(t.margin for t in s.get("result") or chain(*s.values())) for s in solutions)

        found = self.memory.value(f"{candidate} on {len(given)}", compute)
        progress()
        return found

    def solved(self, candidate: Candidate | None, problems: Sequence[Any], progress: Callable[[int], object]) -> int:
        """How many problems the model solves."""

        found = self.memory.value(
            f"{candidate} writes", lambda: count_solved(self.session, problems, intervention=self._intervention(candidate))
        )
        progress(len(problems))
        return int(found or 0)


class _Memory:
    """Values that have been computed, in a file beside the edit."""

    def __init__(self, to: Path, of: str) -> None:
        self.path, self.of = to.with_name(f".{to.name}.steering"), of
        self._values: dict[str, float | None] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["of"] == of:
                self._values = dict(content["values"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or a half of one: it begins anew

    def value(self, name: str, compute: Callable[[], float | None]) -> float | None:
        """A value by its name; computed if it is not there."""
        if name not in self._values:
            self._values[name] = compute()
            write_text(self.path, json.dumps({"of": self.of, "values": self._values}))
        return self._values[name]

    def remove(self) -> None:
        """It is done."""
        self.path.unlink(missing_ok=True)
