"""Attribute: which neurons carry the calculation?

What every neuron does to the results of given formulas is read off gradients on *discovery* problems
(`measuring/attributing.py`). Then ways of choosing neurons (`measuring/selections.py`) stand beside each other, at the size
of the study's reasoning set. Each choice is zeroed on test problems, and beside it random sets that are like it: as many
neurons of each stratum of what they did in discovery, if all that could be chosen was active there; else of each layer and
mean update size, on solutions and on text. Reference solutions are scored by path; sums whose formula is given, at several
difficulties, tell whether the model still calculates, the battery and general text whether it does anything else, and
generation what is left of the skill. Of attribution's neurons the first few are tried too: how many does it take?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..data.load import general_text
from ..data.roles import ROLES
from ..data.sums import load_sums
from ..errors import UserError
from ..measuring.attributing import attribute_all
from ..measuring.generation import Condition, solve
from ..measuring.neurons import active_neurons
from ..measuring.selections import WAYS, evidence, strata_like
from ..measuring.solutions import (
    BASELINE,
    Solution,
    fingerprint_of,
    reference_solutions,
    score_battery,
    score_paths,
    score_tasks,
    write_untouched,
)
from ..measuring.trials import UNTOUCHED, Scores, Trial
from ..records import Neuron
from ..runs.files import fingerprint
from ..runs.options import option
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import (
    ANNOTATIONS,
    ATTRIBUTION_CHECKS,
    ATTRIBUTIONS,
    CANDIDATES,
    KEYSTONES,
    POLES,
    SELECTED,
    SELECTION_SCORES,
    SELECTION_SKILLS,
    SELECTION_SUMS,
    SELECTIONS,
    SOLUTIONS,
)
from ..stats import LEAST_MARGIN, LEVEL
from ..stats.random_sets import permuted_within

ALL = "all"
_KEPT = ("selection_scores", "selection_sums", "selection_skills")
SIZES = (10, 50, 200)
"""How many of attribution's neurons are tried beside all of them."""
CONTROLS_GENERATED = 3  # random sets under which the model writes too
UNITS = {
    "attribution.value": "results' logit margin (nats), mean over the solutions that were attributed",
    "attribution.check": "over neurons zeroed one by one: rank correlation of predicted and true change of the results' "
    "margin, and the slope of the true change on the predicted one",
    "attribution.stability": "overlap (Jaccard) of the 500 neurons with the largest predicted loss by either half of the "
    "solutions, and the rank correlation of the two over all neurons",
    "attribution.concentration": "share of all predicted loss (of neurons that lose margin) that the first 50 and 500 have",
    "selected.*.result_margin_<path>": "change of the reference solutions' logit margin at results (nats) with the neurons "
    "zeroed, by path; interval over problems",
    "selected.*.<role>": "change of the log-probability of that role's tokens (nats)",
    "selected.*.compared": "neurons that share their stratum with others; compared_<figure>: without these alone, "
    "controls_<figure>: mean of random sets of the same strata",
    "selected.*.p_value": "rank of the compared neurons' indirect change of the results' margin among the random sets; "
    "p_beyond: after the change elsewhere is taken off; p_sums: rank of their share of sums right. Not corrected for "
    "the number of ways",
    "selected.*.sums": "share of sums right (formula given, nine difficulties); sums_p: exact McNemar, against untouched",
    "selected.*.verdict": f"results rest on them: p_value and p_beyond at most {LEVEL}, and at least {LEAST_MARGIN} nats lost "
    f"beyond the random sets' mean; calculates: p_sums at most {LEVEL} too",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    attribution: bool = option(False, "find the neurons that the results rest on, beside other ways of choosing", where="study")
    by: tuple[str, ...] = option((), f"a way of choosing ({', '.join(WAYS)}), or {ALL} (the default)", where="command")
    solutions: int = option(16, "solutions of discovery problems that are attributed", kind="positive", where="command")
    checked: int = option(24, "neurons zeroed one by one, to check the attributions", kind="natural", where="command")
    controls: int = option(
        20, "random sets beside each way of choosing; with fewer than 19 no verdict", kind="natural", where="command"
    )
    sums: int = option(12, "sums of each difficulty", kind="positive", where="command")
    skills: int = option(8, "items per task of the battery of other skills", kind="positive", where="command")
    generation: bool = option(True, "let the model write with the chosen neurons zeroed", where="command")


def attribute(session: Session, options: Options) -> str:
    """Run the stage. What has been attributed or scored is not again. Raises: UserError as `attribute_all` does."""
    run = session.run
    if unknown := set(options.by) - {ALL, *WAYS}:
        raise UserError("unknown way of choosing", expected=" or ".join((*WAYS, ALL)), got=", ".join(sorted(unknown)))
    run.summarise("attribution", attribute_all(session, options))
    known = active_neurons(run)
    write_untouched(session, needed=options.generation)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `selected` is empty.")
        return "no reference solutions"
    found = evidence(session, known.reasoning, known.keystones)
    asked = [name for name in WAYS if name in options.by or ALL in options.by or not options.by]
    choices = {name: tuple(WAYS[name](found, len(known.reasoning))) for name in asked}
    if missing := [name for name, neurons in choices.items() if not neurons]:
        run.note(f"No neurons are chosen by {', '.join(missing)}.")
    choices = {name: neurons for name, neurons in choices.items() if neurons}
    run.write(
        SELECTIONS,
        [
            {"selection": name, "rank": rank, "layer": n.layer, "index": n.index}
            for name, neurons in choices.items()
            for rank, n in enumerate(neurons)
        ],
    )
    if not choices:
        run.write(SELECTED, [])
        return "no neurons were chosen"
    sets = [UNTOUCHED]
    seeds = range(session.config.seed, session.config.seed + options.controls)
    for name, neurons in choices.items():
        compared, controls = permuted_within(strata_like(name, known, found.columns, found.barred), neurons, seeds)
        sets.append(Trial(name, None, tuple(sorted(neurons))))
        if compared and len(compared) < len(neurons):
            sets.append(Trial(name, None, compared, "compared"))
        sets += [Trial(name, i, c) for i, c in enumerate(controls if compared else ())]
    sets += [
        Trial("attribution", None, tuple(sorted(choices["attribution"][:n])), "first")
        for n in SIZES
        if n < len(choices.get("attribution", ()))
    ]
    for name in [n for n in run.whole if n.partition("/")[0] in _KEPT or n.startswith("completions/selection.")]:
        run.done(name, run.manifest["files"][name]["of"])  # what other options asked for stays
    _score(session, sets, given, options)
    if options.generation:
        _generate(session, sets)
    return _summarise(session, choices, sets, given, known.reasoning, Scores(session, options.generation))


def _score(session: Session, sets: Sequence[Trial], given: Sequence[Solution], options: Options) -> None:
    run = session.run
    mark = fingerprint_of(given), session.prompt.text("")
    by_name = {s.name: s for s in sets}
    of = {s.name: fingerprint(s.neurons, *mark) for s in sets}
    missing = {s.name: s.neurons for s in sets if run.done(f"selection_scores/{s.name}", of[s.name]) is None}
    with session.bar("selections: solutions", len(missing), "set") as bar:
        for name, found in score_paths(session.engine, session.prompt, given, missing):
            rows = [
                by_name[name].about
                | {"problem_id": solution.problem.id, "role": role, "path": path}
                | {measure: fmean(getattr(t, measure) for t in scores[role]) for measure in ("log_prob", "margin")}
                for path, by_solution in found.items()
                for solution, scores in zip(given, by_solution, strict=True)
                for role in ROLES
                if role in scores
            ]
            run.write(SELECTION_SCORES, rows, name, of[name])
            bar.update()
    _score_skills(session, sets, options)


def _score_skills(session: Session, sets: Sequence[Trial], options: Options) -> None:
    """Sums, the battery, general text."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores

    run, engine = session.run, session.engine
    of = {s.name: fingerprint(s.neurons, options.sums, options.skills) for s in sets}
    tables = (SELECTION_SUMS, SELECTION_SKILLS)
    missing = [s for s in sets if not all(run.done(f"{t.name}/{s.name}", of[s.name]) for t in tables)]
    if not missing:
        return
    sums, anatomy = load_sums(options.sums), session.loaded.anatomy
    every = {s.name: scale(anatomy, s.neurons, 0.0) if s.neurons else None for s in missing}
    with session.bar("selections: sums and other skills", 2 * len(missing), "set") as bar:
        texts = text_scores(session.loaded, general_text(), every, bar.update, at_most=1)
        for s in missing:
            zeroed, text = every[s.name], texts[s.name]
            asked = [
                s.about
                | {"level": task.name, "item": item[0], "hit": all(t.greedy for t in scores)}
                | {"log_prob": sum(t.log_prob for t in scores)}
                for task, item, scores in score_tasks(engine, sums, options.sums, zeroed)
            ]
            run.write(SELECTION_SUMS, asked, s.name, of[s.name])
            hits = [h.hit for h in score_battery(engine, options.skills, zeroed)]
            skills = {"battery": fmean(hits), "items": len(hits), "perplexity": text.perplexity, "kl": text.kl}
            run.write(SELECTION_SKILLS, [s.about | skills], s.name, of[s.name])
            bar.update()


def _generate(session: Session, sets: Sequence[Trial]) -> None:
    """Let the model write test problems with each choice zeroed, and with a few random sets like attribution's."""
    chosen = [s for s in sets if s.neurons and s.control is None and s.part != "compared"]
    chosen += [s for s in sets if s.selection == "attribution" and s.control is not None and s.control < CONTROLS_GENERATED]
    solve(session, [Condition("selection", session.prompt, "test", s.name, s.neurons) for s in chosen], "trying selections")


# -- what came of it ------------------------------------------------------------------------------------------------------


def _summarise(
    session: Session,
    choices: Mapping[str, Sequence[Neuron]],
    sets: Sequence[Trial],
    given: Sequence[Solution],
    reasoning: Sequence[Neuron],
    scores: Scores,
) -> str:
    lexicon, rows = set(reasoning), list[dict[str, Any]]()
    for s in sets:
        if s.control is not None or s.part == "compared" or not s.neurons:
            continue
        controls = [c for c in sets if s.part == "all" and c.selection == s.selection and c.control is not None]
        like = [len(lexicon.intersection(c.neurons)) for c in controls]
        row: dict[str, Any] = {
            "neuron_set": s.name,
            "selection": s.selection,
            "part": s.part,
            "neurons": len(s.neurons),
            "shared": len(lexicon.intersection(s.neurons)),
            "shared_by_chance": fmean(like) if like else None,
        }
        rows.append(row | scores.of(s) | scores.compared(s, sets))
    session.run.write(SELECTED, rows)
    session.run.summarise(
        "selected",
        {
            "solutions": len(given),
            "sums": scores.sums_of(UNTOUCHED.key),
            "accuracy": scores.accuracy("none"),
            "battery": scores.skills[UNTOUCHED.key]["battery"],
        }
        | {r["neuron_set"]: {k: v for k, v in r.items() if k != "neuron_set"} for r in rows},
    )
    found, name = {r["neuron_set"]: r for r in rows}, "result_margin_indirect"
    said = [
        f"{way} {r[name]:+.2f} [{r[f'{name}_low']:+.2f}, {r[f'{name}_high']:+.2f}]"
        for way in ("attribution", "lexicon")
        if (r := found.get(way)) and r[name] is not None
    ]
    return (
        f"results' logit margin through later layers with {len(next(iter(choices.values())))} neurons zeroed, chosen by: "
        + "; ".join(said)
    )


STAGE = Stage(
    "attribute",
    "attribute",
    "find the neurons that results rest on, from gradients, and try them beside other ways of choosing",
    attribute,
    Options,
    after=("annotate", "keystones"),
    reads=(POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, "completions/discovery.", "activity/discovery."),
    writes=(BASELINE, "activity/study.{first}", ATTRIBUTIONS, ATTRIBUTION_CHECKS, SOLUTIONS, SELECTIONS, SELECTION_SCORES,
            SELECTION_SUMS, SELECTION_SKILLS, SELECTED, "completions/selection."),
    units=UNITS,
    wanted=lambda options: options.attribution,
    example="cotscope attribute runs/first",
)  # fmt: skip
