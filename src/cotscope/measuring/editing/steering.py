"""Steer: one factor for chosen neurons, searched on tuning problems by successive halving (Jamieson & Talwalkar 2016).

A candidate is a group of the neurons (the first so many, those of a third of the layers, those of a concept) and the factor of
their coefficients. All are scored on a few reference solutions and the beginning of a general text; the best third goes on to
more solutions; with the best of these that leave the whole text alone, and with none, the model writes answers, and the one
that solves most, or least, is taken. Test problems, and the text that perplexity is measured on, are not touched:
`cotscope evaluate` asks those, once. Its control is the whole search among random neurons (`random`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...data.load import general_text
from ...edits.edit import Base, Edit, check_new
from ...edits.made import TRIED
from ...errors import EditError, UserError, shown
from ...predicting.templates import templates
from ...records import Neuron, Problem
from ...runs.config import STUDY
from ...runs.files import fingerprint, json_values
from ...runs.kept import Kept
from ...runs.options import check_all, option
from ...runs.session import Session
from ...stats import LEVEL, clustered_p, detectable_difference, wilson
from ...stats.random_sets import in_place_of
from ..choosing import REASONING, Choice, choose, reservation
from ..generation import are_solved
from ..solutions import Solution, fingerprint_of, score_roles, solution
from .worked import asked, made_with, source, tuning_problems, worked_problems

if TYPE_CHECKING:
    from ...lm.interventions import Intervention

GOALS = ("better", "worse")
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
SIZES = (10, 50, 200)
"""How many of the neurons are tried beside all of them."""
FIRST, LAYERS, CONCEPTS = GROUPS = ("first", "layers", "concepts")
"""Kinds of groups: the first so many; the lower, middle and upper third of the layers; of reasoning neurons each concept's."""
RUNGS = (4, 12)
"""Reference solutions of the first and of the second round."""
HALVING = 3
PERPLEXITY = {"better": 1.01, "worse": 1.03}
"""How many times the untouched model's perplexity a candidate's may be; where it is to be worse, that many times less too."""


@dataclass(frozen=True)
class Search:
    """What is searched, and with what."""

    goal: str = option("better", "what the model should become", choices=GOALS)
    train_on: str = option(STUDY, "problems, as of `study` (default: the study's own tuning problems)")
    problems: int = option(48, "problems that the last candidates write answers to", kind="positive")
    survivors: int = option(3, "candidates with which answers are written", kind="positive")
    groups: tuple[str, ...] = option(GROUPS, "groups of neurons that are tried: the first so many, thirds of the layers, each "
                                     "concept's; may be given several times (default: all of these)", flag="--group",
                                     choices=GROUPS)  # fmt: skip
    factors: tuple[float, ...] = FACTORS
    sizes: tuple[int, ...] = SIZES

    def __post_init__(self) -> None:
        check_all(self)
        given = self.factors if isinstance(self.factors, Sequence) else ()
        if not given or not all(isinstance(f, int | float) and math.isfinite(f) for f in given):
            raise UserError("factors are no numbers", expected="one or more finite ones", got=shown(self.factors))
        if not isinstance(self.sizes, Sequence) or not all(type(n) is int and n > 0 for n in self.sizes):
            raise UserError("sizes are no numbers of neurons", expected="whole ones, 1 or more", got=shown(self.sizes))


Candidate = tuple[str, float]  # group, factor


def steer(
    session: Session,
    to: Path,
    choice: Choice,
    search: Search,
    *,
    null: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Edit:
    """Search, and write the edit. What is done of it is kept beside `to`; the same call goes on there.

    Args:
        null: write an edit that changes nothing if no candidate is better (worse): the result of a control, which counts.

    Raises: EditError if `to` exists, if there are too few problems, or, without `null`, if no candidate is better (worse) than
        none without changing general text more than `PERPLEXITY`; UserError as `choose`.
    """
    check_new(to)
    groups, chosen = _groups(session, choice, search)
    if reserved := reservation(chosen):
        say(reserved)
    every = tuning_problems(session, search.train_on, say)
    problems = every[: search.problems]
    if len(problems) < 2:
        remedy = "Give others: --train-on FILE." if search.problems > 1 else "Give a larger --problems."
        raise EditError("too few problems to search on", expected="at least 2 that the study neither tests nor discovers on",
                        got=str(len(problems)), remedy=remedy)  # fmt: skip
    worked = worked_problems(session, every, RUNGS[-1], say, folder=to.parent)
    if not worked:
        raise EditError("no problem to search on has a solution", remedy="Give others: --train-on FILE.")
    loaded = session.loaded
    given = [solution(loaded, p, "", text) for p, text in worked]
    written_to = fingerprint([(p.question, str(p.answer)) for p in problems])
    of = (fingerprint_of(given), groups, asdict(search), [p.id for p in problems], written_to, asked(session))
    memory = Kept(to, fingerprint(*of, general_text("searching")))
    # Where the model wrote the solutions, those before the last that are not scored are what it got wrong: no fair sample.
    last = max((i for i, p in enumerate(problems) if p.id in {p.id for p, _ in worked}), default=-1)
    trial = _Trial(session, groups, search, problems, last + 1, memory)
    candidates: list[Candidate] = [(name, f) for name in groups for f in search.factors]
    fresh = len(problems[trial.fresh])
    shows = (
        f"if a quarter of {fresh} problems change, by which no candidate is scored before, a difference of "
        f"{trial.detectable:.2f} is found in 4 of 5 tries (in fewer where they share templates)"
        if trial.detectable < 1
        else f"{fresh} problems, by which no candidate is scored before, are too few to show a difference"
    )
    say(f"{len(candidates)} candidates ({len(groups)} groups of neurons, {len(search.factors)} factors); {shows}")
    found, error = trial.decided(trial.halved(candidates, given))
    if error is not None and not null:
        raise error
    about = {"goal": search.goal, "data": search.train_on, "of": source(session, every), "problems": len(problems),
             "candidates": len(candidates), "groups": list(groups), "factors": list(search.factors),
             "last": search.survivors, "dtype": loaded.dtype_name}  # fmt: skip
    chosen = chosen | {"steered": about | found} | ({} if error is None else {"nothing": error.meaning})
    chosen |= made_with(chosen, [p.question for p in (*problems, *(p for p, _ in worked))])
    neurons, factor = (groups[found["group"]], found["factor"]) if error is None else ((), 1.0)
    edit = Edit.scaled(to.stem, Base.of(loaded, session.config.model), neurons, factor, chosen=chosen)
    edit.write(to)
    memory.remove()
    return edit


def made_so(session: Session, edit: Edit, choice: Choice, search: Search) -> bool:
    """Whether an edit's file says that it is of this search among these neurons."""
    groups, chosen = _groups(session, choice, search)
    found, done = edit.chosen, edit.chosen.get("steered")
    problems = min(search.problems, len(tuning_problems(session, search.train_on)))
    wanted = {"goal": search.goal, "data": search.train_on, "problems": problems, "groups": list(groups),
              "factors": list(search.factors), "last": search.survivors}  # fmt: skip
    same = ("by", "random", "found", "among", "concepts", "layers", "first")
    return (
        isinstance(done, Mapping)
        and all(done.get(key) == value for key, value in wanted.items())
        and all(found.get(key) == json_values(chosen.get(key)) for key in same)
    )


def _groups(session: Session, choice: Choice, search: Search) -> tuple[dict[str, list[Neuron]], dict[str, Any]]:
    """Groups of neurons by name, no two the same, and how they were chosen. Of random neurons they are the same groups, with
    what stands in the place of each neuron: the control is searched as what it controls is."""
    neurons, chosen = choose(session, replace(choice, random=None))
    found: dict[str, list[Neuron]] = {f"all {len(neurons)}": neurons}
    if FIRST in search.groups:
        found |= {f"the first {n}": neurons[:n] for n in search.sizes if n < len(neurons)}
    if LAYERS in search.groups:
        count = session.loaded.anatomy.layers
        ends = [round(count * i / 3) for i in range(4)]
        found |= {f"layers {a} to {b - 1}": [n for n in neurons if a <= n.layer < b] for a, b in pairwise(ends)}
    if CONCEPTS in search.groups and choice.by == REASONING:
        of: dict[str, set[Neuron]] = {}
        for r in session.run.rows("SELECT DISTINCT concept, layer, index FROM annotations WHERE accepted ORDER BY ALL"):
            of.setdefault(r["concept"], set()).add(Neuron(r["layer"], r["index"]))
        found |= {f"concept {name}": [n for n in neurons if n in own] for name, own in of.items()}
    distinct = {tuple(sorted(group)): name for name, group in reversed(found.items()) if group}
    groups = {name: group for name, group in found.items() if name in distinct.values()}
    if choice.random is not None:
        drawn, chosen = choose(session, choice)
        instead = in_place_of(neurons, drawn)
        groups = {name: [instead[n] for n in group if n in instead] for name, group in groups.items()}
        groups = {name: group for name, group in groups.items() if group}
    return groups, chosen


class _Trial:
    """Scores candidates; what has been scored is remembered.

    Args:
        fresh: of the problems that answers are written to, from which on no candidate is scored by them before: those can
            show a difference.
    """

    def __init__(
        self,
        session: Session,
        groups: Mapping[str, Sequence[Neuron]],
        search: Search,
        problems: Sequence[Problem],
        fresh: int,
        memory: Kept,
    ) -> None:
        self.session, self.groups, self.search, self.memory = session, groups, search, memory
        self.problems, self.fresh = problems, slice(fresh, None)
        self.tried: dict[Candidate, dict[str, float]] = {}  # what each came to, as far as it got (`edits/made.py: candidates`)

    @property
    def detectable(self) -> float:
        """The difference that is found in 4 of 5 tries if a quarter of the problems change, with any of the last candidates."""
        n = len(self.problems[self.fresh])
        return detectable_difference(0.25, n, tests=self.search.survivors) if n else 1.0

    def halved(self, candidates: Sequence[Candidate], given: Sequence[Solution]) -> list[Candidate]:
        """The candidates with which answers are written: those that leave the text alone, by the rounds of solutions."""
        with self.session.bar("general text", len(candidates) + 1, "candidate") as bar:
            left = self.fitting(candidates, bar.update, 1)
        for rung, count in enumerate(RUNGS):
            with self.session.bar(f"round {rung + 1} of {len(RUNGS)}", len(left), "candidate") as bar:
                scores = {c: self.score(c, given[:count], bar.update) for c in left}
            self._note(f"round_{rung + 1}", scores)
            left = sorted(left, key=lambda c: -scores[c])
            if rung < len(RUNGS) - 1:
                left = left[: max(self.search.survivors, len(left) // HALVING)]
        return list(islice((c for c in left if self.fitting([c])), self.search.survivors))

    def decided(self, left: Sequence[Candidate]) -> tuple[dict[str, Any], EditError | None]:
        """The candidate with which the model solves most, or least, in an edit's words; an error if that is no gain, or none
        is left."""
        goal, n = self.search.goal, len(self.problems)
        if not left:
            return {"tried": self._told()}, EditError(
                "every candidate changes general text too much",
                expected=f"a perplexity within {PERPLEXITY[goal] - 1:.0%}",
                remedy="Try fewer neurons (--first), or others (--by).",
            )
        with self.session.bar("writing answers", (len(left) + 1) * n, "problem") as bar:
            solved = {c: self.solved(c, bar.update) for c in (None, *left)}
        right = {c: sum(hits) for c, hits in solved.items()}
        self._note("solved", {c: right[c] for c in left})
        sign = 1 if goal == "better" else -1
        best = max(left, key=lambda c: (sign * right[c], -left.index(c)))
        untouched = right[None]
        low, high = wilson(right[best], n)
        of = templates([p.question for p in self.problems[self.fresh]])
        p_value = min(1.0, len(left) * clustered_p(solved[None][self.fresh], solved[best][self.fresh], of)) if of else 1.0
        found = {
            "untouched": untouched, "solved": right[best], "low": low, "high": high, "group": best[0],
            "neurons": len(self.groups[best[0]]), "factor": best[1], "detectable": self.detectable,
            "p_value": p_value, "shown": p_value < LEVEL,
            "survivors": [[name, f, right[name, f]] for name, f in left], "tried": self._told(),
        }  # fmt: skip
        if sign * (right[best] - untouched) > 0:
            return found, None
        nothing = {"group": "", "neurons": 0, "factor": 1.0, "solved": untouched, "p_value": None, "shown": False}
        return found | nothing, EditError(
            f"no candidate is {goal} than none on the tuning problems",
            got=f"{untouched} of {n} solved without, {', '.join(str(right[c]) for c in left)} with",
            remedy="Try other neurons (--by), or `cotscope tune`.",
        )

    def _note(self, key: str, values: Mapping[Candidate, float]) -> None:
        for candidate, value in values.items():
            self.tried.setdefault(candidate, {})[key] = value

    def _told(self) -> list[list[Any]]:
        """What was tried, for the edit's file: what got farthest first."""
        every = sorted(self.tried.items(), key=lambda item: -len(item[1]))
        rows = [[group, factor, *(found.get(key) for key in TRIED)] for (group, factor), found in every]
        return list(json_values(rows))  # a model that a factor breaks has a perplexity of no number

    def _intervention(self, candidate: Candidate | None) -> Intervention | None:
        from ...lm.interventions import scale

        if candidate is None:
            return None
        return scale(self.session.loaded.anatomy, self.groups[candidate[0]], candidate[1])

    def fitting(
        self, candidates: Sequence[Candidate], progress: Callable[[], object] = lambda: None, at_most: int | None = None
    ) -> list[Candidate]:
        """Those that do not change the tuning text, or its first windows, too much beside the untouched model."""

        def compute() -> dict[str, float]:
            from ...lm.scoring import text_scores

            interventions = {str(c): self._intervention(c) for c in (None, *candidates)}
            texts = text_scores(self.session.loaded, general_text("searching"), interventions, progress, at_most)
            return {name: text.perplexity / texts[str(None)].perplexity for name, text in texts.items()}

        ratios = self.memory.value(f"{candidates} on general text, {at_most}", compute)
        self._note("perplexity" if at_most is None else "perplexity_begins", {c: ratios[str(c)] for c in candidates})
        if self.search.goal == "worse":  # text that is easier to a model without its skill has changed as well
            ratios = {name: max(ratio, 1 / ratio) for name, ratio in ratios.items()}
        return [c for c in candidates if ratios[str(c)] <= PERPLEXITY[self.search.goal]]

    def score(self, candidate: Candidate, given: Sequence[Solution], progress: Callable[[], object]) -> float:
        """What is to be made large: the mean log-probability of solutions' tokens, or less the margin of their results (of
        all tokens of a solution that has none).
        """

        def compute() -> float:
            solutions = score_roles(self.session.engine, self.session.prompt, given, self._intervention(candidate))
            if self.search.goal == "better":
                return fmean(fmean(t.log_prob for ts in s.values() for t in ts) for s in solutions)
            return -fmean(fmean(t.margin for t in s.get("result") or chain(*s.values())) for s in solutions)

        found = self.memory.value(f"{candidate} on {len(given)}", compute)
        progress()
        return float(found)

    def solved(self, candidate: Candidate | None, progress: Callable[[int], object]) -> list[bool]:
        """Whether the model solves each of the problems."""

        found = self.memory.value(
            f"{candidate} writes what is right",
            lambda: are_solved(self.session, self.problems, intervention=self._intervention(candidate)),
        )
        progress(len(self.problems))
        return list(found)
