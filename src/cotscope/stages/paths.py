"""Paths: is a set's damage its own push on the logits, or what later layers make of it?

A lexicon finds neurons by the tokens that they push. Zeroed, they take that push away at once, whatever else they do; so
damage at the very tokens that they were chosen by says little. For each set that `ablate` disrupted the reference
solutions' tokens are scored three ways (`lm/paths.py`): the set zeroed (total); its own updates taken out of the last
residual stream only (direct); the set zeroed and its updates put back there (indirect). Beside the log-probability, which
has a ceiling where the model is sure, stands the logit margin: the token's logit less the largest of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..data.roles import ROLES
from ..errors import ModelError
from ..measuring.neurons import NeuronSet, comparison, read_sets
from ..measuring.solutions import BASELINE, Solution, fingerprint_of, reference_solutions
from ..runs.files import fingerprint
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import PATH_SCORES, PATHS, SETS, SOLUTIONS
from ..stats import paired_bootstrap

MEASURES, WAYS = ("log_prob", "margin"), ("total", "direct", "indirect")
UNITS = {
    "paths.<set>.<role>.<path>.log_prob": "change of the mean log-probability (nats) of reference solutions' tokens of this "
    "role, with its interval over problems; path: total, direct or indirect",
    "paths.<set>.<role>.<path>.margin": "the same for the token's logit less the largest of the others",
    "paths.target": "the set that the matched sets match; paths.matched: their mean, problem by problem",
}
Values = dict[tuple[str, str, str, str], dict[str, float]]  # (set, role, path, measure) → problem → value


def paths(session: Session, options: NoOptions) -> str:
    """Run the stage. Sets that have been scored are not scored again."""
    run = session.run
    sets = read_sets(run)
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `paths` is empty.")
        return "no reference solutions"
    mark = fingerprint_of(given), session.prompt.text("")
    everything = {"none": NeuronSet("none", "none", None, ())} | sets
    of = {s.name: fingerprint(s.neurons, *mark) for s in everything.values()}
    missing = [s for s in everything.values() if run.done(f"path_scores/{s.name}", of[s.name]) is None]
    try:
        _score(session, missing, given, of)
    except ModelError as error:
        run.note(f"Direct and indirect effects can't be told apart on this model: {error.meaning}.")
        return "direct and indirect effects can't be told apart on this model"
    return _summarise(session, sets)


def _score(session: Session, missing: Sequence[NeuronSet], given: Sequence[Solution], of: Mapping[str, str]) -> None:
    from ..lm.paths import PathEffects, PathScore
    from ..lm.scoring import Given

    if not missing:
        return
    texts = tuple(session.prompt.text(s.problem.question) for s in given)
    neurons = sorted({n for s in missing for n in s.neurons})
    with session.bar("paths", len(missing) + 1, "set") as bar:
        effects = PathEffects(session.engine, Given(texts, tuple(s.tokens for s in given)), neurons)
        bar.update()
        for s in missing:
            found: Mapping[Any, list[list[PathScore]]] = effects.of(s.neurons) if s.neurons else {"total": effects.untouched()}
            rows = [
                {
                    "neuron_set": s.name,
                    "problem_id": solution.problem.id,
                    "role": role,
                    "path": path,
                    "log_prob": fmean(t.log_prob for t in here),
                    "margin": fmean(t.margin for t in here),
                }
                for path, by_solution in found.items()
                for solution, scores in zip(given, by_solution, strict=True)
                for role in ROLES
                if (here := [t for r, t in zip(solution.roles, scores, strict=True) if r == role])
            ]
            session.run.write(PATH_SCORES, rows, s.name, of[s.name])
            bar.update()


def _summarise(session: Session, sets: Mapping[str, NeuronSet]) -> str:
    run, seed = session.run, session.config.seed
    values: Values = {}
    for r in run.rows("SELECT * FROM path_scores ORDER BY ALL"):
        for measure in MEASURES:
            values.setdefault((r["neuron_set"], r["role"], r["path"], measure), {})[r["problem_id"]] = r[measure]
    changes = {
        key: [value - values["none", key[1], "total", key[3]][problem] for problem, value in found.items()]
        for key, found in values.items()
        if key[0] != "none"
    }
    target, matched = comparison(sets.values()), [s.name for s in sets.values() if s.kind == "matched"]
    if matched:
        changes |= {
            ("matched", *key[1:]): [fmean(each) for each in zip(*(changes[(m, *key[1:])] for m in matched), strict=True)]
            for key in changes
            if key[0] == matched[0]
        }
    ends = {key: paired_bootstrap(found, seed) for key, found in changes.items()}
    kinds = {s.name: s.kind for s in sets.values()} | {"matched": "matched_mean"}
    run.write(
        PATHS,
        [
            {"neuron_set": s, "kind": kinds[s], "role": role, "path": path, "problems": len(changes[s, role, path, "margin"])}
            | {
                name: end
                for measure in MEASURES
                for name, end in zip((measure, f"{measure}_low", f"{measure}_high"), ends[s, role, path, measure], strict=True)
            }
            for s, role, path, measure in changes
            if measure == MEASURES[0]
        ],
    )
    summary: dict[str, Any] = {"target": target}
    for (name, role, path, measure), (mean, low, high) in ends.items():
        if name in (target, "matched"):
            shown = "matched" if name == "matched" else "reasoning"
            of_path = summary.setdefault(shown, {}).setdefault(role, {}).setdefault(path, {})
            of_path[measure] = {"change": mean, "low": low, "high": high}
    run.summarise("paths", summary)
    said = []
    for role, measure, words in (("operator", "log_prob", "nats"), ("result", "margin", "logit margin")):
        found = [f"{ends[key][0]:+.2f} {path}" for path in WAYS if (key := (target, role, path, measure)) in ends]
        said += [f"{role}s {', '.join(found)} ({words})"] if found else []
    return "; ".join(said)


STAGE = Stage(
    "paths",
    "ablate",
    "is the damage a set's own push on the logits, or what later layers make of it (--outcomes paths)",
    paths,
    after=("ablate",),
    reads=(SETS, BASELINE),
    writes=(SOLUTIONS, PATH_SCORES, PATHS),
    units=UNITS,
    chosen_by={"--outcomes": {"paths": {}}, "--by": {"set": {}}},
)
