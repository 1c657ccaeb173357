"""Edits of chosen neurons beside edits of others, on the same problems: do these neurons make the difference, or would any?

An edit says how its neurons were chosen (`choosing.py`) and what was done with them (`tuning.py`, `steering.py`). Edits that
say the same are a group: they differ by their seeds. A group stands beside that of random neurons with which the same was done
(beside their mean, and as one more of their sets); both, if they were trained, beside what was trained on the same terms of the
whole model, which stand beside one another; a group of several edits beside the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from ...data.reckoning import RIGHT
from ...edits.edit import Edit
from ...edits.made import training, without_halves
from ...predicting.templates import templates
from ...runs.files import fingerprint
from ...stats import groups_difference, holm, permutation_p, share_of_gain, unlike_p
from ..choosing import REASONING
from ..selections import WAYS
from .comparing import BASE
from .methods import ALL

_TERMS = ("own", "draws", "loss", "train", "validation", "passes", "batch", "patience")  # what trainings have to share
_SEARCHED = ("problems", "candidates", "groups", "factors", "last", "dtype")  # and searches
_DIFFERENCE = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Group:
    """Edits that differ by their seeds.

    Attributes:
        does: what was done, in a word.
        by: how neurons were chosen.
        like: the fingerprint of both and of all else that a group of random neurons has to share; "": it is of the whole model.
        terms: the fingerprint of what it was trained on; "": it was not trained.
        dtype: in which it was trained; "": it was not, or its file does not say.
        numbers: how many were trained.
        how: what else is its own of the training, in words.
        matched: in what random neurons are like the chosen ones.
        rate: Adam's, where a seed stands there with several; "": each has its own.
        alone: the edit's name, where a seed stands there with several for another reason.
        goal: of a search, "better" or "worse".
        part: which of the neurons that were chosen so, and by what factor; "" where nothing else has its name.
    """

    does: str
    by: str
    like: str
    terms: str
    random: bool
    dtype: str
    numbers: str
    how: str = ""
    matched: str = ""
    rate: str = ""
    alone: str = ""
    goal: str = ""
    part: str = ""

    @property
    def key(self) -> str:
        """The same for its edits, and for no others."""
        return fingerprint(astuple(self))[:16]

    @property
    def name(self) -> str:
        """For a table."""
        neurons = f"random, like {self.by}" if self.random else "all neurons" if self.by == ALL else self.by
        name = f"{self.does} of {neurons}" if self.by == ALL or self.random else f"{self.does} by {neurons}"
        rate = f"rate {self.rate}" if self.rate else ""
        return ", ".join(filter(None, (self.does if self.by == self.does else name, self.part, self.how, rate, self.alone)))

    def beside(self, other: Group) -> bool:
        """Whether it is of chosen neurons and the other of random ones like them, or it of some, and the other trained on the
        same terms of the whole model."""
        if not self.like:
            return False
        if other.like:
            return other.random and not self.random and self.like == other.like
        return self.trained_like(other)

    def trained_like(self, other: Group) -> bool:
        """Whether both were trained, and on the same terms."""
        return bool(self.terms) and self.terms == other.terms

    def same_whole(self, other: Group) -> bool:
        """Whether both were trained of the whole model, on the same terms."""
        return not self.like and not other.like and self.trained_like(other)


def contrasts(edits: Sequence[Edit], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table `evaluation_contrasts`, of those of `evaluations_by_problem`; Holm's p is over all of them."""
    groups = grouped(edits)
    draws = {BASE: "", **{edit.name: str(edit.chosen.get("random")) for edit in edits}}
    order = list(groups)
    pairs: list[tuple[Group, Group | None]] = [
        (a, b) for a in groups for b in groups if a.beside(b) or (a.same_whole(b) and order.index(a) < order.index(b))
    ]
    pairs += [(group, None) for group, names in groups.items() if len(names) > 1]
    rows = list[dict[str, Any]]()
    for data in dict.fromkeys(r["data"] for r in answers):
        here = [r for r in answers if r["data"] == data]
        asked = {r["problem_id"]: r["question"] for r in here}
        clusters = templates(list(asked.values()))
        solved = _values(here, asked, lambda r, end: r[f"correct{end}"])
        reckoned = _values(here, asked, lambda r, end: r[f"first_result{end}"] == RIGHT)
        formulas = any(r["first_result"] or r["first_result_base"] for r in here)
        for a, b in pairs:
            of = groups[a], groups[b] if b else [BASE]
            share: tuple[float | None, ...] = (None,) * 3
            if b and not b.like:
                ours, others = (_apart(names, draws, solved) for names in of)
                share = share_of_gain(solved[BASE], ours, others, clusters)
            found = _beside(a, b, *of, draws, solved, clusters)
            first = _beside(a, b, *of, draws, reckoned, clusters) if formulas else {}
            rows.append(
                {"data": data, "chosen": a.name, "beside": b.name if b else BASE}
                | {"edits": len(groups[a]), "edits_beside": len(groups[b]) if b else 0}
                | {"n": len(asked), "templates": len(set(clusters))}
                | {"accuracy": found["ours"], "accuracy_beside": found["others"]}
                | {key: found[key] for key in (*_DIFFERENCE, "p_value")}
                | {"p_unlike": found["unlike"], "p_unlike_holm": None}
                | dict(zip(("share", "share_low", "share_high"), share, strict=True))
                | {"first": first.get("ours"), "first_beside": first.get("others"), "first_unlike": first.get("unlike")}
                | {f"first_{key}": first.get(key) for key in _DIFFERENCE}
            )
    for key, corrected in (("p_value", "p_holm"), ("p_unlike", "p_unlike_holm")):
        some = [row for row in rows if row[key] is not None]
        for row, p in zip(some, holm([row[key] for row in some]), strict=True):
            row[corrected] = p
    return rows


def _values(
    rows: Sequence[Mapping[str, Any]], problems: Iterable[str], of: Callable[[Mapping[str, Any], str], bool]
) -> dict[str, list[float]]:
    """1 or 0 for each problem, in order, of each edit and of the base."""
    found: dict[str, dict[str, float]] = {}
    for r in rows:
        found.setdefault(r["edit"], {})[r["problem_id"]] = float(of(r, ""))
        found.setdefault(BASE, {})[r["problem_id"]] = float(of(r, "_base"))
    return {name: [values[p] for p in problems] for name, values in found.items()}


def _beside(
    a: Group,
    b: Group | None,
    ours: Sequence[str],
    others: Sequence[str],
    draws: Mapping[str, str],
    values: Mapping[str, list[float]],
    clusters: Sequence[Hashable],
) -> dict[str, float | None]:
    """The means of two groups' edits, their difference, and p that the one is as unlike the other's random sets as this."""
    one, other = (_apart(names, draws, values) for names in (ours, others))
    found = dict(zip((*_DIFFERENCE, "p_value"), groups_difference(one, other, clusters), strict=True))
    means = [float(np.mean(rows)) for rows in (_by_draw(others, draws, values) if b and b.random else [])]
    unlike = _unlike(a, float(np.mean(one)), means) if means else None
    return found | {"ours": float(np.mean(one)), "others": float(np.mean(other)), "unlike": unlike}


def _by_draw(names: Sequence[str], draws: Mapping[str, str], right: Mapping[str, list[float]]) -> list[list[list[float]]]:
    """Edits' values by problem, those of one random set (one that was trained with several seeds) together."""
    sets: dict[str, list[list[float]]] = {}
    for name in names:
        sets.setdefault(draws[name], []).append(right[name])
    return list(sets.values())


def _apart(names: Sequence[str], draws: Mapping[str, str], right: Mapping[str, list[float]]) -> list[list[float]]:
    """The same, a row for each seed; of several random sets one for each set, as seeds of one are no sets of their own."""
    sets = _by_draw(names, draws, right)
    return sets[0] if len(sets) == 1 else [np.mean(rows, axis=0).tolist() for rows in sets]


def _unlike(group: Group, share: float, controls: Sequence[float]) -> float:
    """p that chosen neurons are as unlike random sets as this if they were one more such set; one-sided where a search had a
    goal, which was known before."""
    if not group.goal:
        return unlike_p(share, controls)
    sign = -1 if group.goal == "better" else 1
    return permutation_p(sign * share, [sign * c for c in controls])


def unpaired(edits: Sequence[Edit]) -> list[str]:
    """In words: edits of chosen neurons that stand beside none of random ones, though such are there, made otherwise."""
    groups = grouped(edits)
    return [
        f"{', '.join(ours)} ({a.name}) and {', '.join(theirs)} ({b.name}) are not put beside one another: by their files they "
        "were not made alike (neurons, factors, problems, settings of the training or search, precision)."
        for a, ours in groups.items()
        if a.like and not a.random and not any(a.beside(b) and b.random for b in groups)
        for b, theirs in groups.items()
        if b.random and (a.does, a.by) == (b.does, b.by)
    ]


def grouped(edits: Sequence[Edit]) -> dict[Group, list[str]]:
    """Names of the edits of each group. Of a seed's that do the same the first is taken; where a seed has several that do not,
    each learning rate is a group, or if they do not differ by that each edit."""
    found: dict[Group, dict[tuple[tuple[str, str], str], Edit]] = {}
    for edit in edits:
        if group := _group(edit):
            seed = str(edit.chosen.get("random")), _trained(edit, "seed")
            found.setdefault(group, {}).setdefault((seed, edit.key), edit)
    groups: dict[Group, list[str]] = {}
    for group, of in found.items():
        several = len({seed for seed, _ in of}) < len(of)
        each_rate = len({(seed, _trained(edit, "rate")) for (seed, _), edit in of.items()}) == len(of)
        for edit in of.values():
            apart = group
            if several:
                apart = replace(group, rate=_trained(edit, "rate")) if each_rate else replace(group, alone=edit.name)
            groups.setdefault(apart, []).append(edit.name)
    short = {group: replace(group, part="") for group in groups}
    names = Counter(group.name for group in short.values())
    return {group if names[short[group].name] > 1 else short[group]: of for group, of in groups.items()}


def _trained(edit: Edit, key: str) -> str:
    """What its file says of how it was trained."""
    tuned = edit.chosen.get("tuned")
    return without_halves(str(tuned.get(key))) if isinstance(tuned, dict) else ""


def _source(made: Mapping[str, Any]) -> str:
    """What it was trained or searched on; of files that are older than the fingerprint of that, its name."""
    return str(made.get("of") or made.get("data"))


def _group(edit: Edit) -> Group | None:
    """None for an edit that does not say how its neurons were chosen; what its file says is of any kind."""
    chosen = edit.chosen
    by, tuned, steered = chosen.get("by"), chosen.get("tuned"), chosen.get("steered")
    if not isinstance(by, str):
        return None
    by = without_halves(by)
    random, terms, dtype, numbers, how, goal, times = chosen.get("random") is not None, "", "", "", "", "", ""
    done: list[str] = [edit.scope]
    if isinstance(tuned, dict):
        does = without_halves(str(tuned.get("method")))
        if tuned.get("own") is False:  # then nothing is drawn, whatever an older file says
            tuned = {**tuned, "draws": 0}
        terms = fingerprint([_source(tuned), *(str(tuned.get(k)) for k in _TERMS)])
        dtype, numbers = str(tuned.get("dtype", "")), str(tuned.get("numbers", ""))
        how = training(edit)["how"]
        done += [terms, dtype, how]
    elif isinstance(steered, dict):
        goal = without_halves(str(steered.get("goal")))
        does = f"steered to be {goal}"
        done.append(fingerprint([_source(steered), *(str(steered.get(k)) for k in _SEARCHED)]))
    else:
        values = {*edit.factors.values(), *edit.offsets.values()}
        does = "an edit"
        if len(values) == 1 and edit.factors and len(set(ends := next(iter(edit.factors.values())))) == 1:
            times = f"× {ends[0]:g}"
        done.append(fingerprint(sorted(map(str, values))))
        if by not in (REASONING, *WAYS):  # a list of somebody's: another one is no second seed of it
            done.append(fingerprint(sorted(map(str, edit.neurons))))
    whole = by in (ALL, does)
    found = (
        [str(chosen["found"]), str(chosen.get("among"))]
        if "found" in chosen
        else [str(chosen.get(k)) for k in ("run", "study")]
    )
    some = [*found, *(str(chosen.get(k)) for k in ("first", "concepts", "layers", "keystones"))]
    like = "" if whole else fingerprint([does, by, *some, *done])
    matched = str(chosen.get("like")) if random else ""
    return Group(
        does, by, like, terms, random, dtype, numbers, how, matched, goal=goal, part="" if whole else _part(chosen, times)
    )


def _part(chosen: Mapping[str, Any], times: str) -> str:
    """Which of the neurons that were chosen, and what one factor they have, in words; what the file says is of any kind."""
    first, layers, concepts = (chosen.get(k) for k in ("first", "layers", "concepts"))
    said = [f"the first {first}"] if isinstance(first, int) else []
    said += ["layers " + " to ".join(map(str, layers))] if isinstance(layers, list) else []
    said += [str(c) for c in concepts] if isinstance(concepts, list) else []
    return without_halves(", ".join([*said, *filter(None, [times])]))
