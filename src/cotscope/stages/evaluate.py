"""Evaluate: what does an edit do to the skill, and to everything else?

The base and each edited model write answers to the same problems, in shared batches; both are made to write the same
reference solutions; the battery of other skills and general text say what else changes. Accuracies are compared problem by
problem. What came of it is written into the edit's file too. A model folder is a model of its own, and is loaded after the
others are done: with the weights that were trained (`Edit.weights`), or with factors as its dtype holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.load import general_text
from ..data.rows import question_key
from ..edits.card import measured_again
from ..edits.edit import Edit
from ..edits.made import candidates, curves, rounded_away
from ..errors import EditError, UserError, shown
from ..measuring.editing.comparing import BASE, compare, part_name, scored_skills, scored_solutions, written
from ..measuring.editing.contrasting import contrasts, grouped, unpaired
from ..measuring.generation import Condition, solve
from ..measuring.problems import TrialData, trial_data
from ..measuring.solutions import fingerprint_of, score_battery, score_roles, solved
from ..runs.config import STUDY
from ..runs.files import fingerprint, json_values
from ..runs.options import option
from ..runs.places import path_of
from ..runs.session import Session
from ..runs.stage import Stage, never
from ..runs.tables import (
    COMPLETIONS,
    EVALUATION_CANDIDATES,
    EVALUATION_CONTRASTS,
    EVALUATION_CURVES,
    EVALUATION_SCORES,
    EVALUATION_SKILLS,
    EVALUATIONS,
    EVALUATIONS_BY_PROBLEM,
)
from ..stats import holm

if TYPE_CHECKING:
    from ..lm.interventions import Intervention
    from ..lm.scoring import TextScore

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

ROUNDED = 0.1
"""Of what a training gained: where writing it took more, the table alone would mislead (docs/log.md, 2026-11-29, seventh)."""


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    edit: tuple[str, ...] = option((), "an edit file, or a model folder with one, whose own weights are asked; may be given "
                                   "several times", kind="path", reads=True)  # fmt: skip
    data: tuple[str, ...] = option(
        (),
        f"problems, as of `study`, or {STUDY}: the study's own test problems (the default)",
        where="command",
        reads=True,
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
        weights: the hash of other weights as they are held (as bfloat16, `Edit.weights`, two may be one); "": the base's.
    """

    name: str
    base: Session
    session: Session
    edit: Edit | None = None
    weights: str = ""

    @property
    def intervention(self) -> Intervention | None:
        """What is done to the model of the session; to other weights nothing, which hold the edit."""
        edit = self.edit
        return None if edit is None or self.weights else edit.intervention(self.session.loaded.anatomy)

    @property
    def key(self) -> str:
        if self.edit is None:
            return ""
        edit = self.edit
        return edit.key if self.weights in ("", edit.weights) else fingerprint("other weights", edit.key, self.weights)


def evaluate(session: Session, options: Options) -> str:
    """Run the stage. Raises: UserError for no edits, edits of one name or of another base, or data without new problems."""
    run = session.run
    if not options.edit:
        raise UserError("there is nothing to evaluate", remedy="Give an edit file: --edit FILE. `cotscope edit` makes one.")
    edits = _named({path: Edit.read(path) for path in dict.fromkeys(options.edit)})
    names = [e.name for e in edits.values()]
    taken = [*names, BASE, "none"]  # "none" is where nothing is done (`completions.neuron_set`)
    if twice := next((n for n in taken if taken.count(n) > 1), None):
        raise UserError(
            "two edits have one name", expected=f"different names, and neither {BASE} nor none", got=shown(twice),
            remedy='It is the "name" in the file; `cotscope edit --name` gives another.',
        )  # fmt: skip
    for table, begins in ((COMPLETIONS, "evaluation."), (EVALUATION_SCORES, ""), (EVALUATION_SKILLS, "")):
        run.keep(table, begins=begins)  # what other edits were asked is not asked again when they come back
    count = options.test or len(session.inputs.split.test)
    every = trial_data(session, options.data, count)
    _check_names([BASE, *names], [d.label for d in every])
    for edit in edits.values():
        edit.check(session.loaded)
        trained = set(edit.chosen.get("questions") or ())
        for data in every:
            if seen := [p.id for p in data.problems if fingerprint(question_key(p.question)) in trained]:
                raise UserError(
                    f"edit {edit.name} was made, or its neurons were found, with problems of {data.label}",
                    expected="none of them among the test problems",
                    got=f"{len(seen)} of {len(data.problems)}, {seen[0]} the first", remedy="Give others: --data FILE.",
                )  # fmt: skip
    for data in every:
        session.model.check_lengths([session.prompt], data.problems, options.solutions)
    loads = [path for path, edit in edits.items() if edit.weights or (_holds_weights(path) and not edit.nothing)]
    changing = [e for path, e in edits.items() if path not in loads and not e.nothing]
    together = [_Model(BASE, session, session), *(_Model(e.name, session, session, e) for e in changing)]
    _ask(together, every, options)
    for path in loads:
        other = _with_weights(session, path, edits[path])
        _ask([_Model(edits[path].name, session, other, edits[path], other.loaded.weight_hash())], every, options)
        del other  # before the next one is loaded
    wrote, skills = written(session), scored_skills(session)
    rows, by_problem = list[dict[str, Any]](), list[dict[str, Any]]()
    terms = {name: group.key for group, names in grouped(list(edits.values())).items() for name in names}
    for data in every:
        scores = scored_solutions(session, data)
        for edit in edits.values():
            row, each = compare(data, edit, wrote, scores, skills, session.config.seed)
            rows.append(row | {"terms": terms.get(edit.name)})
            by_problem += each
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p
    run.write(EVALUATIONS, rows)
    run.write(EVALUATIONS_BY_PROBLEM, by_problem)
    run.write(EVALUATION_CURVES, [row for edit in edits.values() for row in curves(edit)])
    run.write(EVALUATION_CANDIDATES, [row for edit in edits.values() for row in candidates(edit)])
    beside = contrasts(list(edits.values()), by_problem)
    for text in unpaired(list(edits.values())):
        run.note(text)
    for edit in edits.values():
        if (lost := rounded_away(edit)) is not None and lost > ROUNDED:
            run.note(
                f"Of what {shown(edit.name)} had learned, writing it in 16 bits took away {lost:.0%} (validation loss): it "
                "stands here, and beside others, with the rest. `cotscope tune --dtype float32` keeps it."
            )
    run.write(EVALUATION_CONTRASTS, beside)
    summary: dict[str, dict[str, Any]] = {}
    for row in rows:
        summary.setdefault(row["edit"], {})[row["data"]] = {k: v for k, v in row.items() if k not in ("edit", "data")}
    run.summarise("evaluations", summary)
    for path, edit in edits.items():
        records = [_record(session, data, summary[edit.name][data.label]) for data in every]
        if path in loads and not edit.weights:
            records = [record | {"asked": "weights"} for record in records]
        _keep(session, path, edit, records)
    return "; ".join([*map(_finding, rows), *map(_contrast, beside)])


def _finding(row: dict[str, Any]) -> str:
    seen = row["templates_trained_on"]
    return (
        f"{row['edit']} on {row['data']}: accuracy {row['accuracy_base']:.3f} → {row['accuracy']:.3f} "
        f"({row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], n = {row['n']} of "
        f"{row['templates']} templates"
        + (f", {seen} of such as it was made with" if seen else "")
        + ")"
        + ("" if row["perplexity_ratio"] is None else f", perplexity × {row['perplexity_ratio']:.3f}")
    )


def _contrast(row: dict[str, Any]) -> str:
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p {row['p_holm']:.3f}"
    share, low, high = (row[key] for key in ("share", "share_low", "share_high"))
    of = f"; {share:.2f} [{low:.2f}, {high:.2f}] of its gain" if share is not None and math.isfinite(share) else ""
    return (
        f"{row['chosen']} less {row['beside']} on {row['data']}: {row['difference']:+.3f} "
        f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], {p} over all such{of}"
        + ("" if row["p_unlike"] is None else f"; as one more such set p {row['p_unlike']:.3f}")
    )


def _check_names(edits: Sequence[str], labels: Sequence[str]) -> None:
    """Names of edits and data become names of tables' parts. Raises: UserError."""
    names = [f"{edit} on {label}" for edit in edits for label in labels]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError("two edits and their problems have one name together", expected="other names", got=shown(twice))
    for name in names:
        try:
            path_of(Path(), f"completions/evaluation.{name}")
            fits = name.isprintable() and not name.startswith(".")
        except ValueError:
            fits = False
        if not fits:
            raise UserError("the names of an edit and its problems can't name a file", expected="short ones without /",
                            got=shown(name))  # fmt: skip


def _holds_weights(path: str) -> bool:
    return Path(path).is_dir() and any(Path(path).glob("*.safetensors"))


def _named(edits: Mapping[str, Edit]) -> dict[str, Edit]:
    """Edits by path; what was folded into a folder's weights with the folder's name too where another edit has its own, as the
    file has that it was folded from."""
    names = [edit.name for edit in edits.values()]
    folded = {path for path, edit in edits.items() if names.count(edit.name) > 1 and _holds_weights(path) and not edit.weights}
    return {
        path: replace(edit, name=f"{edit.name}@{Path(path).resolve().name}") if path in folded else edit
        for path, edit in edits.items()
    }


def _with_weights(session: Session, path: str, edit: Edit) -> Session:
    """The study with the model that an edit file lies beside. Raises: EditError if it is not the edit's; ModelError."""
    import torch

    from ..edits.fold import stored_dtype

    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    other = session.with_model(str(folder))
    exported = edit.chosen.get("exported")
    wanted = edit.weights or (str(exported.get("weights")) if isinstance(exported, Mapping) else "")  # older folders: not known
    if wanted and (found := other.loaded.weight_hash(torch.bfloat16)) != wanted:
        raise EditError(f"the weights in {folder} are not those of edit {edit.name}", expected=f"{wanted[:12]}…",
                        got=f"{found[:12]}…", remedy="Train it, or export it, again.")  # fmt: skip
    if stored_dtype(str(folder)) == "float32" != (ours := session.loaded.dtype_name):
        session.run.note(f"The weights of {shown(edit.name)} are float32, and this study asks them in {ours}, which rounds "
                         "away what is small beside a weight. A study with --dtype float32 asks them as they are.")  # fmt: skip
    return other


def _ask(models: Sequence[_Model], every: Sequence[TrialData], options: Options) -> None:
    """Everything that models of one session are asked: what has not been, of each."""
    session = models[0].session
    solve(
        session,
        [
            Condition("evaluation", session.prompt, d.label, "none" if m.name == BASE else m.name, label=part_name(m.name, d),
                      intervention=m.intervention, problems=d.problems, weights=m.weights)
            for d in every
            for m in models
        ],
        "evaluating edits",
    )  # fmt: skip
    _score_skills(models, options)
    for data in every:
        _score_solutions(models, data, options)


def _score_solutions(models: Sequence[_Model], data: TrialData, options: Options) -> None:
    """The base's reference solutions, scored."""
    session = models[0].session
    run = session.run
    given = solved(session, f"evaluation.{part_name(BASE, data)}", data.problems, options.solutions)
    with session.bar(f"reference solutions of {data.label}", len(models), "edit") as bar:
        for m in models:
            part = part_name(m.name, data)
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


def skills_of(key: str, unread: bool, skills: int) -> str:
    """The fingerprint of a part of `evaluation_skills`.

    Args:
        key: of the edit, `Edit.key`; of other weights with their hash.
        unread: it is of generated tokens only, and does nothing to a text that is only read.
        skills: items per task.
    """
    return fingerprint(key, skills, *(["unread"] if unread else []))


def _score_skills(models: Sequence[_Model], options: Options) -> None:
    """The battery's items, and general text, scored."""
    from ..lm.scoring import text_scores, windows

    session, text = models[0].session, general_text()
    run = session.run
    # A text that is only read has no generated tokens: an edit of these does nothing there.
    unread = {m.name for m in models if m.edit is not None and m.edit.scope == "generated"}
    of = {m.name: skills_of(m.key, m.name in unread, options.skills) for m in models}
    missing = [m for m in models if run.done(f"evaluation_skills/{m.name}", of[m.name]) is None]
    if missing:
        total = len(missing) * (windows(session.loaded, text) + 1)
        with session.bar("other skills and general text", total, "pass") as bar:
            done = {m.name: m.session.loaded if m.weights else m.intervention for m in missing if m.name not in unread}
            texts: dict[str, TextScore] = text_scores(models[0].base.loaded, text, done, bar.update) if done else {}
            for m in missing:
                score = texts.get(m.name)
                about = {"perplexity": score and score.perplexity, "kl": score and score.kl}
                rows = [
                    {"edit": m.name, "task": h.task, "item": h.item, "hit": h.hit} | about
                    for h in score_battery(session.engine, options.skills, m.intervention)
                ]  # fmt: skip
                run.write(EVALUATION_SKILLS, rows, m.name, of[m.name])
                bar.update()


def _keep(session: Session, path: str, edit: Edit, records: Sequence[Mapping[str, Any]]) -> None:
    """Write what was measured into an edit's file, and into the card beside it, as they are by now; a note if that can't be."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        now = Edit.read(path)  # another run may have measured it meanwhile
        if now.key != edit.key:
            raise EditError(f"{path} holds another edit by now")
        for record in records:
            now = now.with_measured(record)
        now.write(path)
        measured_again(folder, now)
    except (OSError, UserError) as error:
        session.run.note(f"What was measured of {edit.name} is not in its file: {shown(str(error))}.")


def _record(session: Session, data: TrialData, found: dict[str, Any]) -> dict[str, Any]:
    """What the edit's file keeps."""
    keys = (
        "n", "accuracy_base", "accuracy", "difference", "difference_low", "difference_high", "p_value", "p_holm", "p_mcnemar",
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
    writes=(EVALUATIONS, EVALUATIONS_BY_PROBLEM, EVALUATION_CONTRASTS, EVALUATION_CURVES, EVALUATION_CANDIDATES,
            EVALUATION_SCORES, EVALUATION_SKILLS, "completions/evaluation."),
    units=UNITS,
    repeats=True,
    wanted=never,
    example="cotscope evaluate runs/first --edit edit.json",
)  # fmt: skip
