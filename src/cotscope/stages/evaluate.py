"""Evaluate: what does an edit do to the skill, and to everything else?

The base and each edited model write answers to the same problems, in shared batches; both are made to write the same
reference solutions; the battery of other skills and general text say what else changes. Accuracies are compared problem by
problem. What came of it is written into the edit's file too. An edit that is weights (`Edit.weights`) is a model of its own,
and is loaded after the others are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.answers import written_answer
from ..data.load import general_text
from ..data.roles import ROLES
from ..data.rows import question_key
from ..edits.card import measured_again
from ..edits.edit import Edit
from ..edits.made import search, training
from ..errors import EditError, UserError, shown
from ..measuring.contrasting import contrasts
from ..measuring.generation import Condition, solve
from ..measuring.problems import STUDY, TrialData, trial_data
from ..measuring.solutions import fingerprint_of, score_battery, score_roles, solved
from ..predicting.templates import templates
from ..runs.files import fingerprint, json_values
from ..runs.options import option
from ..runs.places import path_of
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import EVALUATION_CONTRASTS, EVALUATION_SCORES, EVALUATION_SKILLS, EVALUATIONS, EVALUATIONS_BY_PROBLEM
from ..stats import clustered_p, clustered_proportions, detectable_difference, holm, mcnemar_exact, paired_bootstrap, wilson

if TYPE_CHECKING:
    from ..lm.interventions import Intervention
    from ..lm.scoring import TextScore

BASE = "base"
UNITS = {
    "evaluations.<edit>.<data>.difference": "share of the problems solved with the edit, less without; interval over templates "
    "(cluster-robust), or where each problem is its own over problems (Agresti & Min 2005)",
    "evaluations.<edit>.<data>.p_value": "over templates (sign flips), or problems (exact McNemar); p_holm: over all edits and "
    "data sets of the command",
    "evaluations.<edit>.<data>.p_mcnemar": "exact McNemar over problems, as if none were of one template",
    "evaluations.<edit>.<data>.detectable": "the difference that this n would show in 4 of 5 tries, were as many problems to "
    "change as did",
    "evaluations.<edit>.<data>.log_prob": "change of the mean log-probability of reference solutions' tokens (nats); where the "
    "data has no solutions they are the base's own right ones, which a change can hardly make likelier",
    "evaluations.<edit>.<data>.kl": "mean KL divergence from the base on general text (nats per token)",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    edit: tuple[str, ...] = option((), "an edit file, or a model folder with one; may be given several times", kind="path")
    data: tuple[str, ...] = option(
        (), f"problems, as of `study`, or {STUDY}: the study's own test problems (as without it)", where="command"
    )
    test: int | None = option(
        None, "problems of each data set (default: as many as the study tests on)", kind="positive", where="command"
    )
    solutions: int = option(24, "reference solutions of each data set", kind="natural", where="command")
    skills: int = option(16, "items per task of the battery of other skills", kind="positive", where="command")


@dataclass(frozen=True)
class _Model:
    """A model that is compared: the base, with an edit or without; or one of other weights, whose `session` has them.

    Attributes:
        base: the study itself.
    """

    name: str
    base: Session
    session: Session
    edit: Edit | None = None

    @property
    def intervention(self) -> Intervention | None:
        """What is done to the model of the session."""
        edit = self.edit
        return None if edit is None or edit.weights else edit.intervention(self.session.loaded.anatomy)

    @property
    def key(self) -> str:
        return "" if self.edit is None else self.edit.key

    @property
    def weights(self) -> str:
        return "" if self.edit is None else self.edit.weights


def evaluate(session: Session, options: Options) -> str:
    """Run the stage. Raises: UserError for no edits, edits of one name or of another base, or data without new problems."""
    run = session.run
    if not options.edit:
        raise UserError("there is nothing to evaluate", remedy="Give an edit file: --edit FILE. `cotscope edit` makes one.")
    edits = {path: Edit.read(path) for path in dict.fromkeys(options.edit)}
    names = [e.name for e in edits.values()]
    taken = [*names, BASE, "none"]  # "none" is where nothing is done (`completions.neuron_set`)
    if twice := next((n for n in taken if taken.count(n) > 1), None):
        raise UserError("two edits have one name", expected=f"different names, and neither {BASE} nor none", got=shown(twice))
    count = options.test or len(session.inputs.split.test)
    every = trial_data(session, options.data, count)
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
    changing = [e for e in edits.values() if not e.weights and not e.nothing]
    together = [_Model(BASE, session, session), *(_Model(e.name, session, session, e) for e in changing)]
    _ask(together, every, options)
    for path, edit in edits.items():
        if edit.weights:
            _ask([_Model(edit.name, session, _with_weights(session, path, edit), edit)], every, options)
    skills = _skills(session)
    rows, by_problem = list[dict[str, Any]](), list[dict[str, Any]]()
    for data in every:
        scores = _solutions(session, data)
        for edit in edits.values():
            row, each = _compare(session, data, edit, scores, skills)
            rows.append(row)
            by_problem += each
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    run.write(EVALUATIONS, rows)
    run.write(EVALUATIONS_BY_PROBLEM, by_problem)
    beside = contrasts(list(edits.values()), by_problem)
    run.write(EVALUATION_CONTRASTS, beside)
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        summary.setdefault(row["edit"], {})[row["data"]] = {k: v for k, v in row.items() if k not in ("edit", "data")}
    run.summarise("evaluations", summary)
    for path, edit in edits.items():
        for data in every:
            edit = edit.with_measured(_record(session, data, summary[edit.name][data.label]))
        edit.write(path)
        measured_again(Path(path) if Path(path).is_dir() else Path(path).parent, edit)
    return "; ".join([*map(_finding, rows), *map(_contrast, beside)])


def _finding(row: dict[str, Any]) -> str:
    seen = row["templates_trained_on"]
    return (
        f"{row['edit']} on {row['data']}: accuracy {row['accuracy_base']:.3f} → {row['accuracy']:.3f} "
        f"({row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], n = {row['n']} of "
        f"{row['templates']} templates" + (f", {seen} of such as it was made with" if seen else "") + "), "
        f"perplexity × {row['perplexity_ratio']:.3f}"
    )


def _contrast(row: dict[str, Any]) -> str:
    return (
        f"{row['chosen']} less {row['beside']} on {row['data']}: {row['difference']:+.3f} "
        f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], p {row['p_holm']:.3f} over all such"
    )


def _check_names(edits: Sequence[str], labels: Sequence[str]) -> None:
    """Names of edits and data become names of tables' parts. Raises: UserError."""
    for name in (f"{edit} on {label}" for edit in edits for label in labels):
        try:
            path_of(Path(), f"completions/evaluation.{name}")
            fits = name.isprintable() and not name.startswith(".")
        except ValueError:
            fits = False
        if not fits:
            raise UserError("the names of an edit and its problems can't name a file", expected="short ones without /",
                            got=shown(name))  # fmt: skip


def _with_weights(session: Session, path: str, edit: Edit) -> Session:
    """The study with the model that an edit file lies beside. Raises: EditError if it is not the edit's; ModelError."""
    import torch

    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    other = session.with_model(str(folder))
    if (found := other.loaded.weight_hash(torch.bfloat16)) != edit.weights:
        raise EditError(f"the weights in {folder} are not those of edit {edit.name}", expected=f"{edit.weights[:12]}…",
                        got=f"{found[:12]}…", remedy="Train it again, or export it in the dtype of this study.")  # fmt: skip
    return other


def _ask(models: Sequence[_Model], every: Sequence[TrialData], options: Options) -> None:
    """Everything that models of one session are asked: what has not been, of each."""
    session = models[0].session
    solve(
        session,
        [
            Condition("evaluation", session.prompt, d.label, "none" if m.name == BASE else m.name, label=_label(m.name, d),
                      intervention=m.intervention, problems=d.problems, weights=m.weights)
            for d in every
            for m in models
        ],
        "evaluating edits",
    )  # fmt: skip
    _score_skills(models, options)
    for data in every:
        _score_solutions(models, data, options)


def _label(name: str, data: TrialData) -> str:
    """What the part of one edit, or the base, on one data set is called."""
    return f"{name} on {data.label}"


def _score_solutions(models: Sequence[_Model], data: TrialData, options: Options) -> None:
    """The base's reference solutions, scored."""
    session = models[0].session
    run = session.run
    given = solved(session, f"evaluation.{_label(BASE, data)}", data.problems, options.solutions)
    with session.bar(f"reference solutions of {data.label}", len(models), "edit") as bar:
        for m in models:
            part = _label(m.name, data)
            of = fingerprint(m.key, fingerprint_of(given), session.prompt.text(""))
            if run.done(f"evaluation_scores/{part}", of) is None:
                rows = [
                    {"edit": m.name, "data": data.label, "problem_id": s.problem.id, "role": role, "tokens": len(tokens),
                     "log_prob": fmean(t.log_prob for t in tokens)}
                    for s, roles in zip(given, score_roles(session.engine, session.prompt, given, m.intervention)
                                        if given else (), strict=True)
                    for role, tokens in roles.items()
                ]  # fmt: skip
                run.write(EVALUATION_SCORES, rows, part, of)
            bar.update()


def _solutions(session: Session, data: TrialData) -> dict[str, dict[str, dict[str, float]]]:
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


def _score_skills(models: Sequence[_Model], options: Options) -> None:
    """The battery's items, and general text, scored."""
    from ..lm.scoring import text_scores, windows

    session, text = models[0].session, general_text()
    run = session.run
    of = {m.name: fingerprint(m.key, options.skills) for m in models}
    missing = [m for m in models if run.done(f"evaluation_skills/{m.name}", of[m.name]) is None]
    if missing:
        total = len(missing) * (windows(session.loaded, text) + 1)
        with session.bar("other skills and general text", total, "pass") as bar:
            done = {m.name: m.session.loaded if m.weights else m.intervention for m in missing}
            texts: dict[str, TextScore] = text_scores(models[0].base.loaded, text, done, bar.update)
            for m in missing:
                rows = [
                    {"edit": m.name, "task": h.task, "item": h.item, "hit": h.hit, "perplexity": texts[m.name].perplexity,
                     "kl": texts[m.name].kl}
                    for h in score_battery(session.engine, options.skills, m.intervention)
                ]  # fmt: skip
                run.write(EVALUATION_SKILLS, rows, m.name, of[m.name])
                bar.update()


def _skills(session: Session) -> dict[str, dict[str, Any]]:
    """Edit → its battery (a hit for each item), perplexity and KL on general text."""
    found: dict[str, dict[str, Any]] = {}
    for r in session.run.rows("SELECT * FROM evaluation_skills ORDER BY task, item"):
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
        "SELECT condition, problem_id, text, correct, flexible FROM completions WHERE family = 'evaluation' ORDER BY ALL"
    ):
        wrote.setdefault(r["condition"], {})[r["problem_id"]] = r
    name = BASE if edit.nothing else edit.name  # whose answers are the edit's
    base, own = (wrote[f"evaluation.{_label(n, data)}"] for n in (BASE, name))
    each = [
        {"edit": edit.name, "data": data.label, "problem_id": p.id, "question": p.question, "answer": written_answer(p.answer)}
        | {f"{k}{end}": of[p.id][k] for end, of in (("_base", base), ("", own)) for k in ("text", "flexible", "correct")}
        for p in data.problems
    ]
    before, after = [e["correct_base"] for e in each], [e["correct"] for e in each]
    n, changed = len(each), sum(b != a for b, a in zip(before, after, strict=True))
    trained = edit.chosen.get("templates")
    questions = [p.question for p in data.problems]
    of, together = templates(questions), templates([*questions, *(trained or ())])
    row: dict[str, Any] = {"edit": edit.name, "data": data.label, "neurons": _neurons(edit), "n": n, "templates": len(set(of))}
    row["templates_trained_on"] = None if trained is None else sum(t in together[n:] for t in together[:n])
    for end, hits in (("_base", before), ("", after)):
        low, high = wilson(sum(hits), n)
        row |= {f"accuracy{end}": fmean(hits), f"accuracy{end}_low": low, f"accuracy{end}_high": high}
    difference, low, high, independent = clustered_proportions(before, after, of)
    row |= {"difference": difference, "difference_low": low, "difference_high": high}
    row |= {
        "gained": sum(a and not b for b, a in zip(before, after, strict=True)),
        "lost": sum(b and not a for b, a in zip(before, after, strict=True)),
        "p_value": clustered_p(before, after, of),
        "p_mcnemar": mcnemar_exact(before, after),
        "detectable": detectable_difference(changed / n, max(1, int(independent))) if changed else None,
    }
    untouched = scores.get(BASE, {})
    for role in ("log_prob", *ROLES):
        old, new = untouched.get(role, {}), scores.get(name, {}).get(role, {})
        changes = [new[p] - old[p] for p in sorted(old)]
        row |= dict(zip((role, f"{role}_low", f"{role}_high"),
                        paired_bootstrap(changes, session.config.seed) if changes else (None,) * 3, strict=True))  # fmt: skip
    row["solutions"] = len(untouched.get("log_prob", {}))
    here, there = skills[name], skills[BASE]
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
    return row | training(edit) | {"search": search(edit)}, each


def _neurons(edit: Edit) -> int:
    """How many it is of; of other weights as far as it says so."""
    count = edit.chosen.get("neurons", 0) if edit.weights else len(edit.neurons)
    return count if isinstance(count, int) else 0


def _record(session: Session, data: TrialData, found: dict[str, Any]) -> dict[str, Any]:
    """What the edit's file keeps."""
    keys = (
        "n", "accuracy_base", "accuracy", "difference", "difference_low", "difference_high", "p_value", "p_mcnemar",
        "templates", "solutions", "log_prob", "log_prob_low", "log_prob_high", "battery_base", "battery", "items",
        "perplexity_ratio", "kl",
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
    writes=(EVALUATIONS, EVALUATIONS_BY_PROBLEM, EVALUATION_CONTRASTS, EVALUATION_SCORES, EVALUATION_SKILLS,
            "completions/evaluation."),
    units=UNITS,
    repeats=True,
    wanted=never,
    example="cotscope evaluate runs/first --edit edit.json",
)  # fmt: skip
