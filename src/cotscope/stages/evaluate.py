"""Evaluate: what does an edit do to the skill, and to everything else?

The base and each edited model write answers to the same problems, in shared batches; both are made to write the same
reference solutions; the battery of other skills and general text say what else changes. Accuracies are compared problem by
problem. What came of it is written into the edit's file too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.load import general_text
from ..data.numbers import format_number
from ..data.roles import ROLES
from ..data.rows import question_key
from ..edits.edit import Edit
from ..errors import UserError, shown
from ..measuring.generation import Condition, solve
from ..measuring.problems import STUDY, TrialData, trial_data
from ..measuring.solutions import Solution, fingerprint_of, score_battery, score_roles, solved
from ..runs.files import fingerprint, json_values
from ..runs.manifest import path_of
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import EVALUATION_SCORES, EVALUATION_SKILLS, EVALUATIONS, EVALUATIONS_BY_PROBLEM
from ..stats import detectable_difference, holm, mcnemar_exact, paired_bootstrap, paired_proportions, wilson

if TYPE_CHECKING:
    from ..lm.interventions import Intervention
    from ..lm.scoring import TextScore

BASE = "base"
UNITS = {
    "evaluations.<edit>.<data>.difference": "share of the problems solved with the edit, less without; paired interval "
    "(Agresti & Min 2005)",
    "evaluations.<edit>.<data>.p_value": "exact McNemar; p_holm: over all edits and data sets of the command",
    "evaluations.<edit>.<data>.detectable": "the difference that this n would show in 4 of 5 tries, were as many problems to "
    "change as did",
    "evaluations.<edit>.<data>.log_prob": "change of the mean log-probability of reference solutions' tokens (nats); where the "
    "data has no solutions they are the base's own right ones, which a change can hardly make likelier",
    "evaluations.<edit>.<data>.kl": "mean KL divergence from the base on general text (nats per token)",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    edit: tuple[str, ...] = option((), "an edit file; may be given several times", kind="path")
    data: tuple[str, ...] = option(
        (), f"problems, as of `study`, or {STUDY}: the study's own test problems (as without it)", where="command"
    )
    test: int | None = option(
        None, "problems of each data set (default: as many as the study tests on)", kind="positive", where="command"
    )
    solutions: int = option(24, "reference solutions of each data set", kind="natural", where="command")
    skills: int = option(16, "items per task of the battery of other skills", kind="positive", where="command")


def evaluate(session: Session, options: Options) -> str:
    """Run the stage. Raises: UserError for no edits, edits of one name or of another base, or data without new problems."""
    run = session.run
    if not options.edit:
        raise UserError("there is nothing to evaluate", remedy="Give an edit file: --edit FILE. `cotscope edit` makes one.")
    edits = {path: Edit.read(path) for path in dict.fromkeys(options.edit)}
    names = [e.name for e in edits.values()]
    if twice := next((n for n in [*names, BASE] if [*names, BASE].count(n) > 1), None):
        raise UserError("two edits have one name", expected=f"different names, none of them {BASE}", got=shown(twice))
    count = options.test or len(session.inputs.split.test)
    every = [trial_data(session, source, count) for source in dict.fromkeys(options.data or (STUDY,))]
    _check_names([BASE, *names], [d.label for d in every])
    for edit in edits.values():
        edit.check(session.loaded)
        trained = set(edit.chosen.get("questions") or ())
        for data in every:
            if seen := [p.id for p in data.problems if fingerprint(question_key(p.question)) in trained]:
                raise UserError(
                    f"edit {edit.name} was made with problems of {data.label}", expected="none of them among the test problems",
                    got=f"{len(seen)} of {len(data.problems)}, {seen[0]} the first",
                )  # fmt: skip
    interventions: dict[str, Intervention | None] = {BASE: None}
    interventions |= {e.name: e.intervention(session.loaded.anatomy) for e in edits.values()}
    solve(
        session,
        [
            Condition("evaluation", session.prompt, d.label, f"{name} on {d.label}", intervention=i, problems=d.problems)
            for d in every
            for name, i in interventions.items()
        ],
        "evaluating edits",
    )
    skills = _skills(session, edits.values(), interventions, options)
    rows, by_problem = list[dict[str, Any]](), list[dict[str, Any]]()
    for data in every:
        given = solved(session, "evaluation", data.problems, options.solutions, f"{BASE} on {data.label}")
        scores = _solutions(session, data, given, edits.values(), interventions)
        for edit in edits.values():
            row, each = _compare(session, data, edit, scores, skills)
            rows.append(row)
            by_problem += each
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    run.write(EVALUATIONS, rows)
    run.write(EVALUATIONS_BY_PROBLEM, by_problem)
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        summary.setdefault(row["edit"], {})[row["data"]] = {k: v for k, v in row.items() if k not in ("edit", "data")}
    run.summarise("evaluations", summary)
    for path, edit in edits.items():
        for data in every:
            edit = edit.with_measured(_record(session, data, summary[edit.name][data.label]))
        edit.write(path)
    return "; ".join(
        f"{r['edit']} on {r['data']}: accuracy {r['accuracy_base']:.3f} → {r['accuracy']:.3f} "
        f"({r['difference']:+.3f} [{r['difference_low']:+.3f}, {r['difference_high']:+.3f}], n = {r['n']}), "
        f"perplexity × {r['perplexity_ratio']:.3f}"
        for r in rows
    )


def _check_names(edits: Sequence[str], labels: Sequence[str]) -> None:
    """Names of edits and data become names of tables' parts. Raises: UserError."""
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError("two files of problems have one name", expected="different names", got=shown(twice))
    for name in (f"{edit} on {label}" for edit in edits for label in labels):
        try:
            path_of(Path(), f"completions/evaluation.{name}")
            fits = name.isprintable() and not name.startswith(".")
        except ValueError:
            fits = False
        if not fits:
            raise UserError("the names of an edit and its problems can't name a file", expected="short ones without /",
                            got=shown(name))  # fmt: skip


def _solutions(
    session: Session, data: TrialData, given: Sequence[Solution], edits: Any, interventions: dict[str, Intervention | None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Edit → outcome (a role, or "log_prob": all tokens) → problem → mean log-probability; base's under its name."""
    run = session.run
    keys = {BASE: ""} | {e.name: e.key for e in edits}
    with session.bar(f"reference solutions of {data.label}", len(keys), "edit") as bar:
        for name, key in keys.items():
            part = f"{name} on {data.label}"
            of = fingerprint(key, fingerprint_of(given), session.prompt.text(""))
            if run.done(f"evaluation_scores/{part}", of) is None:
                rows = [
                    {"edit": name, "data": data.label, "problem_id": s.problem.id, "role": role, "tokens": len(tokens),
                     "log_prob": fmean(t.log_prob for t in tokens)}
                    for s, roles in zip(given, score_roles(session.engine, session.prompt, given, interventions[name])
                                        if given else (), strict=True)
                    for role, tokens in roles.items()
                ]  # fmt: skip
                run.write(EVALUATION_SCORES, rows, part, of)
            bar.update()
    found: dict[str, dict[str, dict[str, float]]] = {}
    sums: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for r in run.rows("SELECT * FROM evaluation_scores WHERE data = ? ORDER BY ALL", [data.label]):
        found.setdefault(r["edit"], {}).setdefault(r["role"], {})[r["problem_id"]] = r["log_prob"]
        sums.setdefault((r["edit"], r["problem_id"]), []).append((r["log_prob"], r["tokens"]))
    for (name, problem), parts in sums.items():
        whole = sum(mean * count for mean, count in parts) / sum(count for _, count in parts)
        found[name].setdefault("log_prob", {})[problem] = whole
    return found


def _skills(
    session: Session, edits: Any, interventions: dict[str, Intervention | None], options: Options
) -> dict[str, dict[str, Any]]:
    """Edit → its battery (a hit for each item), perplexity and KL on general text."""
    from ..lm.scoring import text_scores, windows

    run, text = session.run, general_text()
    of = {name: fingerprint(key, options.skills) for name, key in ({BASE: ""} | {e.name: e.key for e in edits}).items()}
    missing = [name for name in of if run.done(f"evaluation_skills/{name}", of[name]) is None]
    if missing:
        total = len(missing) * (windows(session.loaded, text) + 1)
        with session.bar("other skills and general text", total, "pass") as bar:
            texts: dict[str, TextScore] = text_scores(
                session.loaded, text, {name: interventions[name] for name in missing}, bar.update
            )
            for name in missing:
                hits = score_battery(session.engine, options.skills, interventions[name])
                rows = [
                    {"edit": name, "task": h.task, "item": h.item, "hit": h.hit, "perplexity": texts[name].perplexity,
                     "kl": texts[name].kl}
                    for h in hits
                ]  # fmt: skip
                run.write(EVALUATION_SKILLS, rows, name, of[name])
                bar.update()
    found: dict[str, dict[str, Any]] = {}
    for r in run.rows("SELECT * FROM evaluation_skills ORDER BY task, item"):
        entry = found.setdefault(r["edit"], {"hits": [], "perplexity": r["perplexity"], "kl": r["kl"]})
        entry["hits"].append(r["hit"])
    return found


def _compare(
    session: Session,
    data: TrialData,
    edit: Edit,
    scores: dict[str, dict[str, dict[str, float]]],
    skills: dict[str, dict[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One edit on one data set, beside the base; and problem by problem."""
    run = session.run
    wrote: dict[str, dict[str, dict[str, Any]]] = {}
    for r in run.rows(
        "SELECT neuron_set, problem_id, text, correct, flexible FROM completions WHERE family = 'evaluation' ORDER BY ALL"
    ):
        wrote.setdefault(r["neuron_set"], {})[r["problem_id"]] = r
    base, own = (wrote[f"{name} on {data.label}"] for name in (BASE, edit.name))
    each = [
        {"edit": edit.name, "data": data.label, "problem_id": p.id, "question": p.question, "answer": format_number(p.answer)}
        | {f"{k}{end}": of[p.id][k] for end, of in (("_base", base), ("", own)) for k in ("text", "flexible", "correct")}
        for p in data.problems
    ]
    before, after = [e["correct_base"] for e in each], [e["correct"] for e in each]
    n, changed = len(each), sum(b != a for b, a in zip(before, after, strict=True))
    row: dict[str, Any] = {"edit": edit.name, "data": data.label, "neurons": len(edit.neurons), "n": n}
    for end, hits in (("_base", before), ("", after)):
        low, high = wilson(sum(hits), n)
        row |= {f"accuracy{end}": fmean(hits), f"accuracy{end}_low": low, f"accuracy{end}_high": high}
    row |= dict(zip(("difference", "difference_low", "difference_high"), paired_proportions(before, after), strict=True))
    row |= {
        "gained": sum(a and not b for b, a in zip(before, after, strict=True)),
        "lost": sum(b and not a for b, a in zip(before, after, strict=True)),
        "p_value": mcnemar_exact(before, after),
        "detectable": detectable_difference(changed / n, n) if changed else None,
    }
    untouched = scores.get(BASE, {})
    for name in ("log_prob", *ROLES):
        old, new = untouched.get(name, {}), scores.get(edit.name, {}).get(name, {})
        changes = [new[p] - old[p] for p in sorted(old)]
        row |= dict(zip((name, f"{name}_low", f"{name}_high"),
                        paired_bootstrap(changes, session.config.seed) if changes else (None,) * 3, strict=True))  # fmt: skip
    row["solutions"] = len(untouched.get("log_prob", {}))
    here, there = skills[edit.name], skills[BASE]
    row |= {
        "battery_base": fmean(there["hits"]),
        "battery": fmean(here["hits"]),
        "items": len(here["hits"]),
        "battery_p": mcnemar_exact(there["hits"], here["hits"]),
        "perplexity_base": there["perplexity"],
        "perplexity": here["perplexity"],
        "perplexity_ratio": here["perplexity"] / there["perplexity"],
        "kl": here["kl"],
    }
    return row, each


def _record(session: Session, data: TrialData, found: dict[str, Any]) -> dict[str, Any]:
    """What the edit's file keeps."""
    keys = (
        "n", "accuracy_base", "accuracy", "difference", "difference_low", "difference_high", "p_value", "solutions", "log_prob",
        "log_prob_low", "log_prob_high", "battery_base", "battery", "items", "perplexity_ratio", "kl",
    )  # fmt: skip
    about = {"data": data.source, "data_sha256": data.sha256, "prompt": session.prompt.name}
    about |= {"dtype": session.loaded.dtype_name}
    return about | json_values({k: found[k] for k in keys})


STAGE = Stage(
    "evaluate",
    "evaluate",
    "what an edit does: problems solved with it and without, reference solutions, other skills, general text",
    evaluate,
    Options,
    after=("discover",),
    writes=(EVALUATIONS, EVALUATIONS_BY_PROBLEM, EVALUATION_SCORES, EVALUATION_SKILLS, "completions/evaluation."),
    units=UNITS,
    repeats=True,
    wanted=never,
)
