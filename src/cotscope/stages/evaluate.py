"""Evaluate: what does an edit do to the skill, and to everything else?

The base and each edited model write answers to the same problems, in shared batches; both are made to write the same
reference solutions; the battery of other skills and general text say what else changes. Accuracies are compared problem by
problem. What came of it is written into the edit's file too. A model folder is a model of its own, and is loaded after the
others are done: with the weights that were trained (`Edit.weights`), or with factors as its dtype holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.rows import question_key
from ..edits.card import measured_again
from ..edits.edit import Base, Edit
from ..edits.made import candidates, curves, rounded_away
from ..errors import EditError, UserError, shown
from ..measuring.editing.asking import Model, ask, ask_rounding
from ..measuring.editing.comparing import BASE, ON_NEW, compare, part_name, scored_skills, scored_solutions, written
from ..measuring.editing.contrasting import contrasts, grouped, unpaired
from ..measuring.editing.opening import check_names, of_own_weights, opened, with_weights
from ..measuring.generation import note_cut
from ..measuring.problems import TrialData, trial_data
from ..runs.config import STUDY
from ..runs.files import fingerprint, json_values
from ..runs.options import option
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

UNITS = {
    "evaluations.<edit>.<data>.difference": "share of the problems solved with the edit, less without; interval over templates "
    "(cluster-robust), or where each problem is its own over problems (Agresti & Min 2005)",
    "evaluations.<edit>.<data>.p_value": "over templates (sign flips), or problems (exact McNemar); p_holm: over edits that "
    "change anything, and data sets, of the command",
    "evaluations.<edit>.<data>.new_difference": "as difference, on the problems of templates that the edit was not made with; "
    "empty where more than nine tenths are of such, or none; new_p_value: as p_value, not corrected",
    "evaluations.<edit>.<data>.p_mcnemar": "exact McNemar over problems, as if none were of one template",
    "evaluations.<edit>.<data>.detectable": "the difference that this n would show in 4 of 5 tries, were as many problems to "
    "change as did, at the level that is left to one of the command's comparisons",
    "evaluations.<edit>.<data>.rounding_difference": "share of the problems solved by the untouched model in rounding_dtype, "
    "less in the study's; less_rounding: with the edit, less by that; no p",
    "evaluations.<edit>.<data>.first_missing": "texts in which no number stands after the first formula's equals sign; "
    "first_right, first_wrong: its result is right, another number; …_base: untouched; no formula: in none of them",
    "evaluations.<edit>.<data>.log_prob": "change of the mean log-probability of reference solutions' tokens (nats); where the "
    "data has no solutions they are the base's own right ones, which a change can hardly make likelier",
    "evaluations.<edit>.<data>.perplexity_ratio": "perplexity of general text with the edit over that without; interval over "
    "blocks of tokens of this text",
    "evaluations.<edit>.<data>.kl": "mean KL divergence from the base on general text (nats per token)",
}

ROUNDED = 0.1
"""Of what a training gained: where writing it took more, the table alone would mislead (docs/log.md, 2026-11-29, seventh)."""


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    edit: tuple[str, ...] = option((), "edit files, or model folders with one, whose own weights are asked, behind RUN; may be "
                                   "given several times", kind="path", reads=True, several=True)  # fmt: skip
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
    rounding: bool = option(
        False, "also ask the untouched model in another precision: what rounding alone changes stands beside small gains",
        where="command",
    )  # fmt: skip


def evaluate(session: Session, options: Options) -> str:
    """Run the stage. Raises: UserError for no edits, edits of one name or of another base, or data without new problems."""
    run = session.run
    if not options.edit:
        raise UserError("there is nothing to evaluate", remedy="Give an edit file: --edit FILE. `cotscope edit` makes one.")
    edits = opened(options.edit)
    for table, begins in ((COMPLETIONS, "evaluation."), (EVALUATION_SCORES, ""), (EVALUATION_SKILLS, "")):
        run.keep(table, begins=begins)  # what other edits were asked is not asked again when they come back
    every = trial_data(session, options.data, options.test or len(session.inputs.split.test))
    check_names(edits, [d.label for d in every])
    base = Base.of(session.loaded, session.config.model)
    for edit in edits.values():
        edit.check(session.loaded, base.weights)
        _check_unseen(edit, every)
    for data in every:
        session.model.check_lengths([session.prompt], data.problems, options.solutions)
    rounding = ask_rounding(session, every) if options.rounding else ""  # first: another model has to fit beside the study's
    loads = [path for path, edit in edits.items() if of_own_weights(path, edit)]
    changing = [e for path, e in edits.items() if path not in loads and not e.nothing]
    together = [Model(BASE, session, session), *(Model(e.name, session, session, e) for e in changing)]
    ask(together, every, options.solutions, options.skills)
    for path in loads:
        other = with_weights(session, path, edits[path])
        model = Model(edits[path].name, session, other, edits[path], other.model.weight_hash)
        ask([model], every, options.solutions, options.skills)
        del other, model  # before the next one is loaded
    wrote = [BASE, *(e.name for e in edits.values() if not e.nothing)]
    note_cut(session, {name: f"evaluation.{name}" for d in every for name in (part_name(w, d) for w in wrote)})
    rows, by_problem = _compared(session, list(edits.values()), every, rounding)
    beside = contrasts(list(edits.values()), by_problem)
    for table, of in (
        (EVALUATIONS, rows),
        (EVALUATIONS_BY_PROBLEM, by_problem),
        (EVALUATION_CONTRASTS, beside),
        (EVALUATION_CURVES, [row for edit in edits.values() for row in curves(edit)]),
        (EVALUATION_CANDIDATES, [row for edit in edits.values() for row in candidates(edit)]),
    ):
        run.write(table, of)
    for text in [*unpaired(list(edits.values())), *filter(None, map(_rounded, edits.values()))]:
        run.note(text)
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


def _check_unseen(edit: Edit, every: Sequence[TrialData]) -> None:
    """Raises: UserError if problems that an edit was made with are among those that it is asked."""
    trained = set(edit.chosen.get("questions") or ())
    for data in every:
        if seen := [p.id for p in data.problems if fingerprint(question_key(p.question)) in trained]:
            raise UserError(
                f"edit {edit.name} was made, or its neurons were found, with problems of {data.label}",
                expected="none of them among the test problems",
                got=f"{len(seen)} of {len(data.problems)}, {seen[0]} the first", remedy="Give others: --data FILE.",
            )  # fmt: skip


def _compared(
    session: Session, edits: Sequence[Edit], every: Sequence[TrialData], rounding: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `evaluations`, `p_holm` over those of edits that change anything, and of `evaluations_by_problem`."""
    wrote, skills = written(session), scored_skills(session)
    rows, by_problem = list[dict[str, Any]](), list[dict[str, Any]]()
    terms = {name: group.key for group, names in grouped(edits).items() for name in names}
    changing = {edit.name for edit in edits if not edit.nothing}
    for data in every:
        scores = scored_solutions(session, data)
        for edit in edits:
            row, each = compare(data, edit, wrote, scores, skills, session.config.seed, len(changing) * len(every), rounding)
            rows.append(row | {"terms": terms.get(edit.name), "p_holm": 1.0})
            by_problem += each
    tested = [row for row in rows if row["edit"] in changing]  # what changes nothing by its making is no test
    for row, p in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows, by_problem


def _rounded(edit: Edit) -> str:
    """What is said of an edit that lost much where it was written in 16 bits; else ""."""
    lost = rounded_away(edit)
    if lost is None or lost <= ROUNDED:
        return ""
    return (
        f"Of what {shown(edit.name)} had learned, writing it in 16 bits took away {lost:.0%} (validation loss): it "
        "stands here, and beside others, with the rest. `cotscope tune --dtype float32` keeps it."
    )


def _finding(row: dict[str, Any]) -> str:
    seen = row["templates_trained_on"]
    return (
        f"{row['edit']} on {row['data']}: accuracy {row['accuracy_base']:.3f} → {row['accuracy']:.3f} "
        f"({row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], n = {row['n']} of "
        f"{row['templates']} templates"
        + (f", {seen} problems of templates that it was made with" if seen else "")
        + (
            f"; on the {row['new_n']} others {row['new_difference']:+.3f} [{row['new_difference_low']:+.3f}, "
            f"{row['new_difference_high']:+.3f}]"
            if row["new_n"]
            else ""
        )
        + ")"
        + ("" if row["perplexity_ratio"] is None else f", perplexity × {_ratio(row)}")
        + (
            f"; less the untouched model in {row['rounding_dtype']} ({row['rounding_accuracy']:.3f}) "
            f"{row['less_rounding']:+.3f} [{row['less_rounding_low']:+.3f}, {row['less_rounding_high']:+.3f}]"
            if row["rounding_dtype"]
            else ""
        )
    )


def _ratio(row: dict[str, Any]) -> str:
    ratio, low, high = (row[f"perplexity_ratio{end}"] for end in ("", "_low", "_high"))
    return f"{ratio:.3f}" + (f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) else "")


def _contrast(row: dict[str, Any]) -> str:
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p {row['p_holm']:.3f}"
    share, low, high = (row[key] for key in ("share", "share_low", "share_high"))
    of = f"; {share:.2f} [{low:.2f}, {high:.2f}] of its gain" if share is not None and math.isfinite(share) else ""
    return (
        f"{row['chosen']} less {row['beside']} on {row['data']}: {row['difference']:+.3f} "
        f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], {p} over all such{of}"
        + ("" if row["p_unlike"] is None else f"; as one more such set p {row['p_unlike_holm']:.3f}, over all of these")
    )


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
        "templates", "templates_trained_on", *ON_NEW, "solutions", "log_prob", "log_prob_low", "log_prob_high", "battery_base",
        "battery", "items", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high", "kl",
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
