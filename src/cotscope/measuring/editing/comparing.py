"""What an edit changes on one data set: a row of the table `evaluations`, and its problems, from what was written and scored.

Accuracies are compared problem by problem, and intervals are over templates: problems of one template are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ...data.answers import written_answer
from ...data.reckoning import OUTCOMES, first_result
from ...data.roles import ROLES
from ...edits.edit import Edit
from ...edits.made import search, training
from ...predicting.templates import templates
from ...runs.session import Session
from ...stats import (
    LEVEL,
    clustered_p,
    clustered_proportions,
    clustered_share,
    detectable_difference,
    least_p_of_signs,
    mcnemar_exact,
    paired_bootstrap,
)
from ..problems import TrialData

BASE = "base"
LEAST_SEEN = 0.1
"""Share of the problems that are of templates which an edit was made with, from which on the others are told apart."""
ON_NEW = ("new_n", "new_templates", "new_difference", "new_difference_low", "new_difference_high", "new_p_value")
_OF_ROUNDING = ("rounding_dtype", "rounding_accuracy", "rounding_difference", "rounding_difference_low",
                "rounding_difference_high", "less_rounding", "less_rounding_low", "less_rounding_high")  # fmt: skip

WRITTEN = ("text", "flexible", "correct", "first_result")
"""What is told of each text, the base's and the edit's."""
OF_TEXT = ("perplexity", "kl", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high")
"""What general text says of an edit."""


def part_name(name: str, data: TrialData) -> str:
    """What the part of one edit, or the base, on one data set is called."""
    return f"{name} on {data.label}"


def rounding_name(dtype: str) -> str:
    """What the untouched model in another precision is called."""
    return f"{BASE} in {dtype}"


def written(session: Session) -> dict[str, dict[str, dict[str, Any]]]:
    """Part → problem → what was written there, whether it is right, and what became of its first formula's result."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for r in session.run.rows(
        "SELECT condition, problem_id, text, correct, flexible FROM completions WHERE family = 'evaluation' ORDER BY ALL"
    ):
        about = r | {"first_result": first_result(r["text"])}
        found.setdefault(r["condition"].removeprefix("evaluation."), {})[r["problem_id"]] = about
    return found


def scored_solutions(session: Session, data: TrialData) -> dict[str, dict[str, dict[str, float]]]:
    """Edit → outcome (a role, or "log_prob": all tokens) → problem → mean log-probability; base's under its name."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    sums: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for r in session.run.rows("SELECT * FROM evaluation_scores WHERE data = ? ORDER BY ALL", [data.label]):
        found.setdefault(r["edit"], {}).setdefault(r["role"], {})[r["problem_id"]] = r["log_prob"]
        sums.setdefault((r["edit"], r["problem_id"]), []).append((r["log_prob"], r["tokens"]))
    for (name, problem), parts in sums.items():
        whole = sum(mean * count for mean, count in parts) / sum(count for _, count in parts)
        found[name].setdefault("log_prob", {})[problem] = whole
    return found


def scored_skills(session: Session) -> dict[str, dict[str, Any]]:
    """Edit → its battery (a hit for each item), perplexity and KL on general text."""
    found: dict[str, dict[str, Any]] = {}
    for r in session.run.rows("SELECT * FROM evaluation_skills ORDER BY task, item"):
        entry = found.setdefault(r["edit"], {"hits": []} | {key: r[key] for key in OF_TEXT})
        entry["hits"].append(r["hit"])
    return found


def compare(
    data: TrialData,
    edit: Edit,
    wrote: Mapping[str, Mapping[str, dict[str, Any]]],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    skills: Mapping[str, Mapping[str, Any]],
    seed: int,
    tests: int,
    rounding: str = "",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One edit on one data set, beside the base; and problem by problem.

    Args:
        wrote, scores, skills: what `written`, `scored_solutions` and `scored_skills` found.
        seed: of bootstraps.
        tests: how many share the level, by Holm's method.
        rounding: the dtype in which the untouched model was asked as well; "": it was not.
    """
    name = BASE if edit.nothing else edit.name  # whose answers are the edit's
    base, own = (wrote[part_name(n, data)] for n in (BASE, name))
    each = [
        {"edit": edit.name, "data": data.label, "problem_id": p.id, "question": p.question, "answer": written_answer(p.answer)}
        | {f"{k}{end}": of[p.id][k] for end, of in (("_base", base), ("", own)) for k in WRITTEN}
        for p in data.problems
    ]
    before, after = [e["correct_base"] for e in each], [e["correct"] for e in each]
    n, changed = len(each), sum(b != a for b, a in zip(before, after, strict=True))
    trained = edit.chosen.get("templates")
    questions = [p.question for p in data.problems]
    of, together = templates(questions), templates([*questions, *(trained or ())])
    row: dict[str, Any] = {"edit": edit.name, "data": data.label, "neurons": _neurons(edit), "n": n, "templates": len(set(of))}
    seen = [t in together[n:] for t in together[:n]]
    row["templates_trained_on"] = None if trained is None else sum(seen)
    tells = LEAST_SEEN <= fmean(seen) < 1 and not edit.nothing  # else the difference is that on new templates, or none are
    row |= _on_new(before, after, of, [not s for s in seen]) if tells else dict.fromkeys(ON_NEW)
    for end, hits in (("_base", before), ("", after)):
        low, high = clustered_share(hits, of)
        row |= {f"accuracy{end}": fmean(hits), f"accuracy{end}_low": low, f"accuracy{end}_high": high}
    difference, low, high, independent = clustered_proportions(before, after, of)
    if edit.nothing:  # its answers are the base's own
        low = high = 0.0
    row |= {"difference": difference, "difference_low": low, "difference_high": high}
    row |= _rounding(rounding, data, before, after, of, wrote) if rounding else dict.fromkeys(_OF_ROUNDING)
    row |= {
        "gained": sum(a and not b for b, a in zip(before, after, strict=True)),
        "lost": sum(b and not a for b, a in zip(before, after, strict=True)),
        "p_value": clustered_p(before, after, of),
        "p_mcnemar": mcnemar_exact(before, after),
        "detectable": _detectable(changed / n, max(1, int(independent)), len(set(of)), tests) if changed else None,
    }
    for end in ("_base", ""):
        row |= {f"first_{outcome}{end}": sum(e[f"first_result{end}"] == outcome for e in each) for outcome in OUTCOMES}
    untouched = scores.get(BASE, {})
    for role in ("log_prob", *ROLES):
        old, new = untouched.get(role, {}), scores.get(name, {}).get(role, {})
        changes = [new[p] - old[p] for p in sorted(old)]
        row |= dict(zip((role, f"{role}_low", f"{role}_high"),
                        paired_bootstrap(changes, seed) if changes else (None,) * 3, strict=True))  # fmt: skip
    row["solutions"] = len(untouched.get("log_prob", {}))
    here, there = skills[name], skills[BASE]
    row |= {
        "battery_base": fmean(there["hits"]),
        "battery": fmean(here["hits"]),
        "items": len(here["hits"]),
        "battery_p": mcnemar_exact(there["hits"], here["hits"]),
        "perplexity_base": there["perplexity"],
        **{key: here[key] for key in OF_TEXT},
    }
    return row | training(edit) | {"search": search(edit)}, each


def _rounding(
    dtype: str,
    data: TrialData,
    before: Sequence[bool],
    after: Sequence[bool],
    of: Sequence[int],
    wrote: Mapping[str, Mapping[str, dict[str, Any]]],
) -> dict[str, Any]:
    """What the untouched model solves in another precision, less what the base does, and what the edit does less that.

    Greedy texts turn on near ties, which any change decides anew: what rounding alone gains an edit can gain by luck, and edits
    that stand beside one base share its luck. No p: a figure to set a small gain beside, not another test of it.
    """
    texts = wrote[part_name(rounding_name(dtype), data)]
    rounded = [bool(texts[p.id]["correct"]) for p in data.problems]
    values: list[Any] = [dtype, fmean(rounded)]
    for one, other in ((before, rounded), (rounded, after)):
        values += clustered_proportions(one, other, of)[:3]
    return dict(zip(_OF_ROUNDING, values, strict=True))


def _detectable(discordant: float, independent: int, clusters: int, tests: int) -> float:
    """The difference that would be shown in 4 of 5 tries; 1 where there are so few templates that no signs of theirs could."""
    return 1.0 if least_p_of_signs(clusters) * tests > LEVEL else detectable_difference(discordant, independent, tests)


def _on_new(before: Sequence[bool], after: Sequence[bool], of: Sequence[int], new: Sequence[bool]) -> dict[str, Any]:
    """The difference on problems of templates that an edit was not made with: whether what it does carries over to them."""
    kept = [i for i, is_new in enumerate(new) if is_new]
    base, own, clusters = [before[i] for i in kept], [after[i] for i in kept], [of[i] for i in kept]
    difference, low, high, _ = clustered_proportions(base, own, clusters)
    values = (len(base), len(set(clusters)), difference, low, high, clustered_p(base, own, clusters))
    return dict(zip(ON_NEW, values, strict=True))


def _neurons(edit: Edit) -> int:
    """How many it is of; of other weights as far as it says so."""
    count = edit.chosen.get("neurons", 0) if edit.weights else len(edit.neurons)
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0
