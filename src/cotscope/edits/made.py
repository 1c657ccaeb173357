"""How an edit was made, as its file says. Anyone may have written that: what is of another kind is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .edit import Edit

_NUMBER = (int, float)
_LONGEST = 60  # characters of a text that is shown
_POINTS = 1000  # of a list
TRIED = ("perplexity_begins", "round_1", "round_2", "perplexity", "solved")
"""What a search notes of each candidate, in this order; None where it did not get so far."""


def training(edit: Edit) -> dict[str, Any]:
    """Columns of the table `evaluations`; None where the file does not say, as of an edit that was not trained (`how`: "")."""

    def of(kinds: Any, *path: Any) -> Any:
        value: Any = edit.chosen
        try:
            for key in path:
                value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
        if isinstance(value, str):
            return without_halves(value) if kinds is str else None
        return _number(value, kinds)

    tuned = given if isinstance(given := edit.chosen.get("tuned"), Mapping) else {}
    found = {
        "method": of(str, "tuned", "method"),
        "chosen_by": of(str, "by"),
        "random": of(int, "random"),
        "first": of(int, "first"),
        "trained_on": of(str, "tuned", "data"),
        "train": of(int, "tuned", "train"),
        "own": tuned.get("own") is True if tuned else None,
        "draws": 0 if tuned.get("own") is False else of(int, "tuned", "draws"),
        "loss": of(str, "tuned", "loss"),
        "trained_dtype": of(str, "tuned", "dtype"),
        "how": ", ".join(_how(of(str, "tuned", "stored"), of(int, "tuned", "warmup"), tuned)),
        "numbers": of(int, "tuned", "numbers"),
        "rate": of(_NUMBER, "tuned", "rate"),
        "seed": of(int, "tuned", "seed"),
        "validation_base": of(_NUMBER, "tuned", "curve", 0, "validation"),
        "validation": of(_NUMBER, "tuned", "curve", of(int, "tuned", "taken"), "validation"),
        "written": of(_NUMBER, "tuned", "written"),
    }
    if of(int, "tuned", "validation") == 0:
        found |= {"validation_base": None, "validation": None, "written": None}
    for name, key, unit in (("minutes", "seconds", 60), ("peak_gib", "peak_memory", 2**30)):
        value = of(_NUMBER, "tuned", key)
        found[name] = None if value is None else value / unit
    return found


def rounded_away(edit: Edit) -> float | None:
    """How much of what its validation loss gained the writing of a trained model's weights took away, as a share; None where
    its file does not say, or nothing was gained."""
    found = training(edit)
    before, after, written = (found[key] for key in ("validation_base", "validation", "written"))
    if not edit.weights or None in (before, after, written) or not before > after:
        return None
    return float((written - after) / (before - after))


def _how(stored: str | None, warmup: int | None, tuned: Mapping[str, Any]) -> list[str]:
    said = [f"written in {stored[:_LONGEST]}"] if stored else []
    said += [f"at {without_halves(places[:_LONGEST])}"] if isinstance(places := tuned.get("places"), str) else []
    said += [f"warm-up of {warmup} steps"] if warmup else []
    said += ["prompts trained through"] if tuned.get("checkpointing") is True else []
    # A search of rates that was stopped is no other training, if the passes are those that were asked for.
    cut = isinstance(tuned.get("ended"), str) and tuned.get("cut") is not False
    return said + ([without_halves(tuned["ended"][:_LONGEST])] if cut else [])


def without_halves(value: str) -> str:
    """Without halves of characters, as a path that is no UTF-8 has them: no table can hold these."""
    return value.encode("utf-8", "replace").decode()


def _number(value: Any, kinds: Any = _NUMBER) -> Any:
    """A number of that kind that a table can hold, else None."""
    return value if isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 2**53 else None


def curves(edit: Edit) -> list[dict[str, Any]]:
    """Rows of the table `evaluation_curves`: how a training went, pass by pass, and the first pass at other learning rates."""
    tuned = edit.chosen.get("tuned")
    if not isinstance(tuned, Mapping):
        return []

    def listed(key: str) -> list[Any]:
        return found[:_POINTS] if isinstance(found := tuned.get(key), list) else []

    rate, taken, problems = (_number(tuned.get(k), of) for k, of in (("rate", _NUMBER), ("taken", int), ("validation", int)))
    points = [(rate, i, p) for i, p in enumerate(listed("curve")) if isinstance(p, Mapping)]
    points += [
        (_number(r[0]), 1, dict(zip(("validation", "solved"), r[1:], strict=True)))
        for r in listed("rates")
        if isinstance(r, list) and len(r) == 3 and r[0] != rate
    ]
    rows = [
        {"edit": edit.name, "rate": at, "passes": passes, "training": _number(point.get("training")),
         "validation": _number(point.get("validation")), "solved": _number(point.get("solved"), int), "problems": problems,
         "taken": at == rate and passes == taken}
        for at, passes, point in points
    ]  # fmt: skip
    return rows if problems != 0 else [row | {"validation": None} for row in rows]


def candidates(edit: Edit) -> list[dict[str, Any]]:
    """Rows of the table `evaluation_candidates`: what a search tried, and how far each got."""
    steered = given if isinstance(given := edit.chosen.get("steered"), Mapping) else {}
    tried = steered.get("tried")
    rows = []
    for row in tried[:_POINTS] if isinstance(tried, list) else []:
        if not (isinstance(row, list) and len(row) == 2 + len(TRIED) and isinstance(row[0], str)):
            continue
        found = dict(zip(("factor", *TRIED), map(_number, row[1:]), strict=True))
        found["solved"] = _number(found["solved"], int)
        taken = not edit.nothing and (row[0], row[1]) == (steered.get("group"), steered.get("factor"))
        neurons = group_of(edit, without_halves(row[0][: 2 * _LONGEST]))
        rows.append({"edit": edit.name, "neurons": neurons, **found, "taken": taken})
    return rows


def search(edit: Edit) -> str:
    """What a search found, in a sentence; "" for an edit that was not searched."""
    found = edit.chosen.get("steered")
    if not isinstance(found, Mapping):
        return ""
    texts = {k: found.get(k) for k in ("goal", "group")}
    numbers = {k: found.get(k) for k in ("candidates", "factor", "solved", "untouched", "problems")}
    if edit.nothing:
        texts, numbers = {"goal": texts["goal"]}, {"candidates": numbers["candidates"]}
    if not all(isinstance(v, str) and len(v) <= _LONGEST for v in texts.values()):
        return ""
    if None in map(_number, numbers.values()):
        return ""
    if edit.nothing:
        return without_halves(f"searched to be {texts['goal']}: none of {numbers['candidates']} candidates was")
    solved = f"{numbers['solved']} of {numbers['problems']} tuning problems solved, {numbers['untouched']} without"
    best = f"{group_of(edit, str(texts['group']))}, factor {numbers['factor']:g} ({solved})"
    survivors = kept[:_POINTS] if isinstance(kept := found.get("survivors"), list) else []
    others = [s for s in survivors if _is_survivor(s) and (s[0], s[1]) != (texts["group"], numbers["factor"])]
    if others:
        best += f"; the other last candidates: {', '.join(f'{group_of(edit, name)} × {f:g}: {n}' for name, f, n in others[:9])}"
    shows, least = found.get("shown"), found.get("detectable")
    if "p_value" not in found and isinstance(least, float):  # an older file: what is less than so many problems can show
        shows = abs(found["solved"] - found["untouched"]) >= least * found["problems"]
    if shows is False:
        best += "; a difference is not shown on so few problems"
    return without_halves(f"searched to be {texts['goal']}, the best of {numbers['candidates']} candidates: {best}")


def group_of(edit: Edit, name: str) -> str:
    """What neurons of a search are called: a control's groups have the names of those in whose place they stand."""
    return name if edit.chosen.get("random") is None else f"random ones for {name}"


def _is_survivor(value: Any) -> bool:
    """Whether it is the name of a group, a factor, and how many problems were solved."""
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and len(value[0]) <= _LONGEST):
        return False
    return None not in map(_number, value[1:])
