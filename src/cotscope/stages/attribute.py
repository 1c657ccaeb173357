"""Attribute: which neurons carry the calculation?

What every neuron does to the results of given formulas is read off gradients on *discovery* problems
(`measuring/attributing.py`). Then ways of choosing neurons (`measuring/selections.py`) stand beside each other, at the size
of the study's reasoning set. Each choice is zeroed on test problems, and beside it random sets that are like it: as many
neurons of each layer, of about the same mean update size on solutions. Reference solutions are scored by path; sums whose
formula is given, at several difficulties, tell whether the model still calculates, the battery and general text whether it
does anything else, and generation what is left of the skill. Of attribution's neurons the first few are tried too: how many
does it take?
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
from ..measuring.selections import WAYS, Evidence, evidence
from ..measuring.solutions import (
    BASELINE,
    Solution,
    fingerprint_of,
    reference_solutions,
    score_battery,
    score_paths,
    score_tasks,
)
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
from ..stats import LEVEL, mcnemar_exact, paired_bootstrap, permutation_p, wilson
from ..stats.random_sets import Traits, permuted_sets

SIZES = (10, 50, 200)
"""How many of attribution's neurons are tried beside all of them."""
CONTROLS_GENERATED = 3  # random sets under which the model writes too
PATHS = ("total", "direct", "indirect")
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
    "selected.*.p_value": "rank of the indirect change of the results' margin among random sets of the same layers and sizes; "
    "p_beyond: after the change of log-probability elsewhere is taken off both",
    "selected.*.sums": "share of sums right (formula given, nine difficulties)",
    "selected.*.verdict": "calculates: p_value and p_beyond are at most 0.05; not shown: one is not",
}


@dataclass(frozen=True)
class Options:
    """Options of the stage."""

    attribution: bool = option(False, "find the neurons that the results rest on, beside other ways of choosing", where="study")
    by: tuple[str, ...] = option((), f"a way of choosing ({', '.join(WAYS)}); without it all", where="command")
    solutions: int = option(16, "solutions of discovery problems that are attributed", kind="positive", where="command")
    checked: int = option(24, "neurons zeroed one by one, to check the attributions", kind="natural", where="command")
    controls: int = option(
        20, "random sets beside each way of choosing; with fewer than 19 no verdict", kind="natural", where="command"
    )
    sums: int = option(12, "sums of each difficulty", kind="positive", where="command")
    skills: int = option(8, "items per task of the battery of other skills", kind="positive", where="command")
    no_generation: bool = option(False, "do not let the model write with the chosen neurons zeroed", where="command")


@dataclass(frozen=True)
class _Set:
    """Neurons that are zeroed: a choice, or a random set like one."""

    selection: str
    control: int | None
    neurons: tuple[Neuron, ...]

    @property
    def name(self) -> str:
        return self.selection if self.control is None else f"{self.selection}_random_{self.control}"

    @property
    def about(self) -> dict[str, Any]:
        return {"selection": self.selection, "control": self.control}


def attribute(session: Session, options: Options) -> str:
    """Run the stage. What has been attributed or scored is not again. Raises: UserError as `attribute_all` does."""
    run = session.run
    if unknown := set(options.by) - set(WAYS):
        raise UserError("unknown way of choosing", expected=" or ".join(WAYS), got=", ".join(sorted(unknown)))
    run.summarise("attribution", attribute_all(session, options))
    known = active_neurons(run)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `selected` is empty.")
        return "no reference solutions"
    found = evidence(session, known.reasoning, known.keystones)
    choices = {name: tuple(way(found, len(known.reasoning))) for name, way in WAYS.items() if name in (options.by or WAYS)}
    if missing := [name for name, neurons in choices.items() if not neurons]:
        run.note(f"No neurons can be chosen by {', '.join(missing)}: the discovery problems show nothing to choose by.")
    choices = {name: neurons for name, neurons in choices.items() if neurons}
    run.write(
        SELECTIONS,
        [
            {"selection": name, "rank": rank, "layer": n.layer, "index": n.index}
            for name, neurons in choices.items()
            for rank, n in enumerate(neurons)
        ],
    )
    sets = [_Set("none", None, ())]
    for name, neurons in choices.items():
        compared, controls = _controls(neurons, found, options.controls)
        sets += [_Set(name, None, tuple(sorted(neurons))), _Set(f"{name}, compared", None, compared)]
        sets += [_Set(name, i, c) for i, c in enumerate(controls)]
    sets += [
        _Set(f"attribution, first {n}", None, tuple(sorted(choices["attribution"][:n])))
        for n in SIZES
        if n < len(choices.get("attribution", ()))
    ]
    _score(session, sets, given, options)
    if not options.no_generation:
        _generate(session, sets)
    return _summarise(session, choices, sets, given)


def _controls(
    neurons: Sequence[Neuron], found: Evidence, count: int
) -> tuple[tuple[Neuron, ...], tuple[tuple[Neuron, ...], ...]]:
    """The neurons that share their layer and size with others, and random sets of as many from the same strata."""
    sizes = found.columns["solutions_size"]
    traits = {
        Neuron(layer, index): Traits(1, float(value))
        for layer, row in enumerate(sizes)
        for index, value in enumerate(row)
        if Neuron(layer, index) not in found.barred
    }
    pool = {n: t for n, t in traits.items() if n not in set(neurons)}
    return permuted_sets(neurons, pool, traits, range(count))


def _score(session: Session, sets: Sequence[_Set], given: Sequence[Solution], options: Options) -> None:
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


def _score_skills(session: Session, sets: Sequence[_Set], options: Options) -> None:
    """Sums, the battery, general text."""
    from ..lm.interventions import scale
    from ..lm.scoring import text_scores

    run, engine, sums = session.run, session.engine, load_sums(options.sums)
    of = {s.name: fingerprint(s.neurons, options.sums, options.skills) for s in sets}
    tables = (SELECTION_SUMS, SELECTION_SKILLS)
    missing = [s for s in sets if not all(run.done(f"{t.name}/{s.name}", of[s.name]) for t in tables)]
    with session.bar("selections: sums and other skills", len(missing), "set") as bar:
        for s in missing:
            zeroed = scale(session.loaded.anatomy, s.neurons, 0.0) if s.neurons else None
            asked = [
                s.about
                | {"level": task.name, "item": item[0], "hit": all(t.greedy for t in scores)}
                | {"log_prob": sum(t.log_prob for t in scores)}
                for task, item, scores in score_tasks(engine, sums, options.sums, zeroed)
            ]
            run.write(SELECTION_SUMS, asked, s.name, of[s.name])
            hits = [h.hit for h in score_battery(engine, options.skills, zeroed)]
            text = text_scores(session.loaded, general_text(), {"set": zeroed}, at_most=1)["set"]
            skills = {"battery": fmean(hits), "items": len(hits), "perplexity": text.perplexity, "kl": text.kl}
            run.write(SELECTION_SKILLS, [s.about | skills], s.name, of[s.name])
            bar.update()


def _generate(session: Session, sets: Sequence[_Set]) -> None:
    """Let the model write test problems with each choice zeroed, and with a few random sets like attribution's."""
    chosen = [s for s in sets if s.neurons and s.control is None and not s.selection.endswith("compared")]
    chosen += [s for s in sets if s.selection == "attribution" and s.control is not None and s.control < CONTROLS_GENERATED]
    solve(session, [Condition("selection", session.prompt, "test", s.name, s.neurons) for s in chosen], "trying selections")


# -- what came of it ------------------------------------------------------------------------------------------------------


def _summarise(
    session: Session, choices: Mapping[str, Sequence[Neuron]], sets: Sequence[_Set], given: Sequence[Solution]
) -> str:
    scores = _Scores(session)
    lexicon = set(choices.get("lexicon", ()))
    everything = session.loaded.anatomy.layers * session.loaded.anatomy.width
    rows = []
    for s in sets:
        if s.control is not None or s.selection.endswith("compared") or not s.neurons:
            continue
        row: dict[str, Any] = {
            "selection": s.selection,
            "neurons": len(s.neurons),
            "shared": len(lexicon & set(s.neurons)),
            "shared_by_chance": len(lexicon) * len(s.neurons) / everything,
        }
        rows.append(row | scores.of(s) | scores.compared(s, sets))
    session.run.write(SELECTED, rows)
    session.run.summarise(
        "selected",
        {
            "solutions": len(given),
            "sums": scores.sums_of(("none", None)),
            "accuracy": scores.accuracy("none"),
            "battery": scores.skills["none", None]["battery"],
        }
        | {r["selection"]: {k: v for k, v in r.items() if k != "selection"} for r in rows},
    )
    found, name = {r["selection"]: r for r in rows}, "result_margin_indirect"
    said = [
        f"{way} {r[name]:+.2f} [{r[f'{name}_low']:+.2f}, {r[f'{name}_high']:+.2f}]"
        for way in ("attribution", "lexicon")
        if (r := found.get(way)) and r[name] is not None
    ]
    return (
        f"results' logit margin through later layers with {len(next(iter(choices.values())))} neurons zeroed, chosen by: "
        + "; ".join(said)
    )


Key = tuple[str, int | None]


class _Scores:
    """The tables' figures by set."""

    def __init__(self, session: Session) -> None:
        run = session.run
        self.seed = session.config.seed
        self.roles: dict[tuple[Key, str, str], dict[str, tuple[float, float]]] = {}
        for r in run.rows("SELECT * FROM selection_scores ORDER BY ALL"):
            key = (r["selection"], r["control"]), r["role"], r["path"]
            self.roles.setdefault(key, {})[r["problem_id"]] = r["log_prob"], r["margin"]
        self.hits: dict[Key, list[bool]] = {}
        for r in run.rows("SELECT * FROM selection_sums ORDER BY level, item"):
            self.hits.setdefault((r["selection"], r["control"]), []).append(r["hit"])
        self.skills = {(r["selection"], r["control"]): r for r in run.rows("SELECT * FROM selection_skills")}
        self.solved = {
            r["neuron_set"]: (r["correct"], r["n"])
            for r in run.rows(
                """SELECT neuron_set, count(*) FILTER (correct) AS correct, count(*) AS n FROM completions
                   WHERE family = 'selection' OR family = 'study' GROUP BY ALL"""
            )
        }

    def changes(self, key: Key, role: str, path: str, measure: str) -> list[float]:
        """Problem by problem, less the untouched model."""
        i = ("log_prob", "margin").index(measure)
        untouched = self.roles.get((("none", None), role, "total"), {})
        return [value[i] - untouched[problem][i] for problem, value in sorted(self.roles.get((key, role, path), {}).items())]

    def of(self, s: _Set) -> dict[str, Any]:
        """A set's own figures."""
        key: Key = s.selection, s.control
        row: dict[str, Any] = {}
        for path in PATHS:
            row |= _interval(f"result_margin_{path}", self.changes(key, "result", path, "margin"), self.seed)
        for role in ROLES:
            row |= _interval(role, self.changes(key, role, "total", "log_prob"), self.seed)
        row |= self.sums_of(key) | {"sums_p": mcnemar_exact(self.hits["none", None], self.hits[key])}
        if accuracy := self.accuracy(s.name):
            row |= accuracy
        return row | {k: self.skills[key][k] for k in ("battery", "kl")}

    def sums_of(self, key: Key) -> dict[str, float]:
        """Share of sums right, with Wilson's interval."""
        hits = self.hits[key]
        low, high = wilson(sum(hits), len(hits))
        return {"sums": fmean(hits), "sums_low": low, "sums_high": high}

    def accuracy(self, name: str) -> dict[str, float] | None:
        """Of generation; None where the model did not write."""
        if name not in self.solved:
            return None
        right, n = self.solved[name]
        low, high = wilson(right, n)
        return {"accuracy": right / n, "accuracy_low": low, "accuracy_high": high, "n": n}

    def compared(self, s: _Set, sets: Sequence[_Set]) -> dict[str, Any]:
        """A choice beside random sets like it: means, and its rank among them."""
        controls = [c for c in sets if c.selection == s.selection and c.control is not None]
        if not controls:
            return {}
        [target] = [c for c in sets if c.selection == f"{s.selection}, compared"]

        path = "indirect" if self.changes((s.selection, None), "result", "indirect", "margin") else "total"

        def indirect(c: _Set) -> tuple[float, float]:
            """Change of the results' margin, and of it less that elsewhere; in all where paths can't be told apart."""
            key: Key = c.selection, c.control
            margin = fmean(self.changes(key, "result", path, "margin"))
            return margin, margin - fmean(self.changes(key, "elsewhere", path, "margin"))

        own, others = indirect(target), [indirect(c) for c in controls]
        p = [permutation_p(own[i], [o[i] for o in others]) for i in range(2)]
        written = [a["accuracy"] for c in controls if (a := self.accuracy(c.name))]
        enough = 1 / (len(controls) + 1) <= LEVEL
        return {
            "compared": len(target.neurons),
            "controls": len(controls),
            "controls_margin": fmean(o[0] for o in others),
            "p_value": p[0],
            "p_beyond": p[1],
            "controls_sums": fmean(fmean(self.hits[c.selection, c.control]) for c in controls),
            "controls_battery": fmean(self.skills[c.selection, c.control]["battery"] for c in controls),
            "controls_accuracy": fmean(written) if written else None,
            "verdict": ("calculates" if max(p) <= LEVEL else "not shown") if enough else "too few random sets to tell",
        }


def _interval(name: str, changes: Sequence[float], seed: int) -> dict[str, float | None]:
    ends = paired_bootstrap(changes, seed) if changes else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


STAGE = Stage(
    "attribute",
    "attribute",
    "find the neurons that results rest on, from gradients, and try them beside other ways of choosing",
    attribute,
    Options,
    after=("annotate", "keystones", "ablate"),
    reads=(POLES, CANDIDATES, ANNOTATIONS, KEYSTONES, BASELINE, "completions/discovery.", "activity/discovery."),
    writes=(ATTRIBUTIONS, ATTRIBUTION_CHECKS, SOLUTIONS, SELECTIONS, SELECTION_SCORES, SELECTION_SUMS, SELECTION_SKILLS,
            SELECTED, "completions/selection."),
    units=UNITS,
    wanted=lambda options: options.attribution,
)  # fmt: skip
