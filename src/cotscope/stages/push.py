"""Push: is the skill lost because the neurons push operators and equals signs onto the logits, and no longer do?

A lexicon finds neurons by the tokens that they push. Zeroed, they take the push away, and with it whatever they do to
later layers. So the model writes its solutions to the test problems in more ways:

- indirect: the neurons are zeroed for later layers only, their own push on the logits is put back;
- direct: that push is taken away only;
- bias: nothing is zeroed, but the logits of operators and equals signs are lowered, by as much as makes the reference
  solutions' operators and equals signs as unlikely as zeroing the neurons does;
- within: of their value vectors only what lies in the span of these tokens' unembeddings is taken away;
- beyond: only the rest of them is.

If the first restores the skill and the bias loses it as zeroing does, then pushing these tokens is enough to account for
what the neurons do for it. It is not proof: all of the neurons' push is put back, whatever tokens it is on. And where it does
not restore the skill, that is no proof of the contrary: in the disrupted pass neurons of the set that others of it drive push
less than in the untouched model (`lm/paths.py` puts back all of that, on text that is given).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.roles import ROLES
from ..errors import ModelError
from ..measuring.generation import Condition, solve
from ..measuring.neurons import comparison, read_sets
from ..measuring.solutions import BASELINE, Solution, fingerprint_of, reference_solutions, score_roles
from ..runs.files import fingerprint
from ..runs.options import NoOptions
from ..runs.session import Session
from ..runs.stage import Stage
from ..runs.tables import PUSH, SETS, SOLUTIONS
from ..stats import mcnemar_exact, wilson

if TYPE_CHECKING:
    from ..lm.interventions import Intervention

PUSHED: dict[str, frozenset[str]] = {"operator": frozenset("+-−*×x/÷"), "equals": frozenset("=")}
"""The roles whose tokens are made less likely, and what such tokens are but for blanks."""
LOWEST = -40.0  # nats; no token survives it
HALVINGS = 12  # of that range: to 0.01 nats
WAYS = ("direct", "indirect", "within", "beyond", "bias")
UNITS = {
    "push.<way>.accuracy": "share of test problems solved; zeroed: the set that matched sets match; indirect: the same with "
    "its own push on the logits put back; direct: that push taken away only; bias: untouched, but operators' and equals "
    "signs' logits lowered; within, beyond: what value vectors have in the span of these tokens' "
    "unembeddings, or beyond it, taken away",
    "push.<way>.against_untouched": "exact McNemar p of the difference from the untouched model; against_zeroed likewise",
    "push.<way>.operator": "change of the log-probability of reference solutions' operators (nats); equals likewise",
    "push.biases": "what is added to the logits, by role (nats)",
}


def push(session: Session, options: NoOptions) -> str:
    """Run the stage. What the model has written is not written again."""
    from ..lm.families import norm_gamma
    from ..lm.interventions import logit_bias, scale, without_component
    from ..lm.stream import check_writes

    run, anatomy = session.run, session.loaded.anatomy
    sets = read_sets(run)
    target = comparison(sets.values())
    neurons = sets[target].neurons
    given = reference_solutions(session)
    if not given:
        run.note("No reference solution is there: the data has none and the model solved nothing. `push` is empty.")
        return "no reference solutions"
    # Of solutions in words operators are no part: what is left of the question is the neurons' own push, whatever it is on.
    tokens = {} if session.inputs.words else {role: _tokens(session, pieces) for role, pieces in PUSHED.items()}
    zeroed = scale(anatomy, neurons, 0.0)
    ways = {"zeroed": zeroed}
    try:
        check_writes(session.loaded)
        ways |= {"direct": zeroed.along("direct"), "indirect": zeroed.along("indirect")}
    except ModelError as error:
        run.note(f"The neurons' own push can't be told from the rest: {error}.")
    # Behind a norm value vectors have no direction of their own.
    if tokens and all(norm is None for norm in anatomy.post_norm):
        gamma, centred = norm_gamma(anatomy.final_norm)
        directions = anatomy.unembedding[sorted({t for some in tokens.values() for t in some})].float()
        directions = directions if gamma is None else directions * gamma
        directions = directions - directions.mean(dim=1, keepdim=True) if centred else directions
        ways |= {name: without_component(anatomy, neurons, directions, name == "within") for name in ("within", "beyond")}
    of = fingerprint(neurons, fingerprint_of(given), session.prompt.text(""), tokens, HALVINGS)
    if before := run.done("push", of):
        biases, changes = before["biases"], before["changes"]
    else:
        biases, changes = _as_unlikely(session, given, ways, tokens)
    if tokens:
        ways["bias"] = logit_bias(anatomy, {t: biases[role] for role, found in tokens.items() for t in found})
    solve(
        session,
        [Condition("push", session.prompt, "test", way, intervention=ways[way]) for way in WAYS if way in ways],
        "writing without the push",
    )
    return _summarise(session, target, biases, changes, of)


def _tokens(session: Session, pieces: frozenset[str]) -> list[int]:
    """The tokens that are one of these but for blanks."""
    return [i for i, text in enumerate(session.model.vocabulary) if text.strip() in pieces]


def _as_unlikely(
    session: Session, given: Sequence[Solution], ways: Mapping[str, Intervention], tokens: Mapping[str, Sequence[int]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The biases under which the roles' tokens are as unlikely as with the neurons zeroed, by bisection for both at once;
    and what every way does: way → role → change of mean log-probability (nats). Without roles there is no bias."""
    from ..lm.interventions import logit_bias

    anatomy = session.loaded.anatomy

    def means(intervention: Intervention | None) -> dict[str, float]:
        scores = score_roles(session.engine, session.prompt, given, intervention)
        found = {role: [fmean(t.log_prob for t in s[role]) for s in scores if role in s] for role in ROLES}
        return {role: fmean(values) for role, values in found.items() if values}

    with session.bar("matching the push", len(ways) + 1 + (HALVINGS + 1 if tokens else 0), "pass") as bar:

        def scored(intervention: Intervention | None) -> dict[str, float]:
            bar.update()
            return means(intervention)

        untouched = scored(None)
        changes = {way: _less(scored(intervention), untouched) for way, intervention in ways.items()}
        if not tokens:
            return {}, changes
        aims = {role: change for role, change in changes["zeroed"].items() if role in tokens}
        low, high = dict.fromkeys(aims, LOWEST), dict.fromkeys(aims, 0.0)
        for _ in range(HALVINGS):
            middle = {role: (low[role] + high[role]) / 2 for role in aims}
            biases = {token: middle[role] for role in aims for token in tokens[role]}
            found = _less(scored(logit_bias(anatomy, biases)), untouched)
            for role in aims:
                (high if found[role] > aims[role] else low)[role] = middle[role]
        final = {role: high[role] if aims[role] < 0 else 0.0 for role in aims}
        biases = {token: final[role] for role in aims for token in tokens[role]}
        changes["bias"] = _less(scored(logit_bias(anatomy, biases)), untouched)
    return {role: final.get(role, 0.0) for role in tokens}, changes


def _less(values: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {role: value - others[role] for role, value in values.items()}


def _summarise(
    session: Session, target: str, biases: Mapping[str, float], changes: Mapping[str, Mapping[str, float]], of: str
) -> str:
    run = session.run
    names = {"none": "untouched", target: "zeroed"} | {way: way for way in WAYS if way in changes}
    solved: dict[str, dict[str, bool]] = {way: {} for way in names.values()}
    for r in run.rows("SELECT neuron_set, problem_id, correct FROM completions ORDER BY ALL"):
        if r["neuron_set"] in names:
            solved[names[r["neuron_set"]]][r["problem_id"]] = r["correct"]
    rows: list[dict[str, Any]] = []
    for way, found in solved.items():
        n, right = len(found), sum(found.values())
        low, high = wilson(right, n)
        row: dict[str, Any] = {"way": way, "correct": right, "n": n, "accuracy": right / n, "low": low, "high": high}
        for other in ("untouched", "zeroed"):
            row[f"against_{other}"] = mcnemar_exact([solved[other][p] for p in found], list(found.values()))
        rows.append(row | dict(changes.get(way, {})))
    run.write(PUSH, rows, of=of, biases=dict(biases), changes={way: dict(found) for way, found in changes.items()})
    run.summarise("push", {r["way"]: {k: v for k, v in r.items() if k != "way"} for r in rows} | {"biases": dict(biases)})
    words = {
        "untouched": "untouched",
        "zeroed": "zeroed",
        "indirect": "with their own push put back",
        "direct": "without that push only",
        "bias": "with a bias in its place",
    }
    accuracy = {r["way"]: r["accuracy"] for r in rows}
    return "accuracy " + ", ".join(f"{accuracy[way]:.3f} {said}" for way, said in words.items() if way in accuracy)


STAGE = Stage(
    "push",
    "ablate",
    "what the model solves with the neurons' own push on the logits put back, taken away alone, or replaced by a bias",
    push,
    after=("ablate",),
    reads=(SETS, BASELINE, "completions/ablation."),
    writes=(SOLUTIONS, PUSH, "completions/push."),
    units=UNITS,
    chosen_by={"--outcomes": {"push": {}}, "--by": {"set": {}}},
)
