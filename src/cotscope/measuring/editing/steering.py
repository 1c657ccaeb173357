"""Steer: one factor for chosen neurons, searched on tuning problems by successive halving (Jamieson & Talwalkar 2016).

A candidate is a group of the neurons (the first so many, those of a third of the layers, those of a concept) and the factor of
their coefficients. All are scored on a few reference solutions and the beginning of a general text; the best third goes on to
more solutions; with the best of these that leave the whole text alone, and with none, the model writes answers, and the one
that solves most, or least, is taken. Test problems, and the text that perplexity is measured on, are not touched:
`cotscope evaluate` asks those, once. Its control is the whole search among random neurons (`random`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...data.load import general_text
from ...edits.edit import Base, Edit
from ...errors import EditError
from ...records import Neuron
from ...runs.config import STUDY
from ...runs.files import fingerprint
from ...runs.kept import Kept
from ...runs.options import check_all, option
from ...runs.session import Session
from ...stats import detectable_difference, wilson
from ...stats.random_sets import in_place_of
from ..choosing import REASONING, Choice, choose, reservation
from ..generation import count_solved
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
    if to.exists():
        raise EditError(f"{to} exists already", expected="a new file", remedy="Give another one, or remove it.")
    groups, chosen = _groups(session, choice, search)
    if reserved := reservation(chosen):
        say(reserved)
    made_of = source(session, tuning_problems(session, search.train_on))
    worked = worked_problems(session, search.train_on, RUNGS[-1], say)
    if not worked:
        raise EditError("no problem to search on has a solution", remedy="Give others: --train-on FILE.")
    problems, written_to = _to_write(session, search)
    loaded = session.loaded
    given = [solution(loaded, p, "", text) for p, text in worked]
    of = (fingerprint_of(given), groups, asdict(search), [p.id for p in problems], written_to, asked(session))
    memory = Kept(to, fingerprint(*of, general_text(tuning=True)))
    trial = _Trial(session, groups, search.goal, memory)
    left: list[Candidate] = [(name, f) for name in groups for f in search.factors]
    candidates = len(left)
    detectable = detectable_difference(0.25, len(problems))
    say(
        f"{candidates} candidates ({len(groups)} groups of neurons, {len(search.factors)} factors); if a quarter of "
        f"{len(problems)} problems change, a difference of {detectable:.2f} is found in 4 of 5 tries (in fewer "
        "where problems share templates)"
    )
    with session.bar("general text", len(left) + 1, "candidate") as bar:
        left = trial.fitting(left, bar.update, 1)
    for rung, count in enumerate(RUNGS):
        with session.bar(f"round {rung + 1} of {len(RUNGS)}", len(left), "candidate") as bar:
            scores = {c: trial.score(c, given[:count], bar.update) for c in left}
        left = sorted(left, key=lambda c: -scores[c])
        if rung < len(RUNGS) - 1:
            left = left[: max(search.survivors, len(left) // HALVING)]
    whole = (c for c in left if trial.fitting([c]))
    left = list(islice(whole, search.survivors))
    base = Base.of(loaded, session.config.model)
    used = [p.question for p in (*problems, *(p for p, _ in worked))]
    about: dict[str, Any] = {"goal": search.goal, "data": search.train_on, "of": made_of,
                             "problems": len(problems), "candidates": candidates,
                             "groups": list(groups), "last": search.survivors}  # fmt: skip

    def nothing(why: str, found: dict[str, Any]) -> Edit:
        edit = Edit(to.stem, base, {}, chosen=chosen | {"steered": about | found, "nothing": why} | made_with(chosen, used))
        edit.write(to)
        memory.remove()
        return edit

    if not left:
        why = "every candidate changes general text too much"
        if null:
            return nothing(why, {})
        raise EditError(why, expected=f"a perplexity within {PERPLEXITY[search.goal] - 1:.0%}")
    with session.bar("writing answers", (len(left) + 1) * len(problems), "problem") as bar:
        right = {c: trial.solved(c, problems, bar.update) for c in (None, *left)}
    sign = 1 if search.goal == "better" else -1
    best = max(left, key=lambda c: (sign * right[c], -left.index(c)))
    untouched = right[None]
    low, high = wilson(right[best], len(problems))
    found = about | {
        "untouched": untouched, "solved": right[best], "low": low, "high": high, "group": best[0],
        "neurons": len(groups[best[0]]), "factor": best[1], "survivors": [[name, f, right[name, f]] for name, f in left],
        "detectable": detectable,
    }  # fmt: skip
    if sign * (right[best] - untouched) <= 0:
        why = f"no candidate is {search.goal} than none on the tuning problems"
        if null:
            return nothing(why, found | {"group": "", "neurons": 0, "factor": 1.0, "solved": untouched})
        raise EditError(
            why,
            got=f"{untouched} of {len(problems)} solved without, {', '.join(str(right[c]) for c in left)} with",
            remedy="Try other neurons (--by), or `cotscope tune`.",
        )
    edit = Edit.scaled(
        to.stem, base, groups[best[0]], best[1], chosen=chosen | {"steered": found} | made_with(chosen, used)
    )  # fmt: skip
    edit.write(to)
    memory.remove()
    return edit


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


def _to_write(session: Session, search: Search) -> tuple[list[Any], str]:
    """Problems that answers are written to, and what they are of."""
    problems = list(tuning_problems(session, search.train_on))[: search.problems]
    if len(problems) < 2:
        raise EditError("too few problems to search on", expected="at least 2 that the study neither tests nor discovers on",
                        got=str(len(problems)), remedy="Give others: --train-on FILE.")  # fmt: skip
    return problems, fingerprint([(p.question, str(p.answer)) for p in problems])


class _Trial:
    """Scores candidates; what has been scored is remembered."""

    def __init__(self, session: Session, groups: Mapping[str, Sequence[Neuron]], goal: str, memory: Kept) -> None:
        self.session, self.groups, self.goal, self.memory = session, groups, goal, memory

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
            texts = text_scores(self.session.loaded, general_text(tuning=True), interventions, progress, at_most)
            return {name: text.perplexity / texts[str(None)].perplexity for name, text in texts.items()}

        ratios = self.memory.value(f"{candidates} on general text, {at_most}", compute)
        if self.goal == "worse":  # text that is easier to a model without its skill has changed as well
            ratios = {name: max(ratio, 1 / ratio) for name, ratio in ratios.items()}
        return [c for c in candidates if ratios[str(c)] <= PERPLEXITY[self.goal]]

    def score(self, candidate: Candidate, given: Sequence[Solution], progress: Callable[[], object]) -> float:
        """What is to be made large: the mean log-probability of solutions' tokens, or less the margin of their results (of
        all tokens of a solution that has none).
        """

        def compute() -> float:
            solutions = score_roles(self.session.engine, self.session.prompt, given, self._intervention(candidate))
            if self.goal == "better":
                return fmean(fmean(t.log_prob for ts in s.values() for t in ts) for s in solutions)
            return -fmean(fmean(t.margin for t in s.get("result") or chain(*s.values())) for s in solutions)

        found = self.memory.value(f"{candidate} on {len(given)}", compute)
        progress()
        return float(found)

    def solved(self, candidate: Candidate | None, problems: Sequence[Any], progress: Callable[[int], object]) -> int:
        """How many problems the model solves."""

        found = self.memory.value(
            f"{candidate} writes", lambda: count_solved(self.session, problems, intervention=self._intervention(candidate))
        )
        progress(len(problems))
        return int(found)
